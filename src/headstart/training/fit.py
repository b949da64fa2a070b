"""Train one stage: validation and a checkpoint after each epoch, and the weights of one of the best epochs at the end."""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.model.fast.resident import without_resident_images
from headstart.model.network import learning_weights
from headstart.record.history import EpochRow, Stage
from headstart.system import cluster
from headstart.system.backend import keras
from headstart.system.keras_internals import spread
from headstart.system.kernels import without_autotuning
from headstart.system.memory import give_back_freed_memory
from headstart.system.progress import Bar
from headstart.system.text import count
from headstart.training.batches import Batches
from headstart.training.checkpoint import Checkpoint, assign, values
from headstart.training.devices import SharedBatches, WithoutPadding, shared_batches
from headstart.training.weighting import judging_images

logger = logging.getLogger("headstart")

SHOW_EVERY = 0.1  # seconds between two looks at the accuracy
MOST_LINES = 50  # of the log, about the epochs of a stage


@dataclass(frozen=True, eq=False, repr=False)
class Training:
    """One stage, ready to train.

    Attributes:
        stage: which stage it is.
        learner: the compiled model that learns.
        batches: of the training split, shuffled anew at every epoch.
        validation: batches in order. They choose the epoch to keep.
        test: batches in order. Only the trainer uses them, once, after the stage.
        epochs: the number of epochs; 0 if the learner has learned already, as `start` says.
        class_weight: the weight of each class in the loss, or None.
        start: a history row of the network before the stage, or None. It competes with the epochs, so that a stage never ends
            worse on validation than it began. Its epoch is 0, or without epochs 1.
        distribution: the `keras.distribution` of the devices that share each batch, or None for one device.
    """

    stage: Stage
    learner: keras.Model
    batches: Batches
    validation: Batches
    test: Batches
    epochs: int
    class_weight: dict[int, float] | None = None
    start: EpochRow | None = None
    distribution: Any = None

    def __repr__(self) -> str:
        optimizer = self.learner.optimizer.get_config()
        rate = optimizer["learning_rate"]
        if isinstance(rate, dict):
            rate = rate["config"]["warmup_target"] or rate["config"]["initial_learning_rate"]
        learning = f"{learning_weights(self.learner):,} weights learn"
        return (
            f"Training({self.stage.name}: {learning}; {type(self.learner.optimizer).__name__}, "
            f"learning rate {rate:g} at most; {type(self.learner.loss).__name__}; {count(self.epochs, 'epoch')} of "
            f"{count(self.batches.num_batches, 'step')} of {self.batches.batch_size})"
        )


def fit_stage(training: Training, checkpoint: Checkpoint, patience: int = 0) -> None:
    """Train from where the checkpoint stands. At the end, the learner has the weights of the epoch that `kept_row` chooses.

    Args:
        patience: stop after this many epochs without a better validation accuracy; 0 never stops early.
    """
    stage, model, batches = training.stage, training.learner, training.batches
    if checkpoint.has_finished(stage.key):
        assign(without_resident_images(model), checkpoint.load(stage.key)["model"])
        return
    model.optimizer.build(model.trainable_variables)
    keeper = Keeper(training, checkpoint, patience)
    keeper.set_model(model)
    first = keeper.restore()
    distribution = training.distribution
    if distribution and (others := cluster.first()):
        others.send("arrays", arrays=keeper.state())
    if not training.epochs and training.start and not keeper.rows:
        checkpoint.history.append(training.start)
    elif training.epochs and not keeper.out_of_patience():
        callbacks = [keeper]
        if not cluster.follower():
            callbacks.append(ProgressLine(stage, training.epochs, batches.num_batches))
        if model.optimizer.use_ema:
            # After the keeper: its on_test_end must still see the averaged weights, which were validated.
            callbacks.insert(1, keras.callbacks.SwapEMAWeights())
        batches, validation = shared_batches(batches, training.validation, distribution)
        if isinstance(validation, SharedBatches):
            callbacks.insert(0, WithoutPadding(validation))
        with cluster.computing_together(), spread(model, distribution):
            model.fit(
                without_autotuning(batches), validation_data=without_autotuning(validation), initial_epoch=first,
                epochs=training.epochs, callbacks=callbacks, class_weight=training.class_weight, verbose=0,
                shuffle=False,  # the batches are shuffled already; Keras would shuffle with a random state that is not saved
            )  # fmt: skip
    assign(without_resident_images(model), keeper.kept_weights)
    checkpoint.save(stage.key, finished=True, model=keeper.kept_weights)
    give_back_freed_memory()
    if kept := kept_row(keeper.rows, keeper.images, training.start):
        logger.info("%s: kept epoch %s, validation accuracy %.2f %%", stage.key, kept["epoch"], 100 * kept["val_accuracy"])


def quality(row: EpochRow) -> float:
    """Return what an epoch is judged by: its validation accuracy or, where classes are weighted, its macro recall there."""
    return row.get("val_macro_recall", row["val_accuracy"])


def score(row: EpochRow) -> tuple[float, float]:
    """Return the key by which history rows are compared: their quality, and for ties the lower validation loss."""
    return quality(row), -row["val_loss"]


def kept_row(rows: list[EpochRow], images: float, start: EpochRow | None = None) -> EpochRow | None:
    """Return the epoch to keep: the last one within one standard error of the best validation accuracy.

    Where classes are weighted, the macro recall on validation takes the place of the accuracy.

    The learning rate falls to zero, so the last epochs are the best ones on average, and the epoch with the highest
    validation accuracy is partly the luckiest. The rule is that of Breiman et al. 1984 ("Classification and regression
    trees") for the size of trees.

    Args:
        rows: of the stage, in order.
        images: the number of images in the validation split, see `headstart.training.weighting.judging_images`.
        start: the row of the network before the stage. It is returned if no epoch is better.
    """
    better = [row for row in rows if start is None or score(row) > score(start)]
    if not better:
        return start
    highest = max(map(quality, better))
    error = math.sqrt(highest * (1 - highest) / images)
    return next(row for row in reversed(better) if quality(row) >= highest - error)


class Keeper(keras.callbacks.Callback):
    """Writes history and checkpoint after each epoch, and keeps the weights of the epoch that `kept_row` chooses."""

    def __init__(self, training: Training, checkpoint: Checkpoint, patience: int) -> None:
        super().__init__()
        self.stage, self.batches, self.start = training.stage.key, training.batches, training.start
        self.checkpoint, self.patience = checkpoint, patience
        validation = training.validation
        self.images = judging_images(validation.labels[validation.indices], training.class_weight is not None)
        self.kept_weights: list[np.ndarray] = []

    @property
    def rows(self) -> list[EpochRow]:
        return self.checkpoint.epochs_of(self.stage)

    def restore(self) -> int:
        """Load model and optimizer from the checkpoint, and return the number of finished epochs."""
        groups = self.checkpoint.load(self.stage)
        if groups:
            assign(without_resident_images(self.model), groups["model"])
            assign(self.model.optimizer.variables, groups["optimizer"])
            self.kept_weights = groups["kept"]
        else:
            self.kept_weights = values(without_resident_images(self.model))
        self.checkpoint.start_clock()
        self.batches.start_at(len(self.rows))
        return len(self.rows)

    def state(self) -> dict[str, list[np.ndarray]]:
        """Return all arrays that `restore` needs."""
        model, optimizer = values(without_resident_images(self.model)), values(self.model.optimizer.variables)
        return {"model": model, "optimizer": optimizer, "kept": self.kept_weights}

    def out_of_patience(self) -> bool:
        before = [self.start] if self.start else []
        best = max([*before, *self.rows], key=score, default=EpochRow(epoch=0))
        return bool(self.patience) and len(self.rows) - best["epoch"] >= self.patience

    def on_test_end(self, logs: Any = None) -> None:
        # Not in on_epoch_end: with averaging, only here are the weights those that were validated.
        row = EpochRow(val_accuracy=logs["accuracy"], val_loss=logs["loss"])
        if "macro_recall" in logs:
            row["val_macro_recall"] = logs["macro_recall"]
        if kept_row([*self.rows, row], self.images, self.start) is row:
            self.kept_weights = values(without_resident_images(self.model))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row: Any = {"stage": self.stage, "epoch": epoch + 1}
        kept = ("accuracy", "loss", "val_accuracy", "val_loss", "val_macro_recall")
        row |= {key: float(logs[key]) for key in kept if key in logs}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.checkpoint.history.append(row)
        self.checkpoint.stop_clock(self.stage)
        self.checkpoint.save(self.stage, finished=False, **self.state())
        self.batches.start_at(epoch + 1)
        self.model.stop_training = self.out_of_patience()


class ProgressLine(keras.callbacks.Callback):
    """Shows a bar with the accuracy and the stage's time left, and logs a line for each epoch, or for each of a few of many."""

    def __init__(self, stage: Stage, epochs: int, steps: int) -> None:
        super().__init__()
        self.stage, self.epochs, self.steps = stage.name, epochs, steps

    def on_train_begin(self, logs: Any = None) -> None:
        self.bar = Bar("steps")
        self.task = self.bar.add_task(self.stage, total=self.epochs * self.steps, note="")
        self.bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch, self.last = epoch, 0.0
        self.bar.update(self.task, description=f"{self.stage} epoch {epoch + 1}/{self.epochs}", completed=epoch * self.steps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Reading the accuracy waits for a GPU, whose next steps should be on their way by then.
        if (now := time.monotonic()) > self.last + SHOW_EVERY or batch + 1 == self.steps:
            self.last = now
            done = self.epoch * self.steps + batch + 1
            self.bar.update(self.task, completed=done, note=f"accuracy {logs['accuracy']:.3f}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # A few images have hundreds of epochs.
        if (epoch + 1) % math.ceil(self.epochs / MOST_LINES) and epoch + 1 < self.epochs:
            return
        recall = f" (macro recall {100 * logs['val_macro_recall']:.2f} %)" if "val_macro_recall" in logs else ""
        logger.info(
            "%s epoch %d/%d: accuracy %.2f %%, validation %.2f %%%s, loss %.3f, validation %.3f",
            self.stage, epoch + 1, self.epochs,
            100 * logs["accuracy"], 100 * logs["val_accuracy"], recall, logs["loss"], logs["val_loss"],
        )  # fmt: skip

    def on_train_end(self, logs: Any = None) -> None:
        self.bar.stop()
