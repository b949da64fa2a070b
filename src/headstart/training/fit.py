"""One stage of training, whichever: epochs with validation, one of the best kept, a checkpoint after each."""

import logging
import math
from typing import Any

import keras
import numpy as np

from headstart.system.backend import without_autotuning
from headstart.system.memory import give_back_freed_memory
from headstart.system.progress import Bar
from headstart.training.batches import Batches
from headstart.training.checkpoint import Checkpoint, assign, values

logger = logging.getLogger("headstart")


def fit_stage(
    stage: str, model: keras.Model, batches: Batches, validation: Batches, checkpoint: Checkpoint, *,
    epochs: int, patience: int = 0, class_weight: dict[int, float] | None = None,
    start: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Train a compiled model from where its checkpoint stands, and leave the weights of the epoch of `kept_row` in it.

    Args:
        stage: `frozen` or `fine_tuned`, the name in history and metrics.
        patience: stop after this many epochs without a better validation accuracy; 0 for never.
        start: the history row, its epoch 0, that describes the model as it comes in. It competes with the
            epochs, so that a stage never ends worse on validation than it began.
    """
    if checkpoint.stage == stage and checkpoint.finished:
        assign(model.variables, checkpoint.load(stage)["model"])
        return
    model.optimizer.build(model.trainable_variables)
    keeper = Keeper(stage, batches, len(validation.indices), checkpoint, start, patience)
    keeper.set_model(model)
    first = keeper.restore()
    if not keeper.out_of_patience():
        callbacks = [keeper, ProgressLine(stage, epochs, batches.num_batches)]
        if model.optimizer.use_ema:
            # After the keeper, which on_test_end must see the averaged weights that were validated.
            callbacks.insert(1, keras.callbacks.SwapEMAWeights())
        model.fit(
            without_autotuning(batches), validation_data=without_autotuning(validation), initial_epoch=first, epochs=epochs,
            callbacks=callbacks, class_weight=class_weight, verbose=0,
            shuffle=False,  # the batches are shuffled already; Keras would shuffle them by a state that is not kept
        )  # fmt: skip
    assign(model.variables, keeper.kept_weights)
    checkpoint.save(stage, finished=True, model=keeper.kept_weights)
    give_back_freed_memory()
    if kept := kept_row(keeper.rows, keeper.images, start):
        logger.info("%s: kept epoch %s, validation accuracy %.2f %%", stage, kept["epoch"], 100 * kept["val_accuracy"])


def score(row: dict[str, Any]) -> tuple[float, float]:
    """Return what a history row is compared by: validation accuracy, and at ties the lower loss."""
    return row["val_accuracy"], -row["val_loss"]


def kept_row(rows: list[dict[str, Any]], images: int, start: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Return the history row of the epoch that a stage keeps: the last that only chance may have put behind the best.

    The learning rate falls to zero, so the last epochs are the best ones on average, and the one with the highest
    validation accuracy is partly the luckiest. Chance is one standard error of that accuracy, as in the rule of
    Breiman et al. 1984 ("Classification and regression trees") for the size of trees.

    Args:
        rows: those of the stage, in order.
        images: how many the validation split has.
        start: the row that the stage began from; it is kept where no epoch is better.
    """
    better = [row for row in rows if start is None or score(row) > score(start)]
    if not better:
        return start
    highest = max(row["val_accuracy"] for row in better)
    error = math.sqrt(highest * (1 - highest) / images)
    return next(row for row in reversed(better) if row["val_accuracy"] >= highest - error)


class Keeper(keras.callbacks.Callback):
    """Keeps history, checkpoint, and the weights of the epoch of `kept_row`."""

    def __init__(
        self, stage: str, batches: Batches, images: int, checkpoint: Checkpoint, start: dict[str, Any] | None, patience: int
    ) -> None:  # fmt: skip
        super().__init__()
        self.stage, self.batches, self.images, self.checkpoint = stage, batches, images, checkpoint
        self.start, self.patience = start, patience
        self.kept_weights: list[np.ndarray] = []

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.checkpoint.epochs_of(self.stage)

    def restore(self) -> int:
        """Bring model and optimizer to where the checkpoint stands; return the number of finished epochs."""
        groups = self.checkpoint.load(self.stage)
        if groups:
            assign(self.model.variables, groups["model"])
            assign(self.model.optimizer.variables, groups["optimizer"])
            self.kept_weights = groups["kept"]
        else:
            self.kept_weights = values(self.model.variables)
        self.checkpoint.start_clock()
        self.batches.start_at(len(self.rows))
        return len(self.rows)

    def out_of_patience(self) -> bool:
        before = [self.start] if self.start else []
        best = max([*before, *self.rows], key=score, default={"epoch": 0})
        return bool(self.patience) and len(self.rows) - best["epoch"] >= self.patience

    def on_test_end(self, logs: Any = None) -> None:
        # Here, not in on_epoch_end: with averaging, these are the weights that were validated.
        row = {"val_accuracy": logs["accuracy"], "val_loss": logs["loss"]}
        if kept_row([*self.rows, row], self.images, self.start) is row:
            self.kept_weights = values(self.model.variables)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row = {"stage": self.stage, "epoch": epoch + 1}
        row |= {key: float(logs[key]) for key in ("accuracy", "loss", "val_accuracy", "val_loss")}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.checkpoint.history.append(row)
        self.checkpoint.stop_clock(self.stage)
        self.checkpoint.save(
            self.stage,
            model=values(self.model.variables),
            optimizer=values(self.model.optimizer.variables),
            kept=self.kept_weights,
        )
        self.batches.start_at(epoch + 1)
        self.model.stop_training = self.out_of_patience()


class ProgressLine(keras.callbacks.Callback):
    """A bar with accuracy and the time left of the stage, and a line in the log for every epoch."""

    def __init__(self, stage: str, epochs: int, steps: int) -> None:
        super().__init__()
        self.stage, self.epochs, self.steps = stage.replace("_", "-"), epochs, steps

    def on_train_begin(self, logs: Any = None) -> None:
        self.bar = Bar("steps")
        self.task = self.bar.add_task(self.stage, total=self.epochs * self.steps, note="")
        self.bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar.update(self.task, description=f"{self.stage} epoch {epoch + 1}/{self.epochs}", completed=epoch * self.steps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.bar.update(self.task, advance=1, note=f"accuracy {logs['accuracy']:.3f}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logger.info(
            "%s epoch %d/%d: accuracy %.2f %%, validation %.2f %%, loss %.3f, validation %.3f",
            self.stage, epoch + 1, self.epochs,
            100 * logs["accuracy"], 100 * logs["val_accuracy"], logs["loss"], logs["val_loss"],
        )  # fmt: skip

    def on_train_end(self, logs: Any = None) -> None:
        self.bar.stop()
