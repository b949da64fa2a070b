"""Batches of images or features, in an order that depends only on the seed and the epoch."""

from typing import Any, Protocol

import numpy as np

from headstart.system.backend import keras

# A head on features is so small that only the number of steps costs time. A small data set needs a minimum of steps, though.
LARGEST_HEAD_BATCH, LEAST_HEAD_STEPS = 256, 50


def head_batch_size(rows: int) -> int:
    """Return the batch size for a head that learns on `rows` rows of features."""
    return max(1, min(LARGEST_HEAD_BATCH, rows // LEAST_HEAD_STEPS))


class Rows(Protocol):
    """Anything that is indexed by an array of row numbers and returns these rows, such as an array."""

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


class Batches(keras.utils.PyDataset):
    """Rows of an array with their labels, batch by batch; memory-mapped arrays are never loaded as a whole.

    Args:
        inputs: N rows: images, or features or feature maps of frozen layers.
        labels: int (N,).
        indices: the rows to use.
        batch_size: rows per batch; fewer if there are fewer `indices`.
        seed: shuffles anew at every epoch, and drops the incomplete last batch, so that all steps have the same shape; None
            keeps the order and every row.
        classes: labels become one-hot float32 rows of this many classes; 0 keeps integers.
        mix: `mixup` (Zhang et al. 2018) or `cutmix` (Yun et al. 2019) blends pairs within a batch; it needs `classes`.
    """

    def __init__(
        self, inputs: Rows, labels: np.ndarray, indices: np.ndarray, batch_size: int,
        seed: int | None = None, classes: int = 0, mix: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        self.inputs, self.labels, self.indices = inputs, labels, indices
        self.batch_size = min(batch_size, len(indices))
        self.seed, self.classes, self.mix = seed, classes, mix
        self.start_at(0)

    def start_at(self, epoch: int) -> None:
        """Use the order of `epoch` (from 0) from now on.

        Called between two epochs. Keras' own hooks, `on_epoch_begin` and `on_epoch_end`, would not do: Keras also calls them
        when it only looks at a batch.
        """
        self.epoch = epoch
        self.order = self.shuffled(epoch)

    def shuffled(self, epoch: int) -> np.ndarray:
        return self.indices if self.seed is None else np.random.default_rng([self.seed, epoch]).permutation(self.indices)

    @property
    def num_batches(self) -> int:
        full, rest = divmod(len(self.indices), self.batch_size)
        return full + (self.seed is None and rest > 0)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        images, labels = self.inputs[rows], self.labels[rows]
        if images.dtype == np.float16:
            images = images.astype(np.float32)  # exactly the same values; TensorFlow prints an error about half precision
        if self.classes:
            labels = np.eye(self.classes, dtype=np.float32)[labels]
        if self.mix == "none":
            return images, labels
        return mixed(images, labels, self.mix, [self.seed or 0, self.epoch, index])


def mixed(images: np.ndarray, labels: np.ndarray, mix: str, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Blend the images and one-hot labels of a batch in pairs, by Keras' own layer.

    Args:
        images: uint8 (B, H, W, 3).
        labels: float32 (B, classes).
        mix: `mixup` or `cutmix`.
        seed: numbers that determine the blend.

    Returns:
        Images and labels of the same shapes and dtypes.
    """
    layer = {"mixup": keras.layers.MixUp, "cutmix": keras.layers.CutMix}[mix]
    number = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
    blended = layer(seed=number)({"images": np.float32(images), "labels": labels}, training=True)
    to_numpy = keras.ops.convert_to_numpy
    return np.clip(np.rint(to_numpy(blended["images"])), 0, 255).astype(np.uint8), to_numpy(blended["labels"])
