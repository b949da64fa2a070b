"""Read what a user gives to classify: paths, folders, bytes, open files, arrays and Pillow images."""

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from headstart.data.arrays import images_of_array
from headstart.data.decode import Decoding, decode, fit
from headstart.data.opening import UnreadableImage
from headstart.data.walk import skipped_words, walk
from headstart.errors import HeadstartError
from headstart.system.text import count


@dataclass
class Inputs:
    """What is recorded while inputs are read.

    Attributes:
        names: of the images that could be read.
        unreadable: a line with name and reason for each image that could not be read.
        skipped: how many files and folders are no images, by kind.
        remarks: the number of images by remark, see `headstart.data.decode.Decoded`.
    """

    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)


def named_images(images: Any, inputs: Inputs) -> Iterator[tuple[str, Any]]:
    """Yield, for each image, its name and a path, bytes, a Pillow image or an array.

    Args:
        images: as for `headstart.inference.classifier.Classifier.predict`.
        inputs: its `skipped` gets what is no image in given folders.

    Raises:
        HeadstartError: something is no image; the message says what was given, and what is accepted.
    """
    for index, image in enumerate(single_images(images, inputs)):
        yield (str(image) if isinstance(image, Path) else f"image {index}"), image


def single_images(images: Any, inputs: Inputs) -> Iterator[Path | bytes | Image.Image | np.ndarray]:
    """Yield each image: a path, the bytes of an encoded image, a Pillow image, or an array, uint8 (H, W[, 1, 3 or 4])."""
    if isinstance(images, (str, os.PathLike)):
        path = Path(images).expanduser()
        if path.is_dir():
            folder = walk(path)
            inputs.skipped += folder.all_skipped()
            yield from folder.all_images()
        elif path.is_file():
            yield path
        elif path.exists():
            raise HeadstartError(f"{path} is a device, pipe or socket, and no image")
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
        yield from images_of_array(np.asarray(images))  # tensors of other libraries too
    elif isinstance(images, Iterable):
        for image in images:
            yield from single_images(image, inputs)
    else:
        raise HeadstartError(
            f"{type(images).__name__} is no image: give a path, a folder, the bytes or an open file of an encoded image, "
            "a Pillow image, a uint8 array, or several of them"
        )


def read_inputs(
    named: Iterable[tuple[str, Any]], image_shape: tuple[int, int, int], decoding: Decoding, inputs: Inputs
) -> np.ndarray:
    """Return the images that can be read, as the model takes them, uint8 (N, height, width, 3).

    Args:
        named: from `named_images`.
        inputs: gets the name or the reason of each image, and remarks.
    """
    images = [np.zeros((0, *image_shape), np.uint8)]
    for name, image in named:
        try:
            images.append(as_input(image, *image_shape[:2], decoding, inputs.remarks)[None])
            inputs.names.append(name)
        except UnreadableImage as error:
            inputs.unreadable.append(f"{name}: {error}")
    return np.concatenate(images)


def refuse_nothing(named: list[tuple[str, Any]], inputs: Inputs) -> None:
    """Refuse to go on if there is no image, and say what was there instead."""
    if not named:
        instead = f": there is {skipped_words(inputs.skipped)}" if inputs.skipped else ""
        raise HeadstartError(f"there are no images to look at{instead}")


def refuse_only_unreadable(inputs: Inputs) -> None:
    """Refuse to go on if `read_inputs` could read no image."""
    if not inputs.names:
        raise HeadstartError(f"none of {count(len(inputs.unreadable), 'image')} can be read; the first is {inputs.unreadable[0]}")


def as_input(
    image: Path | bytes | Image.Image | np.ndarray, height: int, width: int, decoding: Decoding, remarks: Counter[str]
) -> np.ndarray:
    """Return one image from `named_images` as the model takes it, uint8 (height, width, 3), resized as in training.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    if isinstance(image, (Path, bytes)):
        decoded = decode(io.BytesIO(image) if isinstance(image, bytes) else image, height, width, decoding)
        remarks.update(decoded.remarks)
        return decoded.pixels
    if isinstance(image, np.ndarray):
        if image.shape == (height, width, 3):
            return image
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    return fit(ImageOps.exif_transpose(image), height, width, decoding)
