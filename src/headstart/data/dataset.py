"""A data set: labelled images, and three splits that share no image."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from headstart import data as package
from headstart.data.arrays import source_of_arrays
from headstart.data.source import SPLIT_NAMES, Source
from headstart.system.text import count, shortened


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images and their three splits.

    Attributes:
        source: all images, with their labels.
        train, validation, test: int64 indices into the images of the source. Equal images never lie in two splits.
        duplicates: a line for each image that equals another: which one, and what was done.
        left_out: int64 indices of the training images that `--drop-duplicates` left out.
        folds: with `--folds`, int16 (N,): the fold that tests each image of the source, -1 for an image that is not used. Then
            all images are in the test split, and `fold` gives the splits of each fold. Else empty.
    """

    source: Source
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    duplicates: tuple[str, ...] = field(default=())
    left_out: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int64))
    folds: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int16))

    @classmethod
    def from_arrays(
        cls, x_train: Any, y_train: Any, x_validation: Any = None, y_validation: Any = None, x_test: Any = None,
        y_test: Any = None, *, class_names: Sequence[str] | None = None, groups_train: Any = None, groups_validation: Any = None,
        groups_test: Any = None, validation_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0, limit: int = 0,
    ) -> "Dataset":  # fmt: skip
        """Return a data set made of arrays. Missing splits are drawn from the training images.

        Args:
            x_train, x_validation, x_test: images of one size, uint8, 0..255; grey (N, H, W), or (N, H, W, C) with 1 (grey),
                3 (RGB) or 4 (RGBA) channels.
            y_train, y_validation, y_test: their classes, (N,) or (N, 1), as names or as integers that count from 0.
            class_names: the name of each integer; by default the integer itself.
            groups_train, groups_validation, groups_test: the group of each image, (N,), as names or integers: patients, videos,
                sites, which no drawn split tears apart (see `headstart.data.source.Source`). The name "" is no group.
            validation_fraction, test_fraction, seed, limit: see `headstart.data.splits.split_source`.

        Raises:
            HeadstartError: an array holds no images or no labels, or the arrays do not fit together; the message says what
                to do.
        """
        given = [(x_train, y_train), (x_validation, y_validation), (x_test, y_test)]
        source = source_of_arrays(given, class_names, (groups_train, groups_validation, groups_test))
        return cls.of(source, validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed, limit=limit)

    @classmethod
    def of(cls, source: Source, **options: Any) -> "Dataset":
        """Return a source with its splits; see `headstart.data.splits.split_source` for the options."""
        return cls(source, *package.splits.split_source(source, **options))

    @classmethod
    def in_folds(cls, source: Source, folds: np.ndarray) -> "Dataset":
        """Return a source whose images are each tested in one fold; see `headstart.data.splits.draw_folds`."""
        nothing = np.array([], dtype=np.int64)
        return cls(source, nothing, nothing, np.flatnonzero(folds >= 0), folds=folds)

    def fold(self, number: int, **options: Any) -> "Dataset":
        """Return the data with the splits of one fold; see `headstart.data.splits.split_fold` for the options."""
        return Dataset(self.source, *package.splits.split_fold(self.source, self.folds, number, **options))

    def __repr__(self) -> str:
        sizes = f"{len(self.train):,} for training, {len(self.validation):,} for validation, {len(self.test):,} for the test"
        height, width, _ = self.image_shape
        classes = count(len(self.class_names), "class", "classes")
        return f"Dataset({shortened(self.source.name)}: {sizes}; {classes}; {height} x {width} pixels)"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels; all images share them."""
        height, width, channels = self.source.images.shape[1:]
        return height, width, channels

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 (len(indices), H, W, 3)."""
        return self.source.images[indices]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Return int32 (len(indices),)."""
        return self.source.labels[indices]

    def groups(self, indices: np.ndarray) -> np.ndarray | None:
        """Return what belongs together among some images, int (len(indices),), see `Source.units`; None without groups."""
        return self.source.units[indices] if self.source.groups else None

    @cached_property
    def torn(self) -> tuple[str, ...]:
        """A line for each group that lies in several splits, which only given splits can do."""
        return package.splits.torn_groups(self.source, (self.training_candidates, self.validation, self.test))

    @property
    def of_known_groups(self) -> np.ndarray:
        """Whether each test image is of a group that training has images of too, bool (len(test),); nowhere without groups."""
        if not self.source.groups:
            return np.zeros(len(self.test), bool)
        return np.isin(self.source.units[self.test], self.source.units[self.train])

    @property
    def training_candidates(self) -> np.ndarray:
        """Sorted indices of the training split before `--drop-duplicates`. Features are cached for these."""
        return np.union1d(self.train, self.left_out)

    @property
    def used(self) -> np.ndarray:
        """Sorted indices of the images of all splits, before `--drop-duplicates`."""
        return np.sort(np.concatenate([self.training_candidates, self.validation, self.test]))

    @property
    def test_fingerprint(self) -> str:
        """SHA-256 over the test split's pixels and labels. If it is equal, two runs were measured on the same images."""
        labels = self.labels(self.test).astype("<i4")
        return hashlib.sha256(self.source.digests[self.test].tobytes() + labels.tobytes()).hexdigest()

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images by split and class."""
        splits, classes = (self.train, self.validation, self.test), len(self.class_names)
        counts = [np.bincount(self.labels(rows), minlength=classes).tolist() for rows in splits]
        return {name: dict(zip(self.class_names, row, strict=True)) for name, row in zip(SPLIT_NAMES, counts, strict=True)}

    def summary(self) -> dict[str, Any]:
        """Return what a run records about its data, ready for JSON."""
        splits = zip(SPLIT_NAMES, (self.train, self.validation, self.test), strict=True)
        groups = {name: len(np.unique(self.source.units[rows])) for name, rows in splits} if self.source.groups else {}
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
            **({"groups": groups, "torn_groups": list(self.torn)} if groups else {}),
        }
