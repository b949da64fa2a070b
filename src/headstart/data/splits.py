"""Three splits that cannot leak: equal images lie on one side, and every class in each."""

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from headstart.data.source import SPLIT_NAMES, TEST, TRAIN, VALIDATION, Source
from headstart.errors import HeadstartError


class Splits(NamedTuple):
    """Int64 indices into the images of a source, and a line for each image that equals another."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    duplicates: tuple[str, ...]


def split_source(
    source: Source, *, validation_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0, limit: int = 0
) -> Splits:
    """Split images into training, validation and test.

    Splits that the source has stay; missing ones are drawn out of the training split, stratified by
    class. Equal images end on one side: of equal ones in different given splits only those of
    the test (else of the validation) split stay in, and a drawn image takes its equals along.

    Args:
        limit: at most about this many images of each split, stratified; 0 for all.

    Raises:
        HeadstartError: a class has too few images to be in every split.
    """
    first, group = np.unique(source.digests, return_index=True, return_inverse=True)[1:]
    splits, kept, duplicates = settle_duplicates(source, first, group)
    for split, fraction in ((TEST, test_fraction), (VALIDATION, validation_fraction)):
        if not (splits[kept] == split).any():
            draw(source, splits, kept, first, group, split, fraction, seed)
    indices = [np.flatnonzero(kept & (splits == split)) for split in (TRAIN, VALIDATION, TEST)]
    for split, chosen in enumerate(indices):
        missing = sorted(set(range(len(source.class_names))) - set(source.labels[chosen].tolist()))
        if missing and split != TEST:
            raise HeadstartError(
                f"{source.name}: class {source.class_names[missing[0]]!r} has no image in the "
                f"{SPLIT_NAMES[split]} split; add images of it or remove the class"
            )
        if limit and limit < len(chosen):
            indices[split] = stratified_subset(source, chosen, split, limit, seed)
    train, validation, test = indices
    return Splits(train, validation, test, duplicates)


def settle_duplicates(source: Source, first: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the splits (N,), which images stay (N,) bool, and a line for every duplicate."""
    splits, lines = source.splits.copy(), []
    # The most protected split that any image of a group lies in: a leak is mended on the training side.
    protected = np.full(len(first), TRAIN, dtype=splits.dtype)
    np.maximum.at(protected, group, splits)
    kept = splits == protected[group]
    for index in np.flatnonzero(first[group] != np.arange(len(group))).tolist():
        original = int(first[group[index]])
        holder = SPLIT_NAMES[protected[group[index]]]
        fate = ", ".join(
            f"{source.names[one]} left out of {SPLIT_NAMES[splits[one]]}, since {holder} holds it"
            for one in (original, index)
            if not kept[one]
        )
        labels = source.labels[[index, original]].tolist()
        conflict = "" if labels[0] == labels[1] else f"; their classes differ: {', '.join(source.class_names[k] for k in labels)}"
        lines.append(f"{source.names[index]} equals {source.names[original]}: {fate or 'kept on the same side'}{conflict}")
    return splits, kept, tuple(lines)


def draw(
    source: Source, splits: np.ndarray, kept: np.ndarray, first: np.ndarray, group: np.ndarray,
    split: int, fraction: float, seed: int,
) -> None:  # fmt: skip
    """Move a stratified fraction of the training split, with equal source, to `split`, in place."""
    training = kept & (splits == TRAIN)
    groups = np.unique(group[training])
    labels = source.labels[first[groups]]
    counts = np.bincount(labels, minlength=len(source.class_names))
    # One for the training split, and one for each split that has no images yet.
    needed = 1 + len({TRAIN, VALIDATION, TEST} - {TRAIN, *splits[kept].tolist()})
    if counts.min() < needed:
        few = source.class_names[int(counts.argmin())]
        raise HeadstartError(
            f"{source.name}: class {few!r} has {counts.min()} different images to train on; "
            f"at least {needed} are needed, one for training and one for each split that is drawn"
        )
    drawn = max(len(counts), round(fraction * len(groups)))
    _, chosen = train_test_split(np.arange(len(groups)), test_size=drawn, stratify=labels, random_state=seed)
    chosen = with_every_class(chosen, labels, 1, counts - needed + 1, seed)
    splits[training & np.isin(group, groups[chosen])] = split


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


def stratified_subset(source: Source, indices: np.ndarray, split: int, limit: int, seed: int) -> np.ndarray:
    """Return `limit` of the indices of a split, with the classes in the same proportions."""
    labels = source.labels[indices]
    present, counts = np.unique(labels, return_counts=True)
    classes = len(present)
    if limit < classes:
        raise HeadstartError(f"--limit {limit} must be at least the number of classes, {classes}")
    if len(indices) - limit < classes:
        return indices  # scikit-learn cannot leave out less than one of each class; a few more images do no harm
    # scikit-learn cannot stratify a class of one image: those are chosen in any case.
    several = np.isin(labels, present[counts > 1])
    wanted = limit - int((~several).sum())
    rows = np.flatnonzero(several)
    chosen, _ = train_test_split(rows, train_size=wanted, stratify=labels[rows], random_state=seed)
    chosen = np.concatenate([chosen, np.flatnonzero(~several)])
    return indices[with_every_class(chosen, labels, 1, np.bincount(labels), seed)]
