"""Using a run: classes and probabilities for images from anywhere. It starts without Keras where OpenVINO will do."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from headstart.data.decode import Decoding, UnreadableImage, decode, fit
from headstart.data.walk import skipped_words, walk
from headstart.errors import HeadstartError
from headstart.inference.openvino import FEWEST_IMAGES, overlapped
from headstart.metrics.calibration import probabilities
from headstart.record.folder import Run
from headstart.system.backend import has_gpu
from headstart.system.progress import track
from headstart.system.text import count


@dataclass
class Inputs:
    """What was found while inputs were read.

    Attributes:
        names: of each image that could be read.
        unreadable: a line for each of the others.
        skipped: how many files and folders are no images, by kind.
        remarks: what images lost, with their number.
    """

    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of some images.

    Attributes:
        names: file or number of each image that could be read.
        probabilities: float32 (N, classes), each row sums to 1; calibrated by the run's temperature.
        class_names: names of the columns.
        unreadable: files left out, each with the reason.
        skipped: how many files and folders in the folders that were named are no images, by kind.
        remarks: what a user might not expect of how the images were read, with the number of images.
    """

    names: list[str]
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    unreadable: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.class_names[index] for index in self.probabilities.argmax(axis=1)]

    @property
    def confidences(self) -> np.ndarray:
        """float32 (N,): the probability of the likeliest class."""
        return self.probabilities.max(axis=1)


def predict(run: Run, images: Any, batch_size: int = 64, *, mirror: bool = False) -> Predictions:
    """Classify images in batches.

    Args:
        images: a path, a folder, the bytes or an open file of an encoded image, a Pillow image or an array, or
            several of them. Arrays are uint8 in 0..255, of any size: (H, W), grey; (H, W, C) or (N, H, W, C), with 1, 3
            (RGB) or 4 (RGBA) channels.
        mirror: take the mean over each image and its mirror image, see `network_logits`.

    Raises:
        HeadstartError: there is nothing to classify, or nothing that can be read, or mirror images may mean something else.
    """
    refuse_mirror_images(run, mirror)
    inputs = Inputs()
    named = list(named_images(images, inputs))
    refuse_nothing(named, inputs)
    starts = track(range(0, len(named), batch_size), "classifying")
    decoded = (read_inputs(named[start : start + batch_size], run, inputs) for start in starts)
    # The engine asks for the next batch while it computes the last, so that decoding overlaps with it.
    logits = list(network_logits(partial(run_network, run), filter(len, decoded), len(named), mirror))
    refuse_only_unreadable(inputs)
    certainty = probabilities(np.concatenate(logits), run.temperature).astype(np.float32)
    return Predictions(inputs.names, certainty, run.class_names, inputs.unreadable, dict(inputs.skipped), dict(inputs.remarks))


def run_network(run: Run, batches: Iterable[np.ndarray], images: int) -> Iterator[list[np.ndarray]]:
    """Yield the logits, float32 (B, classes), of each batch.

    Where the run holds its network for OpenVINO, that computes: it has classified a few images before Keras would have
    started. Only a GPU is faster, for many.
    """
    if (images < FEWEST_IMAGES or not has_gpu()) and run.compiled is not None:
        return overlapped(run.compiled, batches, 1)
    model = run.model  # first, so that Keras starts without its backend's chatter
    from headstart.inference.engine import forward

    return forward(model, batches, images)


def network_logits(
    network: Callable[[Iterable[np.ndarray], int], Iterator[list[np.ndarray]]],
    batches: Iterable[np.ndarray],
    images: int,
    mirror: bool = False,
) -> Iterator[np.ndarray]:
    """Yield the logits of each batch of images, float32 (B, classes).

    Args:
        network: gives its outputs for each of some batches in turn; it is told how many images these hold.
        batches: uint8 (B, H, W, 3).
        mirror: give the mean of the logits for each image and for its mirror image. Two looks err less than one
            (test-time augmentation, as in Krizhevsky et al. 2012), at twice the work.
    """
    if not mirror:
        yield from (logits for (logits,) in network(batches, images))
        return
    both = (images for batch in batches for images in (batch, np.ascontiguousarray(batch[:, :, ::-1])))
    outputs = network(both, 2 * images)
    for (logits,), (mirrored,) in zip(outputs, outputs, strict=True):
        yield (logits + mirrored) / 2


def refuse_mirror_images(run: Run, mirror: bool) -> None:
    """Refuse to look at mirror images where training was told that they mean something else."""
    if mirror and not run.config.flip:
        raise HeadstartError(
            f"{run.path} was trained with --no-flip, on images whose mirror images mean something else: leave out --mirror"
        )


def named_images(images: Any, inputs: Inputs) -> Iterator[tuple[str, Any]]:
    """Yield a name and a path, bytes, a Pillow image or an array for every image that is meant.

    Args:
        inputs: gets a count of what is no image in the folders that are named.

    Raises:
        HeadstartError: something is no image; the message says what was given, and what is wanted.
    """
    for index, image in enumerate(single_images(images, inputs)):
        yield (str(image) if isinstance(image, Path) else f"image {index}"), image


def single_images(images: Any, inputs: Inputs) -> Iterator[Path | bytes | Image.Image | np.ndarray]:
    """Yield every image that is meant: a path, the bytes of an encoded one, a Pillow image, or uint8 (H, W[, 1, 3 or 4])."""
    if isinstance(images, (str, os.PathLike)):
        path = Path(images).expanduser()
        if path.is_dir():
            folder = walk(path)
            inputs.skipped += folder.all_skipped()
            yield from folder.all_images()
        elif path.is_file():
            yield path
        else:
            raise HeadstartError(f"there is no file or folder {path}")
    elif isinstance(images, (bytes, bytearray, memoryview)):
        yield bytes(images)
    elif hasattr(images, "read"):
        if isinstance(images, io.TextIOBase):
            raise HeadstartError("an image's file is open as text: open it with mode 'rb'")
        yield images.read()
    elif isinstance(images, Image.Image):
        yield images
    elif hasattr(images, "__array__") and np.asarray(images).dtype.kind not in "OU":
        yield from images_of_array(np.asarray(images))  # tensors of other libraries are arrays too
    elif isinstance(images, Iterable):
        for image in images:
            yield from single_images(image, inputs)
    else:
        raise HeadstartError(
            f"{type(images).__name__} is no image: give a path, a folder, the bytes or an open file of an encoded image, "
            "a Pillow image, a uint8 array, or several of them"
        )


def images_of_array(array: np.ndarray) -> Iterable[np.ndarray]:
    """Return the images that an array holds, or refuse it and say how to make it one that holds some."""
    if not array.size and array.ndim:
        return []
    shape, cure = array.shape, ""
    if array.dtype != np.uint8:
        cure = "scale it to 0..255, from the range that your images have, and convert it to uint8"
        low, high = (float(array.min()), float(array.max())) if array.dtype.kind in "biuf" else (-1.0, -1.0)
        if low >= 0 and high <= 255:
            cure = f"numpy.uint8({'255 * array' if high <= 1 else 'array'})"
    elif array.ndim in (3, 4) and shape[-1] in (1, 3, 4):
        return array if array.ndim == 4 else [array]
    elif array.ndim == 2 and shape[-1] > 4:
        return [array]
    elif array.ndim == 4:
        cure = "if its channels come first: numpy.moveaxis(array, 1, -1)"
    elif array.ndim == 3:
        cure = "if its channels come first: numpy.moveaxis(array, 0, -1); if it is several grey images: array[..., None]"
    raise HeadstartError(
        f"an array must be uint8 in 0..255, (H, W), (H, W, C) or (N, H, W, C) with 1, 3 or 4 channels, not {array.dtype} {shape}"
        + (f"; {cure}" if cure else "")
    )


def read_inputs(named: Iterable[tuple[str, Any]], run: Run, inputs: Inputs) -> np.ndarray:
    """Return the images that can be read as a run's model takes them, uint8 (N, height, width, 3).

    Args:
        named: of `named_images`.
        inputs: gets what was found of each of them.
    """
    images = [np.zeros((0, *run.image_shape), np.uint8)]
    for name, image in named:
        try:
            images.append(as_input(image, *run.image_shape[:2], run.decoding, inputs.remarks)[None])
            inputs.names.append(name)
        except UnreadableImage as error:
            inputs.unreadable.append(f"{name}: {error}")
    return np.concatenate(images)


def refuse_nothing(named: list[tuple[str, Any]], inputs: Inputs) -> None:
    """Refuse to go on where no image was named, and say what was there instead."""
    if not named:
        instead = f": there is {skipped_words(inputs.skipped)}" if inputs.skipped else ""
        raise HeadstartError(f"there are no images to look at{instead}")


def refuse_only_unreadable(inputs: Inputs) -> None:
    """Refuse to go on where there were images, but `read_inputs` could read none."""
    if not inputs.names:
        raise HeadstartError(f"none of {count(len(inputs.unreadable), 'image')} can be read; the first is {inputs.unreadable[0]}")


def as_input(
    image: Path | bytes | Image.Image | np.ndarray, height: int, width: int, decoding: Decoding, remarks: Counter[str]
) -> np.ndarray:
    """Return one of `named_images` as the model takes it, uint8 (height, width, 3), brought to its shape as in training."""
    if isinstance(image, (Path, bytes)):
        decoded = decode(io.BytesIO(image) if isinstance(image, bytes) else image, height, width, decoding)
        remarks.update(decoded.remarks)
        return decoded.pixels
    if isinstance(image, np.ndarray):
        if image.shape == (height, width, 3):
            return image
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    return fit(ImageOps.exif_transpose(image), height, width, decoding)
