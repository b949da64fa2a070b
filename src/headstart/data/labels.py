"""Where labels are, if they are not the names of folders: in a table, in the names of files, or in metadata beside the images.

And which images belong together, in groups that no split may tear apart: patients, videos, sites.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headstart.config import AUTO, NO_GROUPS, SUBFOLDER, Config, names_column, suggestion
from headstart.data.archive import content_around
from headstart.data.layout import Layout, first_folder, read_layout, spelt_as, split_of
from headstart.data.opening import RAW_ENDINGS
from headstart.data.source import SPLIT_NAMES, TRAIN
from headstart.data.table import ENDINGS, Table
from headstart.data.walk import relative, walk
from headstart.errors import HeadstartError, UnreachableError
from headstart.system.remote import ahead, below, public
from headstart.system.text import count, shortened

# What columns are called, in the order in which they are looked for: lower case, without spaces, underscores and hyphens.
FILE_WORDS = (
    "file", "filename", "filepath", "path", "image", "imagefile", "imagefilename", "imagename", "imagepath", "img", "imgname",
    "imgpath", "picture", "photo", "imageid", "id",
)  # fmt: skip
LABEL_WORDS = (
    "label", "labels", "labelname", "class", "classes", "classname", "classlabel", "category", "categoryname", "target", "y",
)  # fmt: skip
SPLIT_WORDS = ("split", "subset", "partition", "set")
GROUP_WORDS = (
    "group", "groups", "groupid", "patient", "patientid", "subject", "subjectid", "person", "personid", "video", "videoid",
    "site", "siteid",
)  # fmt: skip
# What stands between several labels in one cell.
SEPARATORS = re.compile(r"[|;,]")
# The metadata file of Hugging Face's image folders, and the column that must be in it.
METADATA, METADATA_COLUMN = "metadata", "file_name"
# Files with two labels are left out if they are few, by the rule of unreadable files.
MOST_DISPUTED, FEW_DISPUTED, MOST_DISPUTED_OF_FEW = 0.01, 10, 0.25
NAMED = 3


@dataclass(frozen=True)
class Labelling:
    """How the labels and groups of images are found: the options of `headstart.Config` of these names."""

    layout: str = AUTO
    label_pattern: str = ""
    file_column: str = ""
    label_column: str = ""
    group: str = AUTO

    @classmethod
    def of(cls, config: Config) -> "Labelling":
        """Return that of a configuration."""
        return cls(config.layout, config.label_pattern, config.file_column, config.label_column, config.group)

    @property
    def group_column(self) -> str:
        """The column that `group` names; "" if it names none."""
        return self.group if names_column(self.group) else ""


def read_labels(root: Path, labelling: Labelling, known: Collection[str] | None = None) -> Layout:
    """Find images with their classes, splits and groups: by a table, by a pattern, by metadata beside the images, or by folders.

    Args:
        root: a table, or a folder.
        known: see `headstart.data.layout.read_layout`. With it, groups that cannot be told are remarked, and not refused.

    Raises:
        HeadstartError: labels or groups cannot be told; the message says what to do.
    """
    if root.is_dir():
        pattern, metadata = labelling.label_pattern, () if labelling.layout != AUTO else metadata_tables(root)
        found = read_pattern(root, pattern, labelling, known) if pattern else read_metadata(root, metadata, labelling, known)
    else:
        found = read_table(Table(root), labelling, known)
        if known is None:
            refuse_untrainable(root, found)
    find_groups(root, found, labelling, known)
    return found


class Columns(NamedTuple):
    """Which columns of a table hold what; "" for a column that there is not."""

    file: str
    label: str
    split: str
    group: str


class Entry(NamedTuple):
    """The cells of a row, by the column; "" for a column that there is not."""

    file: str
    label: str
    split: str
    group: str


def find_columns(table: Table, labelling: Labelling) -> Columns:
    """Return which columns of a table hold what, as the options say or by their usual names.

    Raises:
        HeadstartError: a column that an option names is not there, or that of files or labels cannot be guessed.
    """
    given = {"--file-column": labelling.file_column, "--label-column": labelling.label_column, "--group": labelling.group_column}
    for option, column in given.items():
        refuse_missing_column(table, option, column)
    asked = (labelling.file_column, labelling.label_column, labelling.group_column)
    file = labelling.file_column or guessed(table, FILE_WORDS, asked)
    split = "" if labelling.layout == "classes" else guessed(table, SPLIT_WORDS, (*asked, file))
    group = labelling.group_column or (guessed(table, GROUP_WORDS, (*asked, file)) if labelling.group == AUTO else "")
    label = labelling.label_column or guessed(table, LABEL_WORDS, (file, split, group))
    left = [name for name in table.columns if name not in (file, split, group)]
    if file and not label and len(left) == 1:  # it can be nothing else
        label = left[0]
    for what, column in (("file", file), ("label", label)):
        refuse_unnamed_column(table, what, column)
    return Columns(file, label, split, group)


def file_column_of(table: Table, column: str) -> str:
    """Return the column of a table that names files: the given one or, if it is empty, the one with a usual name.

    Raises:
        HeadstartError: there is no such column.
    """
    refuse_missing_column(table, "--file-column", column)
    found = column or guessed(table, FILE_WORDS, ())
    refuse_unnamed_column(table, "file", found)
    return found


def refuse_missing_column(table: Table, option: str, column: str) -> None:
    """Refuse a column that an option names, if a table has no such column of text."""
    if not column or column in table.columns:
        return
    if column in table.not_text:
        raise HeadstartError(f"{table.path}: {option} {column} holds {table.not_text[column]}, which is no text")
    raise HeadstartError(f"{table.path} has no column {column!r} for {option}; it has {table.listed()}")


def refuse_unnamed_column(table: Table, what: str, column: str) -> None:
    """Refuse a table if the column of its files or labels was neither given nor guessed."""
    if not column:
        raise HeadstartError(
            f"{table.path}: no column has a usual name for {what}s: name it with --{what}-column; there are {table.listed()}"
        )


def guessed(table: Table, words: Sequence[str], taken: Sequence[str]) -> str:
    """Return the first column with one of these names, in the order of the words; "" if there is none."""
    plain = {re.sub(r"[\s_-]", "", name.casefold()): name for name in reversed(table.columns) if name not in taken}
    return next((plain[word] for word in words if word in plain), "")


def read_table(
    table: Table, labelling: Labelling, known: Collection[str] | None = None, split: int | None = None
) -> Layout:  # fmt: skip
    """Return the images that a table names, which need not be there. Names are relative to its folder, or absolute.

    Args:
        known: the classes of the model that is to be evaluated; None for training.
        split: that of all images; by default a column says it or, if all files lie in folders that are named so, the folders.

    Raises:
        HeadstartError: columns are missing, cells are wrong, or no file is there; the message says what to do.
    """
    found, columns, folder = Layout(), find_columns(table, labelling), table.path.parent
    named = {"files": columns.file, "labels": columns.label, "splits": columns.split, "groups": columns.group}
    listed = ", ".join(f"{what} in {shortened(column)!r}" for what, column in named.items() if column)
    where = f" ({SPLIT_NAMES[split]} split)" if split is not None else ""
    found.remarks.append(f"{table.path.name}{where}: {listed}")
    entries = entries_of(table, columns, found)
    refuse_missing_files(table, columns, entries)
    refuse_several_labels(table, columns, entries.values())
    classes = {entry.label for entry in entries.values()}
    spelling = {name: spelt_as(name, known, found) if known else name for name in classes}
    if alike := [name for name, number in Counter(map(str.casefold, classes)).items() if number > 1]:
        both = sorted(name for name in classes if name.casefold() == alike[0])
        found.remarks.append(f"the classes {both[0]!r} and {both[1]!r} differ in upper and lower case only, and stay two classes")
    by_folder = split is None and not columns.split and labelling.layout != "classes"
    splits = splits_by_folder([first_folder(path, folder) for path in entries], found) if by_folder else {}
    for path, entry in entries.items():
        below = first_folder(path, folder)
        its = split if split is not None else split_in_cell(table, entry) if columns.split else splits.get(below, TRAIN)
        found.rows.append((path, spelling[entry.label], its))
        found.subfolders.append(below)
        if columns.group:
            found.groups.append(entry.group)
    return found


def entries_of(table: Table, columns: Columns, found: Layout) -> dict[Path, Entry]:
    """Return the usable rows of a table by the file that each is about, in order. Others are counted and remarked."""
    entries: dict[Path, Entry] = {}
    disputed: dict[Path, str] = {}
    unlabelled: list[str] = []
    repeated = rows = 0
    inside = content_around(table.path)
    for row in table:
        rows += 1
        # A file system may tell two forms of a letter apart, so the name of a file stays as it is.
        label, split, group = (unicodedata.normalize("NFC", row[name].strip()) if name else "" for name in columns[1:])
        entry = Entry(public(row[columns.file].strip()), label, split, group)
        if not entry.file:
            found.skipped["row without a file"] += 1
        elif not entry.label:
            unlabelled.append(entry.file)
        else:
            path = below(table.path.parent, entry.file)
            if inside and not leads_into(path, inside):
                raise HeadstartError(
                    f"{table.path.name}, {table.place}: {shortened(entry.file)} lies outside of the archive of the table: "
                    "give files that are in it; or unpack it yourself, and give the table"
                )
            first = entries.setdefault(path, entry)
            if first.label != entry.label:
                disputed[path] = entry.label
            elif first != entry:
                raise HeadstartError(f"{table.path} names {entry.file} twice, in two splits or groups: remove one of the rows")
            elif first is not entry:
                repeated += 1
    if not rows:
        raise HeadstartError(f"{table.path} has no row below its header: it needs one for each image")
    if unlabelled and not entries:
        raise HeadstartError(f"{table.path}: the column {columns.label!r} is empty: fill it in, or name another one with "
                             f"--label-column; there are {table.listed()}")  # fmt: skip
    if unlabelled:
        found.skipped["row without a label"] += len(unlabelled)
        found.remarks.append(f"{count(len(unlabelled), 'row')} left out, without a label in column {columns.label!r}: "
                             f"{some(unlabelled)}")  # fmt: skip
    if repeated:
        found.remarks.append(f"{count(repeated, 'row repeats', 'rows repeat')} a file with its label: the file is used once")
    leave_out_disputed(table, entries, disputed, found)
    for path in [path for path in entries if path.suffix.lower() in RAW_ENDINGS]:
        found.skipped[f"camera raw ({path.suffix.lower()})"] += 1
        del entries[path]
    return entries


def leads_into(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder that holds no links; `..` is resolved by name."""
    return Path(os.path.normpath(path)).is_relative_to(folder)


def leave_out_disputed(table: Table, entries: dict[Path, Entry], disputed: dict[Path, str], found: Layout) -> None:
    """Leave files out that have two labels: nobody can tell which is right.

    Raises:
        HeadstartError: they are too many: then the table means several labels for each image.
    """
    if not disputed:
        return
    names = some([f"{entries[path].file} is {entries[path].label!r} and {other!r}" for path, other in disputed.items()])
    share = len(disputed) / len(entries)
    if share > MOST_DISPUTED_OF_FEW or (share > MOST_DISPUTED and len(disputed) > FEW_DISPUTED):
        raise HeadstartError(f"{table.path} gives two labels to {len(disputed):,} of {len(entries):,} files ({names}): an image "
                             "has one class here, so keep one row for each file")  # fmt: skip
    found.skipped["file with two labels"] += len(disputed)
    found.remarks.append(f"{count(len(disputed), 'file')} left out, with two labels in {table.path.name}: {names}")
    for path in disputed:
        del entries[path]


def refuse_missing_files(table: Table, columns: Columns, entries: dict[Path, Entry]) -> None:
    """Refuse a table if none of its files is there. Single missing ones are unreadable files, see `headstart.data.folder`."""
    if not entries or any(ahead(lambda path: path.exists(), entries)):
        return
    path, entry = next(iter(entries.items()))
    hint = ""
    if ending := next((one for one in (".jpg", ".jpeg", ".png") if path.with_name(path.name + one).exists()), ""):
        hint = f"; there is {path.name + ending}: write the endings too"
    elif "\\" in entry.file and (table.path.parent / entry.file.replace("\\", "/")).exists():
        hint = "; write / instead of \\"
    raise HeadstartError(f"{table.path}: none of the {len(entries):,} files in column {columns.file!r} is there, such as "
                         f"{entry.file}: they must be relative to {table.path.parent.absolute()}, or absolute{hint}")  # fmt: skip


def refuse_several_labels(table: Table, columns: Columns, entries: Collection[Entry]) -> None:
    """Refuse cells that hold several labels: parts between separators that are labels of other rows."""
    labels = {entry.label for entry in entries}
    several = set()
    for label in labels:
        parts = [part.strip() for part in SEPARATORS.split(label.strip("[]"))]
        found = sum(part.strip("'\" ") in labels for part in parts)
        if len(parts) > 1 and (found > len(parts) / 2 or (found and "|" in label)):
            several.add(label)
    if cells := [entry for entry in entries if entry.label in several]:
        raise HeadstartError(f"{table.path}: several labels in {count(len(cells), 'cell')} of column {columns.label!r}, such as "
                             f"{cells[0].label!r} of {cells[0].file}: an image has one class here, so keep one label a row, "
                             "or remove these rows")  # fmt: skip


def split_in_cell(table: Table, entry: Entry) -> int:
    """Return the split that a cell names."""
    if (split := split_of(entry.split)) is None:
        what = f"says {entry.split!r}" if entry.split else "is empty"
        raise HeadstartError(f"{table.path}: the split of {entry.file} {what}: write train, val or test; or draw new splits with "
                             "--layout classes")  # fmt: skip
    return split


def splits_by_folder(folders: Iterable[str], found: Layout) -> dict[str, int]:
    """Return the split of each first folder, if all files lie in folders that are named as splits, one of them for training."""
    splits = {folder: split_of(folder) for folder in set(folders)}
    named = {folder: split for folder, split in splits.items() if split is not None}
    if len(named) < len(splits) or TRAIN not in named.values() or len(set(named.values())) < 2:
        return {}
    for folder, split in sorted(named.items()):
        found.remarks.append(f"files in {folder}/ are the {SPLIT_NAMES[split]} split (--layout classes draws new ones)")
    return named


def read_pattern(root: Path, pattern: str, labelling: Labelling, known: Collection[str] | None) -> Layout:
    """Return the images below a folder whose path, relative to it and with slashes, a pattern with a group `label` is found in.

    Raises:
        HeadstartError: no path has it, or there are too few classes.
    """
    found, tree = Layout(), walk(root)
    images, searched = tree.all_images(), re.compile(pattern)
    splits = splits_by_folder([first_folder(path, root) for path in images], found) if labelling.layout != "classes" else {}
    for path in images:
        match = searched.search(path.relative_to(root).as_posix())
        if not match or not (match["label"] or "").strip():
            found.skipped["image that --label-pattern does not fit"] += 1
            continue
        name, below = unicodedata.normalize("NFC", match["label"].strip()), first_folder(path, root)
        found.rows.append((path, spelt_as(name, known, found) if known else name, splits.get(below, TRAIN)))
        found.subfolders.append(below)
    if not found.rows:
        what = f", such as {images[0].relative_to(root).as_posix()}" if images else ""
        number = count(len(images), "image")
        raise HeadstartError(f"{root}: --label-pattern {pattern!r} fits none of {number}{what}: it is searched in the path below "
                             "this folder")  # fmt: skip
    found.skipped += tree.all_skipped()
    if left := found.skipped["image that --label-pattern does not fit"]:
        found.remarks.append(f"{count(left, 'image')} left out: --label-pattern does not fit")
    if known is None:
        refuse_untrainable(root, found)
    return found


def metadata_tables(root: Path) -> list[tuple[Path, int | None]]:
    """Return the metadata files of an image folder in Hugging Face's layout, in it or in its split folders, with their splits."""
    own = next((path for ending in ENDINGS if (path := root / f"{METADATA}{ending}").is_file()), None)
    if own:
        return [(own, None)]
    folders = [(path, split) for path in sorted(root.iterdir()) if (split := split_of(path.name)) is not None]
    return [(path / f"{METADATA}{ending}", split) for path, split in folders for ending in ENDINGS
            if (path / f"{METADATA}{ending}").is_file()]  # fmt: skip


def read_metadata(
    root: Path, tables: Sequence[tuple[Path, int | None]], labelling: Labelling, known: Collection[str] | None
) -> Layout:  # fmt: skip
    """Return what the metadata files of a folder say; or its folders, if there are none or they do not tell labels."""
    found, unused = Layout(), ""
    columns = Labelling(labelling.layout, "", labelling.file_column or METADATA_COLUMN, labelling.label_column, labelling.group)
    for path, split in tables:
        try:
            table = Table(path)
            find_columns(table, columns)
        except UnreachableError:
            raise
        except HeadstartError as error:
            unused = f"{path.relative_to(root)} is not used: {str(error).removeprefix(f'{path}: ').removeprefix(f'{path} ')}"
            break
        one = read_table(table, columns, known, split)
        found.rows += one.rows
        found.groups += one.groups or [""] * len(one.rows) * bool(found.groups)
        found.subfolders += one.subfolders
        found.remarks += one.remarks
        found.skipped += one.skipped
    if not tables or unused:
        try:
            found = read_layout(root, labelling.layout, known)
        except HeadstartError as error:
            if not unused:
                raise
            raise HeadstartError(f"{error}; {unused}") from None
        found.remarks += [unused] if unused else []
        return found
    named = {path for path, _, _ in found.rows}
    if left := sum(path not in named for path in walk(root).all_images()):
        found.skipped[f"image that {METADATA} does not name"] += left
        found.remarks.append(f"{count(left, 'image')} left out: not named in {METADATA}, or without a label (--layout classes "
                             "reads the folders)")  # fmt: skip
    if known is None:
        refuse_untrainable(root, found)
    return found


def refuse_untrainable(where: Path, found: Layout) -> None:
    """Refuse to train on a single class, on a class that only the validation or test split has, and without training images."""
    classes: dict[int, set[str]] = defaultdict(set)
    for _, name, split in found.rows:
        classes[split].add(name)
    if not found.rows:
        raise HeadstartError(f"{where} names no image that can be used")
    if not classes[TRAIN]:
        raise HeadstartError(f"{where} has no images to train on: all belong to other splits")
    for split in sorted(classes.keys() - {TRAIN}):
        if strange := sorted(classes[split] - classes[TRAIN]):
            near = suggestion(strange[0], classes[TRAIN])
            raise HeadstartError(f"{where}: the class {strange[0]!r} has {SPLIT_NAMES[split]} images, and none to train on{near}")
    if len(classes[TRAIN]) < 2:
        name = next(iter(classes[TRAIN]))
        raise HeadstartError(
            f"{where} has only one class, {name!r}: a classifier needs two or more; do the labels stand elsewhere?"
        )


def find_groups(root: Path, found: Layout, labelling: Labelling, known: Collection[str] | None) -> None:
    """Fill in the group of each image, and remark how many there are.

    Raises:
        HeadstartError: no image has a group, or all have the same; not if `known` is given.
    """
    group, folder = labelling.group, root if root.is_dir() else root.parent
    if group == NO_GROUPS:
        found.groups = []
        return
    if group == SUBFOLDER:
        found.groups, why = found.subfolders, "no image lies in a folder below that of its class"
    elif "(?P<" in group:
        searched = re.compile(group)
        matches = [searched.search(relative(path, folder).as_posix()) for path, _, _ in found.rows]
        found.groups = [unicodedata.normalize("NFC", match["group"] or "") if match else "" for match in matches]
        why = f"it fits no image, such as {relative(found.rows[0][0], folder).as_posix()}"
    elif found.groups:
        why = "the column of groups is empty"
    else:
        why = f"no table has a column {group!r}: give subfolder, or a pattern such as '(?P<group>video[0-9]+)'"
    if not any(found.groups):
        if group != AUTO and known is None:
            raise HeadstartError(f"{root}: --group {group} finds no groups: {why}")
        if group != AUTO or found.groups:
            found.remarks.append(f"no groups: {why}")
        found.groups = []
        return
    sizes = Counter(filter(None, found.groups))
    if len(sizes) == 1 and known is None:
        raise HeadstartError(f"{root}: all images are in one group, {next(iter(sizes))!r}, which no split may tear apart: give "
                             "another --group, or none")  # fmt: skip
    alone = sum(not name for name in found.groups)
    classes: dict[str, set[str]] = defaultdict(set)
    for name, (_, label, _) in zip(found.groups, found.rows, strict=True):
        classes[name].add(label)
    mixed = sum(len(labels) > 1 for name, labels in classes.items() if name)
    least, most = min(sizes.values()), max(sizes.values())
    images = count(most, "image") if least == most else f"{least:,} to {most:,} images"
    classes_of = f"; {mixed:,} of them with images of several classes" if mixed else ""
    found.remarks.append(f"{count(len(sizes), 'group')} of {images}, such as {shortened(next(iter(sizes)))!r}{classes_of}")
    if alone:
        found.remarks.append(f"{count(alone, 'image is', 'images are')} in no group, and each counts as a group of its own")


def some(names: Sequence[str]) -> str:
    """Return the first few names as text."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
