"""Whether mirror images keep their labels, judged by a classifier that was trained without mirror images."""

import logging
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headstart.data.dataset import Dataset
from headstart.data.splits import folds_by_class, groups_by_class
from headstart.metrics.mirroring import mirror_in_words
from headstart.record.folder import RunFolder
from headstart.system.files import write_json
from headstart.training.checkpoint import Checkpoint
from headstart.training.features import FrozenLayers

logger = logging.getLogger("headstart")

# The sample has `OF_EACH_CLASS` images for each class, but at least `FEWEST` and at most `MOST` (or all, if there are fewer).
FEWEST, MOST, OF_EACH_CLASS = 1000, 5000, 25
FOLDS = 5
# Mirroring contradicts the labels if it loses at least this share of the correct answers. Arrows lose all of them, handwritten
# digits half; CIFAR-10 loses 0.3 % or nothing, and frames of videos, which the classifier has memorised, a tenth.
LOST = 0.15
# The p value of that loss must be below this (exact binomial test).
SIGNIFICANT = 0.001


def sample(rows: np.ndarray, classes: int) -> np.ndarray:
    """Return a random sample of the images `rows`, sorted."""
    number = min(len(rows), int(np.clip(OF_EACH_CLASS * classes, FEWEST, MOST)))
    return np.sort(np.random.default_rng(0).choice(rows, number, replace=False))


def mirror_answers(
    plain: np.ndarray, mirrored: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the classes that a ridge classifier predicts for images and for their mirror images, int (N,) each.

    By cross-validation, it is trained on other images, which are not mirrored.

    Args:
        plain, mirrored: float (N, C), features of the images and of their mirror images.
        labels: int (N,), each class at least twice, in two groups if there are groups.
        groups: int (N,): the classifier was not trained on images of the same group. None: each image by itself.
    """
    answers = np.empty((2, len(labels)), labels.dtype)
    least = int(groups_by_class(labels, groups)[np.unique(labels)].min())
    for training, test in folds_by_class(labels, groups, min(FOLDS, least), 0):
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=len(training), class_weight="balanced"))
        model.fit(plain[training], labels[training])
        answers[:, test] = model.predict(plain[test]), model.predict(mirrored[test])
    return answers[0], answers[1]


def judge(plain: np.ndarray, mirrored: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Judge whether mirroring contradicts the labels.

    It does if mirroring loses many of the correct answers, or turns two classes into each other, so that fewer than half of
    their answers stay correct.

    Args:
        plain, mirrored: int (N,), from `mirror_answers`.
        labels: int (N,).

    Returns:
        `images`, `accuracy`, `mirrored_accuracy` and `contradicts`; and the names of two classes that become each other as
        `swapped`.
    """
    right, right_mirrored = plain == labels, mirrored == labels
    found: dict[str, Any] = {
        "images": len(labels), "accuracy": float(right.mean()), "mirrored_accuracy": float(right_mirrored.mean()),
        "contradicts": False,
    }  # fmt: skip
    pairs = {tuple(sorted(pair)) for pair in zip(labels.tolist(), mirrored.tolist(), strict=True) if pair[0] != pair[1]}
    p_values = {}
    for pair in pairs:
        rows = np.isin(labels, pair) & np.isin(plain, pair) & np.isin(mirrored, pair)
        if rows.any() and right[rows].mean() > 0.5 > right_mirrored[rows].mean():
            p_values[pair] = p_value_of_loss(right[rows], right_mirrored[rows])
    swapped = min(p_values, key=lambda pair: p_values[pair], default=None)
    if swapped and p_values[swapped] < SIGNIFICANT / len(pairs):
        found |= {"contradicts": True, "swapped": [class_names[label] for label in swapped]}
    lost = (right.sum() - right_mirrored.sum()) / max(1, right.sum())
    if lost >= LOST and p_value_of_loss(right, right_mirrored) < SIGNIFICANT:
        found["contradicts"] = True
    return found


def p_value_of_loss(right: np.ndarray, right_mirrored: np.ndarray) -> float:
    """Return the probability that by chance alone mirroring loses so many correct answers, or more, and gains so few."""
    lost, won = int((right & ~right_mirrored).sum()), int((right_mirrored & ~right).sum())
    return float(binomtest(lost, lost + won, alternative="greater").pvalue) if lost + won else 1.0


def mirror_images_may_train(run: RunFolder, frozen: FrozenLayers, data: Dataset, checkpoint: Checkpoint) -> bool:
    """Whether a run may train as configured. It may not if it flips images and mirror images contradict the labels.

    The finding is logged and written to `mirror.json`. If `--flip` was given explicitly, the run may train all the same.

    Args:
        frozen: the frozen layers for the same data.
        checkpoint: the time and memory that this takes are added to it.
    """
    config = run.config
    if not config.flip or run.mirror.get("images"):
        return True
    if not config.keeps_features:
        logger.info("whether mirror images keep their labels was not tested: this run caches no features")
        return True
    rows = sample(data.train, len(data.class_names))
    rows = rows[groups_by_class(data.labels(rows), data.groups(rows))[data.labels(rows)] > 1]
    labels = data.labels(rows)
    if len(np.unique(labels)) < 2:
        logger.info("whether mirror images keep their labels was not tested: that needs two training images of two classes")
        return True
    checkpoint.start_clock()
    features = frozen.features(data.training_candidates, 0, "training images")
    plain = features[np.searchsorted(data.training_candidates, rows)].astype(np.float32)
    mirrored = frozen.features(rows, 1, "mirrored training images")[:].astype(np.float32)
    checkpoint.stop_clock("features")
    found = judge(*mirror_answers(plain, mirrored, labels, data.groups(rows)), labels, data.class_names)
    checkpoint.stop_clock("audit")
    asked = bool(run.mirror.get("asked"))
    write_json(run.path / "mirror.json", found | {"asked": asked, "flip": asked or not found["contradicts"]})
    logger.log(logging.WARNING if found["contradicts"] else logging.INFO, "%s", mirror_in_words(found))
    if found["contradicts"]:
        logger.warning("flipping stays on, since --flip was given" if asked else "flipping is switched off, as by --no-flip")
    return asked or not found["contradicts"]
