"""What the devices are fed: which of them share a batch, what each process feeds to its own, and batches of one shape."""

import logging
from typing import Any

import numpy as np

from headstart.errors import HeadstartError
from headstart.system import cluster
from headstart.system.backend import compiles_each_shape, keras
from headstart.system.devices import learning_devices
from headstart.training.batches import Batches

logger = logging.getLogger("headstart")


def devices_for(devices: str, batch_size: int) -> list[str]:
    """Return the devices that share each batch: as many as divide it, of those that `--devices` asks for.

    Raises:
        HeadstartError: there are fewer devices, the backend is not JAX, or not all of a cluster can take part.
    """
    found = learning_devices(devices)
    used = max((number for number in range(1, len(found) + 1) if batch_size % number == 0), default=0)
    if used < len(found):
        all_of_them = len(found) * max(1, round(batch_size / len(found)))
        text = f"{used} of {len(found)} devices divide a batch of {batch_size}: give --batch-size {all_of_them} to use all"
        if devices == cluster.CLUSTER:
            raise HeadstartError(text)
        logger.warning("%s", text)
    return found[:used]


def distribution_for(devices: str, batch_size: int) -> Any:
    """Return the `keras.distribution.DataParallel` of the devices that share each batch; None for one device.

    Raises:
        HeadstartError: as for `devices_for`.
    """
    names = devices_for(devices, batch_size)
    return keras.distribution.DataParallel(devices=names, auto_shard_dataset=False) if len(names) > 1 else None


def weighted_metrics() -> list[str] | None:
    """Return the metrics, for `compile`, of a learner whose validation batches may be padded; see `WithoutPadding`."""
    return ["accuracy"] if compiles_each_shape() else None


class SharedBatches(keras.utils.PyDataset):
    """Batches for several devices: of each, the rows of this process, in the order of the processes.

    Args:
        batches: whole batches, alike in all processes.
        devices: how many devices share each batch.
        padded: all batches are filled up with rows of weight 0 to one size, which the devices divide, and have weights.

    Attributes:
        surplus: the rows with padding as a multiple of the rows.
    """

    def __init__(self, batches: Batches, devices: int, *, padded: bool) -> None:
        super().__init__()
        self.batches, self.padded = batches, padded
        self.rows = batches.batch_size + -batches.batch_size % devices
        self.surplus = batches.num_batches * self.rows / len(batches.indices)

    @property
    def num_batches(self) -> int:
        return self.batches.num_batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        batch: tuple[np.ndarray, ...] = self.batches[index]
        if self.padded:
            rows = len(batch[0])
            missing = self.rows - rows
            # The first row is repeated: whatever the inputs are, it is one that the model takes.
            batch = tuple(np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) for array in batch)
            batch = (*batch, (np.arange(rows + missing) < rows).astype(np.float32))
        if not (all_of_us := cluster.joined):
            return batch
        size = len(batch[0]) // all_of_us.count
        return tuple(array[all_of_us.process * size :][:size] for array in batch)


def shared_batches(training: Batches, validation: Batches, distribution: Any) -> tuple[Any, Any]:
    """Return batches of the training and the validation split as the devices of a distribution take them; None: one device."""
    devices = distribution.device_mesh.devices.size if distribution else 1
    # A validation batch of another size would be compiled anew, and several devices need one that they divide.
    validating = SharedBatches(validation, devices, padded=True) if compiles_each_shape() else validation
    return SharedBatches(training, devices, padded=False) if distribution else training, validating


class WithoutPadding(keras.callbacks.Callback):
    """Turns the figures of padded validation batches, in `logs`, into those of the rows alone. It must be the first callback.

    Keras divides the sum of the losses by the rows with padding, and has an accuracy that knows weights under another name.
    """

    def __init__(self, validation: SharedBatches) -> None:
        super().__init__()
        self.surplus = validation.surplus

    def on_test_end(self, logs: Any = None) -> None:
        self.correct(logs, "")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.correct(logs, "val_")

    def correct(self, logs: dict[str, float], prefix: str) -> None:
        logs[f"{prefix}accuracy"] = logs[f"{prefix}weighted_accuracy"]
        logs[f"{prefix}loss"] *= self.surplus
