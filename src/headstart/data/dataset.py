"""The one idea of a data set: one array of source, their labels, and three splits that cannot leak."""

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from headstart.data.decode import Decoding

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


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images and their three splits.

    Attributes:
        source: all images, in the order of the source.
        train, validation, test: int64 indices into the images; no two splits share an image or
            hold equal ones.
        duplicates: a line for each image that equals another: which, and what was done.
        left_out: int64 indices of training images that `--drop-duplicates` left out.
    """

    source: Source
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    duplicates: tuple[str, ...] = field(default=())
    left_out: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int64))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images, which all share one size."""
        height, width, channels = self.source.images.shape[1:]
        return height, width, channels

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 (len(indices), H, W, 3)."""
        return self.source.images[indices]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Return int32 (len(indices),)."""
        return self.source.labels[indices]

    @property
    def training_candidates(self) -> np.ndarray:
        """Indices of the training split as it was before `--drop-duplicates`, sorted: what features are cached for."""
        return np.union1d(self.train, self.left_out)

    @property
    def test_fingerprint(self) -> str:
        """SHA-256 over the test split's pixels and labels: runs where it is equal were measured on the same images."""
        labels = self.labels(self.test).astype("<i4")
        return hashlib.sha256(self.source.digests[self.test].tobytes() + labels.tobytes()).hexdigest()

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Return how many images of each class each split has."""
        splits, classes = (self.train, self.validation, self.test), len(self.class_names)
        counts = [np.bincount(self.labels(rows), minlength=classes).tolist() for rows in splits]
        return {name: dict(zip(self.class_names, row, strict=True)) for name, row in zip(SPLIT_NAMES, counts, strict=True)}

    def summary(self) -> dict[str, Any]:
        """Return what a run records of its data, ready for JSON."""
        return {
            "source": self.source.name,
            "fingerprint": self.source.fingerprint,
            "test_fingerprint": self.test_fingerprint,
            "classes": list(self.class_names),
            "image_shape": list(self.image_shape),
            "decoding": asdict(self.source.decoding),
            "images": {"training": len(self.train), "validation": len(self.validation), "test": len(self.test)},
            "images_by_class": self.class_counts(),
            "skipped": self.source.skipped,
            "unreadable": list(self.source.unreadable),
            "remarks": list(self.source.remarks),
            "duplicates": list(self.duplicates),
        }
