"""The stages of training, each put together in one place: what learns, from which batches, for how long."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from headstart.config import LINEAR, Config
from headstart.data.dataset import Dataset
from headstart.data.on_demand import OnDemand
from headstart.data.store import Images
from headstart.model.head import standardise
from headstart.model.network import Network
from headstart.model.unfreeze import unfreeze
from headstart.record.history import FINE_TUNED, FROZEN, SCRATCH, EpochRow, Stage
from headstart.system.backend import device_memory, has_gpu, keras, resolve_jit, seed_everything, steps_per_call
from headstart.system.kernels import without_autotuning
from headstart.system.rows import joined
from headstart.training.batches import Batches, Rows, head_batch_size
from headstart.training.changes import changes
from headstart.training.checkpoint import Checkpoint
from headstart.training.devices import distribution_for, weighted_metrics
from headstart.training.features import FrozenLayers, in_memory_if_small
from headstart.training.fit import Training, kept_row
from headstart.training.optimizer import fine_tuning_optimizer
from headstart.training.weighting import POWERS, MacroRecall, judging_images, weights_by_class

# More images would change the means by less than the batches differ among themselves.
IMAGES_FOR_STATISTICS = 2048
# The share of a GPU's memory that the images may take, beside the network and its training.
SHARE_FOR_IMAGES = 0.25
# Where a GPU gets images from the host, or they are decoded on demand, so many batches are made while the device works.
AHEAD = 4

# Batches of the training, validation and test split.
BatchesOfSplits = tuple[Batches, Batches, Batches]


def stages_of(config: Config) -> list[Stage]:
    """Return the stages of a configuration, in order."""
    if config.from_scratch:
        return [SCRATCH]
    return [FROZEN, FINE_TUNED] if config.epochs else [FROZEN]


def frozen_stage(
    network: Network, frozen: FrozenLayers, data: Dataset, config: Config, checkpoint: Checkpoint
) -> Training:  # fmt: skip
    """Put the frozen stage together: the head learns on features that the frozen backbone computes once.

    With `--no-cache-features`, it learns on images that pass through the whole network at every epoch. A linear head is fitted
    already (see `headstart.training.heads.choose_head`), so there is no epoch left, and `start` says how good it is.
    """
    if config.cache_features:
        checkpoint.start_clock()
        splits = feature_batches(frozen, data, config)
        checkpoint.stop_clock("features")
        frozen.release()
        if config.head == LINEAR:
            row = measured(network, splits, config)
            return Training(FROZEN, head_learner(network, config, 1), *splits, epochs=0, start=row)
        standardise(network.head, (splits[0][step][0] for step in range(splits[0].num_batches)))
    else:
        splits = image_batches(data, config, seed=config.seed)
    seed_everything(config.seed, config.deterministic)
    learner = head_learner(network, config, config.head_epochs * splits[0].num_batches)
    # A head alone is too small to be shared.
    distribution = None if config.cache_features else distribution_for(config.devices, splits[0].batch_size)
    return Training(FROZEN, learner, *splits, config.head_epochs, class_weights(data, config), distribution=distribution)


def measured(network: Network, splits: BatchesOfSplits, config: Config) -> EpochRow:
    """Return the history row of a head that was fitted at once."""
    head = network.head
    metrics: Any = ["accuracy", *macro_recall(head, config)]
    head.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=metrics)
    training, validation = (head.evaluate(without_autotuning(batches), verbose=0, return_dict=True) for batches in splits[:2])
    row = EpochRow(
        stage=FROZEN.key, epoch=1, accuracy=training["accuracy"], loss=training["loss"], val_accuracy=validation["accuracy"],
        val_loss=validation["loss"], learning_rate=0.0,
    )  # fmt: skip
    if "macro_recall" in validation:
        row["val_macro_recall"] = validation["macro_recall"]
    return row


def fine_tuning_stage(
    network: Network, frozen: FrozenLayers, data: Dataset, config: Config, checkpoint: Checkpoint
) -> Training:  # fmt: skip
    """Put fine-tuning together: backbone and head learn together at a reduced rate.

    Batch norm stays in inference mode unless `config.learns_batch_norm`. If the network has a cut, only the layers after it
    are trained, on the cached feature maps at the cut. Training from scratch has this stage only.
    """
    seed_everything(config.seed + 1, config.deterministic)
    classes, resident = len(data.class_names), None
    if network.cut:
        splits = map_batches(frozen, data, config, classes)
    else:
        resident = resident_images(data.source.images, config)
        splits = image_batches(data, config, seed=config.seed + 1, classes=classes, resident=resident is not None)
    epochs = max(config.epochs, math.ceil(config.fewest_steps / splits[0].num_batches))
    learner = tuning_learner(network, config, epochs * splits[0].num_batches, resident)
    weights = class_weights(data, config)
    images = judging_images(data.labels(data.validation), weights is not None)
    start = kept_row(checkpoint.epochs_of(FROZEN.key), images)
    if start:
        # Smoothed labels make every loss larger, so at equal accuracy fine-tuning could never win.
        start = {**start, "epoch": 0, "val_loss": math.inf if config.label_smoothing else start["val_loss"]}
    stage = SCRATCH if config.from_scratch else FINE_TUNED
    distribution = distribution_for(config.devices, splits[0].batch_size)
    return Training(stage, learner, *splits, epochs, weights, start, distribution)


def head_learner(network: Network, config: Config, steps: int) -> keras.Model:
    """Return the compiled model of the frozen stage: the head on features or, without a cache, the network on images."""
    learner, rate = network.augmented(), config.head_learning_rate
    if config.cache_features:  # without a cache the rate is constant, the usual way, which is there for comparison
        learner, rate = network.head, keras.optimizers.schedules.CosineDecay(rate, steps)
    learner.compile(
        keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"], weighted_metrics=judged_by(learner, config),
        jit_compile=resolve_jit(), steps_per_execution=steps_per_call(),
    )  # fmt: skip
    return learner


def tuning_learner(network: Network, config: Config, steps: int, resident: np.ndarray | None = None) -> keras.Model:
    """Unfreeze a network's backbone, and return the compiled model of fine-tuning; see `Network.learner`."""
    unfreeze(network.backbone, config)
    learner = network.learner(resident)
    learner.compile(
        fine_tuning_optimizer(config, steps),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
        metrics=["accuracy"], weighted_metrics=judged_by(learner, config),
        jit_compile=resolve_jit(), steps_per_execution=steps_per_call(),
    )  # fmt: skip
    return learner


def judged_by(learner: keras.Model, config: Config) -> list[Any] | None:
    """Return the further metrics of a learner, for `compile`; see `macro_recall` and `weighted_metrics`."""
    return [*(weighted_metrics() or []), *macro_recall(learner, config)] or None


def macro_recall(learner: keras.Model, config: Config) -> list[Any]:
    """Return the metric that epochs are judged by where classes are weighted; nothing where they are not."""
    return [MacroRecall(learner.output_shape[-1])] if POWERS.get(config.class_weights) else []


def resident_images(images: Images, config: Config) -> np.ndarray | None:
    """Return the images, uint8 (N, H, W, 3), if they are to stay on the device; else None.

    On a GPU they are, if they fit, if nothing changes them on the host, and if they are not decoded on demand.
    """
    fit = images.nbytes <= SHARE_FOR_IMAGES * device_memory() and not isinstance(images, OnDemand)
    return np.asarray(images) if fit and not changes(config) else None


def image_batches(
    data: Dataset, config: Config, *, seed: int, classes: int = 0, resident: bool = False
) -> BatchesOfSplits:  # fmt: skip
    """Return batches of images: the training split shuffled, the others in order.

    With `classes`, labels are one-hot. Training images are changed as `headstart.training.changes` says.

    Args:
        resident: the batches have the numbers of images, int32 (B,), instead of images.
    """
    images: Rows = data.source.images
    labels, size = data.source.labels, config.batch_size
    if resident:
        images = np.arange(len(labels), dtype=np.int32)
    ahead = AHEAD if (has_gpu() and not resident) or isinstance(images, OnDemand) else 0
    training = Batches(images, labels, data.train, size, seed, classes, changes(config, one_hot=classes > 0), ahead)
    validation, test = (Batches(images, labels, rows, size, None, classes, ahead=ahead) for rows in (data.validation, data.test))
    return training, validation, test


def feature_batches(frozen: FrozenLayers, data: Dataset, config: Config) -> BatchesOfSplits:
    """Return batches of features: all views of the training images; validation and test images as they are."""
    training = in_memory_if_small(joined([
        frozen.features(data.training_candidates, view, f"training images, view {view + 1} of {config.views}")
        for view in range(config.views)
    ]))  # fmt: skip
    validation = in_memory_if_small(frozen.features(data.validation, 0, "validation images"))
    test = in_memory_if_small(frozen.features(data.test, 0, "test images"))
    batch_size = head_batch_size(config.views * len(data.train))
    return output_batches(training, validation, test, data, config, batch_size, seed=config.seed)


def map_batches(frozen: FrozenLayers, data: Dataset, config: Config, classes: int) -> BatchesOfSplits:
    """Return batches of feature maps at the cut: all views of the training images; validation and test images as they are."""
    training = frozen.maps(data.training_candidates, config.views, "training images")
    validation = frozen.maps(data.validation, 1, "validation images")
    test = frozen.maps(data.test, 1, "test images")
    return output_batches(training, validation, test, data, config, config.batch_size, seed=config.seed + 1, classes=classes)


def output_batches(
    training: Rows, validation: Rows, test: Rows, data: Dataset, config: Config, batch_size: int, *, seed: int, classes: int = 0
) -> BatchesOfSplits:
    """Return batches of the frozen layers' outputs for each split.

    Args:
        training: view by view, of `data.training_candidates`; those that were left out are not used, the others shuffled.
        validation, test: in the order of the split.
    """
    candidates = data.training_candidates
    labels = np.tile(data.labels(candidates), config.views)
    rows = np.flatnonzero(np.tile(np.isin(candidates, data.train), config.views))
    return (
        Batches(training, labels, rows, batch_size, seed, classes),
        Batches(validation, data.labels(data.validation), np.arange(len(data.validation)), batch_size, None, classes),
        Batches(test, data.labels(data.test), np.arange(len(data.test)), batch_size, None, classes),
    )


def images_for_statistics(data: Dataset, config: Config) -> Iterator[np.ndarray]:
    """Yield batches of training images, as in fine-tuning: uint8 (B, H, W, 3), enough for each channel's mean and variance."""
    batches, _, _ = image_batches(data, config, seed=config.data_seed)
    for step in range(min(batches.num_batches, math.ceil(IMAGES_FOR_STATISTICS / config.batch_size))):
        yield batches[step][0]


def class_weights(data: Dataset, config: Config) -> dict[int, float] | None:
    """Return the weight of each class in the loss, or None; see `headstart.training.weighting`."""
    return weights_by_class(data.labels(data.train), len(data.class_names), config.class_weights)
