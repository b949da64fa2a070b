"""The figures of a result, from logits and labels: how good a network is, and how certain that is."""

from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score

from headstart.metrics.calibration import probabilities, reliability
from headstart.metrics.figures import Figures, ProbabilityFigures, SubsetFigures
from headstart.metrics.grouped import effective_images

FIGURES = ("precision", "recall", "f1-score")
# With so many classes or fewer, the right one is nearly always among the first five.
MOST_CLASSES_WITHOUT_TOP_5 = 10
# Classes are far from even if the largest has more than so many times the images of the smallest.
UNEVEN = 3.0


def measure(
    logits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], temperature: float = 1.0,
    groups: np.ndarray | None = None,
) -> Figures:  # fmt: skip
    """Return accuracy with its 95 % interval, per-class figures, and how far probabilities can be trusted.

    `top_5` is there with more than ten classes. `macro` is the mean over the classes that occur. `confusion` counts images,
    with a row for each true class and a column for each predicted one. `loss`, `brier` and `ece` describe the plain softmax,
    and `calibrated` the softmax of logits divided by the temperature.

    Args:
        logits: float (N, classes).
        labels: int (N,).
        temperature: from `headstart.metrics.calibration.fit_temperature`, fitted on other images.
        groups: int (N,), which images belong together; the interval is that for new groups, see `interval_of`, and `groups` is
            their number.
    """
    predicted = logits.argmax(axis=1)
    correct = int((predicted == labels).sum())
    classes = list(range(len(class_names)))
    by_class = np.array(precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0.0)[:3])
    support = np.bincount(labels, minlength=len(classes))
    plain = probability_figures(probabilities(logits), labels)
    figures: Figures = {
        "accuracy": correct / len(labels),
        "interval": interval_of(predicted == labels, groups),
        "loss": plain["loss"],
        "brier": plain["brier"],
        "ece": plain["ece"],
        "images": len(labels),
        "macro": dict(zip(FIGURES, by_class[:, support > 0].mean(axis=1).tolist(), strict=True)),
        "per_class": {
            name: dict(zip(FIGURES, row, strict=True)) | {"support": images}
            for name, row, images in zip(class_names, by_class.T.tolist(), support.tolist(), strict=True)
        },
        "confusion": confusion_matrix(labels, predicted, labels=classes).tolist(),
        "temperature": temperature,
        "calibrated": probability_figures(probabilities(logits, temperature), labels),
    }
    if len(classes) > MOST_CLASSES_WITHOUT_TOP_5:
        figures["top_5"] = float(top_k_accuracy_score(labels, logits, k=5, labels=classes))
    if groups is not None:
        figures["groups"] = len(np.unique(groups))
    return figures


def interval_of(right: np.ndarray, groups: np.ndarray | None = None) -> list[float]:
    """Return both ends of the 95 % interval of an accuracy: Wilson's (1927), with groups for their `effective_images`.

    Args:
        right: bool (N,), whether each image was classified correctly.
        groups: int (N,), which images belong together; None: each stands for itself.
    """
    if groups is None:
        return wilson_interval(int(right.sum()), len(right))
    return wilson_of(float(right.mean()), effective_images(right, groups))


def wilson_of(share: float, images: float) -> list[float]:
    """Return Wilson's 95 % interval (1927) of a share of images, whose number need not be whole; of 0 images, [0, 1]."""
    if not images:
        return [0.0, 1.0]
    z = float(norm.ppf(0.975))
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    return [max(0.0, middle - half) if share else 0.0, min(1.0, middle + half) if share < 1 else 1.0]


def wilson_interval(correct: int, count: int) -> list[float]:
    """Return both ends of the 95 % interval of an accuracy (Wilson 1927)."""
    return wilson_of(correct / count, count)


def subset_figures(correct: np.ndarray, chosen: np.ndarray, groups: np.ndarray | None = None) -> SubsetFigures:
    """Return the accuracy on some of the images with its 95 % interval, and the numbers of these and of the other images.

    Args:
        correct: bool (N,), whether each image was classified correctly.
        chosen: bool (N,), whether each image counts. If none does, there is no accuracy.
        groups: int (N,), which images belong together, or None.
    """
    hits, images, left_out = int(correct[chosen].sum()), int(chosen.sum()), int((~chosen).sum())
    if not images:
        return {"images": 0, "left_out": left_out}
    interval = interval_of(correct[chosen], None if groups is None else groups[chosen])
    return {"accuracy": hits / images, "interval": interval, "images": images, "left_out": left_out}


def single_figures(figures: Figures) -> dict[str, float]:
    """Return the figures of `measure` that are a single float; those in `calibrated` are named `calibrated_...`."""
    single = {name: value for name, value in figures.items() if isinstance(value, float)}
    calibrated: Any = figures["calibrated"]
    return single | {f"calibrated_{name}": value for name, value in calibrated.items()}


def probability_figures(probabilities: np.ndarray, labels: np.ndarray) -> ProbabilityFigures:
    """Return log loss, Brier score and expected calibration error of probabilities, float (N, classes).

    The Brier score is the original one, over all classes (Brier 1950), 0..2. The calibration error is the mean distance
    between confidence and accuracy over bins of equal width, weighted by their images (Guo et al. 2017).
    """
    classes = np.arange(probabilities.shape[1])
    counts, confidences, accuracies = reliability(probabilities, labels)
    return {
        "loss": float(log_loss(labels, probabilities, labels=classes)),
        "brier": float(np.square(probabilities - (labels[:, None] == classes)).sum(axis=1).mean()),
        "ece": float(np.average(np.abs(confidences - accuracies), weights=counts)),
    }


def unevenness(labels: np.ndarray) -> float:
    """Return how many times the images of the smallest class the largest one has."""
    counts = np.bincount(labels)
    return float(counts.max() / counts[counts > 0].min())
