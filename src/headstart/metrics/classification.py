"""How good, and how sure of it: the figures of a result, from logits and labels."""

from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score

from headstart.metrics.calibration import probabilities, reliability

FIGURES = ("precision", "recall", "f1-score")
# With fewer classes the right one is nearly always among the first five.
MOST_CLASSES_WITHOUT_TOP_5 = 10
SIGNIFICANT = 0.05


def measure(logits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], temperature: float = 1.0) -> dict[str, Any]:
    """Return accuracy with its 95 % interval, per-class figures, and how far probabilities can be trusted.

    `top_5` is there with more than ten classes. `macro` is the mean over the classes that occur.
    `confusion` counts images, a row for each given class. `loss`, `brier` and `ece` describe the plain softmax, and
    `calibrated` the same after the logits were divided by the temperature.

    Args:
        logits: float (N, classes).
        labels: int (N,).
        temperature: of `fit_temperature`, on other images.
    """
    predicted = logits.argmax(axis=1)
    correct = int((predicted == labels).sum())
    classes = list(range(len(class_names)))
    by_class = np.array(precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0.0)[:3])
    support = np.bincount(labels, minlength=len(classes))
    many = len(classes) > MOST_CLASSES_WITHOUT_TOP_5
    return {
        "accuracy": correct / len(labels),
        "interval": wilson_interval(correct, len(labels)),
        **({"top_5": float(top_k_accuracy_score(labels, logits, k=5, labels=classes))} if many else {}),
        **probability_figures(probabilities(logits), labels),
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


def wilson_interval(correct: int, count: int) -> list[float]:
    """Return both ends of the 95 % interval of an accuracy (Wilson 1927)."""
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def single_figures(figures: dict[str, Any]) -> dict[str, float]:
    """Return the figures of `measure` that are one number, those after scaling as `calibrated_...`."""
    calibrated = {f"calibrated_{name}": value for name, value in figures["calibrated"].items()}
    return {name: value for name, value in figures.items() if isinstance(value, float)} | calibrated


def probability_figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return log loss, Brier score and expected calibration error of float (N, classes) probabilities.

    The Brier score is the original one over all classes (Brier 1950), from 0 to 2. The calibration error
    is the mean distance of confidence and accuracy over equal-width bins (Guo et al. 2017).
    """
    classes = np.arange(probabilities.shape[1])
    counts, confidences, accuracies = reliability(probabilities, labels)
    return {
        "loss": float(log_loss(labels, probabilities, labels=classes)),
        "brier": float(np.square(probabilities - (labels[:, None] == classes)).sum(axis=1).mean()),
        "ece": float(np.average(np.abs(confidences - accuracies), weights=counts)),
    }


def compare_stages(frozen: np.ndarray, fine_tuned: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return on how many images only one of two networks is right, and the exact p value of McNemar's test (1947).

    Args:
        frozen, fine_tuned: float (N, classes), logits of the same images.
        labels: int (N,).
    """
    before, after = (logits.argmax(axis=1) == labels for logits in (frozen, fine_tuned))
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    # Under the null hypothesis either network is as likely to be the one that is right.
    p_value = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return {"only_frozen_right": lost, "only_fine_tuned_right": won, "p_value": p_value}


def verdict(comparison: dict[str, Any]) -> str:
    """Say in words what `compare_stages` found."""
    won, lost = comparison["only_fine_tuned_right"], comparison["only_frozen_right"]
    if comparison["p_value"] >= SIGNIFICANT:
        statement = "whether fine-tuning helped cannot be told from these test images"
    else:
        statement = "fine-tuning helped" if won > lost else "fine-tuning did harm"
    return (
        f"{statement}: {won} are right only after it, {lost} only before it (exact McNemar test, p = {comparison['p_value']:.2g})"
    )
