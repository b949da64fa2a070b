"""The one idea of a data set: one array of pictures, their labels, and three splits that cannot leak."""

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from headstart.data.decode import Decoding
from headstart.errors import HeadstartError

TRAIN, VALIDATION, TEST = 0, 1, 2
PART_NAMES = ("training", "validation", "test")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures as a source gave them, before they are split.

    Attributes:
        images: uint8 (N, H, W, 3), RGB, 0..255; memory-mapped where they are many.
        labels: int32 (N,), index into `class_names`.
        class_names: names of the classes.
        parts: int8 (N,), the part the source put each picture in: TRAIN, VALIDATION or TEST.
        files: where each picture came from, or empty where the source has no files.
        unreadable: files that could not be read, each with the reason.
        source: what was loaded: a name, or a path.
        skipped: how many files and folders of the source were left out since they are no images, by kind.
        remarks: what a user might not expect of how the source was read, a line each.
        decoding: how files became arrays.
        sizes: width and height of the smallest, the median and the largest image before decoding; empty without files.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    parts: np.ndarray
    source: str
    files: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    sizes: dict[str, list[int]] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The file of each picture below the data folder; or, without files, part in the source and place in that: `test 123`."""
        if self.files:
            return self.files
        places = np.zeros(len(self.parts), dtype=np.int64)
        for part in range(len(PART_NAMES)):
            places[self.parts == part] = np.arange(np.count_nonzero(self.parts == part))
        return tuple(f"{PART_NAMES[part]} {place}" for part, place in zip(self.parts, places, strict=True))

    @cached_property
    def digests(self) -> np.ndarray:
        """Bytes (N,) of 16: a digest of each picture's pixels; equal where the pictures are equal."""
        return np.array([hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in self.images], dtype="V16")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels, parts and class names: the same content, the same fingerprint."""
        digest = hashlib.sha256(repr((self.images.shape[1:], self.class_names)).encode())
        for array in (self.digests, self.labels.astype("<i4"), self.parts.astype("<i1")):
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with their three splits.

    Attributes:
        pictures: all of them, in the order of the source.
        train, validation, test: int64 indices into the pictures; no two splits share a picture or
            hold equal ones.
        duplicates: a line for each picture that equals another: which, and what was done.
        left_out: int64 indices of training pictures that `--drop-duplicates` left out.
    """

    pictures: Pictures
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    duplicates: tuple[str, ...] = field(default=())
    left_out: np.ndarray = field(default_factory=lambda: np.array([], dtype=np.int64))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.pictures.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures, which all share one size."""
        height, width, channels = self.pictures.images.shape[1:]
        return height, width, channels

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 (len(indices), H, W, 3)."""
        return self.pictures.images[indices]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Return int32 (len(indices),)."""
        return self.pictures.labels[indices]

    @property
    def training_candidates(self) -> np.ndarray:
        """Indices of the training part as it was before `--drop-duplicates`, sorted: what features are cached for."""
        return np.union1d(self.train, self.left_out)

    @property
    def test_fingerprint(self) -> str:
        """SHA-256 over the test part's pixels and labels: runs where it is equal were measured on the same pictures."""
        labels = self.labels(self.test).astype("<i4")
        return hashlib.sha256(self.pictures.digests[self.test].tobytes() + labels.tobytes()).hexdigest()

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Return how many images of each class each split has."""
        splits, classes = (self.train, self.validation, self.test), len(self.class_names)
        counts = [np.bincount(self.labels(rows), minlength=classes).tolist() for rows in splits]
        return {name: dict(zip(self.class_names, row, strict=True)) for name, row in zip(PART_NAMES, counts, strict=True)}

    def summary(self) -> dict[str, Any]:
        """Return what a run records of its data, ready for JSON."""
        return {
            "source": self.pictures.source,
            "fingerprint": self.pictures.fingerprint,
            "test_fingerprint": self.test_fingerprint,
            "classes": list(self.class_names),
            "picture_shape": list(self.image_shape),
            "decoding": asdict(self.pictures.decoding),
            "pictures": {"training": len(self.train), "validation": len(self.validation), "test": len(self.test)},
            "pictures_by_class": self.class_counts(),
            "skipped": self.pictures.skipped,
            "unreadable": list(self.pictures.unreadable),
            "remarks": list(self.pictures.remarks),
            "duplicates": list(self.duplicates),
        }


def split(
    pictures: Pictures, *, validation_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0, limit: int = 0
) -> Dataset:
    """Split pictures into training, validation and test.

    Parts that the source has stay; missing ones are drawn out of the training part, stratified by
    class. Equal pictures end on one side: of equal ones in different given parts only those of
    the test (else of the validation) part stay in, and a drawn picture takes its equals along.

    Args:
        limit: at most about this many pictures of each split, stratified; 0 for all.

    Raises:
        HeadstartError: a class has too few pictures to be in every split.
    """
    first, group = np.unique(pictures.digests, return_index=True, return_inverse=True)[1:]
    parts, kept, duplicates = settle_duplicates(pictures, first, group)
    for part, fraction in ((TEST, test_fraction), (VALIDATION, validation_fraction)):
        if not (parts[kept] == part).any():
            draw(pictures, parts, kept, first, group, part, fraction, seed)
    indices = [np.flatnonzero(kept & (parts == part)) for part in (TRAIN, VALIDATION, TEST)]
    for part, chosen in enumerate(indices):
        missing = sorted(set(range(len(pictures.class_names))) - set(pictures.labels[chosen].tolist()))
        if missing and part != TEST:
            raise HeadstartError(
                f"{pictures.source}: class {pictures.class_names[missing[0]]!r} has no picture in the "
                f"{PART_NAMES[part]} part; add pictures of it or remove the class"
            )
        if limit and limit < len(chosen):
            indices[part] = stratified_subset(pictures, chosen, part, limit, seed)
    train, validation, test = indices
    return Dataset(pictures, train, validation, test, duplicates)


def settle_duplicates(pictures: Pictures, first: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the parts (N,), which pictures stay (N,) bool, and a line for every duplicate."""
    parts, lines = pictures.parts.copy(), []
    # The most protected part that any picture of a group lies in: a leak is mended on the training side.
    protected = np.full(len(first), TRAIN, dtype=parts.dtype)
    np.maximum.at(protected, group, parts)
    kept = parts == protected[group]
    for index in np.flatnonzero(first[group] != np.arange(len(group))).tolist():
        twin = int(first[group[index]])
        holder = PART_NAMES[protected[group[index]]]
        fate = ", ".join(
            f"{pictures.names[one]} left out of {PART_NAMES[parts[one]]}, since {holder} holds it"
            for one in (twin, index)
            if not kept[one]
        )
        labels = pictures.labels[[index, twin]].tolist()
        conflict = (
            "" if labels[0] == labels[1] else f"; their classes differ: {', '.join(pictures.class_names[k] for k in labels)}"
        )
        lines.append(f"{pictures.names[index]} equals {pictures.names[twin]}: {fate or 'kept on the same side'}{conflict}")
    return parts, kept, tuple(lines)


def draw(
    pictures: Pictures, parts: np.ndarray, kept: np.ndarray, first: np.ndarray, group: np.ndarray,
    part: int, fraction: float, seed: int,
) -> None:  # fmt: skip
    """Move a stratified fraction of the training part, with equal pictures, to `part`, in place."""
    training = kept & (parts == TRAIN)
    groups = np.unique(group[training])
    labels = pictures.labels[first[groups]]
    counts = np.bincount(labels, minlength=len(pictures.class_names))
    # One for the training part, and one for each part that has no pictures yet.
    needed = 1 + len({TRAIN, VALIDATION, TEST} - {TRAIN, *parts[kept].tolist()})
    if counts.min() < needed:
        few = pictures.class_names[int(counts.argmin())]
        raise HeadstartError(
            f"{pictures.source}: class {few!r} has {counts.min()} different pictures to train on; "
            f"at least {needed} are needed, one for training and one for each part that is drawn"
        )
    drawn = max(len(counts), round(fraction * len(groups)))
    _, chosen = train_test_split(np.arange(len(groups)), test_size=drawn, stratify=labels, random_state=seed)
    chosen = with_every_class(chosen, labels, 1, counts - needed + 1, seed)
    parts[training & np.isin(group, groups[chosen])] = part


def with_every_class(chosen: np.ndarray, labels: np.ndarray, least: int, most: np.ndarray, seed: int) -> np.ndarray:
    """Return positions chosen in proportion, with a few more or fewer of rare classes, which proportion alone can leave out.

    Args:
        chosen: int (M,), positions in `labels`.
        labels: int (N,), the class of everything that could be chosen.
        least: so many of each class must be chosen at least.
        most: int (classes,), so many of each class may be chosen.
    """
    random, picked = np.random.default_rng(seed), np.zeros(len(labels), bool)
    picked[chosen] = True
    for label in np.unique(labels):
        members = labels == label
        number = int(picked[members].sum())
        wanted = int(np.clip(number, least, max(least, most[label])))
        candidates = np.flatnonzero(members & (picked if wanted < number else ~picked))
        picked[random.choice(candidates, abs(wanted - number), replace=False)] = wanted > number
    return np.flatnonzero(picked)


def stratified_subset(pictures: Pictures, indices: np.ndarray, part: int, limit: int, seed: int) -> np.ndarray:
    """Return `limit` of the indices of a part, with the classes in the same proportions."""
    labels = pictures.labels[indices]
    present, counts = np.unique(labels, return_counts=True)
    classes = len(present)
    if limit < classes:
        raise HeadstartError(f"--limit {limit} must be at least the number of classes, {classes}")
    if len(indices) - limit < classes:
        return indices  # scikit-learn cannot leave out less than one of each class; a few more pictures do no harm
    # scikit-learn cannot stratify a class of one picture: those are chosen in any case.
    several = np.isin(labels, present[counts > 1])
    wanted = limit - int((~several).sum())
    rows = np.flatnonzero(several)
    chosen, _ = train_test_split(rows, train_size=wanted, stratify=labels[rows], random_state=seed)
    chosen = np.concatenate([chosen, np.flatnonzero(~several)])
    return indices[with_every_class(chosen, labels, 1, np.bincount(labels), seed)]
