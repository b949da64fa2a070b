"""Which of two heads is the better one, and why, in words."""

from typing import Any

import numpy as np

from headstart.config import DENSE, LINEAR

# Below so many images of each class, the linear head is taken if validation cannot tell.
FEW_OF_A_CLASS = 500


def decide(correct: dict[str, np.ndarray], images: int, classes: int) -> dict[str, Any]:
    """Return which head is `chosen`, and `why`.

    Args:
        correct: for each head, bool (N,): whether it is right on each validation image.
        images: the number of training images.
        classes: the number of classes.
    """
    difference = correct[LINEAR].astype(float) - correct[DENSE]
    error = difference.std() / len(difference) ** 0.5
    if abs(difference.mean()) > error:
        chosen = LINEAR if difference.mean() > 0 else DENSE
        return {"chosen": chosen, "why": f"it is better on validation by {100 * abs(difference.mean()):.1f} points"}
    few = images < FEW_OF_A_CLASS * classes
    how_many = f"{'fewer' if few else 'no fewer'} than {FEW_OF_A_CLASS} training images of each class"
    return {"chosen": LINEAR if few else DENSE, "why": f"validation cannot tell, and there are {how_many}"}


def head_in_words(found: dict[str, Any]) -> str:
    """Return the choice of a head, the content of `head.json`, as a line."""
    figures = [f"{name} {100 * one['accuracy']:.1f} %" for name, one in found.get("candidates", {}).items()]
    beside = f" (on validation: {', '.join(figures)})" if figures else ""
    return f"head: {found['chosen']}, since {found['why']}{beside}"
