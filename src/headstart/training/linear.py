"""Logistic regression on features: how strong by cross-validation, and its weights for a head of one dense layer.

On the features of a frozen backbone, it is the reference for few images (Kornblith, Shlens and Le 2019).
"""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from headstart.data.splits import folds_by_class

FOLDS = 5
# scikit-learn's C times the number of images, so that a strength has the same meaning for any number of images. The best one
# grows with that number: with EfficientNet-Lite0 at 128 px on CIFAR-10, 1 for 100 images, 10 for 10,000, 30 for 40,000.
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
# Each strength starts where the one before it ended, so that few iterations are left.
MOST_ITERATIONS, TOLERANCE = 100, 1e-3
# So many folds run at the same time, each with its own copy of the features.
AT_ONCE = 2

ClassWeights = dict[int, float] | None


class CrossValidated(NamedTuple):
    """What cross-validation found.

    Attributes:
        strength: the one whose models give the labels the highest likelihood.
        probabilities: float64 (N, classes), each row sums to 1. The model that predicted a row was not trained on it.
    """

    strength: float
    probabilities: np.ndarray


def cross_validate(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> CrossValidated:  # fmt: skip
    """Choose the strength of a logistic regression by cross-validation.

    The strengths are tried in order, and no more once the likelihood falls.

    Args:
        features: float (N, C), with a mean variance near 1, as from `headstart.audit.data.principal_components`.
        labels: int (N,), from 0, of at least two classes, each with at least two images, of two groups if there are groups.
        groups: int (N,): images of one group lie in one fold. None: each image by itself.
    """
    # A class with fewer images than folds is missing in the test images of some folds, but in the training of none; with groups,
    # it could be in that of a few, whose models then give it the probability 0.
    parts = folds_by_class(labels, groups, min(FOLDS, int(np.bincount(labels).max())), 0)
    models = [LogisticRegression(max_iter=MOST_ITERATIONS, tol=TOLERANCE, warm_start=True) for _ in parts]
    best, lowest, rows = CrossValidated(0.0, np.empty(0)), np.inf, np.arange(len(labels))

    def predict(model: LogisticRegression, training: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
        fit(model, features[training], labels[training], strength)
        answer = np.zeros((len(test), labels.max() + 1))
        answer[:, model.classes_] = model.predict_proba(features[test])
        return answer

    # One core per fold: products with as few columns as there are classes gain nothing from a second core, and on a busy
    # machine the threads of one product wait for each other, which took up to nine times as long.
    with Parallel(AT_ONCE, prefer="threads") as parallel, threadpool_limits(1, "blas"), unconverged():
        for strength in likely_strengths(len(labels)):
            predicted = np.empty((len(labels), labels.max() + 1))
            answers = parallel(delayed(predict)(model, *part, strength) for model, part in zip(models, parts, strict=True))
            for (_, test), answer in zip(parts, answers, strict=True):
                predicted[test] = answer
            loss = -np.log(np.maximum(predicted[rows, labels], 1e-12)).mean()
            if loss >= lowest:
                break
            best, lowest = CrossValidated(strength, predicted), loss
    return best


@contextlib.contextmanager
def unconverged() -> Iterator[None]:
    """Say nothing of solvers that stop early: more iterations hardly change the result."""
    with warnings.catch_warnings():  # in the main thread, since the filters are those of all threads
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def likely_strengths(images: int) -> list[float]:
    """Return the strengths to try with so many images: those below a fifth of the usual best one are left out."""
    first = max(place for place, strength in enumerate(STRENGTHS) if place == 0 or strength <= images**0.5 / 20)
    return list(STRENGTHS[first:])


def usual_strength(images: int) -> float:
    """Return the strength to take with so many images where none was found by cross-validation; see `STRENGTHS`."""
    return min(STRENGTHS, key=lambda strength: abs(math.log(strength / (images**0.5 / 10))))


def fit(
    model: LogisticRegression, features: np.ndarray, labels: np.ndarray, strength: float, weights: ClassWeights = None
) -> None:  # fmt: skip
    """Fit a logistic regression of a strength, from where it stands."""
    model.set_params(C=strength / len(labels), class_weight=weights)
    model.fit(features, labels)


def fit_linear(
    features: np.ndarray, labels: np.ndarray, strength: float, weights: ClassWeights = None
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Fit a logistic regression, and return its kernel, float32 (C, classes), and bias, float32 (classes,).

    Args:
        features: float32 (N, C), standardised.
        labels: int (N,), each of the classes at least once.
        strength: see `STRENGTHS`.
        weights: the weight of each class in the loss, or None.
    """
    model = LogisticRegression(max_iter=MOST_ITERATIONS, tol=TOLERANCE)
    with unconverged():
        fit(model, features, labels, strength, weights)
    kernel, bias = model.coef_.T, model.intercept_
    if kernel.shape[1] == 1:  # of two classes, scikit-learn gives the logit of the second alone
        kernel, bias = kernel * [-0.5, 0.5], bias * [-0.5, 0.5]
    return kernel.astype(np.float32), bias.astype(np.float32)
