"""A model's logits on a data set, and its accuracy on other data."""

from functools import partial
from typing import Any

import keras
import numpy as np

from headstart.data.dataset import TEST, Dataset
from headstart.data.load import configured_data, read_pictures
from headstart.errors import HeadstartError
from headstart.model.engine import forward
from headstart.model.graph import without_augmentation
from headstart.predict import network_logits, refuse_mirror_images
from headstart.progress import track
from headstart.run.folder import Run
from headstart.run.metrics import measure
from headstart.training.batches import Batches


def predict_logits(model: keras.Model, batches: Batches, description: str, mirror: bool = False) -> np.ndarray:
    """Return the model's logits, float32 (N, classes), in the order of the batches; `mirror` as in `network_logits`."""
    inputs = (batches[step][0] for step in track(range(batches.num_batches), description))
    network = partial(forward, without_augmentation(model))
    return np.concatenate(list(network_logits(network, inputs, len(batches.indices), mirror)))


def load_for_evaluation(run: Run, source: str = "") -> Dataset:
    """Load a run's own data with the splits it was trained with, or other data as one test part.

    Other data keep their test part, if they have one; else every picture is used.

    Raises:
        HeadstartError: the run's own data have changed since.
    """
    config, (height, _, _) = run.config, run.image_shape
    if not source:
        data = configured_data(config)
        if data.pictures.fingerprint != run.read_json("data.json")["fingerprint"]:
            raise HeadstartError(
                f"{config.data} has changed since {run.path} was trained on it: name what to measure on with --data"
            )
        return data
    pictures = read_pictures(source, height)
    test = np.flatnonzero(pictures.parts == TEST)
    nothing = np.array([], dtype=np.int64)
    return Dataset(pictures, train=nothing, validation=nothing, test=test if len(test) else np.arange(len(pictures.labels)))


def evaluate(run: Run, data: Dataset, batch_size: int = 64, *, mirror: bool = False) -> dict[str, Any]:
    """Measure a run's model on the test part of a data set, matching classes by name.

    Args:
        mirror: take the mean over each picture and its mirror image, see `headstart.predict.network_logits`.

    Returns:
        The figures of `headstart.run.metrics.measure`.

    Raises:
        HeadstartError: the data have a class that the model does not know, or another picture size, or mirror images may mean
            something else.
    """
    refuse_mirror_images(run, mirror)
    unknown = [name for name in data.class_names if name not in run.class_names]
    if unknown:
        raise HeadstartError(f"{data.pictures.source}: the model of {run.path} does not know the class {unknown[0]!r}")
    if data.image_shape != run.image_shape:
        raise HeadstartError(f"{data.pictures.source}: pictures of {data.image_shape} do not fit the model's {run.image_shape}")
    batches = Batches(data.pictures.images, data.pictures.labels, data.test, batch_size)
    logits = predict_logits(run.model, batches, "evaluating", mirror)
    # The data may hold fewer classes, in another order.
    to_model = np.array([run.class_names.index(name) for name in data.class_names])
    return measure(logits, to_model[data.labels(data.test)], run.class_names, run.temperature)
