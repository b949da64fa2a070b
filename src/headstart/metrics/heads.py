"""Which of two heads is the better one, and why, in words."""

from typing import Any

import numpy as np

from headstart.config import DENSE, LINEAR
from headstart.metrics.grouped import error_between_groups

# With more training images, logistic regression takes minutes and has not won. CIFAR-10, EfficientNet-Lite0 at 128 px, linear
# and dense: 67.4 and 63.9 % with 10 images of each class, 79.8 and 78.2 % with 100, 84.7 and 84.6 % with 1,000, 86.7 and 87.3 %
# with 4,500.
MOST_LINEAR = 10_000
# Below so many images of each class, the linear head is taken if validation cannot tell.
FEW_OF_A_CLASS = 500


def decide(
    correct: dict[str, np.ndarray], images: int, classes: int, shares: np.ndarray | float = 1.0, groups: np.ndarray | None = None
) -> dict[str, Any]:  # fmt: skip
    """Return which head is `chosen`, and `why`.

    Args:
        correct: for each head, bool (N,): whether it is right on each validation image.
        images: the number of training images.
        classes: the number of classes.
        shares: float (N,), what each validation image counts, 1 on average: 1 for the accuracy; see `even_shares` for the macro
            recall.
        groups: int (N,), which validation images belong together, or None.
    """
    difference = shares * (correct[LINEAR].astype(float) - correct[DENSE])
    error = difference.std() / len(difference) ** 0.5
    if groups is not None:
        error = error_between_groups(difference, groups)
    if abs(difference.mean()) > error:
        chosen = LINEAR if difference.mean() > 0 else DENSE
        return {"chosen": chosen, "why": f"it is better on validation by {100 * abs(difference.mean()):.1f} points"}
    few = images < FEW_OF_A_CLASS * classes
    how_many = f"{'fewer' if few else 'no fewer'} than {FEW_OF_A_CLASS} training images of each class"
    return {"chosen": LINEAR if few else DENSE, "why": f"validation cannot tell, and there are {how_many}"}


def even_shares(labels: np.ndarray) -> np.ndarray:
    """Return what each image counts if every class that occurs counts alike, float (N,), 1 on average.

    A mean with these shares is a macro average: that of right answers is the macro recall.
    """
    counts = np.bincount(labels)
    shares: np.ndarray = len(labels) / ((counts > 0).sum() * counts[labels])
    return shares


def head_in_words(found: dict[str, Any]) -> str:
    """Return the choice of a head, the content of `head.json`, as a line."""
    candidates = found.get("candidates", {})
    figures = [f"{name} {100 * one.get('macro_recall', one['accuracy']):.1f} %" for name, one in candidates.items()]
    what = "macro recall on" if any("macro_recall" in one for one in candidates.values()) else "on"
    beside = f" ({what} validation: {', '.join(figures)})" if figures else ""
    return f"head: {found['chosen']}, since {found['why']}{beside}"
