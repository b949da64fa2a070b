"""Three splits without leaks: equal images always lie in the same split."""

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

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

    The source's own splits stay. Missing splits are drawn from the training split, stratified by class. Equal images end
    in one split: if the source has them in several, only those in the test split (else in the validation split) are kept,
    and a drawn image takes all images equal to it along.

    Args:
        validation_fraction, test_fraction: share of the training images, 0..1, that a missing split gets.
        seed: of the drawing.
        limit: keep at most about this many images of each split, stratified; 0 keeps all.

    Raises:
        HeadstartError: a class has no training or validation image, or too few different images to draw from; or `limit` is
            below the number of classes.
    """
    first, group = groups_of_equal(source)
    splits, kept, duplicates = settle_duplicates(source, source.splits, first, group)
    for split, fraction in ((TEST, test_fraction), (VALIDATION, validation_fraction)):
        if not (splits[kept] == split).any():
            draw(source, splits, kept, first, group, split, fraction, seed)
    train, validation, test = indices_of_splits(source, splits, kept, limit, seed)
    return Splits(train, validation, test, duplicates)


def split_fold(source: Source, folds: np.ndarray, fold: int, *, validation_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Split images by their folds: one fold is the test split, and of the others the validation split is drawn.

    Args:
        folds: int (N,), the fold of each image, -1 for an image that is not used; see `draw_folds`.
        fold: the one to test on.
        validation_fraction, seed: see `split_source`.
    """
    first, group = groups_of_equal(source)
    kept, splits = folds >= 0, np.where(folds == fold, TEST, TRAIN).astype(source.splits.dtype)
    _, _, duplicates = settle_duplicates(source, splits, first, group)
    draw(source, splits, kept, first, group, VALIDATION, validation_fraction, seed)
    train, validation, test = indices_of_splits(source, splits, kept, 0, seed)
    return Splits(train, validation, test, duplicates)


def draw_folds(source: Source, used: np.ndarray, folds: int, *, seed: int = 0, limit: int = 0) -> np.ndarray:
    """Divide images into folds of equal size, in each of which every class has the same share. Equal images lie in one fold.

    Args:
        used: int (M,), the images to divide.
        folds: how many there are, from 2.
        seed: of the drawing.
        limit: divide about this many of the images, stratified; 0: all.

    Returns:
        int16 (N,): the fold of each image of the source, from 0; -1 for an image that is not used.

    Raises:
        HeadstartError: the source has a validation or test split of its own, or a class has too few different images.
    """
    name, classes = source.name, source.class_names
    if (own := int(source.splits.max())) != TRAIN:
        raise own_split(name, own)
    if limit and limit < len(used):
        used = stratified_subset(source, used, TRAIN, limit, seed)
    first, group = groups_of_equal(source)
    groups = np.unique(group[used])
    labels = source.labels[first[groups]]
    counts = np.bincount(labels, minlength=len(classes))
    # Each fold tests one of each class; of the others, one is needed for training and one for validation.
    needed = max(folds, 4 if folds == 2 else 3)
    if (least := int(counts.min())) < needed:
        fewer = f", or give --folds {least}" if least >= 3 else ""
        raise HeadstartError(
            f"{name}: class {classes[int(counts.argmin())]!r} has {least} different images, and --folds {folds} needs {needed} "
            f"of each class: add images of it or remove the class{fewer}"
        )
    fold_of_group = np.full(len(first), -1, np.int16)
    drawn = StratifiedKFold(folds, shuffle=True, random_state=seed).split(groups, labels)
    for fold, (_, places) in enumerate(drawn):
        fold_of_group[groups[places]] = fold
    found = np.full(len(source.labels), -1, np.int16)
    found[used] = fold_of_group[group[used]]
    return found


def own_split(name: str, split: int) -> HeadstartError:
    """Return the refusal of folds for data that have a validation or test split of their own."""
    return HeadstartError(
        f"{name} has a {SPLIT_NAMES[split]} split of its own, and --folds tests every image once: leave out --folds, and give "
        "--seeds to see how much is luck; or put all images of each class into one folder"
    )


def groups_of_equal(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return the first image of each group of equal images, int (groups,), and the group of each image, int (N,)."""
    _, first, group = np.unique(source.digests, return_index=True, return_inverse=True)
    return first, group


def indices_of_splits(source: Source, splits: np.ndarray, kept: np.ndarray, limit: int, seed: int) -> list[np.ndarray]:
    """Return the indices of the training, validation and test split; see `split_source` for `limit` and the errors."""
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
    return indices


def settle_duplicates(
    source: Source, given: np.ndarray, first: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:  # fmt: skip
    """Return a copy of the given splits, int8 (N,); which images stay, bool (N,); and a line for every duplicate.

    Args:
        given: int8 (N,), the split of each image.
        first: int (groups,), the first image of each group of equal images.
        group: int (N,), the group of each image.
    """
    splits, lines = given.copy(), []
    # The most protected split of each group, test before validation before training: the others lose the image.
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
    """Move a stratified fraction of the training split, and all images equal to the drawn ones, to `split`, in place."""
    training = kept & (splits == TRAIN)
    groups = np.unique(group[training])
    labels = source.labels[first[groups]]
    counts = np.bincount(labels, minlength=len(source.class_names))
    # One image for the training split, and one for each split that has no images yet.
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
    """Return `chosen` with a few more or fewer of rare classes: a stratified choice alone can leave a rare class out.

    Args:
        chosen: int (M,), indices into `labels`.
        labels: int (N,), the class of each candidate.
        least: the fewest of each class.
        most: int (classes,), the most of each class; `least` goes before it.
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
    """Return about `limit` of the indices of a split, with the classes in the same proportions.

    Raises:
        HeadstartError: `limit` is below the number of classes.
    """
    labels = source.labels[indices]
    present, counts = np.unique(labels, return_counts=True)
    classes = len(present)
    if limit < classes:
        raise HeadstartError(f"--limit {limit} must be at least the number of classes, {classes}")
    if len(indices) - limit < classes:
        return indices  # scikit-learn leaves out at least one of each class; a few more images do no harm
    # scikit-learn cannot stratify a class of one image, so these images are always chosen.
    several = np.isin(labels, present[counts > 1])
    wanted = limit - int((~several).sum())
    rows = np.flatnonzero(several)
    chosen, _ = train_test_split(rows, train_size=wanted, stratify=labels[rows], random_state=seed)
    chosen = np.concatenate([chosen, np.flatnonzero(~several)])
    return indices[with_every_class(chosen, labels, 1, np.bincount(labels), seed)]
