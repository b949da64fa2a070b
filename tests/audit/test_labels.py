import numpy as np
from sklearn.datasets import load_digits

from headstart.audit.labels import confident_suspects, out_of_fold_probabilities


def test_flipped_labels_are_found():
    """5 % of the digits' labels flipped: most are suspects, most suspects are flipped, and the suggestions are right."""
    features, truth = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    labels = truth.copy()
    flipped = random.choice(len(labels), len(labels) // 20, replace=False)
    labels[flipped] = (labels[flipped] + random.integers(1, 10, len(flipped))) % 10
    rows, suggested = confident_suspects(out_of_fold_probabilities(features, labels), labels)
    hits = np.isin(rows, flipped)
    assert hits.sum() / len(flipped) > 0.6
    assert hits.mean() > 0.9
    assert (suggested[hits] == truth[rows[hits]]).mean() > 0.9


def test_sure_predictions_of_the_given_labels_leave_no_suspect():
    labels = np.arange(60) % 3
    rows, suggested = confident_suspects(0.9 * np.eye(3)[labels] + 0.1 / 3, labels)
    assert len(rows) == len(suggested) == 0


def test_suspects_are_ranked_by_the_given_labels_probability():
    labels = np.zeros(40, int)
    labels[20:] = 1
    probabilities = 0.9 * np.eye(2)[labels] + 0.05
    probabilities[3], probabilities[7] = [0.015, 0.985], [0.01, 0.99]
    rows, suggested = confident_suspects(probabilities, labels)
    assert rows.tolist() == [7, 3]
    assert suggested.tolist() == [1, 1]


def test_a_class_of_two_pictures_is_enough():
    features, labels = load_digits(n_class=3, return_X_y=True)
    kept = np.flatnonzero((labels < 2) | (np.cumsum(labels == 2) <= 2))
    probabilities = out_of_fold_probabilities(features[kept], labels[kept])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
