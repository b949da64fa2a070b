"""Probabilities from logits, and how far they can be trusted."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from headstart.metrics.figures import Figures
from headstart.metrics.grouped import error_between_groups
from headstart.system.text import count

CALIBRATION_BINS = 15
# Temperatures are searched and compared on a grid of their logarithms: from 1/20 to 20 in steps of 5 %.
LOG_TEMPERATURES = np.linspace(-3, 3, 121)
# Standard deviation of the prior of a temperature's logarithm, which has mean 0: a factor of 1.4 either way. In simulations
# with 20 images of a well-calibrated network, the log loss rises by 0.002 to 0.004 on average with this prior, and by 0.04 to
# 0.06 without it. With 20 images of a network whose logits are 2.5 times too large, it falls by nine tenths of what is
# possible.
LOG_TEMPERATURE_DEVIATION = 0.35
# A gain below so many standard errors may well be chance, and the simpler model stays (Breiman et al. 1984, the rule of one
# standard error). In the same simulations, a well-calibrated network was changed in 2 of 100 cases with 200 images, and in
# 6 to 20 with fewer; without the rule, in all of them.
STANDARD_ERRORS = 1.0


@dataclass(frozen=True)
class Calibration:
    """A temperature, and whether the images that it was fitted on support it.

    Attributes:
        images: the number of images that it was fitted on.
        fitted: the temperature that fits them best; with few images it is drawn towards 1.
        gain: how much it lowers the mean log loss, in nats, on images that it was not fitted on.
        standard_error: of the gain; 0 if nothing was fitted or compared.
        applied: whether the logits are divided by it.
        reason: why it is applied or not, as the end of a sentence.
    """

    images: int
    fitted: float
    gain: float
    standard_error: float
    applied: bool
    reason: str

    @property
    def temperature(self) -> float:
        """The number that the logits are divided by: `fitted`, or 1 if that is not applied."""
        return self.fitted if self.applied else 1.0


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the softmax of logits that are divided by a temperature, float64 (N, classes)."""
    return softmax(np.float64(logits) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> Calibration:
    """Fit the temperature that gives the lowest log loss (Guo et al. 2017), and decide whether the images support it.

    The logarithm of the temperature has a normal prior with mean 0: a few images leave it near 1, and thousands outweigh the
    prior. It is applied only if leave-one-out cross-validation supports it: each image's loss at the temperature fitted on
    all others is compared with its loss at 1, and the mean gain must be at least one standard error. Nothing is fitted if no
    image is misclassified: the loss would fall without end as the temperature falls.

    Args:
        logits: float (N, classes), of images that the network was not trained on.
        labels: int (N,).
        groups: int (N,), which images belong together: they are left out together, and the standard error is that between
            groups. None: each image stands for itself.
    """
    images = len(labels)
    if (logits.argmax(axis=1) == labels).all():
        return Calibration(images, 1.0, 0.0, 0.0, False, "the network makes no mistake on them")
    losses = losses_by_temperature(logits, labels)
    penalty = np.square(LOG_TEMPERATURES) / (2 * LOG_TEMPERATURE_DEVIATION**2)
    totals = losses.sum(axis=1) + penalty
    fitted = float(np.exp(lowest_point(LOG_TEMPERATURES, totals)))
    _, group = np.unique(np.arange(images) if groups is None else groups, return_inverse=True)
    what = "image" if groups is None else "group"
    if group.max() == 0:
        return Calibration(images, fitted, 0.0, 0.0, False, f"one {what} cannot support it")
    together = np.array([np.bincount(group, row) for row in losses])
    # The temperatures without one image hardly differ, so the nearest one on the grid is exact enough.
    without = (totals[:, None] - together).argmin(axis=0)
    gains = losses[len(LOG_TEMPERATURES) // 2] - losses[without[group], np.arange(images)]
    gain = float(gains.mean())
    error = error_between_groups(gains, group)
    applied = gain > 0 and gain >= STANDARD_ERRORS * error
    change = f"on {what}s left out in turn the log loss {'falls' if gain > 0 else 'rises'} by {abs(gain):.2g}"
    chance = ", which may be chance" if gain > 0 and not applied else ""
    reason = f"{change}, with a standard error of {error:.2g}{chance}"
    return Calibration(images, fitted, gain, error, applied, reason)


def losses_by_temperature(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the log loss of each image at each of `LOG_TEMPERATURES`, float64 (temperatures, N)."""
    # In float32, which is exact to seven digits here, and twice as fast with a thousand classes.
    relative = (logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
    own = relative[np.arange(len(labels)), labels].astype(np.float64)
    factors = np.exp(-LOG_TEMPERATURES)
    return np.array([np.log(np.exp(relative * np.float32(one)).sum(axis=1, dtype=np.float64)) - own * one for one in factors])


def lowest_point(places: np.ndarray, values: np.ndarray) -> float:
    """Return where values at evenly spaced places are lowest, by the parabola through the lowest and its two neighbours."""
    middle = int(values.argmin())
    if middle in (0, len(values) - 1):
        return float(places[middle])
    before, lowest, after = values[middle - 1 : middle + 2]
    return float(places[middle] + (before - after) / (2 * (before - 2 * lowest + after)) * (places[1] - places[0]))


def is_applied(figures: Figures) -> bool:
    """Whether the logits of a stage are divided by a temperature. Older versions always did; those of folds are divided already.

    Args:
        figures: of a stage in `metrics.json`.
    """
    return figures["calibration"]["applied"] if "calibration" in figures else figures.get("temperature", 1.0) != 1.0


def calibration_in_words(figures: Figures) -> str:
    """Say on how many validation images a temperature was fitted, whether it is applied, and why.

    Args:
        figures: of a stage in `metrics.json`; those of older versions have no number of images.
    """
    if "calibration" not in figures:
        return f"temperature {figures['temperature']:.2f}, fitted on validation"
    found = figures["calibration"]
    images = count(found["images"], "validation image")
    if found["fitted"] == 1.0:
        return f"no temperature is fitted on {images}: {found['reason']}"
    applied = "is applied" if found["applied"] else "is not applied"
    return f"temperature {found['fitted']:.2f}, fitted on {images}, {applied}: {found['reason']}"


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number of images, mean confidence and accuracy, each (bins,), of the confidence bins that are not empty."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts, confidences, hits = (np.bincount(bins, weights, CALIBRATION_BINS) for weights in (None, confidence, correct))
    filled = counts > 0
    return counts[filled], confidences[filled] / counts[filled], hits[filled] / counts[filled]
