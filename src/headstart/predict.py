"""Using a run: classes and probabilities for pictures from anywhere, and its accuracy on other data."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from headstart.data import Dataset
from headstart.data.dataset import TEST
from headstart.data.folder import is_picture
from headstart.data.load import configured_data, read_pictures
from headstart.data.picture import UnreadablePicture, fit, read_picture
from headstart.errors import HeadstartError
from headstart.model.engine import forward
from headstart.model.graph import without_augmentation
from headstart.progress import track
from headstart.run.folder import Run
from headstart.run.metrics import measure, probabilities
from headstart.training.batches import Batches


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of some pictures.

    Attributes:
        names: file or number of each picture that could be read.
        probabilities: float32 (N, classes), each row sums to 1; calibrated by the run's temperature.
        class_names: names of the columns.
        unreadable: files left out, each with the reason.
    """

    names: list[str]
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    unreadable: list[str]

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each picture."""
        return [self.class_names[index] for index in self.probabilities.argmax(axis=1)]

    @property
    def confidences(self) -> np.ndarray:
        """float32 (N,): the probability of the likeliest class."""
        return self.probabilities.max(axis=1)


def predict(run: Run, pictures: Any, batch_size: int = 64) -> Predictions:
    """Classify pictures in batches.

    Args:
        pictures: a path, folder, Pillow image or array, or a list of them. Arrays are uint8,
            (H, W, 3), (H, W) or (N, H, W, 3), RGB, 0..255, of any size.

    Raises:
        HeadstartError: there is nothing to classify, or nothing that can be read.
    """
    named = list(named_pictures(pictures))
    if not named:
        raise HeadstartError("there are no pictures to classify")
    names: list[str] = []
    unreadable: list[str] = []
    starts = track(range(0, len(named), batch_size), "classifying")
    decoded = (read_inputs(named[start : start + batch_size], run.image_shape, names, unreadable) for start in starts)
    # The engine asks for the next batch while it computes the last, so that decoding overlaps with it.
    logits = [batch for (batch,) in forward(run.model, filter(len, decoded), len(named))]
    refuse_only_unreadable(names, unreadable)
    certainty = probabilities(np.concatenate(logits), run.temperature).astype(np.float32)
    return Predictions(names, certainty, run.class_names, unreadable)


def named_pictures(pictures: Any) -> Iterator[tuple[str, Any]]:
    """Yield a name and a path, Pillow image or (H, W[, 3]) array for every picture that is meant."""
    if isinstance(pictures, (str, Path)):
        path = Path(pictures).expanduser()
        if path.is_dir():
            for file in sorted(filter(is_picture, path.rglob("*"))):
                yield str(file), file
        elif path.is_file():
            yield str(path), path
        else:
            raise HeadstartError(f"there is no file or folder {path}")
    elif isinstance(pictures, np.ndarray) and pictures.ndim == 4:
        yield from ((f"picture {index}", picture) for index, picture in enumerate(pictures))
    elif isinstance(pictures, (np.ndarray, Image.Image)):
        yield "picture 0", pictures
    else:
        for index, picture in enumerate(pictures):
            for name, one in named_pictures(picture):
                yield (f"picture {index}" if name == "picture 0" else name), one


def read_inputs(
    named: Iterable[tuple[str, Any]], image_shape: tuple[int, int, int], names: list[str], unreadable: list[str]
) -> np.ndarray:
    """Return the pictures that can be read as the model takes them, uint8 (N, height, width, 3).

    Args:
        named: of `named_pictures`.
        names: gets the name of each of them.
        unreadable: gets a line for each of the others.
    """
    inputs = [np.zeros((0, *image_shape), np.uint8)]
    for name, picture in named:
        try:
            inputs.append(as_input(picture, *image_shape[:2])[None])
            names.append(name)
        except UnreadablePicture as error:
            unreadable.append(f"{name}: {error}")
    return np.concatenate(inputs)


def refuse_only_unreadable(names: list[str], unreadable: list[str]) -> None:
    """Refuse to go on where there were pictures, but `read_inputs` could read none."""
    if not names:
        raise HeadstartError(f"none of the {len(unreadable)} pictures can be read; the first is {unreadable[0]}")


def as_input(picture: Path | Image.Image | np.ndarray, height: int, width: int) -> np.ndarray:
    """Return one picture as the model takes it, uint8 (height, width, 3), cut as in training."""
    if isinstance(picture, Path):
        return read_picture(picture, height, width)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,), (4,)):
            raise HeadstartError(
                f"an array must be uint8 (H, W), (H, W, 3) or (N, H, W, 3) in 0..255, not {picture.dtype} {picture.shape}"
            )
        if picture.shape == (height, width, 3):
            return picture
        picture = Image.fromarray(picture)
    return fit(picture, height, width)


def predict_logits(model: keras.Model, batches: Batches, description: str) -> np.ndarray:
    """Return the model's logits, float32 (N, classes), in the order of the batches."""
    inputs = (batches[step][0] for step in track(range(batches.num_batches), description))
    return np.concatenate([logits for (logits,) in forward(without_augmentation(model), inputs, len(batches.indices))])


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


def evaluate(run: Run, data: Dataset, batch_size: int = 64) -> dict[str, Any]:
    """Measure a run's model on the test part of a data set, matching classes by name.

    Returns:
        The figures of `headstart.run.metrics.measure`.

    Raises:
        HeadstartError: the data have a class that the model does not know, or another picture size.
    """
    unknown = [name for name in data.class_names if name not in run.class_names]
    if unknown:
        raise HeadstartError(f"{data.pictures.source}: the model of {run.path} does not know the class {unknown[0]!r}")
    if data.image_shape != run.image_shape:
        raise HeadstartError(f"{data.pictures.source}: pictures of {data.image_shape} do not fit the model's {run.image_shape}")
    logits = predict_logits(run.model, Batches(data.pictures.images, data.pictures.labels, data.test, batch_size), "evaluating")
    # The data may hold fewer classes, in another order.
    to_model = np.array([run.class_names.index(name) for name in data.class_names])
    return measure(logits, to_model[data.labels(data.test)], run.class_names, run.temperature)
