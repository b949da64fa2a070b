"""Weights of classes, and the choice between them."""

import keras
import numpy as np
import pytest

from headstart.training import weighting
from headstart.training.weighting import MacroRecall, choose_weighting, judging_images, weights_by_class


def uneven(rare: int, seed: int = 0, distance: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Features of two classes of 200 images that lie far apart, and of a rare one close to the second."""
    labels = np.repeat([0, 1, 2], [200, 200, rare])
    centres = np.array([[-4.0, 0], [2, 0], [2 + distance, 0]])
    return centres[labels] + np.random.default_rng(seed).normal(size=(len(labels), 2)), labels


@pytest.mark.parametrize(("rule", "ratio"), [("balanced", 20.0), ("root", 20**0.5)])
def test_weights_are_inverse_to_the_frequency_and_one_on_average(rule, ratio):
    labels = np.repeat([0, 1, 2], [400, 400, 20])
    weights = weights_by_class(labels, 3, rule)
    assert weights[2] / weights[0] == pytest.approx(ratio)
    assert np.mean([weights[label] for label in labels.tolist()]) == pytest.approx(1)


@pytest.mark.parametrize("rule", ["none", "auto"])
def test_nothing_is_weighted_where_nothing_was_chosen(rule):
    assert weights_by_class(np.array([0, 0, 1]), 2, rule) is None


def test_what_finds_most_of_every_class_is_chosen():
    features, labels = uneven(20)
    choice = choose_weighting(features, labels)
    assert choice["chosen"] != "none"
    assert choice["macro_recall"][choice["chosen"]] > choice["macro_recall"]["none"] + 0.05
    assert choice["unevenness"] == 10
    assert choice == choose_weighting(features, labels)


def test_only_evidence_speaks_against_weights():
    assert choose_weighting(*uneven(20, distance=12.0))["chosen"] == "balanced"  # all rules are right
    features, labels = uneven(20, distance=0.0)
    assert choose_weighting(features, labels)["chosen"] == "balanced"


@pytest.mark.parametrize(("more", "near"), [(0, True), (1, True), (3, False)])
def test_one_image_more_is_no_evidence(more, near):
    labels, right = np.repeat([0, 1], [300, 20]), np.ones(320, bool)
    right[:more] = False
    assert weighting.is_near(right, np.ones(320, bool), labels) == near


def test_a_mistake_in_every_frame_of_one_video_is_no_evidence():
    labels, videos = np.repeat([0, 1], 160), np.arange(320) // 16
    right = videos > 0
    assert not weighting.is_near(right, np.ones(320, bool), labels)
    assert weighting.is_near(right, np.ones(320, bool), labels, videos)


def test_weights_that_harm_are_not_chosen(monkeypatch):
    """Here the regression that weights most has the most mistakes."""

    def worse(features, labels, weights, seed, groups):
        answers = labels.copy()
        answers[: round(100 * (weights.max() > 1) * weights.max() / 10)] = 1
        return answers

    monkeypatch.setattr(weighting, "out_of_fold", worse)
    assert choose_weighting(*uneven(20))["chosen"] == "none"


@pytest.mark.parametrize("rare", [2, 3])
def test_a_class_of_a_few_images_is_no_error(rare):
    assert choose_weighting(*uneven(rare))["images"] == 400 + rare


def test_of_many_images_a_part_is_used_whose_large_classes_weigh_as_all(monkeypatch):
    features, labels = uneven(20)
    whole = choose_weighting(features, labels)
    monkeypatch.setattr(weighting, "MOST", 200)
    monkeypatch.setattr(weighting, "FEWEST", 20)
    part = choose_weighting(features, labels)
    assert part["images"] == 95 + 95 + 20
    assert part["macro_recall"]["none"] == pytest.approx(whole["macro_recall"]["none"], abs=0.1)


@pytest.mark.parametrize("one_hot", [False, True])
def test_macro_recall_counts_classes_alike_over_batches(one_hot):
    labels, answers = np.repeat([0, 2], [9, 1]), np.array([0] * 6 + [1] * 3 + [2])
    truth, logits = np.eye(4, dtype=np.float32)[labels] if one_hot else labels, np.eye(4, dtype=np.float32)[answers]
    metric = MacroRecall(4)
    for part in (slice(0, 4), slice(4, 10)):
        metric.update_state(truth[part], logits[part])
    assert float(metric.result()) == pytest.approx((6 / 9 + 1) / 2)
    metric.update_state(truth[:5], logits[5:], np.zeros(5))  # rows that only fill up a batch
    assert float(metric.result()) == pytest.approx((6 / 9 + 1) / 2)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_macro_recall_is_that_of_fit():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), weighted_metrics=[MacroRecall(2)])
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(40, 2)).astype(np.float32), np.repeat([0, 1], [30, 10])
    history = model.fit(rows, labels, validation_data=(rows, labels), class_weight={0: 0.5, 1: 2.0}, verbose=0).history
    right = model.predict(rows, verbose=0).argmax(axis=1) == labels
    expected = (right[:30].mean() + right[30:].mean()) / 2
    assert history["val_macro_recall"][0] == pytest.approx(expected)


def test_the_images_that_judge_are_fewer_where_one_class_is_rare():
    labels = np.repeat([0, 1], [98, 2])
    assert judging_images(labels, weighted=False) == 100
    assert judging_images(labels, weighted=True) == pytest.approx(4 / (1 / 98 + 1 / 2))
    assert judging_images(np.repeat([0, 1], 50), weighted=True) == pytest.approx(100)
