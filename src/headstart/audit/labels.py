"""Labels that may be wrong: confident learning on a backbone's features."""

import numpy as np

# Labels whose out-of-fold probability is above `PERHAPS` are never reported; those below `SURELY` may be strong suspects. With
# 5 % of CIFAR-10's labels flipped (EfficientNet-Lite0 at 128 px, 40,000 images), "surely" has a precision of 0.92 and a recall
# of 0.71, and "perhaps" 0.59 and 0.92. If few labels are wrong, most suspects are only hard images: a person decides.
SURELY, PERHAPS = 0.02, 0.1
# A model with less skill reports nothing (see `skill`). In the same experiment with fewer images, "surely" had a precision of
# 0.79 to 0.92 at skills from 0.62 on, and 0.20 at 0.48.
LEAST_SKILL = 0.6


def skill(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy on a scale where 0 is that of always predicting the largest class, and 1 is perfect."""
    chance = np.bincount(labels).max() / len(labels)
    agreement = (probabilities.argmax(axis=1) == labels).mean()
    return float((agreement - chance) / (1 - chance)) if chance < 1 else 0.0


def rank_suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank the labels that may be wrong by self-confidence: the least probable given label first.

    Suspects are the images that are predicted as another class and whose given label has a probability below `PERHAPS`. A
    suspect is sure if both prunings of confident learning choose it (Northcutt, Jiang and Chuang 2021, JAIR 70) and its
    given label has a probability below `SURELY`.

    Args:
        probabilities: float (N, classes), from models that were not trained on the image.
        labels: int (N,), the given labels.

    Returns:
        Rows of the suspects, int64 (M,); the suggested class of each, int64 (M,); whether each is sure, bool (M,).
    """
    given, suggested = probabilities[np.arange(len(labels)), labels], probabilities.argmax(axis=1)
    suspects = np.flatnonzero((suggested != labels) & (given < PERHAPS))
    suspects = suspects[np.argsort(given[suspects], kind="stable")]
    surely = pruned(probabilities, labels) & (given < SURELY)
    return suspects, suggested[suspects], surely[suspects]


def pruned(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which labels both prunings of confident learning choose, by class and by noise rate, bool (N,).

    A class is confidently predicted for an image if its probability reaches its mean over the images with that label. The
    confident joint counts images by given label and confident prediction. It estimates how many images with each label
    belong to each other class.
    """
    count, classes = probabilities.shape
    given, totals = probabilities[np.arange(count), labels], np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, given, minlength=classes)
    thresholds = np.divide(sums, totals, out=np.full(classes, np.inf), where=totals > 0)
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    sure = confident.max(axis=1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[sure], confident[sure].argmax(axis=1)), 1)
    joint *= (totals / np.maximum(joint.sum(axis=1), 1))[:, None]
    by_class, by_noise_rate = np.zeros(count, bool), np.zeros(count, bool)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        by_class[lowest(rows, given[rows], joint[label].sum() - joint[label, label])] = True
        for other in set(range(classes)) - {label}:
            by_noise_rate[lowest(rows, given[rows] - probabilities[rows, other], joint[label, other])] = True
    return by_class & by_noise_rate


def lowest(rows: np.ndarray, scores: np.ndarray, count: float) -> np.ndarray:
    """Return the `count` rows with the lowest scores."""
    return rows[np.argsort(scores, kind="stable")[: round(count)]]
