"""Three splits without leaks: equal images, and images of one group, always lie in the same split."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from headstart.data.source import SPLIT_NAMES, TEST, TRAIN, VALIDATION, Source
from headstart.errors import HeadstartError
from headstart.system.text import count

# How many orders of groups are tried for a split, and how many groups are placed at most for that: 20 microseconds each.
ORDERS, MOST_PLACED = 100, 20_000


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
    and a drawn image takes all images equal to it along. With groups, it takes its whole group along, and the classes are
    divided as evenly as whole groups allow.

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
            draw(source, splits, kept, split, fraction, seed)
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
    draw(source, splits, kept, VALIDATION, validation_fraction, seed)
    train, validation, test = indices_of_splits(source, splits, kept, 0, seed)
    return Splits(train, validation, test, duplicates)


def draw_folds(source: Source, used: np.ndarray, folds: int, *, seed: int = 0, limit: int = 0) -> np.ndarray:
    """Divide images into folds of equal size, in each of which every class has the same share. Equal images lie in one fold.

    With groups, sizes and shares are as equal as whole groups allow.

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
    if source.groups:
        return draw_folds_of_groups(source, used, folds, seed)
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


def draw_folds_of_groups(source: Source, used: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Divide images into folds of whole groups; see `draw_folds`.

    Raises:
        HeadstartError: a class lies in too few groups.
    """
    counts = counts_of_units(source, used)[1]
    in_groups = (counts > 0).sum(axis=0)
    needed = max(folds, 4 if folds == 2 else 3)
    if (least := int(in_groups.min())) < needed:
        few, fewer = source.class_names[int(in_groups.argmin())], f", or give --folds {least}" if least >= 3 else ""
        raise HeadstartError(
            f"{source.name}: class {few!r} lies in {count(least, 'group')}, and --folds {folds} needs {needed} of each class: "
            f"add groups of it or remove the class{fewer}"
        )
    found = np.full(len(source.labels), -1, np.int16)
    units = source.units[used]
    for attempt in range(ORDERS):
        drawn = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + attempt * 1_000_003)
        for fold, (_, places) in enumerate(drawn.split(used, source.labels[used], units)):
            found[used[places]] = fold
        others = [counts_of_units(source, used[found[used] != fold])[1] for fold in range(folds)]
        if all(((of_others > 0).sum(axis=0) >= 2).all() for of_others in others):  # for training and validation
            return found
    raise HeadstartError(
        f"{source.name}: no division of its groups into {folds} folds leaves every class to train on: give fewer --folds"
    )


def counts_of_units(source: Source, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of what no split may tear apart among some images, int (U,), and its images, int (U, classes)."""
    units, places = np.unique(source.units[used], return_inverse=True)
    counts = np.zeros((len(units), len(source.class_names)), np.int64)
    np.add.at(counts, (places, source.labels[used]), 1)
    return units, counts


def whole_units(digests: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Return, for each image, the number of what no split may tear apart, int (N,); see `headstart.data.source.Source.units`.

    Args:
        digests: (N,), of each image.
        groups: the group of each image; empty without groups.
    """
    equal = np.unique(digests, return_inverse=True)[1]
    if not groups:
        return equal
    # Digests and groups are the nodes of a graph, in which each image joins its own two.
    group = np.unique(np.array(groups, dtype=object), return_inverse=True)[1] + equal.max() + 1
    graph = coo_matrix((np.ones(len(equal), bool), (equal, group)), shape=(int(group.max()) + 1,) * 2)
    found: np.ndarray = connected_components(graph, directed=False)[1][equal]
    return np.unique(found, return_inverse=True)[1]


def folds_by_class(
    labels: np.ndarray, groups: np.ndarray | None, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Return, for each fold, the places of the images to learn from and of those to ask for; classes have equal shares in each.

    Args:
        labels: int (N,), from 0.
        groups: int (N,): images of one group lie in one fold. None: each image by itself.
        folds: how many there are; fewer if the largest class has fewer images or groups. A class with fewer groups than folds
            is missing among what is asked in some folds. With groups, it can be missing among what is learned from too.
        seed: of the drawing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if groups is None:
            return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
        folds = max(2, min(folds, len(np.unique(groups))))
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))


def groups_by_class(labels: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return in how many groups each class lies, int (classes,); without groups, of how many images it is."""
    if groups is None:
        return np.bincount(labels)
    return np.bincount(np.unique(np.stack([labels, groups]), axis=1)[0], minlength=int(labels.max()) + 1)


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


def draw(source: Source, splits: np.ndarray, kept: np.ndarray, split: int, fraction: float, seed: int) -> None:
    """Move a stratified fraction of the training split to `split`, in place: equal images, and those of a group, together."""
    training = kept & (splits == TRAIN)
    # One image for the training split, and one for each split that has no images yet.
    needed = 1 + len({TRAIN, VALIDATION, TEST} - {TRAIN, *splits[kept].tolist()})
    units = source.units
    if source.groups:
        splits[training & np.isin(units, chosen_groups(source, np.flatnonzero(training), fraction, needed, seed))] = split
        return
    _, first = np.unique(units, return_index=True)
    groups = np.unique(units[training])
    labels = source.labels[first[groups]]
    counts = np.bincount(labels, minlength=len(source.class_names))
    if counts.min() < needed:
        few = source.class_names[int(counts.argmin())]
        raise HeadstartError(
            f"{source.name}: class {few!r} has {counts.min()} different images to train on; "
            f"at least {needed} are needed, one for training and one for each split that is drawn"
        )
    drawn = max(len(counts), round(fraction * len(groups)))
    _, chosen = train_test_split(np.arange(len(groups)), test_size=drawn, stratify=labels, random_state=seed)
    chosen = with_every_class(chosen, labels, 1, counts - needed + 1, seed)
    splits[training & np.isin(units, groups[chosen])] = split


def chosen_groups(source: Source, training: np.ndarray, fraction: float, needed: int, seed: int) -> np.ndarray:
    """Return the groups, numbers of `Source.units`, that make up about a fraction of the training images of each class.

    Groups are placed one after the other where they bring the classes nearest to their shares, the most uneven ones first, as
    scikit-learn's `StratifiedGroupKFold` does. Few groups depend on the order among equals, so several orders are tried.

    Args:
        training: int (M,), the images to choose from.
        fraction: the share to choose, 0..1.
        needed: in how many groups each class must lie, all but one of them not chosen.

    Raises:
        HeadstartError: a class lies in too few groups, or no choice leaves every class on both sides.
    """
    units, counts = counts_of_units(source, training)
    in_groups = (counts > 0).sum(axis=0)
    if in_groups.min() < needed:
        few, number = source.class_names[int(in_groups.argmin())], count(int(in_groups.min()), "group")
        raise HeadstartError(
            f"{source.name}: class {few!r} lies in {number} to train on; at least {needed} are needed, one for training and one "
            "for each split that is drawn"
        )
    random, totals = np.random.default_rng(seed), counts.sum(axis=0)
    shares = counts / totals
    uneven = -counts.std(axis=1)
    best, least = None, np.inf
    for _ in range(max(1, min(ORDERS, MOST_PLACED // len(units)))):
        order = random.permutation(len(units))
        order = order[np.argsort(uneven[order], kind="stable")]
        chosen = place_greedily(shares, order, fraction)
        # A share that is smaller than a group can leave a class without any.
        complete(chosen, counts[order] > 0, order, needed - 1)
        left = (counts[~chosen] > 0).sum(axis=0)
        if not counts[chosen].any(axis=0).all() or (left < needed - 1).any():
            continue
        missed = float(np.abs(shares[chosen].sum(axis=0) - fraction).mean())
        if missed < least - 1e-12:
            best, least = chosen, missed
    if best is None:
        raise HeadstartError(
            f"{source.name}: no choice of whole groups has every class in each split: its classes lie in too few groups; add "
            "groups, or give the splits yourself"
        )
    found: np.ndarray = units[best]
    return found


def place_greedily(shares: np.ndarray, order: np.ndarray, fraction: float) -> np.ndarray:
    """Return which groups are chosen, bool (U,), so that they have about a fraction of each class.

    Args:
        shares: float (U, classes), the share of each class's images that each group has.
        order: int (U,), in which the groups are placed.
    """
    wanted, chosen = np.array([1 - fraction, fraction]), np.zeros(len(shares), bool)
    # Of each class, relative to what is wanted, on the side that stays and on the side that is chosen.
    filled = np.zeros((2, shares.shape[1]))
    for group in order.tolist():
        more = shares[group] / wanted[:, None]
        uneven = [abs(filled[1 - side] - filled[side] - more[side]).mean() for side in (0, 1)]
        alike = abs(uneven[0] - uneven[1]) < 1e-12
        side = int(filled[1].sum() < filled[0].sum()) if alike else int(uneven[1] < uneven[0])  # the emptier side
        filled[side] += more[side]
        chosen[group] = side == 1
    return chosen


def complete(chosen: np.ndarray, holds: np.ndarray, order: np.ndarray, least_left: int) -> None:
    """Choose more groups, in place, until each class lies in some of those chosen, as far as enough of each class are left.

    Args:
        chosen: bool (U,), which groups are chosen.
        holds: bool (U, classes), whether each group holds each class, in the given order.
        order: int (U,), of the groups; the last ones are moved first, since they are the smallest.
        least_left: in how many of the others each class must lie.
    """
    for label in range(holds.shape[1]):
        for place in reversed(range(len(order))):
            picked = chosen[order]
            if holds[picked, label].any():
                break
            left = holds[~picked].sum(axis=0) - holds[place]
            if holds[place, label] and not picked[place] and (left[holds[place]] >= least_left).all():
                chosen[order[place]] = True


def torn_groups(source: Source, splits: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Return a line for each group that lies in several splits, which only splits that were given can do.

    Args:
        splits: int64 indices of the training, validation and test images.
    """
    if not source.groups:
        return ()
    places: dict[str, dict[int, int]] = {}
    for split, rows in enumerate(splits):
        for row in rows.tolist():
            of_group = places.setdefault(source.groups[row], {})
            of_group[split] = of_group.get(split, 0) + 1
    return tuple(
        f"the group {name} lies in several splits: "
        + ", ".join(f"{number:,} in {SPLIT_NAMES[split]}" for split, number in found.items())
        for name, found in sorted(places.items())
        if len(found) > 1
    )


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
