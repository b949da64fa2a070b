"""Which answers to give and which to withhold, so that those given are right as often as was promised.

This is selective classification (Geifman & El-Yaniv 2017): a threshold on the confidence, chosen on validation, and a bound
that takes chance into account.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from headstart.metrics.figures import RejectionFigures, RejectionPoint
from headstart.metrics.grouped import correction_for_few, effective_images

# The precisions whose thresholds a run reports.
WANTED = (0.95, 0.98, 0.99, 0.995)
# How sure a promise is: of all validation splits that could have been drawn, this share gives thresholds that keep it.
SURE = 0.95
# Candidate thresholds: one for each of so many equal steps of coverage.
CANDIDATES = 100
# The surest fifth of the images are the first candidate: of fewer, one mistake would end the search.
FIRST = 0.2


class Candidates(NamedTuple):
    """Thresholds that may be chosen, in falling order.

    Attributes:
        thresholds: float (C,), confidences.
        coverage: float (C,), 0..1, the share of the images that each answers.
        independent: float (C,), how many independent images those answered can stand for at most: their number or, with groups,
            the number of groups, corrected for few.
        lowest: float (C,), 0..1, the lower end of the precision's one-sided 95 % interval.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    independent: np.ndarray
    lowest: np.ndarray


def promised_threshold(
    confidences: np.ndarray, correct: np.ndarray, wanted: float, groups: np.ndarray | None = None
) -> float | None:  # fmt: skip
    """Return the lowest confidence whose answers have at least the wanted precision, with 95 % confidence; None: none has.

    The candidates are confidences at fixed shares of the images, from the surest fifth to all, and begin later if the promise
    needs more images even without a mistake. One after the other is tested: the lower end of the one-sided 95 % interval of
    the precision (Clopper & Pearson 1934) must reach the wanted precision. The search ends at the first that fails. In such a
    fixed sequence each test may use the whole 5 % (Angelopoulos et al. 2021, "Learn then test"), so the promise holds for the
    threshold that is chosen, and not only for one that was chosen beforehand.

    Args:
        confidences: float (N,), 0..1, of images that the network was not trained on.
        correct: bool (N,), whether each answer is right.
        wanted: the precision, above 0 and below 1.
        groups: int (N,), which images belong together: their answers are right or wrong together, so the promise is one for new
            groups, and the interval that of the `effective_images` (Korn and Graubard 1998). None: each image stands for itself.
    """
    return lowest_that_holds(candidates(confidences, correct, groups), wanted)


def lowest_that_holds(tried: Candidates, wanted: float) -> float | None:
    """Return the threshold that `promised_threshold` chooses among some candidates."""
    rows = (tried.coverage >= FIRST) & (tried.independent >= math.log(1 - SURE) / math.log(wanted))
    chosen = None
    for threshold, low in zip(tried.thresholds[rows], tried.lowest[rows], strict=True):
        if low < wanted:
            break
        chosen = float(threshold)
    return chosen


def best_promise(confidences: np.ndarray, correct: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the highest precision, in steps of 0.001, that `promised_threshold` finds a threshold for; 0 if there is none."""
    return highest_that_holds(candidates(confidences, correct, groups))


def highest_that_holds(tried: Candidates) -> float:
    """Return the precision that `best_promise` finds among some candidates."""
    wanted = (step / 1000 for step in range(999, 0, -1))
    return next((one for one in wanted if lowest_that_holds(tried, one) is not None), 0.0)


def candidates(confidences: np.ndarray, correct: np.ndarray, groups: np.ndarray | None = None) -> Candidates:
    """Return the thresholds that may be chosen; see `promised_threshold` for the arguments."""
    ranks = np.unique(np.ceil(len(correct) * np.arange(1, CANDIDATES + 1) / CANDIDATES).astype(int))
    falling = np.argsort(-confidences, kind="stable")
    thresholds = np.unique(confidences[falling][ranks - 1])[::-1]
    answered = counts_above(confidences, thresholds)
    hits = np.cumsum(correct[falling])[answered - 1]
    independent = images = answered.astype(float)
    if groups is not None:
        right, group = correct[falling], groups[falling]
        images = np.array([effective_images(right[:number], group[:number]) for number in answered])
        seen = np.isin(np.arange(len(group)), np.unique(group, return_index=True)[1])
        independent = np.array([number * correction_for_few(number) for number in np.cumsum(seen)[answered - 1].tolist()])
    hits = hits / answered * images
    lowest = np.where(hits > 0, betaincinv(np.maximum(hits, 1e-9), images - hits + 1, 1 - SURE), 0.0)
    return Candidates(thresholds, answered / len(correct), independent, lowest)


def counts_above(confidences: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return how many confidences reach each threshold, int (len(thresholds),)."""
    counts: np.ndarray = len(confidences) - np.searchsorted(np.sort(confidences), thresholds, side="left")
    return counts


def risk_by_coverage(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coverage and the risk, both float (N,) in 0..1, of each image's confidence as a threshold, highest first.

    The coverage is the share of the images that reach the threshold, and the risk the share of wrong answers among them.
    """
    falling = np.argsort(-confidences, kind="stable")
    answered = counts_above(confidences, confidences[falling])
    return answered / len(correct), 1 - np.cumsum(correct[falling])[answered - 1] / answered


def rejection_figures(
    confidences: np.ndarray, correct: np.ndarray, new_confidences: np.ndarray, new_correct: np.ndarray,
    groups: np.ndarray | None = None,
) -> RejectionFigures:  # fmt: skip
    """Return what thresholds that are chosen on some images reach on others.

    Args:
        confidences, correct: float and bool (N,), of the validation split, which chooses the thresholds.
        new_confidences, new_correct: float and bool (M,), of the test split.
        groups: int (N,), which images of the validation split belong together, or None.
    """
    _, risk = risk_by_coverage(new_confidences, new_correct)
    points: list[RejectionPoint] = []
    tried = candidates(confidences, correct, groups)
    for wanted in WANTED:
        point: RejectionPoint = {"wanted": wanted}
        if (threshold := lowest_that_holds(tried, wanted)) is not None:
            answered = new_confidences >= threshold
            point |= {
                "threshold": threshold,
                "validation_coverage": float((confidences >= threshold).mean()),
                "coverage": float(answered.mean()),
                "images": int(answered.sum()),
            }
            if answered.any():
                point["precision"] = float(new_correct[answered].mean())
        points.append(point)
    found: RejectionFigures = {"aurc": float(risk.mean()), "points": points, "best_promise": highest_that_holds(tried)}
    if groups is not None:
        found["groups"] = len(np.unique(groups))
    return found
