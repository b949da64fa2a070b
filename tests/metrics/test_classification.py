import numpy as np
import pytest

from headstart.metrics.calibration import reliability
from headstart.metrics.classification import interval_of, measure, subset_figures, unevenness, wilson_interval
from headstart.metrics.grouped import effective_images


def test_the_interval_is_wilsons():
    # 970 of 1,000: Wilson's interval is 95.75 to 97.89 %.
    labels = np.zeros(1000, int)
    logits = np.tile([5.0, 0.0], (1000, 1))
    logits[:30] = [0.0, 5.0]
    figures = measure(logits, labels, ("a", "b"))
    assert figures["accuracy"] == 0.97
    np.testing.assert_allclose(figures["interval"], [0.9575, 0.9789], atol=2e-4)
    assert figures["per_class"]["a"]["recall"] == 0.97
    assert figures["confusion"] == [[970, 30], [0, 0]]


def test_a_class_that_never_occurs_gives_no_warning_and_no_part_of_the_mean():
    figures = measure(np.eye(3), np.array([0, 1, 1]), ("a", "b", "c"))
    assert figures["per_class"]["c"]["support"] == 0
    assert figures["macro"]["recall"] == (1 + 0.5) / 2


def test_classes_may_be_called_like_figures():
    figures = measure(np.eye(2), np.array([0, 1]), ("accuracy", "macro avg"))
    assert figures["per_class"]["accuracy"] == {"precision": 1.0, "recall": 1.0, "f1-score": 1.0, "support": 1}


def test_the_first_five_count_only_with_more_than_ten_classes():
    logits = np.tile(np.arange(11.0), (2, 1))
    assert measure(logits, np.array([6, 5]), tuple("abcdefghijk"))["top_5"] == 0.5
    assert "top_5" not in measure(logits[:, :10], np.array([6, 5]), tuple("abcdefghij"))


def test_brier_score_and_calibration_error_by_hand():
    # Sure by 75 % four times and right twice: the error is 25 points.
    logits = np.tile(np.log([0.75, 0.25]), (4, 1))
    figures = measure(logits, np.array([0, 0, 1, 1]), ("a", "b"))
    assert figures["ece"] == pytest.approx(0.25)
    assert figures["brier"] == pytest.approx((2 * 0.25**2 + 2 * 0.75**2) / 2)
    assert figures["loss"] == pytest.approx(-np.log([0.75, 0.25]).mean())


def test_the_bins_of_a_network_that_is_always_certain():
    counts, confidences, accuracies = reliability(np.eye(2)[[0, 0, 1]], np.array([0, 1, 1]))
    assert (counts.tolist(), confidences.tolist(), accuracies.tolist()) == ([3], [1.0], [pytest.approx(2 / 3)])


def test_unevenness_is_that_of_the_classes_that_occur():
    assert unevenness(np.repeat([0, 2], [30, 10])) == 3


def test_images_that_each_are_a_group_of_their_own_count_nearly_as_without_groups():
    right = np.arange(400) % 5 > 0
    plain, grouped = interval_of(right), interval_of(right, np.arange(400))
    assert plain == wilson_interval(320, 400)
    assert grouped == pytest.approx(plain, abs=0.002)


def test_groups_that_are_right_or_wrong_as_a_whole_count_once_each():
    groups = np.repeat(np.arange(40), 10)
    right = groups % 4 > 0
    assert effective_images(right, groups) == pytest.approx(40, rel=0.1)
    low, high = interval_of(right, groups)
    assert high - low > 2.5 * (wilson_interval(300, 400)[1] - wilson_interval(300, 400)[0])


def test_without_a_mistake_each_group_counts_as_one_image():
    right, groups = np.ones(48, bool), np.repeat(np.arange(4), 12)
    low, high = interval_of(right, groups)
    assert high == 1
    assert low < 0.5 < wilson_interval(48, 48)[0]
    assert interval_of(~right, groups) == pytest.approx([0, 1 - low])
    assert interval_of(right, np.zeros(48, int)) == [0, 1]


def test_the_interval_of_groups_holds_what_it_promises():
    """Accuracy differs from group to group; Wilson's interval, which counts images, then misses far too often."""
    random, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(300):
        groups = np.repeat(np.arange(12), random.integers(5, 16, 12))
        right = random.random(len(groups)) < random.beta(1.6, 0.4, 12)[groups]
        for method, (low, high) in enumerate((interval_of(right, groups), interval_of(right))):
            held[method] += low <= 0.8 <= high
    assert 0.88 < held[0] / 300 < 0.99
    assert held[1] / 300 < 0.7


def test_figures_say_how_many_groups_there_are():
    logits, labels, groups = np.eye(2)[[0, 0, 1, 0]], np.array([0, 0, 1, 1]), np.array([7, 7, 8, 9])
    figures = measure(logits, labels, ("a", "b"), groups=groups)
    assert figures["groups"] == 3
    assert figures["interval"] == interval_of(np.array([True, True, True, False]), groups)
    subset = subset_figures(logits.argmax(axis=1) == labels, np.array([True, True, False, False]), groups)
    assert subset["interval"] == [0, 1]  # of one group
    assert "groups" not in measure(logits, labels, ("a", "b"))
