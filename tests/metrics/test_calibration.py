import numpy as np
import pytest
from scipy.special import log_softmax

from headstart.metrics.calibration import calibration_in_words, fit_temperature, probabilities
from headstart.metrics.classification import measure


def network(images: int, too_sure: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of five classes, float32 (images, 5), so many times as large as their labels deserve, and the labels."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(images, 5)).astype(np.float32)
    labels = np.array([random.choice(5, p=row) for row in probabilities(logits)])
    return too_sure * logits, labels


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


def test_thousands_of_images_decide_alone_and_calibrate():
    logits, labels = network(4000, 3.0)
    found = fit_temperature(logits, labels)
    assert found.applied
    assert found.temperature == found.fitted == pytest.approx(3, rel=0.1)
    figures = measure(logits, labels, tuple("abcde"), found.temperature)
    assert figures["calibrated"]["ece"] < 0.03 < 0.1 < figures["ece"]
    assert figures["calibrated"]["loss"] < min(loss(logits, labels, factor * found.fitted) for factor in (0.9, 1.1))
    # The gain is what is won on other images, too.
    others = network(4000, 3.0, seed=1)
    assert found.gain == pytest.approx(loss(*others, 1.0) - loss(*others, found.fitted), abs=4 * found.standard_error)


def test_four_images_leave_the_temperature_near_one():
    # As in a run on a small folder: of four images one is mistaken, surely. The likelihood alone is best at 18.6 or beyond.
    logits = np.array([[9.0, 0.0], [0.0, 8.0], [7.0, 0.0], [9.0, 0.0]])
    found = fit_temperature(logits, np.array([0, 1, 0, 1]))
    assert 1 < found.fitted < 2.5
    assert found.images == 4


@pytest.mark.parametrize("images", [10, 20, 50])
def test_what_few_images_say_does_little_harm_to_a_calibrated_network_and_helps_another(images):
    for too_sure, most in ((1.0, 0.01), (1.2, 0.01), (3.0, -0.2)):
        truth = network(4000, too_sure, seed=99)
        fits = [fit_temperature(*network(images, too_sure, seed)).temperature for seed in range(40)]
        change = np.mean([loss(*truth, temperature) for temperature in fits]) - loss(*truth, 1.0)
        assert change < most, (too_sure, change)


def test_a_gain_that_may_be_chance_is_not_applied():
    logits, labels = network(300, 1.0)
    found = fit_temperature(logits, labels)
    assert found.gain < found.standard_error
    assert (found.applied, found.temperature) == (False, 1.0)
    assert found.fitted != 1.0


def test_a_network_without_a_mistake_keeps_its_temperature():
    found = fit_temperature(np.eye(4), np.arange(4))
    assert (found.temperature, found.applied) == (1.0, False)
    assert "no mistake" in found.reason


def test_a_single_image_and_a_class_that_is_missing_are_no_trouble():
    assert fit_temperature(np.array([[3.0, 0.0, 0.0]]), np.array([1])).temperature == 1.0
    logits, labels = network(200, 3.0)
    chosen = (labels == 0) | (np.arange(200) < 2)  # nearly all of one class
    assert np.isfinite(fit_temperature(logits[chosen], labels[chosen]).temperature)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"images": 450, "fitted": 1.3, "applied": True, "reason": "it helps"},
         "temperature 1.30, fitted on 450 validation images, is applied: it helps"),
        ({"images": 4, "fitted": 2.0, "applied": False, "reason": "chance"},
         "temperature 2.00, fitted on 4 validation images, is not applied: chance"),
        ({"images": 1, "fitted": 1.0, "applied": False, "reason": "no mistake"},
         "no temperature is fitted on 1 validation image: no mistake"),
    ],
)  # fmt: skip
def test_it_is_said_on_how_many_images(found, words):
    assert calibration_in_words({"temperature": 1.0, "calibration": found}) == words


def test_a_run_that_did_not_record_how_many_is_not_given_a_number():
    assert calibration_in_words({"temperature": 1.234}) == "temperature 1.23, fitted on validation"


def test_groups_are_left_out_together_and_the_gain_is_as_uncertain_as_they_are():
    logits, labels = network(150, 1.3)
    frames, theirs = np.repeat(logits, 8, axis=0), np.repeat(labels, 8)
    alone, blind = fit_temperature(logits, labels), fit_temperature(frames, theirs)
    found = fit_temperature(frames, theirs, np.repeat(np.arange(150), 8))
    assert blind.standard_error < 0.5 * alone.standard_error
    assert found.standard_error == pytest.approx(alone.standard_error, rel=0.2)
    assert "on groups left out in turn" in found.reason
    one = fit_temperature(frames, theirs, np.zeros(1200, int))
    assert (one.applied, one.reason) == (False, "one group cannot support it")
