"""Decide which folders are classes and which are splits. If two readings are possible, the refusal says what to type."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from headstart.config import suggestion
from headstart.data.source import SPLIT_NAMES, TEST, TRAIN, VALIDATION
from headstart.data.walk import Folder, skipped_words, walk
from headstart.errors import HeadstartError
from headstart.system.text import count

# Names of splits. Evaluation data choose nothing, so they are test data.
SPLIT_WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION,
    "validate": VALIDATION, "dev": VALIDATION, "test": TEST, "testing": TEST, "tst": TEST, "eval": TEST, "evaluation": TEST,
    "holdout": TEST,
}  # fmt: skip
# Words that may stand beside the name of a split, or be joined to it, without a meaning: `train_images`, `TestSet`, `val2017`.
FILLERS = {"set", "data", "dataset", "images", "image", "imgs", "img", "photos", "split", "folder", "files", "dir"}

# Files that somebody may mean as the images of a class, but that are not read. A class folder that holds only these is refused.
MEANT = ("camera raw", *(f"no image ({ending})" for ending in (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".psd", ".svg", ".eps", ".ai", ".ico", ".dcm", ".nii", ".fits", ".czi", ".svs",
)))  # fmt: skip


@dataclass
class Layout:
    """Images with their classes and splits, as the folders say.

    Attributes:
        rows: path, class name and split of each image, in a fixed order.
        skipped: how many files and folders were left out, by kind.
        remarks: a line for each decision that is not obvious from the folders.
        groups: the group of each image, see `headstart.data.grouping`; "" for an image that is in none. Empty without groups.
        subfolders: the first folder below that of its class for each image, "" for an image directly in it.
    """

    rows: list[tuple[Path, str, int]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    subfolders: list[str] = field(default_factory=list)


def read_layout(root: Path, layout: str = "auto", known: Collection[str] | None = None) -> Layout:
    """Find the images below a folder, their classes and their splits.

    Args:
        layout: `classes`: each folder is a class; `splits`: a folder with the name of a split is one; `auto`: what the
            folders hold decides.
        known: the classes of the model that is to be evaluated; None for training, where each class needs training images.

    Raises:
        HeadstartError: there are no class folders, the folders could mean two things, or a class has no training image.
    """
    found = Layout()
    tree = without_wrapper(walk(root), known or (), found)
    splits = {tree.path: (tree, TRAIN)} if layout == "classes" else find_splits(tree, layout, found)
    inner = {} if layout == "classes" else splits_within_classes(splits, tree)
    training = known is None
    if training and all(split != TRAIN for _, split in splits.values()) and splits:
        present = " and ".join(f"{folder.path.name}/" for folder, _ in splits.values())
        raise HeadstartError(f"{root} has {present} and no images to train on: put them into {root / 'train'}")
    classes: dict[int, dict[str, Path]] = {split: {} for split in range(len(SPLIT_NAMES))}
    for folder, split in sorted(splits.values(), key=lambda one: one[1]):  # training first: the others take its class names
        if folder.images:
            leave_out(len(folder.images), "image in no class folder", f"{folder.path.name}/ itself", found)
        found.skipped += folder.skipped
        for below in class_folders(folder, tree, splits):
            found.skipped += below.all_skipped()
            if not below.count:
                refuse_empty(below, f"{SPLIT_NAMES[split]} split", training and split == TRAIN, found)
                continue
            name = class_name(below.path)
            if split != TRAIN or not training:
                name = spelt_as(name, known or classes[TRAIN], found)
            for path in below.all_images():
                inner_split = next((above for above in path.parents if above in inner), None)
                its_split = split if inner_split is None else inner[inner_split]
                found.rows.append((path, name, its_split))
                found.subfolders.append(first_folder(path, inner_split or below.path))
                classes[its_split].setdefault(name, below.path)
    if not found.rows:
        what = f"; it has {skipped_words(found.skipped)}" if found.skipped else ""
        raise HeadstartError(f"{root} is no data set: it needs a subfolder of images for each class{what}")
    if training:
        refuse_classes_without_training(root, classes)
    return found


def first_folder(path: Path, root: Path) -> str:
    """Return the first folder below `root` on the way to a file; "" if the file lies directly in it, or elsewhere."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    return parts[0] if len(parts) > 1 else ""


def class_name(path: Path) -> str:
    """Return the class of a folder, as NFC: macOS writes an accent as a character of its own, other systems do not."""
    return unicodedata.normalize("NFC", path.name)


def spelt_as(name: str, names: Collection[str], found: Layout) -> str:
    """Return the one class that differs from a name in upper and lower case only; else the name itself."""
    same = [other for other in names if other.casefold() == name.casefold()]
    if name in names or len(same) != 1:
        return name
    found.remarks.append(f"the class {name!r} is taken for {same[0]!r}")
    return same[0]


def without_wrapper(folder: Folder, known: Collection[str], found: Layout) -> Folder:
    """Return the folder that holds the classes or splits: an archive often unpacks into a folder of its own."""
    deeper = folder
    while not deeper.images:
        filled = [below for below in deeper.folders if below.count]
        if len(filled) != 1 or split_of(filled[0].path.name) is not None or class_name(filled[0].path) in known:
            break
        deeper = filled[0]
    if deeper is folder or deeper.images:
        return folder
    found.remarks.append(f"the classes lie in {deeper.path.relative_to(folder.path)}/")
    outside, folder.folders = folder.all_skipped(), [deeper]
    found.skipped += outside - deeper.all_skipped()
    return deeper


def words_of(name: str) -> list[str]:
    """Return the words of a folder's name, in lower case. What is joined to a split's name is dropped: `trainset` is `train`."""
    words = []
    for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+", unicodedata.normalize("NFC", name)):
        plain = word.lower()
        glued = next((split for split in SPLIT_WORDS for filler in FILLERS if plain == split + filler), None)
        words.append(glued or plain)
    return words


def split_of(name: str) -> int | None:
    """Return the split that a folder's name means on its own, or None."""
    words = [word for word in words_of(name) if word not in FILLERS and not word.isdigit()]
    return SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def named_splits(folders: list[Folder]) -> dict[Path, int]:
    """Return the split of each folder that is named after one.

    The name means a split on its own (`train`), or it differs from another folder's name in the word for the split alone
    (`birds_train` beside `birds_test`).
    """
    named = {folder.path: split for folder in folders if (split := split_of(folder.path.name)) is not None}
    for one in folders:
        for other in folders:
            first, second = words_of(one.path.name), words_of(other.path.name)
            differing = [pair for pair in zip(first, second, strict=False) if pair[0] != pair[1]]
            if len(first) == len(second) > 1 and len(differing) == 1 and {*differing[0]} <= SPLIT_WORDS.keys():
                splits = [SPLIT_WORDS[word] for word in differing[0]]
                if splits[0] != splits[1]:
                    named |= dict(zip((one.path, other.path), splits, strict=True))
    return named


def find_splits(tree: Folder, layout: str, found: Layout) -> dict[Path, tuple[Folder, int]]:
    """Return, by path, the folder and the split of each split; if no folder is a split, the whole tree is the training split."""
    filled = [folder for folder in tree.folders if folder.count]
    named = named_splits(tree.folders)
    whole = {tree.path: (tree, TRAIN)}
    splits = {folder.path: (inner_folder(folder), named[folder.path]) for folder in tree.folders if folder.path in named}
    with_classes = {path: one for path, one in splits.items() if has_classes(one[0])}
    loose = [folder for folder in filled if folder.path in named and folder.path not in with_classes]
    others = [folder for folder in filled if folder.path not in named]
    if not with_classes and layout == "auto":
        if not others:
            for folder in loose:
                found.skipped["image in no class folder"] += folder.count
            return {} if loose else splits if named else whole  # there are no class folders, which is refused later
        if all(named[folder.path] == TRAIN for folder in loose):
            return whole  # training images without classes make no sense, so `train` is a class beside the others
        raise ambiguous(tree, loose[0], others, "holds images and no folders of classes")
    split_names = {class_name(below.path) for folder, _ in with_classes.values() for below in folder.folders if below.count}
    other_names = {class_name(folder.path) for folder in others}
    trained = any(split == TRAIN for _, split in with_classes.values())
    if others and not trained and (layout == "splits" or split_names <= other_names):
        found.remarks.append(f"{names(others)} are the classes to train on, beside {names([one for one, _ in splits.values()])}")
        with_classes |= whole
        others = []
    elif others and layout == "auto" and len({split for _, split in with_classes.values()}) < 2:
        folder, _ = next(iter(with_classes.values()))
        raise ambiguous(tree, folder, others, "has folders of its own")
    for folder in others:
        leave_out(folder.count, "image outside the splits", f"{folder.path.name}/, which is no split", found)
    for folder in loose:
        leave_out(folder.count, "image in no class folder", f"{folder.path.name}/, which has no class folders", found)
    # Beside splits, nothing else is used. Beside classes, a folder that is named as a split and has no classes is not used.
    beside_splits = bool(with_classes) and tree.path not in with_classes
    unused = [folder for folder in tree.folders
              if folder.path not in with_classes and (beside_splits or folder in others or folder.path in named)]  # fmt: skip
    found.skipped += sum((folder.all_skipped() for folder in unused), Counter())
    tree.folders = [folder for folder in tree.folders if folder not in unused]
    if beside_splits:
        found.skipped += tree.skipped
        if tree.images:
            leave_out(len(tree.images), "image in no class folder", f"{tree.path.name}/ itself", found)
    for path, (folder, split) in with_classes.items():
        if path != tree.path:
            found.remarks.append(f"{folder.path.relative_to(tree.path)}/ is the {SPLIT_NAMES[split]} split")
    return with_classes or whole


def has_classes(folder: Folder) -> bool:
    """Whether a split's folder has class folders. A folder that is named `images`, or like the split, is no class."""
    return any(below.count and (has_classes(below) or not repeats(below, folder)) for below in folder.folders)


def repeats(below: Folder, folder: Folder) -> bool:
    """Whether a folder's name adds nothing to that of the folder it lies in: `seg_train/seg_train`, `train/images`."""
    words = words_of(below.path.name)
    return words == words_of(folder.path.name) or set(words) <= FILLERS


def inner_folder(folder: Folder) -> Folder:
    """Return the folder, within a split's folder, that holds the classes: some archives have `seg_train/seg_train/`."""
    filled = [below for below in folder.folders if below.count]
    if folder.images or len(filled) != 1 or not any(below.count for below in filled[0].folders):
        return folder
    return inner_folder(filled[0]) if repeats(filled[0], folder) else folder


def class_folders(folder: Folder, tree: Folder, splits: dict[Path, tuple[Folder, int]]) -> list[Folder]:
    """Return the class folders of a split. Splits that lie beside the training classes are no classes."""
    named = {path for path in splits if path != tree.path}
    return [below for below in folder.folders if below.path not in named]


def splits_within_classes(splits: dict[Path, tuple[Folder, int]], tree: Folder) -> dict[Path, int]:
    """Return the split of each folder `cat/train`, `cat/test`, `dog/train`, ... if the classes hold the splits; else nothing.

    Raises:
        HeadstartError: only some of the classes hold splits.
    """
    if splits.keys() != {tree.path}:
        return {}
    inner: dict[Path, int] = {}
    without = []
    for folder in (one for one in tree.folders if one.count):
        filled = [below for below in folder.folders if below.count]
        named = {below.path: split_of(below.path.name) for below in filled}
        if not folder.images and TRAIN in named.values() and None not in named.values() and len(set(named.values())) > 1:
            inner |= {path: split for path, split in named.items() if split is not None}
        else:
            without.append(folder)
    if inner and without:
        some = next(iter(inner))
        raise HeadstartError(
            f"{some.parent} holds splits such as {some.name}/, and {without[0].path} does not: give every class the same "
            "folders, or type --layout classes to take all of their images as one split"
        )
    return inner


def ambiguous(tree: Folder, folder: Folder, others: list[Folder], why: str) -> HeadstartError:
    """Return the error for a folder that could be a class or a split."""
    name = folder.path.name
    return HeadstartError(
        f"{tree.path}: {name}/ {why} beside {names(others)}, so it could be a class or a split\n"
        f"Type --layout classes if {name} is a class, or --layout splits if it is a split"
    )


def names(folders: list[Folder]) -> str:
    listed = [f"{folder.path.name}/" for folder in folders[:4]]
    return ", ".join(listed) + (f" and {len(folders) - 4} more" if len(folders) > 4 else "")


def leave_out(number: int, what: str, where: str, found: Layout) -> None:
    """Count images that cannot be used, and remark where they lie."""
    found.skipped[what] += number
    found.remarks.append(f"{count(number, 'image')} left out: in {where}")


def refuse_empty(folder: Folder, where: str, refuse: bool, found: Layout) -> None:
    """Refuse a class folder of the training split that has no image.

    In other splits, and for a folder that holds files of another kind, it is only remarked.
    """
    holds = folder.all_skipped()
    is_class = not holds or any(what.startswith(MEANT) for what in holds)
    what = f" ({skipped_words(holds)})" if holds else ""
    if refuse and is_class:
        raise HeadstartError(f"{folder.path} holds no image{what}: add some, or remove the folder of this class")
    found.remarks.append(f"{folder.path.name}/ in the {where} holds no image{what}")


def refuse_classes_without_training(root: Path, classes: dict[int, dict[str, Path]]) -> None:
    """Refuse to train on a single class, and a class that only the validation or test split has.

    Args:
        classes: the folder of each class, by split.
    """
    for split in (VALIDATION, TEST):
        if strange := sorted(classes[split].keys() - classes[TRAIN].keys()):
            hint = suggestion(strange[0], classes[TRAIN])
            raise HeadstartError(f"{classes[split][strange[0]]}: the class {strange[0]!r} has no images to train on{hint}")
    if len(classes[TRAIN]) < 2:
        name = next(iter(classes[TRAIN]))
        raise HeadstartError(f"{root} has only one class, {name!r}: a classifier needs two subfolders of images or more")
