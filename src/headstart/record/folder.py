"""The folder of a run: what it contains, and how that is read and written."""

import contextlib
import dataclasses
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import Config, read_toml, write_toml
from headstart.data.dataset import Dataset
from headstart.errors import DamagedError, HeadstartError, UnreachableError, UnwritableError
from headstart.metrics.figures import Metrics
from headstart.record.history import EpochRow, read_history
from headstart.record.manifest import read_entries, refuse_changed
from headstart.record.split import SplitRow, read_split, write_split
from headstart.system.files import PARTIAL, held_folder, refuse_unwritable, unwritable, write_json, written_whole
from headstart.system.reading import read_array
from headstart.system.text import printable

logger = logging.getLogger("headstart")


# In the folder of a search: the folder of its trials, and that of the run that it ends with.
TRIALS, WINNER = "trials", "winner"


class RunFolder:
    """The folder of a run, finished or not.

    Args:
        path: the folder.
        trust: load layers that may run code, see `Config`.
        devices, ray: what to compute on, see `Config`. A run does not keep it.

    Raises:
        HeadstartError: the folder is no run, or a newer version of Headstart wrote it.

    Attributes:
        path: the folder.
        config: the resolved configuration.
        metrics: content of `metrics.json`: `test.frozen`, `test.fine_tuned`, `seconds`, ...; in a folder of folds that of
            `folds.json`, whose figures are those of all images, each tested once.
        history: the rows of `history.csv`, one per epoch.
        split: the rows of `split.csv`: name, class, split and digest of each image; empty in runs of older versions.
        members: the folders of its runs, if it holds one for each seed or fold.
    """

    def __init__(self, path: str | Path, *, trust: bool = False, devices: str = "all", ray: str = "") -> None:
        self.path = Path(path).expanduser()
        if not (self.path / "config.toml").is_file():
            raise HeadstartError(f"{self.path} is not a run: there is no config.toml in it")
        self.config = Config(**self._known_options() | {"trust": trust, "devices": devices, "ray": ray})

    @classmethod
    def create(cls, config: Config, data: Dataset, *, overwrite: bool = False, searches: bool = False) -> "RunFolder":
        """Make the folder of a new run, and write its configuration and split.

        Args:
            overwrite: replace a run that is in the folder.
            searches: it is the folder of a search, see `searches`.

        Raises:
            HeadstartError: the folder holds a run and `overwrite` is False, it holds something else, or it cannot be written.
        """
        path = refuse_taken(config, overwrite=overwrite)
        config = dataclasses.replace(config, out=str(path))
        try:
            path.mkdir(parents=True, exist_ok=True)
            empty(path)
            if searches:
                (path / TRIALS).mkdir()
        except OSError as error:
            raise unwritable(path, error) from None
        write_split(path, data)
        write_toml(config, path / "config.toml")  # last: this file makes the folder a run, and a run must have its split
        return cls(path, trust=config.trust, devices=config.devices, ray=config.ray)

    def _known_options(self) -> dict[str, Any]:
        options = read_toml(self.path / "config.toml")
        known = {field.name for field in dataclasses.fields(Config)}
        if newer := sorted(options.keys() - known):
            raise HeadstartError(
                f"{self.path} was written by a newer Headstart: this one does not know its option {newer[0]!r}; upgrade it"
            )
        return options

    @property
    def finished(self) -> bool:
        """Whether all its files are written."""
        return (self.path / self.last_file).exists()

    @property
    def last_file(self) -> str:
        """The name of the file that is written last."""
        if self.searches:
            return "tuning.json"
        return "folds.json" if self.config.divided else "seeds.json" if self.config.seeds > 1 else "manifest.json"

    @property
    def members(self) -> list[Path]:
        return [self.path / name for name in self.config.run_names]

    @property
    def searches(self) -> bool:
        """Whether it is the folder of a search by `headstart tune`, with the run of its winner in it."""
        return (self.path / TRIALS).is_dir()

    @property
    def way_on(self) -> str:
        """The command that goes on with it."""
        return f"headstart {'tune' if self.searches else 'train'} --resume {shlex.quote(str(self.path))}"

    @property
    def done(self) -> bool:
        """Whether it is finished and its results are copied to all trackers, so that there is nothing left to do."""
        return self.finished and not (self.path / "checkpoint" / "state.json").exists()

    def require_model(self) -> None:
        """Raise `HeadstartError` if the folder holds no trained model, or not one alone."""
        if self.searches and self.finished:
            raise HeadstartError(f"{self.path} holds a search: name its winner, {self.path / WINNER}")
        if self.members:
            raise HeadstartError(f"{self.path} holds {len(self.members)} runs: name one, such as {self.members[0]}")
        self.require_end()

    def require_result(self) -> None:
        """Raise `HeadstartError` if the folder holds no trained model, and no folds' models that answer together."""
        if self.config.divided:
            self.require_end()
        else:
            self.require_model()

    def require_end(self) -> None:
        """Raise `HeadstartError` if the run is not finished."""
        if not self.finished:
            raise HeadstartError(f"{self.path} is not finished: go on with {self.way_on}")

    @cached_property
    def metrics(self) -> Metrics:
        name = "folds.json" if self.config.divided else "metrics.json"
        metrics: Metrics = self.read_json(name)
        for stage, figures in metrics["test"].items():
            classes, confusion = len(figures["per_class"]), figures["confusion"]
            if len(confusion) != classes or any(len(row) != classes for row in confusion):
                raise DamagedError(f"{self.path / name} is damaged: test.{stage}: per_class does not fit confusion")
        return metrics

    @cached_property
    def history(self) -> list[EpochRow]:
        refuse_changed(self.path, "history.csv")
        return read_history(self.path)

    @cached_property
    def split(self) -> list[SplitRow]:
        return read_split(self.path)

    @property
    def mirror(self) -> dict[str, Any]:
        """The finding about mirror images, see `headstart.audit.mirror.judge`; empty if they were not tested."""
        return self.read_json("mirror.json", {})

    @property
    def head(self) -> dict[str, Any]:
        """Which head was chosen and why, see `headstart.training.heads.choose_head`; empty if there was no choice."""
        return self.read_json("head.json", {})

    @property
    def audit(self) -> dict[str, Any]:
        """Content of `audit.json`; empty if nothing was audited."""
        return self.read_json("audit.json", {})

    def switch_off_flip(self) -> Config:
        """Write into the run's configuration that it trains without mirror images, and return the configuration."""
        self.config = dataclasses.replace(self.config, flip=False)
        write_toml(self.config, self.path / "config.toml")
        return self.config

    def record_start(self, data: Dataset, environment: dict[str, str]) -> None:
        """Write the labels of the test and validation split, and the command and versions of this process.

        The manifest of an earlier end is removed: until the next one, its checksums do not fit.
        """
        (self.path / "manifest.json").unlink(missing_ok=True)
        for split, indices in (("test", data.test), ("validation", data.validation)):
            self.save_array(f"labels_{split}", data.labels(indices))
        write_json(self.path / "environment.json", {"command": " ".join(sys.argv)} | environment)

    def save_array(self, name: str, array: np.ndarray) -> None:
        """Write an array as `NAME.npy`, completely or not at all."""
        with written_whole(self.path / f"{name}.npy") as partial:
            np.save(partial, array)

    def has_array(self, name: str) -> bool:
        return (self.path / f"{name}.npy").exists()

    def array(self, name: str) -> np.ndarray:
        """Return the array that `save_array` has written under this name.

        `test_STAGE` and `validation_STAGE` are a stage's logits, float32 (N, classes). `labels_test` and `labels_validation`
        are the labels, int32 (N,), in the same order, and `distances_test` and `distances_validation` how far each image is
        from training images, float32 (N,), see `headstart.metrics.outsiders`.
        """
        kind, _, stage = name.partition("_")
        classes = len(self.read_json("data.json", {}).get("classes", ())) or None  # None: a run of an older version
        refuse_changed(self.path, f"{name}.npy")
        file = self.path / f"{name}.npy"
        if kind == "labels":
            labels = read_array(file, ("int32",), (None,))
            if len(labels) and not 0 <= labels.min() <= labels.max() < (classes or 2**31):
                raise DamagedError(f"{file} is damaged: its labels are not those of {classes} classes")
            return labels
        if kind == "distances":
            return read_array(file, ("float32",), (len(self.array(f"labels_{stage}")),))
        logits = read_array(file, ("float32",), (len(self.array(f"labels_{kind}")), classes))
        if not np.isfinite(logits).all():
            raise DamagedError(f"{file} holds numbers that are not finite: stage {stage} has failed; lower its learning rate")
        return logits

    def test_logits(self, stage: str) -> np.ndarray:
        """Return the logits of a stage on the test split, float32 (N, classes)."""
        return self.array(f"test_{stage}")

    @contextlib.contextmanager
    def log(self) -> Iterator[None]:
        """Append what is logged inside the block to `log.txt`. An interruption or a write error gets a note on how to resume.

        Raises:
            HeadstartError: there is a link in the folder, see `refuse_links`.
        """
        refuse_links(self.path)
        handler = LogFile(self.path / "log.txt")
        level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield
        except (KeyboardInterrupt, OSError, UnreachableError, UnwritableError) as error:
            error.add_note(f"go on with {self.way_on}")
            raise
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            with contextlib.suppress(OSError):  # a failed write has been reported already
                handler.close()

    def read_json(self, name: str, default: Any = None) -> Any:
        """Return the content of one of the run's JSON files, see `headstart.record.manifest.read_entries`."""
        return read_entries(self.path, name, default)


class LogFile(logging.FileHandler):
    """Writes a line for each message. A failed write, as on a full disk, is raised, and not only printed to the terminal."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from None
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # the exception that `emit` has caught, which calls this


def refuse_taken(config: Config, *, overwrite: bool) -> Path:
    """Return the folder of a new run, or raise the errors of `RunFolder.create`."""
    path = Path(config.out).expanduser() if config.out else default_path(config)
    refuse_unwritable(path)
    if path.is_dir() and any(path.iterdir()):
        if not (path / "config.toml").exists() and not only_a_split(path):
            raise HeadstartError(f"{path} is not empty and not a run: choose another folder with --out")
        if (path / "config.toml").exists() and not overwrite:
            raise HeadstartError(
                f"{path} holds a run already: go on with --resume {path}, replace it with --overwrite, or choose another --out"
            )
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep all other processes from training in a run's folder, which is made if it is missing.

    Where the disk cannot lock folders, as some network disks, nothing is kept from anybody.

    Raises:
        HeadstartError: the folder is locked already, or it cannot be made.
    """
    with held_folder(path, f"{path} is being trained by another process: wait for it, or choose another --out"):
        yield


def refuse_links(path: Path) -> None:
    """Refuse to write into a run's folder that has links or pipes: they would lead elsewhere what is written.

    Raises:
        HeadstartError: it names the first of them.
    """
    for entry in path.iterdir():
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise HeadstartError(f"{entry} is a link or a pipe, and would lead elsewhere what is written: remove it")


def empty(path: Path) -> None:
    """Remove what is in a folder, `config.toml` last: as long as it is there, what is left counts as a run.

    The folder itself stays, and so does its lock.
    """
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "config.toml"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def only_a_split(path: Path) -> bool:
    """Whether a folder holds nothing but what is left of a process that was killed while it made a run."""
    return all(file.name in ("split.csv", "data.json", TRIALS) or file.name.startswith(PARTIAL) for file in path.iterdir())


def default_path(config: Config, kind: str = "") -> Path:
    """Return the default folder, `runs/DATA-BACKBONE-RECIPE`, or `runs/DATA-KIND`."""

    def stem(text: str) -> str:
        return Path(text).expanduser().resolve().name.split(".")[0] if "/" in text or "." in text else text

    return Path("runs") / "-".join([stem(config.data), *([kind] if kind else [stem(config.backbone), config.recipe])])
