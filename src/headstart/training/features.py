"""The outputs of frozen layers: each view of each image passes through them only once."""

import functools
import hashlib
import json
import logging
import math
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.data.on_demand import OnDemand
from headstart.errors import HeadstartError
from headstart.inference.engine import Engine
from headstart.inference.openvino import FEWEST_IMAGES
from headstart.model.augmentation import augmentation
from headstart.model.network import Network
from headstart.model.unfreeze import frozen_cut
from headstart.system.backend import has_gpu, keras, load_keras
from headstart.system.cache import cache_folder
from headstart.system.environment import computing
from headstart.system.files import exists
from headstart.system.processor import processor
from headstart.system.remote import RemotePath
from headstart.system.rows import StoredRows, joined
from headstart.system.workers import EVERYWHERE, Workers
from headstart.training.batches import Rows
from headstart.training.blocks import MOST_CACHE_BYTES, ROWS_OF_BLOCK, Blocks, Outputs
from headstart.training.changes import rand_augmented

logger = logging.getLogger("headstart")

# Images that pass through the frozen layers together: on CPUs and on a GPU, which would wait for the host between smaller ones.
EXTRACTION_BATCH, EXTRACTION_BATCH_ON_GPU = 64, 256
# Above this side in pixels, fewer pass through together: 64 of 300 px took OpenVINO 4.3 GB with the starter backbone.
LARGEST_SIDE = 224
# Counts the ways in which random views were ever drawn: those of another way in the cache are not used.
AUGMENTATION = 3
# Features of the splits up to so many bytes are held in memory while the head learns; more are read from disk, batch by batch.
MOST_BYTES_IN_MEMORY = 1 << 30


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

    With `config.ray`, the workers of a cluster compute. They get the images a batch at a time (or, decoded on demand, what names
    the files), and this process writes what they give back to its own cache: so they need no common disk for it, and all else
    is as ever. What the key says of the computer is then said of theirs.

    Args:
        network: with its backbone as it was loaded. If it has a `cut`, the feature maps there are kept as well.
        data: the data set.
        config: gives the augmentation and the seed of the random views.
    """

    def __init__(self, network: Network, data: Dataset, config: Config) -> None:
        self.data, self.config, self.cut = data, config, network.cut
        self.engine = engine_for(network.feature_extractor(), config)
        self.images = images_in_use(data)
        self.kept: dict[str, list[StoredRows]] = {}
        backbone = network.backbone
        graph = json.loads(backbone.to_json(), object_hook=without_trainable)
        computer = self.engine.computer if isinstance(self.engine, ClusterEngine) else this_computer()
        self.batch = extraction_batch(config.image_size, computer["gpu"])
        described = [
            [layer.get_config() for layer in network.prepare], graph, data.image_shape, *computer.values(),
            self.images >= FEWEST_IMAGES,
        ]  # fmt: skip
        self.digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        for weight in backbone.get_weights():
            self.digest.update(np.ascontiguousarray(weight).tobytes())

    def features(self, indices: np.ndarray, view: int, name: str) -> StoredRows:
        """Return the pooled features of one view of some images. They stay on disk.

        Args:
            indices: int, the images of the data set.
            view: the number of the view, from 0.
            name: the name of these images in the progress bar.

        Returns:
            float16 or float32 (len(indices), channels).
        """
        return self.rows_of(indices, self.stored(self.together(indices), view, name)[0])

    def maps(self, indices: np.ndarray, views: int, name: str) -> StoredRows:
        """Return the feature maps at the cut, (views * len(indices), h, w, c), view by view. They stay on disk."""
        together = self.together(indices)
        return joined([self.rows_of(indices, self.stored(together, view, name)[1]) for view in range(views)])

    def together(self, indices: np.ndarray) -> np.ndarray:
        """Return the images whose outputs are stored together with those of some images."""
        return self.data.used if self.config.folds else indices

    def rows_of(self, indices: np.ndarray, stored: StoredRows) -> StoredRows:
        """Return those rows that belong to some images of what is stored of them, or of the images of all folds."""
        return StoredRows(stored.arrays, np.searchsorted(self.data.used, indices)) if self.config.folds else stored

    def release(self) -> None:
        """Free the engine's memory. Features that are not in the cache start it again."""
        if isinstance(self.engine, ClusterEngine):
            self.engine.close()
        self.engine = engine_for(self.engine.model, self.config)

    def stored(self, indices: np.ndarray, view: int, name: str) -> list[StoredRows]:
        """Return the pooled features and, with a cut, the feature maps; compute what is missing in the cache.

        They stay open, so that nobody removes them as long as this object is used.
        """
        blocks = self.blocks(indices, view)
        key = blocks.names[-1]
        if key not in self.kept:
            self.kept[key] = blocks.complete(
                self.viewed(indices, view), lambda batches: self.finite_outputs(batches, len(indices)), name
            )
        return self.kept[key]

    def finite_outputs(self, batches: Iterable[np.ndarray], rows: int) -> Iterator[Outputs]:
        """Yield the engine's outputs for each batch of an extraction of so many rows.

        The last batch is padded as it would be if all batches had been computed before it.
        """
        for outputs in self.engine.outputs(batches, self.images, min(self.batch, max(rows, len(self.data.training_candidates)))):
            if not all(np.isfinite(values).all() for values in outputs):
                raise HeadstartError(
                    f"--backbone {self.config.backbone} gives numbers that are not finite: its weights are damaged, or "
                    "do not fit --preprocess"
                )
            yield outputs

    def blocks(self, indices: np.ndarray, view: int) -> Blocks:
        """Return the blocks in the cache for one view of some images, whether they exist or not."""
        mirrored, config = view and self.config.flip, self.config
        random = [
            config.rotation, config.zoom, config.translation, config.rand_augment, config.data_seed, AUGMENTATION, self.batch
        ]  # fmt: skip
        digest = self.digest.copy()
        digest.update(json.dumps([view, mirrored, random if view > int(config.flip) else [], ROWS_OF_BLOCK]).encode())
        digest.update(self.data.source.digests[indices].tobytes())
        names = [key := digest.hexdigest()[:40]]
        for maps in self.engine.model.outputs[1:]:
            _, height, width, _ = maps.shape  # only the rows and columns that are read after the cut
            names.append(f"{key}-{self.cut}-{height}x{width}")
        shapes = [output.shape[1:] for output in self.engine.model.outputs]
        return Blocks(cache_folder("features"), names, len(indices), shapes, self.batch)

    def viewed(self, indices: np.ndarray, view: int) -> Callable[[range], Any]:
        """Return what makes one view of a batch of some images: uint8 (B, H, W, 3), or for a cluster, what makes it there."""
        images = self.data.source.images
        if isinstance(self.engine, ClusterEngine):
            key = self.config, view, self.batch

            def shipped(rows: range) -> "BatchToView":
                chosen = indices[rows.start : rows.stop]
                return BatchToView(images.part(chosen) if isinstance(images, OnDemand) else images[chosen], rows.start, key)

            return shipped
        seen, ahead = View(self.config, view, self.batch), dict[int, Future[np.ndarray]]()
        thread = ThreadPoolExecutor(1) if isinstance(images, OnDemand) else None

        def batch(rows: range) -> np.ndarray:
            expected = ahead.pop(rows.start, None)
            found = expected.result() if expected else self.data.images(indices[rows.start : rows.stop])
            if thread and rows.stop < len(indices):  # decoded while the device works on these
                ahead.clear()
                ahead[rows.stop] = thread.submit(self.data.images, indices[rows.stop : rows.stop + self.batch])
            return seen(found, rows.start)

        return batch


class View:
    """Makes one view of batches of images.

    Random views are seeded by the data seed, the view and the number of the batch, so that they are the same in every run,
    wherever one starts.

    Args:
        config: gives the augmentation and the seed.
        number: of the view, from 0.
        size: the number of images in a batch.
    """

    def __init__(self, config: Config, number: int, size: int) -> None:
        self.config, self.number, self.size = config, number, size
        self.at_random = number > int(config.flip)
        self.augment = augmentation(config, config.data_seed + number) if self.at_random else None

    def __call__(self, images: np.ndarray, start: int) -> np.ndarray:
        """Return the view of the batch that begins with row `start`, uint8 (B, H, W, 3)."""
        config, batch = self.config, start // self.size
        if self.number == 1 and config.flip:
            return np.ascontiguousarray(images[:, :, ::-1])
        if self.at_random and config.rand_augment:
            images, _ = rand_augmented(images, np.empty(0), np.random.default_rng([config.data_seed, self.number, batch]))
        if self.augment:
            self.augment.start_at(batch)
            images = np.rint(keras.ops.convert_to_numpy(self.augment(images, training=True))).astype(np.uint8)
        return images


class BatchToView(NamedTuple):
    """A batch of images on its way to a worker of a cluster, which makes the view.

    Attributes:
        images: uint8 (B, H, W, 3), or what decodes them.
        start: its first row.
        view: what `View` is made of.
    """

    images: np.ndarray | OnDemand
    start: int
    view: tuple[Config, int, int]

    def pixels(self) -> np.ndarray:
        """Return uint8 (B, H, W, 3)."""
        first = self.images.root / self.images.names[0] if isinstance(self.images, OnDemand) else None
        if first and not isinstance(first, RemotePath) and not exists(first):
            raise HeadstartError(f"a worker of the cluster on {socket.gethostname()} does not see {first}: {EVERYWHERE}")
        return view_once(*self.view)(self.images[:], self.start)


# In a worker, which gets batch after batch of one view.
view_once = functools.lru_cache(maxsize=1)(View)


class ClusterEngine:
    """A network's forward pass by the workers of a Ray cluster, each with an `Engine` of its own.

    Args:
        model: see `Engine`.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.started: Workers | None = None

    @property
    def workers(self) -> Workers:
        if not self.started or self.started.closed:
            self.started = Workers(functools.partial(Extracting, pickle.dumps(self.model)))
        return self.started

    @property
    def computer(self) -> dict[str, Any]:
        """What `this_computer` says on the workers, all of which it is the same for."""
        return {name: json.loads(text) for name, text in self.workers.kind.items()}

    def outputs(self, batches: Iterable[Any], total: int, rows: int) -> Iterator[Outputs]:
        """Yield the outputs, float32, for each `BatchToView` in turn. A few for each worker are on their way at a time."""
        return self.workers.results((batch, total, rows) for batch in batches)

    def close(self) -> None:
        if self.started:
            self.started.close()


class Extracting:
    """A network's forward pass in a worker of a cluster.

    Args:
        model: pickled.

    Attributes:
        kind: what the outputs depend on beside the network.
    """

    def __init__(self, model: bytes) -> None:
        load_keras()
        self.engine = Engine(pickle.loads(model))
        self.kind = {name: json.dumps(value) for name, value in this_computer().items()}

    def __call__(self, task: tuple[BatchToView, int, int]) -> Outputs:
        batch, total, rows = task
        (outputs,) = self.engine.outputs([batch.pixels()], total, rows)
        return outputs


def engine_for(model: keras.Model, config: Config) -> Engine | ClusterEngine:
    """Return what computes a network's outputs for a training."""
    return ClusterEngine(model) if config.ray else Engine(model)


def this_computer() -> dict[str, Any]:
    """Return what outputs depend on beside the network: backend, versions, instructions, and whether a GPU computes."""
    instructions = processor()["instructions"]
    return {"backend": keras.backend.backend(), "versions": computing(), "instructions": instructions, "gpu": has_gpu()}


def in_memory_if_small(rows: StoredRows) -> Rows:
    """Return rows as an array if they are small enough; else as they are, on disk."""
    return rows if rows.nbytes > MOST_BYTES_IN_MEMORY else rows[:]


def extraction_batch(image_size: int, gpu: bool) -> int:
    """Return how many images of a side pass through the frozen layers together, on a GPU or not: a divisor of `ROWS_OF_BLOCK`."""
    usual = batch = EXTRACTION_BATCH_ON_GPU if gpu else EXTRACTION_BATCH
    while batch > 1 and batch * image_size**2 > usual * LARGEST_SIDE**2:
        batch //= 2
    return batch


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


def without_trainable(config: dict[str, Any]) -> dict[str, Any]:
    """Drop `trainable`, the one entry of a layer's configuration that does not change its outputs."""
    return {key: value for key, value in config.items() if key != "trainable"}
