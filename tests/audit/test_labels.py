import numpy as np
import pytest
from sklearn.datasets import load_digits

from headstart.audit.data import principal_components
from headstart.audit.labels import rank_suspects, skill
from headstart.training.linear import cross_validate


def flipped_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Out-of-fold probabilities of the digits with 5 % of the labels flipped, these labels, and the true ones."""
    features, truth = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    labels = truth.copy()
    flipped = random.choice(len(labels), len(labels) // 20, replace=False)
    labels[flipped] = (labels[flipped] + random.integers(1, 10, len(flipped))) % 10
    return cross_validate(principal_components(features), labels).probabilities, labels, truth


def test_flipped_labels_are_found_by_a_strict_cut_and_by_a_wide_one():
    probabilities, labels, truth = flipped_digits()
    rows, suggested, surely = rank_suspects(probabilities, labels)
    flipped = labels != truth
    for cut, least_precision, least_recall in ((surely, 0.9, 0.6), (np.ones(len(rows), bool), 0.6, 0.9)):
        hits = flipped[rows[cut]]
        assert hits.mean() > least_precision
        assert hits.sum() / flipped.sum() > least_recall
        assert (suggested[cut][hits] == truth[rows[cut][hits]]).mean() > 0.9


def test_every_suspect_is_predicted_as_another_class_and_the_least_probable_labels_come_first():
    probabilities, labels, _ = flipped_digits()
    rows, suggested, _ = rank_suspects(probabilities, labels)
    assert (suggested != labels[rows]).all()
    assert (np.diff(probabilities[rows, labels[rows]]) >= 0).all()


def test_sure_predictions_of_the_given_labels_leave_no_suspect():
    labels = np.arange(60) % 3
    assert [len(found) for found in rank_suspects(0.9 * np.eye(3)[labels] + 0.1 / 3, labels)] == [0, 0, 0]


def test_suspects_are_ranked_by_the_given_labels_probability():
    labels = np.zeros(40, int)
    labels[20:] = 1
    probabilities = 0.9 * np.eye(2)[labels] + 0.05
    probabilities[3], probabilities[7], probabilities[9] = [0.015, 0.985], [0.01, 0.99], [0.08, 0.92]
    rows, suggested, surely = rank_suspects(probabilities, labels)
    assert rows.tolist() == [7, 3, 9]
    assert suggested.tolist() == [1, 1, 1]
    assert surely.tolist() == [True, True, False]


def test_a_class_that_no_label_names_makes_no_suspect_sure():
    """The test split may lack a class; there is no mean probability on its images that a prediction could reach."""
    labels = np.arange(60) % 2
    probabilities = 0.9 * np.eye(3)[labels] + 0.1 / 3
    probabilities[0:10:2] = [0.01, 0.5, 0.49]  # confidently nothing
    rows, suggested, surely = rank_suspects(probabilities, labels)
    assert rows.tolist() == [0, 2, 4, 6, 8]
    assert (suggested == 1).all()
    assert not surely.any()


def test_skill_is_what_goes_beyond_naming_the_largest_class():
    labels = np.repeat([0, 1], [90, 10])
    assert skill(np.eye(2)[np.zeros(100, int)], labels) == 0
    assert skill(np.eye(2)[labels], labels) == 1
    assert skill(np.eye(2)[np.repeat([0, 1, 0], [90, 6, 4])], labels) == pytest.approx(0.6)
    assert skill(np.eye(2)[np.zeros(5, int)], np.zeros(5, int)) == 0
