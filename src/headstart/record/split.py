"""A run records the split of each image, so that every later command uses this split or says what has changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.data.decode import Decoding
from headstart.data.labels import Labelling
from headstart.data.load import configured_data, read_source
from headstart.data.source import SPLIT_NAMES, Source
from headstart.errors import DamagedError, HeadstartError
from headstart.record.manifest import read_entries, refuse_changed
from headstart.system.files import write_csv, write_json
from headstart.system.reading import read_csv
from headstart.system.remote import KEPT, located
from headstart.system.text import count

# For an image in no split: left out by `--drop-duplicates`; or by `--limit`, or since it equals another image.
NEAR_DUPLICATE, UNUSED = "near-duplicate", "unused"


# For an image of a folder of folds: the fold that tests it, with its number.
FOLD = "fold-"

Split = Annotated[str, Meta(pattern=r"^(training|validation|test|near-duplicate|unused|fold-[0-9]{1,2})$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
SplitRow = TypedDict("SplitRow", {"image": str, "class": str, "split": Split, "digest": Digest, "group": NotRequired[str]})
# The last one is there if the images have groups.
GROUP = "group"
COLUMNS = tuple(SplitRow.__annotations__)


def write_split(folder: Path, data: Dataset) -> None:
    """Write `data.json` and `split.csv`: for each image its name, class, split and a digest of its pixels; and its group."""
    source, splits = data.source, np.full(len(data.source.labels), UNUSED, dtype=object)
    splits[data.left_out] = NEAR_DUPLICATE
    for name, rows in zip(SPLIT_NAMES, (data.train, data.validation, data.test), strict=True):
        splits[rows] = name
    if len(data.folds):
        splits[data.test] = [f"{FOLD}{fold}" for fold in data.folds[data.test].tolist()]
    classes = [source.class_names[label] for label in source.labels.tolist()]
    columns = [source.names, classes, splits, hexadecimal(source.digests), *([source.groups] if source.groups else [])]
    write_csv(folder / "split.csv", COLUMNS[: len(columns)], zip(*columns, strict=True))
    write_json(folder / "data.json", data.summary())


def hexadecimal(digests: np.ndarray) -> list[str]:
    """Return digests, (N,) of 16 bytes each, as hexadecimal text."""
    return [bytes(digest).hex() for digest in digests]


def read_split(folder: Path) -> list[SplitRow]:
    """Return the rows of a run's `split.csv`; none for a run of an older version, which has no such file.

    Raises:
        HeadstartError: the file is damaged.
    """
    refuse_changed(folder, "split.csv")
    try:
        return list(read_csv(folder / "split.csv", SplitRow, COLUMNS, optional=GROUP))
    except FileNotFoundError:
        return []


def decoding_of(entry: Mapping[str, Any]) -> Decoding:
    """Return the decoding under `decoding` in the content of a JSON file; by default, images are cropped."""
    known = entry.get("decoding") or {}
    span = known.get("grey_range")
    return Decoding(known.get("fit", "crop"), (span[0], span[1]) if span else None)


def recorded_data(folder: Path, config: Config, data: Dataset | None = None) -> Dataset:
    """Return a run's data with the split that it was trained with, each split in the order of `split.csv`.

    Args:
        folder: of the run.
        config: of the run; it says where the data are.
        data: the data, if they are loaded already.

    Raises:
        HeadstartError: the data are gone or have changed since, or `data` has other splits; the message says what.
    """
    rows = read_split(folder)
    if not rows:  # a run of an older version
        return data or configured_data(config)
    summary = read_entries(folder, "data.json")
    where = located(config.data)
    if not data and where.is_absolute() and not where.exists():
        raise HeadstartError(
            f"the images of {folder} are no longer in {config.data}: bring them back, or set data in {folder / 'config.toml'} "
            "to where they are now"
        )
    KEPT.limit(config.remote_cache)
    source = data.source if data else read_source(
        config.data, summary["image_shape"][0], Labelling.of(config), decoding=decoding_of(summary),
        often=config.learns_on_images,
    )  # fmt: skip
    if changes := differences(rows, source):
        raise HeadstartError(
            f"{source.name} has changed since {folder} was trained on it: {changes}\n"
            f"Bring the old images back, or start a new run; headstart evaluate {folder} --data measures on other images"
        )
    if config.divided:
        numbers = [int(row["split"].removeprefix(FOLD)) if row["split"].startswith(FOLD) else -1 for row in rows]
        if set(numbers) - {-1} != set(range(config.folds)):
            raise DamagedError(f"{folder / 'split.csv'} is damaged: its images are not divided into {config.folds} folds")
        return Dataset.in_folds(source, np.array(numbers, np.int16))
    splits = np.array([row["split"] for row in rows])
    train, validation, test = (np.flatnonzero(splits == name) for name in SPLIT_NAMES)
    left_out = np.flatnonzero(splits == NEAR_DUPLICATE)
    recorded = Dataset(source, train, validation, test, tuple(summary["duplicates"]), left_out)
    if data and not config.folds and any(  # folds are drawn from all images, whatever split was given
        not np.array_equal(np.sort(one), other)
        for one, other in ((data.training_candidates, recorded.training_candidates),
                           (data.validation, recorded.validation), (data.test, recorded.test))
    ):  # fmt: skip
        raise HeadstartError(f"the given data are split in another way than {folder} records: leave them out")
    return recorded


def differences(rows: Sequence[SplitRow], source: Source) -> str:
    """Return in words how a source's images differ from those that a run recorded; "" if they do not."""
    names, digests = list(source.names), hexadecimal(source.digests)
    classes = [source.class_names[label] for label in source.labels.tolist()]
    groups = source.groups or [""] * len(names)
    recorded = [(row["image"], row["digest"], row["class"], row.get(GROUP, "")) for row in rows]
    if recorded == list(zip(names, digests, classes, groups, strict=True)):
        return ""
    before = {row[0]: row[1:] for row in recorded}
    now = dict(zip(names, zip(digests, classes, groups, strict=True), strict=True))
    shared = before.keys() & now.keys()
    kinds = [
        ("gone", sorted(before.keys() - now.keys())),
        ("new", sorted(now.keys() - before.keys())),
        ("with other pixels", sorted(name for name in shared if before[name][0] != now[name][0])),
        ("of another class", sorted(name for name in shared if before[name][1] != now[name][1])),
        ("of another group", sorted(name for name in shared if before[name][2] != now[name][2])),
    ]
    words = [f"{count(len(found), 'image')} {what} (such as {found[0]})"
             for what, found in kinds if found]  # fmt: skip
    return ", ".join(words) or "the images have another order"
