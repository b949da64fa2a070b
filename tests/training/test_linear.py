import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from headstart.audit.data import principal_components
from headstart.training.linear import cross_validate, fit_linear, likely_strengths


def digits(of_each: int) -> tuple[np.ndarray, np.ndarray]:
    features, labels = load_digits(return_X_y=True)
    kept = np.concatenate([np.flatnonzero(labels == digit)[:of_each] for digit in range(10)])
    return principal_components(features)[kept], labels[kept]


def test_few_images_want_a_weaker_model_than_many():
    random = np.random.default_rng(0)
    labels = np.arange(3000) % 3
    features = random.normal(size=(3000, 100))
    features[:, :3] += 0.8 * np.eye(3)[labels]
    few, many = (cross_validate(features[:number], labels[:number]) for number in (90, 3000))
    assert few.strength < many.strength


def test_images_are_judged_by_models_that_have_not_seen_them():
    features, labels = digits(170)
    assert (cross_validate(features, labels).probabilities.argmax(axis=1) == labels).mean() > 0.93
    labels = np.random.default_rng(0).permutation(labels)
    assert (cross_validate(features, labels).probabilities.argmax(axis=1) == labels).mean() < 0.2


def test_strengths_that_never_win_with_many_images_are_not_tried():
    assert likely_strengths(50)[0] == 1
    assert likely_strengths(40_000)[0] == 10


def test_a_class_of_two_images_is_enough_and_costs_the_others_no_fold():
    """Of five images of each other class four teach; in two folds two or three would, which is 84 % here."""
    features, labels = digits(5)
    kept = np.r_[:47]
    found = cross_validate(features[kept], labels[kept])
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-6)
    assert (found.probabilities.argmax(axis=1) == labels[kept])[:45].mean() > 0.87


@pytest.mark.parametrize("classes", [2, 3])
def test_the_kernel_and_bias_give_the_probabilities_of_logistic_regression(classes):
    features, labels = load_digits(n_class=classes, return_X_y=True)
    features = StandardScaler().fit_transform(features).astype(np.float32)
    kernel, bias = fit_linear(features[::2], labels[::2], 10.0)
    logits = features[1::2] @ kernel + bias
    assert logits.shape == (len(labels[1::2]), classes)
    assert (logits.argmax(axis=1) == labels[1::2]).mean() > 0.98


def test_weights_raise_the_recall_of_a_rare_class():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 15])
    features = (random.normal(size=(315, 4)) + labels[:, None]).astype(np.float32)
    recalls = []
    for weights in (None, {0: 1.0, 1: 20.0}):
        kernel, bias = fit_linear(features, labels, 10.0, weights)
        recalls.append(((features @ kernel + bias).argmax(axis=1) == labels)[labels == 1].mean())
    assert recalls[1] > recalls[0] + 0.2
