"""The one idea of a data set: one array of source, their labels, and three splits that cannot leak."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from headstart.data.decode import Decoding
from headstart.system.text import count, shortened

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("training", "validation", "test")


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images as a source gave them, before they are split.

    Attributes:
        images: uint8 (N, H, W, 3), RGB, 0..255; memory-mapped where they are many.
        labels: int32 (N,), index into `class_names`.
        class_names: names of the classes.
        splits: int8 (N,), the split the source put each image in: TRAIN, VALIDATION or TEST.
        files: where each image came from, or empty where the source has no files.
        unreadable: files that could not be read, each with the reason.
        name: what was loaded: the name of a data set, or a path.
        skipped: how many files and folders of the source were left out since they are no images, by kind.
        remarks: what a user might not expect of how the source was read, a line each.
        decoding: how files became arrays.
        sizes: width and height of the smallest, the median and the largest image before decoding; empty without files.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray
    name: str
    files: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    sizes: dict[str, list[int]] = field(default_factory=dict)

    def __repr__(self) -> str:
        height, width, _ = self.images.shape[1:]
        images, classes = count(len(self.labels), "image"), count(len(self.class_names), "class", "classes")
        return f"Source({shortened(self.name)}: {images}, {classes}, {height} x {width} pixels)"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The file of each image below the data folder; without files, its given split and its place there: `test 123`."""
        if self.files:
            return self.files
        places = np.zeros(len(self.splits), dtype=np.int64)
        for split in range(len(SPLIT_NAMES)):
            places[self.splits == split] = np.arange(np.count_nonzero(self.splits == split))
        return tuple(f"{SPLIT_NAMES[split]} {place}" for split, place in zip(self.splits, places, strict=True))

    @cached_property
    def digests(self) -> np.ndarray:
        """Bytes (N,) of 16: a digest of each image's pixels; equal where the images are equal."""
        return np.array([hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in self.images], dtype="V16")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels, splits and class names: the same content, the same fingerprint."""
        digest = hashlib.sha256(repr((self.images.shape[1:], self.class_names)).encode())
        for array in (self.digests, self.labels.astype("<i4"), self.splits.astype("<i1")):
            digest.update(array.tobytes())
        return digest.hexdigest()
