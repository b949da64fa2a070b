"""A model's logits on a data set, and its accuracy on images that it has not learned from."""

import logging
from functools import partial
from typing import Any

import keras
import numpy as np

from headstart.audit.duplicates import near_duplicates, normalised, shades_of_grey
from headstart.data.dataset import SPLIT_NAMES, TEST, Dataset, Source
from headstart.data.load import read_source
from headstart.errors import HeadstartError
from headstart.inference.engine import forward
from headstart.inference.predict import network_logits, refuse_mirror_images
from headstart.metrics.classification import measure, wilson_interval
from headstart.model.network import without_augmentation
from headstart.record.folder import Run
from headstart.record.split import hexadecimal, recorded_data
from headstart.system.progress import track
from headstart.training.batches import Batches

logger = logging.getLogger("headstart")

# With more images, looking for near-duplicates would take longer than the evaluation itself.
MOST_TO_COMPARE = 20_000
# They are looked for by their shades of grey, on so many cells a side.
COARSE = 8


def predict_logits(model: keras.Model, batches: Batches, description: str, mirror: bool = False) -> np.ndarray:
    """Return the model's logits, float32 (N, classes), in the order of the batches; `mirror` as in `network_logits`."""
    inputs = (batches[step][0] for step in track(range(batches.num_batches), description))
    network = partial(forward, without_augmentation(model))
    return np.concatenate(list(network_logits(network, inputs, len(batches.indices), mirror)))


def load_for_evaluation(run: Run, path: str = "") -> Dataset:
    """Load a run's own data with the split it was trained with, or other data as one test split.

    Other data keep their test split, if they have one; else every image is used. They are decoded as the run's were.

    Raises:
        HeadstartError: the run's own data have changed since.
    """
    if not path:
        return recorded_data(run.path, run.config)
    source = read_source(path, run.image_shape[0], layout=run.config.layout, decoding=run.decoding, known=run.class_names)
    test, nothing = np.flatnonzero(source.splits == TEST), np.array([], dtype=np.int64)
    for line in source.remarks:
        logger.info("data: %s", line)
    if not len(test):
        test = np.arange(len(source.labels))
        logger.info("%s has no test split: all of its %d images are used", source.name, len(test))
    return Dataset(source, train=nothing, validation=nothing, test=test)


def evaluate(run: Run, data: Dataset, batch_size: int = 64, *, mirror: bool = False) -> dict[str, Any]:
    """Measure a run's model on the test split of a data set, matching classes by name.

    Images that the run was trained on, or that chose its epoch, would flatter it: they are left out.

    Args:
        mirror: take the mean over each image and its mirror image, see `headstart.inference.predict.network_logits`.

    Returns:
        The figures of `headstart.metrics.classification.measure`; `left_out`, how many images the run knew from its training and
        validation splits; and where it was looked for them and some were found, `without_near_duplicates`: the accuracy
        on the images that resemble none of these.

    Raises:
        HeadstartError: the data have a class that the model does not know, or another image size, the run knows all of their
            images, or mirror images may mean something else.
    """
    refuse_mirror_images(run, mirror)
    unknown = [name for name in data.class_names if name not in run.class_names]
    if unknown:
        raise HeadstartError(f"{data.source.name}: the model of {run.path} does not know the class {unknown[0]!r}")
    if data.image_shape != run.image_shape:
        raise HeadstartError(f"{data.source.name}: images of {data.image_shape} do not fit the model's {run.image_shape}")
    rows, left_out = unknown_to(run, data)
    batches = Batches(data.source.images, data.source.labels, rows, batch_size)
    logits = predict_logits(run.model, batches, "evaluating", mirror)
    # The data may hold fewer classes, in another order.
    to_model = np.array([run.class_names.index(name) for name in data.class_names])
    labels = to_model[data.labels(rows)]
    figures = measure(logits, labels, run.class_names, run.temperature) | {"left_out": left_out}
    right = logits.argmax(axis=1) == labels
    return figures | without_near_duplicates(run, data.source, rows, right)


def unknown_to(run: Run, data: Dataset) -> tuple[np.ndarray, dict[str, int]]:
    """Return the test images that a run has neither learned from nor chosen its epoch by, and how many others there are."""
    split_of = {row["digest"]: row["split"] for row in run.split}
    splits = [split_of.get(digest, "") for digest in hexadecimal(data.source.digests[data.test])]
    left_out = {name: splits.count(name) for name in SPLIT_NAMES[:2]}
    number = sum(left_out.values())
    if not number:
        return data.test, left_out
    if number == len(data.test):
        raise HeadstartError(
            f"{data.source.name}: {run.path} was trained on {left_out['training']} of these {number} images and chose its "
            "epoch by the others, so none is left to measure on; without --data its own test split is measured"
        )
    logger.warning(
        "%d of %d images are left out: the run was trained on %d of them and chose its epoch by %d",
        number, len(data.test), left_out["training"], left_out["validation"],
    )  # fmt: skip
    return data.test[[name not in SPLIT_NAMES[:2] for name in splits]], left_out


def without_near_duplicates(run: Run, source: Source, rows: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Return, as `without_near_duplicates`, the accuracy on the images that resemble none that a run was trained on.

    Nothing is returned where there is none such, where the run's own audit has told (its own data), or where it would take
    long to find out; this is logged.

    Args:
        rows: int (N,), the images that are measured; `right`, bool (N,), which of them were named rightly.
    """
    if source.name == run.read_json("data.json")["source"] or not run.split:
        return {}
    if len(rows) + len(run.split) > MOST_TO_COMPARE:
        logger.info("no search for near-duplicates of the run's training images: it takes long beyond %d images", MOST_TO_COMPARE)
        return {}
    try:
        own = recorded_data(run.path, run.config)
    except HeadstartError as error:
        logger.info("no search for near-duplicates of the run's training images: %s", str(error).splitlines()[0])
        return {}
    images = np.concatenate([source.images[rows], own.images(own.train)])
    everything = np.arange(len(images))
    grey = shades_of_grey(images, everything)
    # Coarse pixels find candidates without a network; mirror images are found by the run's audit alone.
    block = grey.shape[1] // COARSE
    coarse = grey.reshape(len(grey), COARSE, block, COARSE, block).mean(axis=(2, 4))
    coarse = normalised(coarse.reshape(len(grey), -1))
    pairs, _ = near_duplicates(images, everything, coarse, run.config.flip)
    across = pairs[(pairs[:, 0] < len(rows)) & (pairs[:, 1] >= len(rows))]
    alone = ~np.isin(np.arange(len(rows)), across[:, 0])
    found = int((~alone).sum())
    if not found:
        return {}
    logger.warning("%d of the %d images have a near-duplicate among those that the run was trained on", found, len(rows))
    if not alone.any():
        return {"without_near_duplicates": {"images": 0, "left_out": found}}
    correct, count = int(right[alone].sum()), int(alone.sum())
    return {"without_near_duplicates": {
        "accuracy": correct / count, "interval": wilson_interval(correct, count), "images": count, "left_out": found,
    }}  # fmt: skip
