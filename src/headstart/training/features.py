"""The frozen layers' outputs: each view of each image goes through them once, and never again."""

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.inference.engine import Engine
from headstart.inference.openvino import FEWEST_IMAGES
from headstart.model.augmentation import augmentation
from headstart.model.network import Network
from headstart.model.unfreeze import frozen_cut
from headstart.system.backend import has_gpu, keras
from headstart.system.cache import cache_folder
from headstart.system.environment import computing, processor
from headstart.system.files import written_whole
from headstart.system.progress import track

logger = logging.getLogger("headstart")

EXTRACTION_BATCH = 64
MOST_CACHE_BYTES = 30 << 30
# float16 takes half the disk at a relative error of 0.0005; outputs whose first batch comes within a
# factor of 16 of its largest number are kept as float32.
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class FrozenLayers:
    """What a backbone's frozen layers give for images of one data set, from the cache or freshly computed.

    One engine computes them all, OpenVINO or Keras: the number of images in all splits chooses it, not that of the split
    in hand, since a head that learns on features of one should not be judged on those of the other. In bfloat16 the
    starter's features differ by 0.006 between them (relative L2 norm).

    The cache's keys hold everything that determines the features: the pixels, the backbone's graph and weights, the
    sizes, the normalisation, the precision, the view; and what computes them: the engine, the versions of Keras, of its
    backend's packages and of OpenVINO, whether there is a GPU, and the processor's instructions. By these, libraries
    choose their kernels, and each rounds in its own way: with and without AVX-512's bfloat16, the starter's features
    differ by 0.0003. Views: 0 is
    the image itself, 1 its mirror image (where flipping is on), others are augmented at random.

    Args:
        network: with the backbone as it was loaded; with a `cut`, the feature maps there are kept as well.
        data: the data set.
        config: its views' augmentation and its seed of random views are used.
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
            indices: which images of the data set.
            name: what the progress bar calls them.

        Returns:
            float16 or float32 (len(indices), channels).
        """
        return np.load(self.files(indices, view, name)[0])

    def maps(self, indices: np.ndarray, views: int, name: str) -> "StoredRows":
        """Return the feature maps after the layer `cut`, view by view, (views * len(indices), h, w, c), on disk."""
        return StoredRows([self.files(indices, view, name)[1] for view in range(views)])

    def release(self) -> None:
        """Give back the engine's memory; features that are asked for and not cached start it again."""
        self.engine = Engine(self.engine.model)

    def files(self, indices: np.ndarray, view: int, name: str) -> list[Path]:
        """Return the files of the pooled features and, with `cut`, of the maps; compute what is missing or damaged."""
        files = self.places(indices, view)
        if all(map(is_whole, files)):
            for file in files:
                file.touch()  # used lately: the last to be removed
            return files
        batches = view_batches(self.data, indices, self.config, view, name)
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(stack.enter_context(written_whole(file)).open("wb")) for file in files]
            for number, outputs in enumerate(self.engine.outputs(batches, self.images)):
                if number == 0:
                    kept = [np.float16 if np.abs(values).max() < LARGEST_FLOAT16 / 16 else np.float32 for values in outputs]
                    for stream, values, dtype in zip(opened, outputs, kept, strict=True):
                        shape = (len(indices), *values.shape[1:])
                        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(stream, header)
                for stream, values, dtype in zip(opened, outputs, kept, strict=True):
                    limit = LARGEST_FLOAT16 if dtype is np.float16 else np.inf
                    stream.write(values.clip(-limit, limit).astype(dtype).tobytes())
        prune(files[0].parent, MOST_CACHE_BYTES)
        return files

    def places(self, indices: np.ndarray, view: int) -> list[Path]:
        """Return where the files of one view of some images lie in the cache, or would."""
        mirrored, config = view and self.config.flip, self.config
        options = [config.rotation, config.zoom, config.translation, config.rand_augment, config.data_seed]
        digest = self.digest.copy()
        digest.update(json.dumps([view, mirrored, options if view > int(config.flip) else []]).encode())
        digest.update(self.data.source.digests[indices].tobytes())
        folder, key = cache_folder("features"), digest.hexdigest()[:40]
        names = [f"{key}.npy"]
        for maps in self.engine.model.outputs[1:]:
            _, height, width, _ = maps.shape  # of rows and columns, those alone that are read after the cut
            names.append(f"{key}-{self.cut}-{height}x{width}.npy")
        return [folder / name for name in names]


class StoredRows:
    """Rows of several `.npy` files, one file after the other, read when they are asked for.

    Args:
        files: arrays that differ in their number of rows alone.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.ends = np.cumsum([len(np.load(file, mmap_mode="r")) for file in files])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        # Opened anew each time, since pages that stay mapped would count as this process's memory.
        stored = [np.load(file, mmap_mode="r") for file in self.files]
        parts = np.searchsorted(self.ends, rows, side="right")
        starts = self.ends - [len(array) for array in stored]
        return np.stack([stored[part][row - starts[part]] for part, row in zip(parts, rows, strict=True)])


def images_in_use(data: Dataset) -> int:
    """Return how many images of a data set go through the frozen layers: those of all splits."""
    return len(data.training_candidates) + len(data.validation) + len(data.test)


def cut_where_worthwhile(network: Network, data: Dataset, config: Config) -> None:
    """Cut a network's backbone where it stays frozen up to there and the maps fit the cache: fine-tuning starts from these."""
    if not config.cache_features or not config.epochs:
        return
    network.cut = frozen_cut(network.backbone, config)
    if network.cut:
        values = math.prod(network.feature_extractor().outputs[1].shape[1:])
        images = config.views * len(data.train) + len(data.validation) + len(data.test)
        needed = 2 * values * images
        # By constants alone, so that a run that is resumed decides as it did before.
        if needed > MOST_CACHE_BYTES:
            gigabytes, cut = needed / 1e9, network.cut
            logger.warning("the maps after %s would take %.0f GB of disk: each epoch starts from the images", cut, gigabytes)
            network.cut = ""


def is_whole(file: Path) -> bool:
    """Whether a cached array is there in its full length; a damaged one is removed."""
    try:
        np.load(file, mmap_mode="r")
    except FileNotFoundError:
        return False
    except (ValueError, EOFError, OSError) as error:
        logger.warning("a cached file of features is damaged (%s); computing them again", error)
        file.unlink()
        return False
    return True


def view_batches(data: Dataset, indices: np.ndarray, config: Config, view: int, name: str) -> Iterator[np.ndarray]:
    """Yield one view of some images, uint8 (B, H, W, 3), under a progress bar."""
    augmenter = None
    if view > int(config.flip):
        # Seeded by the view alone: the same view is the same images in every run.
        keras.utils.set_random_seed(config.data_seed + view)
        augmenter = keras.Sequential(augmentation(config))
    for start in track(range(0, len(indices), EXTRACTION_BATCH), f"features of {name}"):
        images = data.images(indices[start : start + EXTRACTION_BATCH])
        if view == 1 and config.flip:
            images = np.ascontiguousarray(images[:, :, ::-1])
        elif augmenter:
            unit = keras.ops.convert_to_numpy(augmenter(np.float32(images) / 255, training=True))
            images = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
        yield images


def without_trainable(config: dict[str, Any]) -> dict[str, Any]:
    """Drop the one entry of a layer's configuration that does not determine its outputs."""
    return {key: value for key, value in config.items() if key != "trainable"}


def prune(folder: Path, most_bytes: int) -> None:
    """Remove the least recently used files, and those that a killed process left, until the rest take at most `most_bytes`."""
    files = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > most_bytes:
            file.unlink()
