"""How good: the figures of a result, from logits and labels."""

from typing import Any

import numpy as np
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import classification_report, log_loss


def measure(logits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return accuracy with its 95 % interval (Wilson 1927), log loss, and per-class figures.

    Args:
        logits: float (N, classes).
        labels: int (N,).
    """
    predicted = logits.argmax(axis=1)
    correct = int((predicted == labels).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(method="wilson")
    classes = list(range(len(class_names)))
    report = classification_report(
        labels, predicted, labels=classes, target_names=class_names, output_dict=True, zero_division=0.0
    )
    return {
        "accuracy": correct / len(labels),
        "interval": [interval.low, interval.high],
        "loss": float(log_loss(labels, softmax(np.float64(logits), axis=1), labels=classes)),
        "pictures": len(labels),
        "per_class": {name: report[name] for name in class_names},
    }
