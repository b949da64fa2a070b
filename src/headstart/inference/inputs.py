"""Read what a user gives to classify: paths, folders, archives, bytes, open files, arrays and Pillow images."""

import contextlib
import io
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from headstart.data.archive import is_archive, unpacked
from headstart.data.arrays import images_of_array
from headstart.data.decode import Decoding, decode, fit
from headstart.data.labels import file_column_of
from headstart.data.opening import UnreadableImage
from headstart.data.table import Table, is_table
from headstart.data.walk import skipped_words, walk_images
from headstart.errors import HeadstartError
from headstart.system.processor import usable_cores
from headstart.system.remote import DOWNLOADS, RemotePath, below, located, public, threads_for
from headstart.system.text import count

Item = TypeVar("Item")
Encoded = Path | bytes


@dataclass
class Inputs:
    """What is recorded while inputs are read.

    Attributes:
        names: of the images that could be read.
        unreadable: a line with name and reason for each image that could not be read.
        skipped: how many files and folders are no images, by kind.
        remarks: the number of images by remark, see `headstart.data.decode.Decoded`.
        credentials: an address in a table that had credentials in it; empty if there was none.
    """

    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    credentials: str = ""

    def note(self, images: Iterable["ReadImage"]) -> None:
        """Record names, reasons and remarks of images that were read."""
        for one in images:
            if one.error:
                self.unreadable.append(f"{one.name}: {one.error}")
            else:
                self.names.append(one.name)
                self.remarks.update(one.remarks)


def named_images(images: Any, inputs: Inputs, file_column: str = "") -> Iterator[tuple[str, Any]]:
    """Yield, for each image, its name and a path, bytes, a Pillow image or an array.

    Folders and tables are read while the images are taken. What their images are named by is the path, and the cell. Archives are
    unpacked into the cache first; the name is that in the archive.

    Args:
        images: as for `headstart.inference.classifier.Classifier.predict`.
        inputs: its `skipped` gets what is no image in given folders.
        file_column: the column of given tables that names the files; if it is empty, the first that is named like one.

    Raises:
        HeadstartError: something is no image; the message says what was given, and what is accepted.
    """
    for index, (name, image) in enumerate(single_images(images, inputs, file_column)):
        yield name or f"image {index}", image


def single_images(images: Any, inputs: Inputs, file_column: str = "") -> Iterator[tuple[str, Encoded | Image.Image | np.ndarray]]:
    """Yield each image with its name, if it has one.

    An image is a path, the bytes of an encoded image, a Pillow image, or an array, uint8 (H, W[, 1, 3 or 4]).
    """
    if isinstance(images, (str, os.PathLike)):
        path = located(images)
        if path.is_dir():
            for found in walk_images(path, inputs.skipped):
                yield str(found), found
        elif path.is_file() and is_archive(path):
            content = unpacked(path)
            for found in walk_images(content, inputs.skipped):
                yield str(found.relative_to(content)), found
        elif path.is_file() and is_table(path):
            yield from files_in(Table(path), file_column, inputs)
        elif path.is_file():
            yield str(path), path
        elif path.exists():
            raise HeadstartError(f"{path} is a device, pipe or socket, and no image")
        elif isinstance(path, RemotePath):
            raise HeadstartError(path.missing())
        else:
            raise HeadstartError(f"there is no file or folder {path}")
    elif isinstance(images, (bytes, bytearray, memoryview)):
        yield "", bytes(images)
    elif hasattr(images, "read"):
        if isinstance(images, io.TextIOBase):
            raise HeadstartError("an image's file is open as text: open it with mode 'rb'")
        yield "", images.read()
    elif isinstance(images, Image.Image):
        yield "", images
    elif hasattr(images, "__array__") and np.asarray(images).dtype.kind not in "OU":
        for array in images_of_array(np.asarray(images)):  # tensors of other libraries too
            yield "", array
    elif isinstance(images, Iterable):
        for image in images:
            yield from single_images(image, inputs, file_column)
    else:
        raise HeadstartError(
            f"{type(images).__name__} is no image: give a path, a folder, the bytes or an open file of an encoded image, "
            "a Pillow image, a uint8 array, or several of them"
        )


def files_in(table: Table, column: str, inputs: Inputs) -> Iterator[tuple[str, Path]]:
    """Yield the cell of each row of a table that names a file, and the file; a path is relative to the table's folder.

    Credentials in an address are no part of its name.

    Raises:
        HeadstartError: the table has no such column, or none that is named like a column of files.
    """
    column = file_column_of(table, column)
    for row in table:
        name = public(row[column])
        if name != row[column]:
            inputs.credentials = name
        yield name, below(table.path.parent, name)


class ReadImage(NamedTuple):
    """An image that was read, or why it could not be.

    Attributes:
        name: from `named_images`.
        pixels: uint8 (height, width, 3), as the model takes it; None if it cannot be read.
        error: why it cannot be read; empty if it can.
        remarks: see `headstart.data.decode.Decoded`.
    """

    name: str
    pixels: np.ndarray | None
    error: str = ""
    remarks: tuple[str, ...] = ()


def read_input(name: str, image: Any, image_shape: tuple[int, int, int], decoding: Decoding) -> ReadImage:
    """Return one image from `named_images` as the model takes it, or why it cannot be read."""
    remarks: Counter[str] = Counter()
    try:
        return ReadImage(name, as_input(image, *image_shape[:2], decoding, remarks), "", tuple(remarks))
    except UnreadableImage as error:
        return ReadImage(name, None, str(error))


def read_ahead(
    batches: Iterable[Sequence[tuple[str, Any]]], image_shape: tuple[int, int, int], decoding: Decoding
) -> Iterator[list[ReadImage]]:
    """Yield batches of images as they were read. Every core decodes the next ones meanwhile: one batch, or two images a core.

    Of images at addresses, more are fetched at a time than there are cores.

    Args:
        batches: of `named_images`.
    """
    cores = usable_cores()
    waiting: deque[list[ReadImage | Future[ReadImage]]] = deque()
    with contextlib.ExitStack() as stack:
        # Pillow decodes without Python's lock.
        pool, fetching = ThreadPoolExecutor(cores, "decoding"), ThreadPoolExecutor(DOWNLOADS, "fetching")
        stack.callback(pool.shutdown, cancel_futures=True)
        stack.callback(fetching.shutdown, cancel_futures=True)

        def begun(name: str, image: Any) -> ReadImage | Future[ReadImage]:
            if isinstance(image, RemotePath):
                return fetching.submit(read_input, name, image, image_shape, decoding)
            if isinstance(image, (Path, bytes)):
                return pool.submit(read_input, name, image, image_shape, decoding)
            return read_input(name, image, image_shape, decoding)  # a Pillow image may be there twice, and is no thread's own

        def finished() -> list[ReadImage]:
            return [one.result() if isinstance(one, Future) else one for one in waiting.popleft()]

        for batch in batches:
            waiting.append([begun(name, image) for name, image in batch])
            at_once = threads_for(image for _, image in batch) or cores
            if sum(map(len, waiting)) - len(waiting[0]) >= max(len(waiting[0]), 2 * at_once):
                yield finished()
        while waiting:
            yield finished()


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`; the last may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def refuse_nothing(named: list[tuple[str, Any]], inputs: Inputs) -> None:
    """Refuse to go on if there is no image, and say what was there instead."""
    if not named:
        instead = f": there is {skipped_words(inputs.skipped)}" if inputs.skipped else ""
        raise HeadstartError(f"there are no images to look at{instead}")


def refuse_only_unreadable(inputs: Inputs) -> None:
    """Refuse to go on if no image could be read."""
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
