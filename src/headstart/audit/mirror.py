"""Whether mirror images keep their labels: what a classifier that has seen none answers on them."""

import logging
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headstart.data.dataset import Dataset
from headstart.metrics.mirroring import mirror_in_words
from headstart.record.folder import RunFolder
from headstart.system.files import write_json
from headstart.training.checkpoint import Checkpoint
from headstart.training.features import FrozenLayers

logger = logging.getLogger("headstart")

# So many images answer, at least and at most, and so many of each class between these.
FEWEST, MOST, OF_EACH_CLASS = 1000, 5000, 25
FOLDS = 5
# Of the images that are named rightly, so large a share must be lost by mirroring: arrows lose all, handwritten digits half;
# CIFAR-10 loses 0.3 % or nothing, and frames of videos, which are known by heart, a tenth.
LOST = 0.15
# And no chance of luck may be larger than this (exact binomial test).
SIGNIFICANT = 0.001


def sample(rows: np.ndarray, classes: int) -> np.ndarray:
    """Return those of some images that are looked at, sorted."""
    number = min(len(rows), int(np.clip(OF_EACH_CLASS * classes, FEWEST, MOST)))
    return np.sort(np.random.default_rng(0).choice(rows, number, replace=False))


def mirror_answers(plain: np.ndarray, mirrored: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes that a ridge classifier names on images and on their mirror images, int (N,) each.

    It learns on the others of the images, as they are (cross-validation).

    Args:
        plain, mirrored: float (N, C), features of the same images.
        labels: int (N,), each class at least twice.
    """
    answers = np.empty((2, len(labels)), labels.dtype)
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min())), shuffle=True, random_state=0)
    for learned, asked in folds.split(plain, labels):
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=len(learned), class_weight="balanced"))
        model.fit(plain[learned], labels[learned])
        answers[:, asked] = model.predict(plain[asked]), model.predict(mirrored[asked])
    return answers[0], answers[1]


def judge(plain: np.ndarray, mirrored: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Say whether mirroring contradicts the labels.

    Args:
        plain, mirrored, labels: int (N,), the answers of `mirror_answers` and what is right.

    It does where mirroring loses many of the right answers, or turns two classes into each other: of their images it then
    leaves less than half right.

    Returns:
        `images`, `accuracy`, `mirrored_accuracy` and `contradicts`; and where two classes become each other, these as `swapped`.
    """
    right, still = plain == labels, mirrored == labels
    found: dict[str, Any] = {
        "images": len(labels), "accuracy": float(right.mean()), "mirrored_accuracy": float(still.mean()), "contradicts": False,
    }  # fmt: skip
    pairs = {tuple(sorted(pair)) for pair in zip(labels.tolist(), mirrored.tolist(), strict=True) if pair[0] != pair[1]}
    p_values = {}
    for pair in pairs:
        rows = np.isin(labels, pair) & np.isin(plain, pair) & np.isin(mirrored, pair)
        if rows.any() and right[rows].mean() > 0.5 > still[rows].mean():
            p_values[pair] = p_value_of_loss(right[rows], still[rows])
    swapped = min(p_values, key=lambda pair: p_values[pair], default=None)
    if swapped and p_values[swapped] < SIGNIFICANT / len(pairs):
        found |= {"contradicts": True, "swapped": [class_names[label] for label in swapped]}
    lost = (right.sum() - still.sum()) / max(1, right.sum())
    if lost >= LOST and p_value_of_loss(right, still) < SIGNIFICANT:
        found["contradicts"] = True
    return found


def p_value_of_loss(right: np.ndarray, still: np.ndarray) -> float:
    """Return how likely it is by luck alone that mirroring loses so many right answers and gains so few."""
    lost, won = int((right & ~still).sum()), int((still & ~right).sum())
    return float(binomtest(lost, lost + won, alternative="greater").pvalue) if lost + won else 1.0


def mirror_images_may_train(run: RunFolder, frozen: FrozenLayers, data: Dataset, checkpoint: Checkpoint) -> bool:
    """Whether a run may go on as it is: whether it flips no image, or flipping does not contradict the labels.

    What was found lies in `mirror.json`. Where `--flip` was given explicitly, it is only said.

    Args:
        frozen: gives the features of the same data.
        checkpoint: what time and memory this takes is added to it.
    """
    config = run.config
    if not config.flip or run.mirror.get("images"):
        return True
    if not config.keeps_features:
        logger.info("whether mirror images keep their labels was not tested: this run caches no features")
        return True
    rows = sample(data.train, len(data.class_names))
    rows = rows[np.bincount(data.labels(rows))[data.labels(rows)] > 1]
    labels = data.labels(rows)
    if len(np.unique(labels)) < 2:
        logger.info("whether mirror images keep their labels was not tested: that takes two training images of two classes")
        return True
    checkpoint.start_clock()
    features = frozen.features(data.training_candidates, 0, "training images")
    plain = features[np.searchsorted(data.training_candidates, rows)].astype(np.float32)
    mirrored = frozen.features(rows, 1, "mirrored training images").astype(np.float32)
    checkpoint.stop_clock("features")
    found = judge(*mirror_answers(plain, mirrored, labels), labels, data.class_names)
    checkpoint.stop_clock("audit")
    asked = bool(run.mirror.get("asked"))
    write_json(run.path / "mirror.json", found | {"asked": asked, "flip": asked or not found["contradicts"]})
    logger.log(logging.WARNING if found["contradicts"] else logging.INFO, "%s", mirror_in_words(found))
    if found["contradicts"]:
        logger.warning("flipping stays on, since --flip was given" if asked else "flipping is switched off, as by --no-flip")
    return asked or not found["contradicts"]
