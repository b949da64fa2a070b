"""Weights of the classes in the loss, for data whose classes are far from even."""

import logging
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from headstart.config import Config, replace
from headstart.data.dataset import Dataset
from headstart.data.splits import folds_by_class, groups_by_class
from headstart.metrics.classification import UNEVEN, unevenness
from headstart.metrics.figures import WeightingChoice
from headstart.record.folder import RunFolder
from headstart.record.history import FROZEN
from headstart.system.backend import keras
from headstart.system.files import write_json
from headstart.system.rows import StoredRows, joined
from headstart.training.batches import Rows
from headstart.training.checkpoint import Checkpoint
from headstart.training.features import FrozenLayers
from headstart.training.linear import FOLDS, MOST_ITERATIONS, unconverged

logger = logging.getLogger("headstart")

# The power of a class's frequency that its weight is inverse to.
POWERS = {"none": 0.0, "root": 0.5, "balanced": 1.0}
# At most so many images are used, of each class in proportion, but of none fewer than `FEWEST` where it has as many.
MOST, FEWEST = 4000, 50
# scikit-learn's C times the number of images.
STRENGTH = 500


def weights_by_class(labels: np.ndarray, classes: int, rule: str) -> dict[int, float] | None:
    """Return the weight of each class, of mean 1 over the images; None if all are alike.

    Weights, and not batches that are drawn evenly: an epoch then shows each image once, whatever its class, and takes as many
    steps as before.

    Args:
        labels: int (N,), of the training split, which has every class.
        classes: the number of classes.
        rule: a key of `POWERS`; whatever else there is weighs nothing, such as an `auto` that nothing was chosen for.
    """
    if not (power := POWERS.get(rule, 0.0)):
        return None
    counts = np.bincount(labels, minlength=classes)
    inverse = np.maximum(counts, 1) ** -power
    return dict(enumerate((inverse * len(labels) / (inverse * counts).sum()).tolist()))


class MacroRecall(keras.metrics.Metric):
    """The mean of the classes' recalls, 0..1, over the classes that occur: what training with weights is judged by."""

    def __init__(self, classes: int, name: str = "macro_recall") -> None:
        super().__init__(name=name)
        self.classes = classes
        self.right, self.seen = (self.add_variable((classes,), keras.initializers.Zeros(), name=one) for one in ("right", "seen"))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count images; `y_true` are integers (B,) or one-hot rows (B, classes), `y_pred` logits (B, classes)."""
        ops = keras.ops
        labels = ops.argmax(y_true, axis=-1) if len(y_true.shape) > 1 and y_true.shape[-1] > 1 else ops.reshape(y_true, (-1,))
        images = ops.one_hot(ops.cast(labels, "int32"), self.classes, dtype="float32")
        if sample_weight is not None:
            # A class's own weight changes nothing of its recall; rows that only fill a batch up have the weight 0.
            images = images * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        right = ops.cast(ops.equal(ops.argmax(y_pred, axis=-1), ops.cast(labels, "int64")), "float32")
        self.seen.assign(self.seen + ops.sum(images, axis=0))
        self.right.assign(self.right + ops.sum(images * right[:, None], axis=0))

    def result(self) -> Any:
        ops = keras.ops
        occurring = ops.cast(self.seen > 0, "float32")
        return ops.sum(self.right / ops.maximum(self.seen, 1e-9)) / ops.maximum(ops.sum(occurring), 1)


def judging_images(labels: np.ndarray, weighted: bool) -> float:
    """Return the number of images whose accuracy has the standard error of what a stage is judged by on some images.

    It is their own number for the accuracy, and smaller for the macro recall of uneven classes: as many as would be as certain
    in even classes.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / (1 / counts).sum()) if weighted else float(len(labels))


def choose_weights(
    run: RunFolder, frozen: FrozenLayers, data: Dataset, config: Config, checkpoint: Checkpoint
) -> Config:  # fmt: skip
    """Return the configuration with `auto` class weights replaced by what suits the data, once for all stages.

    What was chosen is written to `weighting.json`; an interrupted run goes on with it. Nothing is chosen where classes are
    nearly even.
    """
    known = run.read_json("weighting.json", {})
    config, choice = decide_weights(frozen, data, config, checkpoint, known)
    if choice and not known:
        write_json(run.path / "weighting.json", choice)
    if choice:
        logger.info("%s", in_words(choice))
    return config


def decide_weights(
    frozen: FrozenLayers, data: Dataset, config: Config, checkpoint: Checkpoint, choice: Any = None
) -> tuple[Config, Any]:
    """Return the configuration with its class weights decided, and the content of `weighting.json`; None if nothing was chosen.

    Args:
        choice: what was chosen before an interruption; None or empty: nothing.
    """
    if config.class_weights != "auto":
        return config, None
    if unevenness(data.labels(data.train)) <= UNEVEN:
        return replace(config, class_weights="none"), None
    if not config.keeps_features:
        logger.info("class weights: none, since they are chosen on cached features; --class-weights balanced weights anyway")
        return replace(config, class_weights="none"), None
    if not choice:
        checkpoint.start_clock()
        of_training = frozen.features(data.training_candidates, 0, "training images")
        features = joined([
            StoredRows(of_training.arrays, of_training.chosen[np.isin(data.training_candidates, data.train)]),
            frozen.features(data.validation, 0, "validation images"),
        ])  # fmt: skip
        labels = np.concatenate([data.labels(np.sort(data.train)), data.labels(data.validation)])
        groups = data.groups(np.concatenate([np.sort(data.train), data.validation]))
        choice = choose_weighting(features, labels, config.data_seed, groups)
        checkpoint.stop_clock(FROZEN.key)
    return replace(config, class_weights=choice["chosen"]), choice


def choose_weighting(
    features: Rows, labels: np.ndarray, seed: int = 0, groups: np.ndarray | None = None
) -> WeightingChoice:  # fmt: skip
    """Choose between the rules of `POWERS` by the macro recall of logistic regressions on images that they did not learn from.

    The images of training and validation are divided into five folds, and each is classified by a regression on the four
    others: a rare class has but one or two images in the validation split, which would decide by chance. Of the rules whose macro
    recall lies within one standard error of the highest (paired, of the mean over classes), the one that weights most is chosen:
    weights inverse to the frequency are right for the macro recall where a network fits its classes, so that only evidence speaks
    against them. (On nine draws of 400, 400 and 20 images of CIFAR-10, a head on the starter's features has a macro recall of
    73.9 % without weights, 76.4 with `root` and 77.8 with `balanced`, which was best in all nine. If the rule that weights least
    were chosen, it would be `none` in four of them.)

    Args:
        features: float (N, channels), an array or on disk.
        labels: int (N,), of at least two images of each class.
        seed: of the folds, and of the images that are used if there are many.
        groups: int (N,): images of one group lie in one fold. None: each image by itself.
    """
    rows = sampled(labels, seed)
    counts, kept = np.bincount(labels), np.bincount(labels[rows], minlength=labels.max() + 1)
    used, answers = np.asarray(features[rows], np.float32), labels[rows]
    # What a sample takes away from the large classes, these get back as weight.
    share = (counts / np.maximum(kept, 1))[answers]
    right, of_rows = {}, None if groups is None else groups[rows]
    for rule in POWERS:
        weights = weights_by_class(labels, len(counts), rule)
        each = share * np.array([weights[label] for label in answers.tolist()]) if weights else share
        right[rule] = out_of_fold(used, answers, each, seed, of_rows) == answers
    recalls = {rule: by_class(found, answers) for rule, found in right.items()}
    best = max(POWERS, key=lambda rule: recalls[rule].mean())
    chosen: Any = next(rule for rule in reversed(POWERS) if is_near(right[rule], right[best], answers, of_rows))
    macro = {rule: float(found.mean()) for rule, found in recalls.items()}
    return {"chosen": chosen, "unevenness": unevenness(labels), "macro_recall": macro, "images": len(rows)}


def sampled(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows that are used, int64, sorted: all, or about `MOST`."""
    random, share = np.random.default_rng(seed), min(1.0, MOST / len(labels))
    of_classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    kept = [
        random.choice(rows, max(min(len(rows), FEWEST), round(share * len(rows))), replace=False) for rows in of_classes
    ]  # fmt: skip
    return np.sort(np.concatenate(kept))


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """Return the class of each image, int (N,), as regressions say that learned on other images, which weigh `weights`."""
    found = np.zeros(len(labels), labels.dtype)
    folds = folds_by_class(labels, groups, min(FOLDS, int(np.bincount(labels).max())), seed)
    with unconverged(), threadpool_limits(1, "blas"):
        for learned, asked in folds:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH / len(labels), max_iter=MOST_ITERATIONS))
            model.fit(features[learned], labels[learned], logisticregression__sample_weight=weights[learned])
            found[asked] = model.predict(features[asked])
    return found


def by_class(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean of some values over the images of each class that occurs."""
    counts = np.bincount(labels)
    means: np.ndarray = np.bincount(labels, values)[counts > 0] / counts[counts > 0]
    return means


def is_near(right: np.ndarray, best: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> bool:
    """Whether the macro recall of some answers lies within one standard error of that of the best ones.

    Args:
        right, best: bool (N,), whether each answer is right.
        groups: int (N,), which images belong together: the standard error is at least that between groups.
    """
    gains = best.astype(float) - right
    counts = np.bincount(labels)[np.unique(labels)]
    means = by_class(gains, labels)
    variances = by_class(gains**2, labels) - means**2
    error = float(np.sqrt((variances / np.maximum(counts - 1, 1)).sum()) / len(counts))
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        classes, label = np.unique(labels, return_inverse=True)
        parts = np.bincount(group, (gains - means[label]) / counts[label]) / len(classes)
        number = int(groups_by_class(label, group).min())
        error = max(error, float(np.sqrt(number / max(number - 1, 1) * np.square(parts).sum())))
    # One image more is exactly one standard error, and no evidence.
    return bool(means.mean() <= error * (1 + 1e-9))


def in_words(choice: WeightingChoice) -> str:
    """Return what was chosen and why as a sentence."""
    found = ", ".join(f"{rule} {100 * value:.1f} %" for rule, value in choice["macro_recall"].items())
    return (
        f"class weights: {choice['chosen']}; the largest class has {choice['unevenness']:.1f} times the images of the smallest, "
        f"and the macro recall on images left out in turn is {found}"
    )
