"""The outputs of frozen layers: each view of each image passes through them only once."""

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.inference.engine import Engine
from headstart.inference.openvino import FEWEST_IMAGES
from headstart.model.augmentation import augmentation
from headstart.model.network import Network
from headstart.model.unfreeze import frozen_cut
from headstart.system.backend import has_gpu, keras
from headstart.system.cache import cache_folder, prune
from headstart.system.entries import StoredArray, gone, read_stored, written_array
from headstart.system.environment import computing
from headstart.system.processor import processor
from headstart.system.progress import track
from headstart.training.changes import rand_augmented

logger = logging.getLogger("headstart")

# Images that pass through the frozen layers together: on CPUs and on a GPU, which would wait for the host between smaller ones.
EXTRACTION_BATCH, EXTRACTION_BATCH_ON_GPU = 64, 256
# Counts the ways in which random views were ever drawn: those of another way in the cache are not used.
AUGMENTATION = 2
MOST_CACHE_BYTES = 30 << 30
# float16 takes half the disk space, at a relative error of 0.0005. Outputs are stored as float32 if their first batch comes
# within a factor of 16 of float16's largest number.
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class FrozenLayers:
    """The outputs of a network's frozen layers for the images of one data set, read from the cache or computed.

    The number of images in all splits chooses the engine, OpenVINO or Keras, and one engine computes them all: a head that
    learned on the features of one engine must not be judged on those of the other. In bfloat16, the starter's features differ
    by 0.006 between the two (relative L2 norm).

    The cache key covers everything that determines the features. These are the pixels, the backbone's graph and weights,
    the sizes, the preprocessing, the precision and the view; and what computes them: the engine, the versions of Keras, of
    its backend's packages and of OpenVINO, whether there is a GPU, and the processor's instructions. Libraries choose their
    kernels by the latter, and each kernel rounds in its own way: with and without AVX-512's bfloat16, the starter's features
    differ by 0.0003.

    With `config.folds`, what is stored are the outputs for all images in their own order, and the images of a split are picked
    from it. So the runs of all folds share them, where each would have other files for its splits.

    Views are numbered. View 0 is the image itself. View 1 is its mirror image, if flipping is on. All others are augmented
    at random.

    Args:
        network: with its backbone as it was loaded. If it has a `cut`, the feature maps there are kept as well.
        data: the data set.
        config: gives the augmentation and the seed of the random views.
    """

    def __init__(self, network: Network, data: Dataset, config: Config) -> None:
        self.data, self.config, self.cut = data, config, network.cut
        self.engine = Engine(network.feature_extractor())
        self.images = images_in_use(data)
        backbone = network.backbone
        graph = json.loads(backbone.to_json(), object_hook=without_trainable)
        described = [
            [layer.get_config() for layer in network.prepare], graph, data.image_shape, keras.backend.backend(), computing(),
            processor()["instructions"], has_gpu(), self.images >= FEWEST_IMAGES,
        ]  # fmt: skip
        self.digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        for weight in backbone.get_weights():
            self.digest.update(np.ascontiguousarray(weight).tobytes())

    def features(self, indices: np.ndarray, view: int, name: str) -> np.ndarray:
        """Return the pooled features of one view of some images.

        Args:
            indices: int, the images of the data set.
            view: the number of the view, from 0.
            name: the name of these images in the progress bar.

        Returns:
            float16 or float32 (len(indices), channels).
        """
        stored = self.stored(self.together(indices), view, name)[0].mapped()
        return np.array(stored[self.places_in_store(indices)] if self.config.folds else stored)

    def maps(self, indices: np.ndarray, views: int, name: str) -> "StoredRows":
        """Return the feature maps at the cut, (views * len(indices), h, w, c), view by view. They stay on disk."""
        together = self.together(indices)
        arrays = [self.stored(together, view, name)[1] for view in range(views)]
        if not self.config.folds:
            return StoredRows(arrays)
        places = self.places_in_store(indices)
        return StoredRows(arrays, np.concatenate([view * len(together) + places for view in range(views)]))

    def together(self, indices: np.ndarray) -> np.ndarray:
        """Return the images whose outputs are stored in one file with those of some images."""
        return self.data.used if self.config.folds else indices

    def places_in_store(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of some images in the files of all folds."""
        return np.searchsorted(self.data.used, indices)

    def release(self) -> None:
        """Free the engine's memory. Features that are not in the cache start it again."""
        self.engine = Engine(self.engine.model)

    def stored(self, indices: np.ndarray, view: int, name: str) -> list[StoredArray]:
        """Return the pooled features and, with a cut, the feature maps; compute them if one is missing in the cache."""
        files = self.places(indices, view)
        if found := self.read(files, len(indices)):
            return found
        batches = view_batches(self.data, indices, self.config, view, name)
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(written_array(file)) for file in files]
            for number, outputs in enumerate(self.engine.outputs(batches, self.images)):
                if not all(np.isfinite(values).all() for values in outputs):
                    raise HeadstartError(
                        f"--backbone {self.config.backbone} gives numbers that are not finite: its weights are damaged, or "
                        "do not fit --preprocess"
                    )
                if number == 0:
                    dtypes = [np.float16 if np.abs(values).max() < LARGEST_FLOAT16 / 16 else np.float32 for values in outputs]
                    for stream, values, dtype in zip(opened, outputs, dtypes, strict=True):
                        shape = (len(indices), *values.shape[1:])
                        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(stream, header)
                for stream, values, dtype in zip(opened, outputs, dtypes, strict=True):
                    limit = LARGEST_FLOAT16 if dtype is np.float16 else np.inf
                    stream.write(values.clip(-limit, limit).astype(dtype).tobytes())
        if not (found := self.read(files, len(indices))):
            raise gone(files[0])
        prune(files[0].parent.glob("*.npy"), MOST_CACHE_BYTES)
        return found

    def read(self, files: list[Path], rows: int) -> list[StoredArray]:
        """Return what is cached in all of these files; nothing if one of them is missing."""
        found = []
        for file, output in zip(files, self.engine.model.outputs, strict=True):
            if not (array := read_stored(file, ("float16", "float32"), (rows, *output.shape[1:]))):
                return []
            found.append(array)
        for file in files:
            with contextlib.suppress(OSError):
                os.utime(file)  # `prune` removes recently used files last
        return found

    def places(self, indices: np.ndarray, view: int) -> list[Path]:
        """Return the paths in the cache for one view of some images, whether the files exist or not."""
        mirrored, config = view and self.config.flip, self.config
        random = [config.rotation, config.zoom, config.translation, config.rand_augment, config.data_seed, AUGMENTATION]
        digest = self.digest.copy()
        digest.update(json.dumps([view, mirrored, random if view > int(config.flip) else []]).encode())
        digest.update(self.data.source.digests[indices].tobytes())
        folder, key = cache_folder("features"), digest.hexdigest()[:40]
        names = [f"{key}.npy"]
        for maps in self.engine.model.outputs[1:]:
            _, height, width, _ = maps.shape  # only the rows and columns that are read after the cut
            names.append(f"{key}-{self.cut}-{height}x{width}.npy")
        return [folder / name for name in names]


class StoredRows:
    """The rows of several arrays of the cache, one array after the other. A row is read from disk when it is indexed.

    Args:
        arrays: which differ only in their number of rows.
        chosen: int (N,), the rows that count, and their order; by default all.
    """

    def __init__(self, arrays: list[StoredArray], chosen: np.ndarray | None = None) -> None:
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])
        self.chosen = np.arange(self.ends[-1]) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        stored, rows = [array.mapped() for array in self.arrays], self.chosen[rows]
        numbers = np.searchsorted(self.ends, rows, side="right")
        starts = self.ends - [len(array) for array in stored]
        return np.stack([stored[number][row - starts[number]] for number, row in zip(numbers, rows, strict=True)])


def extraction_batch() -> int:
    """Return how many images pass through the frozen layers together."""
    return EXTRACTION_BATCH_ON_GPU if has_gpu() else EXTRACTION_BATCH


def images_in_use(data: Dataset) -> int:
    """Return how many images of a data set pass through the frozen layers: those of all splits."""
    return len(data.used)


def images_stored(data: Dataset, config: Config) -> int:
    """Return how many views of images are stored, those of all folds together."""
    if config.folds:
        return config.views * len(data.used)
    return config.views * len(data.train) + len(data.validation) + len(data.test)


def cut_where_worthwhile(network: Network, data: Dataset, config: Config) -> None:
    """Set `network.cut` after the backbone's frozen part, so that fine-tuning starts from cached feature maps.

    It stays "" if nothing is cached or fine-tuned, if there is no such layer, or if the maps would not fit the cache.
    """
    if not config.cache_features or not config.epochs:
        return
    network.cut = frozen_cut(network.backbone, config)
    if network.cut:
        values = math.prod(network.feature_extractor().outputs[1].shape[1:])
        needed = 2 * values * images_stored(data, config)
        # Only constants decide, so that a resumed run decides as it did before.
        if needed > MOST_CACHE_BYTES:
            gigabytes, cut = needed / 1e9, network.cut
            logger.warning("the maps after %s would take %.0f GB of disk: each epoch starts from the images", cut, gigabytes)
            network.cut = ""


def view_batches(data: Dataset, indices: np.ndarray, config: Config, view: int, name: str) -> Iterator[np.ndarray]:
    """Yield one view of some images, uint8 (B, H, W, 3), with a progress bar."""
    at_random = view > int(config.flip)
    # Seeded by data seed and view, so that a view has the same images in every run.
    augment = augmentation(config, config.data_seed + view) if at_random else None
    random = np.random.default_rng([config.data_seed, view])
    size = extraction_batch()
    for start in track(range(0, len(indices), size), f"features of {name}"):
        images = data.images(indices[start : start + size])
        if view == 1 and config.flip:
            images = np.ascontiguousarray(images[:, :, ::-1])
        elif at_random and config.rand_augment:
            images, _ = rand_augmented(images, np.empty(0), random)
        if augment:
            images = np.rint(keras.ops.convert_to_numpy(augment(images, training=True))).astype(np.uint8)
        yield images


def without_trainable(config: dict[str, Any]) -> dict[str, Any]:
    """Drop `trainable`, the one entry of a layer's configuration that does not change its outputs."""
    return {key: value for key, value in config.items() if key != "trainable"}
