"""One stage of training, whichever: epochs with validation, the best one kept, a checkpoint after each."""

import logging
from typing import Any

import keras
import numpy as np

from headstart.backend import without_autotuning
from headstart.memory import give_back_freed_memory
from headstart.progress import Bar
from headstart.training.batches import Batches
from headstart.training.checkpoint import Checkpoint, assign, values

logger = logging.getLogger("headstart")


def fit_stage(
    stage: str, model: keras.Model, batches: Batches, validation: Batches, checkpoint: Checkpoint, *,
    epochs: int, patience: int = 0, class_weight: dict[int, float] | None = None,
    start: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Train a compiled model from where its checkpoint stands, and leave the best epoch's weights in it.

    Args:
        stage: `frozen` or `fine_tuned`, the name in history and metrics.
        patience: stop after this many epochs without a better validation accuracy; 0 for never.
        start: the history row that describes the model as it comes in. It competes with the
            epochs, so that a stage never ends worse on validation than it began.
    """
    if checkpoint.stage == stage and checkpoint.finished:
        assign(model.variables, checkpoint.load(stage)["model"])
        return
    model.optimizer.build(model.trainable_variables)
    keeper = BestEpoch(stage, batches, checkpoint, start, patience)
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
    assign(model.variables, keeper.best_weights)
    checkpoint.save(stage, finished=True, model=keeper.best_weights)
    give_back_freed_memory()
    best = keeper.best
    logger.info("%s: kept epoch %s, validation accuracy %.2f %%", stage, best["epoch"], 100 * best["val_accuracy"])


def score(row: dict[str, Any]) -> tuple[float, float]:
    """Return what a history row is compared by: validation accuracy, and at ties the lower loss."""
    return row["val_accuracy"], -row["val_loss"]


class BestEpoch(keras.callbacks.Callback):
    """Keeps history, checkpoint, and the weights of the best epoch on validation (ties: lower loss)."""

    def __init__(
        self, stage: str, batches: Batches, checkpoint: Checkpoint, start: dict[str, Any] | None, patience: int
    ) -> None:  # fmt: skip
        super().__init__()
        self.stage, self.batches, self.checkpoint, self.start, self.patience = stage, batches, checkpoint, start, patience
        self.best_weights: list[np.ndarray] = []

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.checkpoint.epochs_of(self.stage)

    @property
    def best(self) -> dict[str, Any]:
        """The best row of the history so far, or the row the stage started from."""
        candidates = [self.start | {"epoch": 0}] if self.start else []
        return max(candidates + self.rows, key=score)

    def restore(self) -> int:
        """Bring model and optimizer to where the checkpoint stands; return the number of finished epochs."""
        groups = self.checkpoint.load(self.stage)
        if groups:
            assign(self.model.variables, groups["model"])
            assign(self.model.optimizer.variables, groups["optimizer"])
            self.best_weights = groups["best"]
        else:
            self.best_weights = values(self.model.variables)
        self.checkpoint.start_clock()
        self.batches.start_at(len(self.rows))
        return len(self.rows)

    def out_of_patience(self) -> bool:
        since_best = len(self.rows) - self.best["epoch"] if self.rows else 0
        return bool(self.patience) and since_best >= self.patience

    def on_test_end(self, logs: Any = None) -> None:
        # Here, not in on_epoch_end: with averaging, these are the weights that were validated.
        if not (self.rows or self.start) or (logs["accuracy"], -logs["loss"]) > score(self.best):
            self.best_weights = values(self.model.variables)

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
            best=self.best_weights,
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
