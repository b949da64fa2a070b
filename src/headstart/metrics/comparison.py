"""Whether the difference between the accuracies of two networks on the same images could be chance."""

import numpy as np
from scipy.stats import binomtest

from headstart.metrics.figures import PairedTest

SIGNIFICANT = 0.05


def compare_stages(frozen: np.ndarray, fine_tuned: np.ndarray, labels: np.ndarray) -> PairedTest:
    """Return on how many images only one of two networks is right, and the p value of McNemar's exact test (1947).

    Args:
        frozen, fine_tuned: float (N, classes), logits of the same images.
        labels: int (N,).
    """
    lost, won, p_value = mcnemar(frozen.argmax(axis=1) == labels, fine_tuned.argmax(axis=1) == labels)
    return {"only_frozen_right": lost, "only_fine_tuned_right": won, "p_value": p_value}


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """Return how often only the first and only the second of two networks is right, and the p value of McNemar's exact test.

    Args:
        first, second: bool (N,): whether each network classified each image correctly.
    """
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    # Under the null hypothesis, each of the two networks is equally likely to be the one that is right.
    return lost, won, float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def verdict(comparison: PairedTest) -> str:
    """Return the result of `compare_stages` in words."""
    won, lost = comparison["only_fine_tuned_right"], comparison["only_frozen_right"]
    if comparison["p_value"] >= SIGNIFICANT:
        statement = "whether fine-tuning helped cannot be told from these test images"
    else:
        statement = "fine-tuning helped" if won > lost else "fine-tuning did harm"
    return (
        f"{statement}: {won} are right only after it, {lost} only before it (exact McNemar test, p = {comparison['p_value']:.2g})"
    )
