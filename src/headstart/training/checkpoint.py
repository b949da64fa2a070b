"""The state of a run, saved after every epoch, so that a killed run ends with the result of an uninterrupted one."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from headstart.errors import HeadstartError
from headstart.record.history import EpochRow
from headstart.system.backend import keras
from headstart.system.files import write_json, written_whole
from headstart.system.memory import forget_peak_memory, give_back_freed_memory, peak_memory_mb

FORMAT = 5  # since 5, fine-tuning trains a copy of the backbone alone: earlier checkpoints have another order of arrays


class Checkpoint:
    """The state of a run between two epochs.

    `state.json` names its file of arrays and is replaced last. So a complete state is on disk whenever the process is killed.

    Attributes:
        history: a row for each finished epoch, in order.
        seconds: time spent so far, by part of the run, such as `features` or the key of a stage.
        memory_mb: peak memory so far, in MB of 10**6 bytes, by the same parts.
        stage: the key of the stage that the arrays belong to; "" before the first.
        finished: whether that stage has ended.
        watchers: functions that are called with the history after each save.

    Raises:
        HeadstartError: `state.json` is damaged, or another version wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: list[EpochRow] = []
        self.seconds: dict[str, float] = {}
        self.memory_mb: dict[str, float] = {}
        self.stage, self.finished, self.arrays = "", False, ""
        self.watchers: list[Callable[[list[EpochRow]], None]] = []
        if self.file.exists():
            self.read()

    @property
    def file(self) -> Path:
        return self.folder / "state.json"

    def read(self) -> None:
        try:
            state = json.loads(self.file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise HeadstartError(f"{self.file} is damaged ({error}); start the run again with --overwrite") from None
        if state.pop("format") != FORMAT:
            raise HeadstartError(f"{self.file} was written by another version of Headstart: resume with that version")
        self.__dict__.update(state)

    def write(self) -> None:
        """Replace the state on disk by this one, completely or not at all."""
        self.folder.mkdir(exist_ok=True)
        fields = ("history", "seconds", "memory_mb", "stage", "finished", "arrays")
        write_json(self.file, {"format": FORMAT} | {field: getattr(self, field) for field in fields})
        for old in self.folder.glob("*.safetensors"):
            if old.name != self.arrays:
                old.unlink()

    def start_clock(self, spent: float = 0.0) -> None:
        """Start measuring peak memory now, and time from `spent` seconds ago; `stop_clock` says for which part of the run."""
        give_back_freed_memory()
        self.clock = time.monotonic() - spent
        forget_peak_memory()

    def stop_clock(self, stage: str) -> None:
        """Add the time and peak memory since the clock was started to a part of the run, and start the clock again."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - self.clock
        self.memory_mb[stage] = max(self.memory_mb.get(stage, 0.0), peak_memory_mb())
        self.clock = time.monotonic()
        forget_peak_memory()

    def epochs_of(self, stage: str) -> list[EpochRow]:
        """Return the history's rows of one stage."""
        return [row for row in self.history if row["stage"] == stage]

    def save(self, stage: str, *, finished: bool = False, **groups: list[np.ndarray]) -> None:
        """Write arrays, in named groups, together with the rest of the state.

        Args:
            stage: the key of the stage that the arrays belong to.
            finished: whether that stage has ended.
        """
        self.folder.mkdir(exist_ok=True)
        self.stage, self.finished = stage, finished
        self.arrays = f"{stage}-{len(self.epochs_of(stage)):04d}{'-finished' if finished else ''}.safetensors"
        named = {f"{group}.{i:05d}": array for group, arrays in groups.items() for i, array in enumerate(arrays)}
        with written_whole(self.folder / self.arrays) as partial:
            save_file(named, partial)
        self.write()
        for watch in self.watchers:
            watch(self.history)

    def load(self, stage: str) -> dict[str, list[np.ndarray]]:
        """Return the groups of arrays that were saved last if they belong to `stage`; else nothing.

        Raises:
            HeadstartError: the file of arrays cannot be read.
        """
        if self.stage != stage:
            return {}
        try:
            named = load_file(self.folder / self.arrays)
        except (OSError, SafetensorError) as error:
            raise HeadstartError(f"{self.folder / self.arrays} cannot be read ({error}); start again with --overwrite") from None
        groups: dict[str, list[np.ndarray]] = {}
        for key in sorted(named):
            groups.setdefault(key.split(".")[0], []).append(named[key])
        return groups

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)  # first: without its arrays, a state would count as damaged
        shutil.rmtree(self.folder, ignore_errors=True)


def values(variables: list[keras.Variable]) -> list[np.ndarray]:
    """Return copies of the values of Keras variables."""
    # In C order: safetensors writes the memory as it is.
    return [np.array(keras.ops.convert_to_numpy(variable), order="C") for variable in variables]


def assign(variables: list[keras.Variable], arrays: list[np.ndarray]) -> None:
    """Assign arrays to Keras variables, in order."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
