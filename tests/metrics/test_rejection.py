"""Thresholds that keep what they promise, and curves that say what they cost."""

import numpy as np
import pytest

from headstart.metrics.rejection import (
    WANTED,
    best_promise,
    counts_above,
    promised_threshold,
    rejection_figures,
    risk_by_coverage,
)


def answers(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that tell the truth: the answers given with 90 % are right in 90 % of the cases."""
    random = np.random.default_rng(seed)
    confidences = 1 - 0.5 * random.random(images) ** 3
    return confidences.astype(np.float32), random.random(images) < confidences


def precision_from(threshold: float) -> float:
    """The precision of all answers that are given with at least this confidence, of infinitely many images."""
    confidences, _ = answers(1_000_000, 0)
    return float(confidences[confidences >= threshold].mean())


@pytest.mark.parametrize("images", [300, 3000])
@pytest.mark.parametrize("wanted", [0.9, 0.95, 0.98])
def test_a_promise_is_broken_in_at_most_one_of_twenty_validation_splits(images, wanted):
    found = [promised_threshold(*answers(images, seed), wanted) for seed in range(1, 201)]
    broken = sum(precision_from(threshold) < wanted for threshold in found if threshold is not None)
    assert broken <= 17  # more of 200 would come by chance in 1 of 50 such tests
    if images == 3000:
        assert None not in found


def test_more_images_answer_more_with_the_same_promise():
    def coverage(images: int) -> float:
        confidences, _ = answers(10_000, 0)
        return float(np.mean([(confidences >= promised_threshold(*answers(images, seed), 0.95)).mean() for seed in range(1, 20)]))

    assert coverage(1000) < coverage(3000) < coverage(10_000)


def test_a_network_without_a_mistake_answers_everything_as_far_as_its_images_reach():
    confidences, correct = np.linspace(0.5, 1, 300, dtype=np.float32), np.ones(300, bool)
    assert promised_threshold(confidences, correct, 0.99) == 0.5
    assert promised_threshold(confidences, correct, 0.995) is None  # 299 images without a mistake support 0.99, and 598 0.995
    assert best_promise(confidences, correct) == 0.99


@pytest.mark.parametrize("images", [1, 2, 20])
def test_a_few_images_promise_little(images):
    confidences, correct = np.full(images, 0.9, np.float32), np.ones(images, bool)
    assert promised_threshold(confidences, correct, 0.99) is None
    best = best_promise(confidences, correct)
    assert best == pytest.approx(np.floor(1000 * 0.05 ** (1 / images)) / 1000)


def test_nothing_is_promised_where_every_answer_is_wrong():
    assert best_promise(np.linspace(0, 1, 50), np.zeros(50, bool)) == 0.0


def test_images_of_one_confidence_stay_together():
    confidences, correct = np.repeat([0.9, 0.6], 400), np.repeat([True, False], 400)
    assert promised_threshold(confidences, correct, 0.95) == 0.9
    assert counts_above(confidences, np.array([0.95, 0.9, 0.6, 0.1])).tolist() == [0, 400, 800, 800]
    coverage, risk = risk_by_coverage(confidences, correct)
    assert (coverage[:400] == 0.5).all()
    assert (coverage[400:] == 1).all()
    assert (risk[:400] == 0).all()
    assert (risk[400:] == 0.5).all()


def test_the_risk_is_that_of_the_answers_from_the_surest_on():
    coverage, risk = risk_by_coverage(np.array([0.5, 0.9, 0.7, 0.8]), np.array([False, True, True, False]))
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])


def test_figures_say_what_the_thresholds_of_validation_reach_on_the_test():
    confidences, correct = answers(3000, 1)
    new_confidences, new_correct = answers(2000, 2)
    figures = rejection_figures(confidences, correct, new_confidences, new_correct)
    assert [point["wanted"] for point in figures["points"]] == list(WANTED)
    assert figures["aurc"] == pytest.approx(risk_by_coverage(new_confidences, new_correct)[1].mean())
    assert figures["best_promise"] == best_promise(confidences, correct)
    first = figures["points"][0]
    answered = new_confidences >= first["threshold"]
    assert first["threshold"] == promised_threshold(confidences, correct, 0.95)
    assert first["images"] == answered.sum()
    assert first["coverage"] == answered.mean()
    assert first["precision"] == new_correct[answered].mean()


def test_a_point_that_answers_no_test_image_has_no_precision():
    figures = rejection_figures(np.full(500, 0.9), np.ones(500, bool), np.full(10, 0.5), np.ones(10, bool))
    assert figures["points"][0] == {"wanted": 0.95, "threshold": 0.9, "validation_coverage": 1.0, "coverage": 0.0, "images": 0}
    assert figures["points"][-1] == {"wanted": 0.995}


def test_a_promise_to_new_groups_is_kept_where_images_of_a_group_are_alike():
    wanted, groups = 0.9, np.repeat(np.arange(200), 5)
    truth = answers(1_000_000, 0)
    found: dict[bool, list[float | None]] = {True: [], False: []}
    for seed in range(1, 41):
        frames = [np.repeat(one, 5) for one in answers(200, seed)]  # five equal frames of each video
        for grouped, each in found.items():
            each.append(promised_threshold(*frames, wanted, groups if grouped else None))
    broken = {
        grouped: sum(truth[0][truth[0] >= one].mean() < wanted for one in each if one is not None)
        for grouped, each in found.items()
    }
    assert broken[True] <= 6  # more of 40 would come by chance in 1 of 300 such tests
    assert broken[False] > 6


def test_groups_count_rather_than_their_images():
    confidences, correct = np.linspace(0.5, 1, 300, dtype=np.float32), np.ones(300, bool)
    assert promised_threshold(confidences, correct, 0.99, np.arange(300) // 10) is None
    figures = rejection_figures(confidences, correct, confidences, correct, np.arange(300) // 10)
    assert figures["groups"] == 30
    assert figures["best_promise"] == best_promise(confidences, correct, np.arange(300) // 10) < 0.91
    assert best_promise(confidences, correct, np.zeros(300, int)) == 0.0  # one group says nothing of others
