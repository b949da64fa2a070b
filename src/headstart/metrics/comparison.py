"""Whether the difference between the accuracies of two networks on the same images could be chance."""

import numpy as np
from scipy.stats import binomtest

from headstart.metrics.figures import PairedTest
from headstart.system.text import count

SIGNIFICANT = 0.05


def compare_stages(
    frozen: np.ndarray, fine_tuned: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> PairedTest:  # fmt: skip
    """Return on how many images only one of two networks is right, and the p value of McNemar's exact test (1947).

    Args:
        frozen, fine_tuned: float (N, classes), logits of the same images.
        labels: int (N,).
        groups: int (N,), which images belong together, or None.
    """
    lost, won, p_value = mcnemar(frozen.argmax(axis=1) == labels, fine_tuned.argmax(axis=1) == labels, groups)
    found: PairedTest = {"only_frozen_right": lost, "only_fine_tuned_right": won, "p_value": p_value}
    if groups is not None:
        found["groups"] = len(np.unique(groups))
    return found


def mcnemar(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> tuple[int, int, float]:
    """Return how often only the first and only the second of two networks is right, and the p value of McNemar's exact test.

    Args:
        first, second: bool (N,): whether each network classified each image correctly.
        groups: int (N,), which images belong together. McNemar's test asks how often images that change sides at random would
            differ as much; with groups, all images of a group change sides together.
    """
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    # Under the null hypothesis, each of the two networks is equally likely to be the one that is right.
    if groups is not None:
        return lost, won, p_value_of_groups(np.bincount(groups, second.astype(float) - first))
    return lost, won, float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def p_value_of_groups(differences: np.ndarray) -> float:
    """Return the probability that the sum of some numbers is as far from 0 or farther if each has its sign by chance, exactly.

    Args:
        differences: whole numbers, (groups,).
    """
    sizes = np.abs(np.rint(differences)).astype(int)
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)  # of the sums from -total to total
    chances[total] = 1.0
    for size in sizes[sizes > 0].tolist():
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    far = np.abs(np.arange(-total, total + 1)) >= abs(int(np.rint(differences).sum()))
    return min(1.0, float(chances[far].sum()))


def verdict(comparison: PairedTest) -> str:
    """Return the result of `compare_stages` in words."""
    won, lost = comparison["only_fine_tuned_right"], comparison["only_frozen_right"]
    if comparison["p_value"] >= SIGNIFICANT:
        statement = "whether fine-tuning helped cannot be told from these test images"
    else:
        statement = "fine-tuning helped" if won > lost else "fine-tuning did harm"
    return (
        f"{statement}: {won} are right only after it, {lost} only before it (exact McNemar test{of_groups(comparison)}, "
        f"p = {comparison['p_value']:.2g})"
    )


def of_groups(comparison: PairedTest) -> str:
    """Return ` of 12 whole groups`, or "" without groups."""
    return f" of {count(comparison['groups'], 'whole group')}" if "groups" in comparison else ""
