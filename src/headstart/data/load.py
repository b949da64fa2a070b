"""Load a data set with its splits from what the user gave as `--data`."""

import contextlib
import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from headstart import data as package
from headstart.config import AUTO, HUB, NO_GROUPS, Config, hub_folder, option_name, replace, suggestion
from headstart.data import archive, table
from headstart.data.arrays import ARRAYS
from headstart.data.cifar import MOST_BYTES, NotCifarError, read_cifar
from headstart.data.dataset import Dataset
from headstart.data.decode import Decoding
from headstart.data.folder import read_folder
from headstart.data.labels import METADATA, Labelling, find_columns
from headstart.data.source import TEST, Source
from headstart.data.walk import is_ours
from headstart.errors import HeadstartError
from headstart.system.remote import KEPT, RemotePath, is_web, located

# Prefix of a data set that comes with Headstart, for the case that a folder has the same name.
BUILT_IN = "builtin:"
NAMED = ("cifar10", "cifar100", "digits")


def load_data(
    source: str | Path = "cifar10", *, image_size: int = 64, validation_fraction: float = 0.1, test_fraction: float = 0.2,
    seed: int = 0, limit: int = 0, fit: str = "auto", layout: str = "auto", label_pattern: str = "", file_column: str = "",
    label_column: str = "", group: str = "auto",
) -> Dataset:  # fmt: skip
    """Load a data set by name or path, and split it.

    Args:
        source: `cifar10` or `cifar100` (downloaded once by Keras), `digits` (from scikit-learn), a
            folder or tar archive of CIFAR files, a folder with a subfolder for each class, a table of files and labels, or
            a `.zip` or `.tar` of these; or the address of one of them, such as `s3://bucket/photos`.
        image_size: height and width in pixels to which a folder's images are decoded; the named data
            sets and CIFAR files have a size of their own.
        validation_fraction, test_fraction, seed, limit: see `headstart.data.splits.split_source`.
        fit: how a folder's images become square, see `headstart.data.folder.read_folder`.
        layout: what the subfolders mean, see `headstart.data.layout.read_layout`.
        label_pattern, file_column, label_column, group: where labels and groups are, see `headstart.Config`.

    Raises:
        HeadstartError: the source is unknown, unreachable, damaged or no data set.
    """
    options: dict[str, Any] = {
        "fit": fit, "layout": layout, "label_pattern": label_pattern, "file_column": file_column, "label_column": label_column,
        "group": group,
    }  # fmt: skip
    config = Config(
        data=source if isinstance(source, str) else str(source.absolute()), image_size=image_size, seed=seed, limit=limit,
        validation_fraction=validation_fraction, test_fraction=test_fraction, **options,
    )  # fmt: skip
    return configured_data(resolved(config))


def resolved(config: Config, data: Dataset | None = None) -> Config:
    """Return the configuration with absolute paths, so that it is valid in any working directory.

    Args:
        data: the data set, if it is loaded already; then `config.data` becomes its source.

    Raises:
        HeadstartError: `config.data` is the name both of a data set and of a folder in the working directory.
    """
    if data:
        source = data.source.name
        config = replace(config, data=BUILT_IN + source if source in NAMED else source)
    changes = {}
    data_names = (*NAMED, ARRAYS) if data else tuple(NAMED)
    for name, known in (("data", data_names), ("backbone", ()), ("weights", ("auto", "imagenet", "none"))):
        value = getattr(config, name)
        if name == "data" and value in NAMED and Path(value).is_dir() and any(Path(value).iterdir()):
            raise HeadstartError(
                f"--data {value} is both a data set that comes with Headstart and a folder here: "
                f"type --data {BUILT_IN}{value} or --data ./{value}"
            )
        value = value.removeprefix(BUILT_IN) if name == "data" else value
        is_path = value not in known and (name != "backbone" or value.endswith(".keras"))
        path = located(value) if name == "data" else Path(value).expanduser()
        changes[name] = str(path.absolute()) if is_path else value
    if folder := hub_folder(config.backbone):
        changes["backbone"] = HUB + str(Path(folder).expanduser().absolute())
    return replace(config, **changes)


def configured_data(config: Config, often: bool | None = None) -> Dataset:
    """Load the data set that a resolved configuration names, and split it as the configuration says.

    Args:
        often: see `headstart.data.folder.read_folder`; by default, as a training with this configuration has it.
    """
    if config.folds and config.data in package.builtin.ARCHIVES:
        raise package.splits.own_split(config.data, TEST)  # before it is downloaded
    often = config.learns_on_images if often is None else often
    KEPT.limit(config.remote_cache)
    source = read_source(config.data, config.image_size, Labelling.of(config), fit=config.fit, often=often)
    if config.folds:
        return in_folds(source, np.arange(len(source.labels)), config)
    return Dataset.of(
        source, validation_fraction=config.validation_fraction, test_fraction=config.test_fraction, seed=config.data_seed,
        limit=config.limit,
    )  # fmt: skip


def in_folds(source: Source, used: np.ndarray, config: Config) -> Dataset:
    """Divide images into the folds of a configuration, and return all folds or, if it names one, that one.

    Args:
        used: int (M,), the images to divide.
    """
    folds = package.splits.draw_folds(source, used, config.folds, seed=config.data_seed, limit=config.limit)
    data = Dataset.in_folds(source, folds)
    return data if config.divided else one_fold(data, config, config.fold)


def one_fold(data: Dataset, config: Config, number: int) -> Dataset:
    """Return data that are divided into folds with the splits of one fold."""
    return data.fold(number, validation_fraction=config.validation_fraction, seed=config.data_seed)


def read_source(
    source: str, image_size: int, labelling: Labelling = Labelling(), *, fit: str = "auto", decoding: Decoding | None = None,  # noqa: B008
    known: Collection[str] | None = None, often: bool = True,
) -> Source:  # fmt: skip
    """Read the images of a source; see `load_data`, and for the other arguments `headstart.data.folder.read_folder`."""
    if source in NAMED:
        refuse_labelling(source, labelling, known)
        return package.builtin.LOADERS[source]()
    if source == ARRAYS:
        raise HeadstartError("the images were given as arrays, which cannot be loaded again: give them as data=...")
    refuse_missing(source)
    path = located(source)
    packed = path.is_file() and archive.is_archive(path)
    start, found = path, None
    if path.is_dir() or (packed and path.name.lower().endswith(archive.TAR) and may_be_cifar(path)):
        with contextlib.suppress(NotCifarError):
            found = read_cifar(path)
    if packed and not found:
        start = archive.inner_folder(archive.unpacked(path))
        found = read_cifar(start)
        if not found and not labelling.label_pattern and labelling.layout == AUTO:
            start = only_table(start, labelling) or start
    if found:
        refuse_labelling(source, labelling, known)
    else:
        found = read_folder(start, image_size, fit=fit, labelling=labelling, decoding=decoding, known=known, often=often)
    return dataclasses.replace(found, name=str(path))


def may_be_cifar(path: Path) -> bool:
    """Whether an archive is looked into before it is unpacked. A large one at an address would be fetched twice for it."""
    return not isinstance(path, RemotePath) or path.stat().st_size <= MOST_BYTES


def image_folder(source: str) -> Path | None:
    """Return the folder to which the names of a source's images are relative, if they are files that are there."""
    path = located(source)
    if not path.is_file():
        return path if path.is_dir() else None
    content = archive.unpacked_before(path) if archive.is_archive(path) else None
    return archive.inner_folder(content) if content else path.parent if table.is_table(path) else None


def refuse_labelling(source: str, labelling: Labelling, known: Collection[str] | None) -> None:
    """Refuse options about labels and groups for data whose labels are stored with the pixels."""
    given = [name for name in ("label_pattern", "file_column", "label_column") if getattr(labelling, name)]
    given += ["group"] if labelling.group not in (AUTO, NO_GROUPS) else []
    if given and known is None:
        raise HeadstartError(f"{source} has its labels with its pixels, and no files: leave out {option_name(given[0])}")


def only_table(folder: Path, labelling: Labelling) -> Path | None:
    """Return the only table in the folder of an archive, if it names files that are there; it is one of files and labels."""
    tables = [path for path in sorted(folder.iterdir()) if table.is_table(path) and path.is_file()]
    if len(tables) != 1 or tables[0].stem == METADATA:
        return None
    with contextlib.suppress(HeadstartError):  # it is another kind of table, beside folders of classes
        one = table.Table(tables[0])
        column = find_columns(one, labelling).file
        first = next(iter(one), None)
        return tables[0] if first and (folder / first[column].strip()).is_file() else None
    return None


def refuse_missing(source: str) -> None:
    """Refuse a source that cannot be a data set, without reading its images.

    Raises:
        HeadstartError: there is no such folder or file, or it is a run, an audit or a file of another kind.
    """
    path = located(source)
    if source.removeprefix(BUILT_IN) in NAMED:
        return
    if path.is_dir():
        if is_ours(path):
            raise HeadstartError(f"{path} is a run or an audit of Headstart, and no data set: name the folder of the images")
    elif path.is_file() and (archive.is_archive(path) or table.is_table(path)):
        return
    elif path.exists():
        raise HeadstartError(
            f"{path} is no data set: give a folder{' (the web has none)' * is_web(path)}, a table of files and labels "
            f"({', '.join(table.ENDINGS)}) or an archive (.zip, .tar)"
        )
    elif isinstance(path, RemotePath):
        raise HeadstartError(path.missing())
    else:
        raise HeadstartError(f"there is no folder {path}, and no data set of that name{suggestion(path.name, NAMED)}")
