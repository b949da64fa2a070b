"""Batches of images or features, in an order that depends only on the seed and the epoch."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from headstart.system.backend import keras
from headstart.training.changes import Change

# A head on features is so small that only the number of steps costs time. A small data set needs a minimum of steps, though.
LARGEST_HEAD_BATCH, LEAST_HEAD_STEPS = 256, 50


def head_batch_size(rows: int) -> int:
    """Return the batch size for a head that learns on `rows` rows of features."""
    return max(1, min(LARGEST_HEAD_BATCH, rows // LEAST_HEAD_STEPS))


class Rows(Protocol):
    """Anything that is indexed by an array of row numbers and returns these rows, such as an array."""

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


Batch = tuple[np.ndarray, np.ndarray]


class Batches(keras.utils.PyDataset):
    """Rows of an array with their labels, batch by batch; memory-mapped arrays are never loaded as a whole.

    Args:
        inputs: N rows: images, or features or feature maps of frozen layers, or the numbers of images on the device.
        labels: int (N,).
        indices: the rows to use.
        batch_size: rows per batch; fewer if there are fewer `indices`.
        seed: shuffles anew at every epoch, and drops the incomplete last batch, so that all steps have the same shape; None
            keeps the order and every row.
        classes: labels become one-hot float32 rows of this many classes; 0 keeps integers.
        changes: random changes of each batch, drawn by seed, epoch and the batch's number.
        ahead: how many batches are made ahead of their use, each by a thread of its own.
    """

    def __init__(
        self, inputs: Rows, labels: np.ndarray, indices: np.ndarray, batch_size: int,
        seed: int | None = None, classes: int = 0, changes: Sequence[Change] = (), ahead: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.inputs, self.labels, self.indices = inputs, labels, indices
        self.batch_size = min(batch_size, len(indices))
        self.seed, self.classes, self.changes, self.ahead = seed, classes, changes, ahead
        self.threads = ThreadPoolExecutor(ahead) if ahead else None
        self.start_at(0)

    def start_at(self, epoch: int) -> None:
        """Use the order of `epoch` (from 0) from now on.

        Called between two epochs. Keras' own hooks, `on_epoch_begin` and `on_epoch_end`, would not do: Keras also calls them
        when it only looks at a batch.
        """
        self.epoch = epoch
        self.order = self.shuffled(epoch)
        self.waiting: dict[int, Future[Batch]] = {}

    def shuffled(self, epoch: int) -> np.ndarray:
        return self.indices if self.seed is None else np.random.default_rng([self.seed, epoch]).permutation(self.indices)

    @property
    def num_batches(self) -> int:
        full, rest = divmod(len(self.indices), self.batch_size)
        return full + (self.seed is None and rest > 0)

    def __getitem__(self, index: int) -> Batch:
        if not self.threads:
            return self.make(index, self.epoch, self.order)
        for number in range(index, min(index + 1 + self.ahead, self.num_batches)):
            if number not in self.waiting:
                self.waiting[number] = self.threads.submit(self.make, number, self.epoch, self.order)
        return self.waiting.pop(index).result()

    def make(self, index: int, epoch: int, order: np.ndarray) -> Batch:
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]
        images, labels = self.inputs[rows], self.labels[rows]
        if images.dtype == np.float16:
            images = images.astype(np.float32)  # exactly the same values; TensorFlow prints an error about half precision
        if self.classes:
            labels = np.eye(self.classes, dtype=np.float32)[labels]
        for number, change in enumerate(self.changes):
            images, labels = change(images, labels, np.random.default_rng([self.seed or 0, epoch, index, number]))
        return images, labels
