"""The state of a run, saved after every epoch, so that a killed run ends with the result of an uninterrupted one."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import numpy as np
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from headstart.errors import DamagedError, HeadstartError
from headstart.record.history import EpochRow
from headstart.system.backend import keras
from headstart.system.files import checksum, write_json, written_whole
from headstart.system.memory import forget_peak_memory, give_back_freed_memory, peak_memory_mb
from headstart.system.reading import Checksum, Count, NotNegative, as_kind, read_json, seal

FORMAT = 7  # since 7, augmentation has one seed
# The groups of arrays of a stage that is being trained, and of one that has ended.
TRAINING, FINISHED = {"model", "optimizer", "kept"}, {"model"}


class StateFormat(TypedDict):
    """What `state.json` has in every version."""

    format: Count


class State(StateFormat):
    """Content of `state.json`."""

    history: list[EpochRow]
    seconds: dict[str, NotNegative]
    memory_mb: dict[str, NotNegative]
    stage: Literal["", "frozen", "fine_tuned", "scratch"]
    finished: bool
    # A file beside this one, and no path to elsewhere.
    arrays: Annotated[str, Meta(pattern=r"^([a-z_]+-[0-9]{4,}(-finished)?\.safetensors)?$")]
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]
    seal: Checksum


FIELDS = ("history", "seconds", "memory_mb", "stage", "finished", "arrays", "sha256")


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
        self.stage, self.finished, self.arrays, self.sha256 = "", False, "", ""
        self.watchers: list[Callable[[list[EpochRow]], None]] = []
        if self.file.exists():
            self.read()

    @property
    def file(self) -> Path:
        return self.folder / "state.json"

    def read(self) -> None:
        try:
            content = read_json(self.file, StateFormat)
            if content["format"] != FORMAT:
                raise HeadstartError(f"{self.file} was written by another version of Headstart: resume with that version")
            state: State = as_kind(content, State, self.file)
        except DamagedError as error:
            raise DamagedError(f"{error}; start the run again with --overwrite") from None
        if state["seal"] != seal(state):
            raise DamagedError(f"{self.file} was changed since it was written; start the run again with --overwrite")
        self.__dict__.update({name: state[name] for name in FIELDS})  # type: ignore[literal-required]

    def write(self) -> None:
        """Replace the state on disk by this one, completely or not at all."""
        self.folder.mkdir(exist_ok=True)
        state = {"format": FORMAT} | {field: getattr(self, field) for field in FIELDS}
        write_json(self.file, state | {"seal": seal(state)})
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

    def has_finished(self, stage: str) -> bool:
        """Whether the arrays are those of a stage that has ended."""
        return self.stage == stage and self.finished

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
            self.sha256 = checksum(partial)
        self.write()
        for watch in self.watchers:
            watch(self.history)

    def load(self, stage: str) -> dict[str, list[np.ndarray]]:
        """Return the groups of arrays that were saved last if they belong to `stage`; else nothing.

        Raises:
            DamagedError: the file of arrays is missing, or not the one that was saved.
        """
        if self.stage != stage:
            return {}
        file, groups = self.folder / self.arrays, dict[str, list[np.ndarray]]()
        try:
            if checksum(file) != self.sha256:
                raise DamagedError(f"{file} is not the file that was saved; start the run again with --overwrite")
            named = load_file(file)
        except (OSError, SafetensorError) as error:
            raise DamagedError(f"{file} cannot be read ({error}); start the run again with --overwrite") from None
        for key in sorted(named):
            groups.setdefault(key.split(".")[0], []).append(named[key])
        if groups.keys() != (FINISHED if self.finished else TRAINING):
            raise DamagedError(f"{file} lacks arrays of the stage {stage}; start the run again with --overwrite")
        return groups

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)  # first: without its arrays, a state would count as damaged
        shutil.rmtree(self.folder, ignore_errors=True)


class Unsaved(Checkpoint):
    """The state of a training that is not resumed: nothing is written."""

    def __init__(self) -> None:
        self.history, self.seconds, self.memory_mb = [], {}, {}
        self.stage, self.finished, self.watchers = "", False, []

    def load(self, stage: str) -> dict[str, list[np.ndarray]]:
        return {}

    def save(self, stage: str, *, finished: bool = False, **groups: list[np.ndarray]) -> None:
        self.stage, self.finished = stage, finished
        for watch in self.watchers:
            watch(self.history)


class Followed(Unsaved):
    """The state of a run in a process that writes nothing, since the first one of the cluster does.

    Args:
        stage: the key of the stage that is trained.
        history: what the first process has.
        arrays: waits for the groups of arrays that the first process sends.
    """

    def __init__(self, stage: str, history: list[EpochRow], arrays: Callable[[], dict[str, list[np.ndarray]]]) -> None:
        super().__init__()
        self.stage, self.history, self.receive = stage, history, arrays

    def load(self, stage: str) -> dict[str, list[np.ndarray]]:
        return self.receive()


def values(variables: list[keras.Variable]) -> list[np.ndarray]:
    """Return copies of the values of Keras variables."""
    # In C order: safetensors writes the memory as it is.
    return [np.array(keras.ops.convert_to_numpy(variable), order="C") for variable in variables]


def assign(variables: list[keras.Variable], arrays: list[np.ndarray]) -> None:
    """Assign arrays to Keras variables, in order.

    Raises:
        DamagedError: they are of another network.
    """
    if [variable.shape for variable in variables] != [array.shape for array in arrays]:
        raise DamagedError("the checkpoint does not fit this run's network; start the run again with --overwrite")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
