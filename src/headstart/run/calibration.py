"""Probabilities out of logits, and how far they can be trusted."""

import numpy as np
from scipy.special import log_softmax, softmax

CALIBRATION_BINS = 15
# Far beyond what networks need; a search needs ends.
TEMPERATURES = (0.01, 100.0)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return float64 (N, classes), the softmax of logits that were divided by a temperature."""
    return softmax(np.float64(logits) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature by which logits must be divided for the least log loss (Guo et al. 2017).

    Where no picture is mistaken it is 1: the loss would fall without end as the temperature falls.
    """
    if (logits.argmax(axis=1) == labels).all():
        return 1.0
    from scipy.optimize import minimize_scalar  # here, so that `headstart predict` starts faster

    pictures = np.arange(len(labels))
    # By its logarithm, so that halves and doubles are equally far; the loss has one minimum.
    found = minimize_scalar(
        lambda exponent: -log_softmax(np.float64(logits) / np.exp(exponent), axis=1)[pictures, labels].mean(),
        bounds=np.log(TEMPERATURES), method="bounded",
    )  # fmt: skip
    return float(np.exp(found.x))


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures, mean confidence and accuracy, each (bins,), of the bins of confidence that hold any picture."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts, sure, correct = (np.bincount(bins, weights, CALIBRATION_BINS) for weights in (None, confidence, right))
    held = counts > 0
    return counts[held], sure[held] / counts[held], correct[held] / counts[held]
