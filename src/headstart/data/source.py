"""A source: labelled images as they were given, before they are split."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from headstart import data as package
from headstart.data.decode import Decoding
from headstart.data.grey import shades_of_grey
from headstart.data.on_demand import digest
from headstart.data.store import Images, Survey
from headstart.system.text import count, shortened

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("training", "validation", "test")


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images as a source gave them, before they are split.

    Attributes:
        images: uint8 (N, H, W, 3), RGB, 0..255: an array; if they are many, in a file of the cache or decoded when they are
            indexed, see `headstart.data.store`.
        labels: int32 (N,), indices into `class_names`.
        class_names: the names of the classes.
        splits: int8 (N,), the split of each image in the source: TRAIN, VALIDATION or TEST; TRAIN if the source has none.
        name: what was loaded: the name of a data set, or a path.
        files: the file of each image, relative to the folder; empty if the source has no files.
        groups: the group of each image: patients, videos, sites, which no split may tear apart; an image in no group has its
            own name. Empty without groups.
        unreadable: a line with file and reason for each file that could not be read.
        skipped: how many files and folders were left out since they are no images, by kind.
        remarks: a line for each thing that a user might not expect about how the source was read.
        decoding: how files became arrays.
        sizes: width and height of the smallest, the median and the largest image before decoding; empty without files.
        survey: what a first pass over many images has kept of all of them; None if they are in memory.
    """

    images: Images
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray
    name: str
    files: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    survey: Survey | None = None

    def __repr__(self) -> str:
        height, width, _ = self.images.shape[1:]
        images, classes = count(len(self.labels), "image"), count(len(self.class_names), "class", "classes")
        return f"Source({shortened(self.name)}: {images}, {classes}, {height} x {width} pixels)"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The file of each image; without files, the split in the source and the number within it: `test 123`."""
        if self.files:
            return self.files
        places = np.zeros(len(self.splits), dtype=np.int64)
        for split in range(len(SPLIT_NAMES)):
            places[self.splits == split] = np.arange(np.count_nonzero(self.splits == split))
        return tuple(f"{SPLIT_NAMES[split]} {place}" for split, place in zip(self.splits, places, strict=True))

    @cached_property
    def digests(self) -> np.ndarray:
        """A digest of each image's pixels, (N,) of 16 bytes each. Equal images have equal digests."""
        if self.survey:
            return self.survey.digests
        return np.array([digest(self.images[row]) for row in range(len(self.images))], dtype="V16")

    def grey(self, rows: np.ndarray) -> np.ndarray:
        """Return small grey versions of some images, float32 (len(rows), 32, 32), see `headstart.data.grey`."""
        return self.survey.grey[rows] if self.survey else shades_of_grey(self.images, rows)

    @cached_property
    def units(self) -> np.ndarray:
        """What no split may tear apart: int (N,), the same number for equal images, for images of one group, and for those of
        groups that share an equal image.
        """
        units: np.ndarray = package.splits.whole_units(self.digests, self.groups)
        return units

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels, splits, class names and groups. The same content has the same fingerprint."""
        digest = hashlib.sha256(repr((self.images.shape[1:], self.class_names)).encode())
        for array in (self.digests, self.labels.astype("<i4"), self.splits.astype("<i1")):
            digest.update(array.tobytes())
        if self.groups:
            digest.update("\0".join(self.groups).encode(errors="surrogateescape"))
        return digest.hexdigest()
