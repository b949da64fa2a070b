"""What an attack is: files that somebody else could have made, and the commands that meet them."""

import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Place:
    """Where a case is made.

    Attributes:
        folder: empty; the commands run in it.
        honest: see `honest.Honest`.
        marker: a path. Every payload tries to make this file: if it appears, something was executed.
        victim: a folder of the user's elsewhere. No command may change what is in it.
        pid: of the process that will run the commands.
    """

    folder: Path
    honest: Any
    marker: Path
    victim: Path
    pid: int


@dataclass
class Case:
    """Attributes:
    name: unique, and the same in each run of the script with the same seed.
    kind: a row of the table. The case `honest` of each kind, if there is one, says what the right answers are.
    make: fills the folder.
    commands: words of the command line; or of a function in `worker.CALLS`.
    file: the file of a run that is tampered with.
    plausible: the change could have been honest: it counts only where a checksum covers the file.
    covered: a checksum in the run covers the file.
    resealed: the checksums fit the tampered files: it is another model, and may answer differently.
    compared: answers are compared with those to the honest case.
    cache: the cache folder, relative to the case; the honest one without it.
    limits: see `worker.carry_out`.
    """

    name: str
    kind: str
    make: Callable[[Place], None]
    commands: list[list[str]]
    file: str = ""
    plausible: bool = False
    covered: bool = False
    resealed: bool = False
    compared: bool = True
    cache: str = ""
    limits: dict[str, Any] = field(default_factory=dict)


def chosen(cases: Iterable[Case], count: int, seed: int) -> list[Case]:
    """Return at most `count` of the cases, drawn by a seed; those of the name `honest` are always among them."""
    cases = list(cases)
    names = [case.name for case in cases]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)[:5]
    first = [case for case in cases if case.name.endswith("honest")]
    others = [case for case in cases if not case.name.endswith("honest")]
    random.Random(seed).shuffle(others)
    return first + others[:count]


def copied(source: Path, target: Path) -> None:
    """Copy a folder, with links as they are."""
    shutil.copytree(source, target, symlinks=True)


def cleared(path: Path) -> Path:
    """Return a path at which nothing is any more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def put(path: Path, content: bytes | str) -> None:
    """Write a file in the place of whatever is there."""
    cleared(path).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


class Payload:
    """An object whose pickle calls a function when it is opened."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(marker: Path) -> dict[str, bytes]:
    """Return pickles that make the marker file when they are opened, by name."""
    touch = f"open({str(marker)!r}, 'w').close()"
    found = {
        "os.system": Payload(os.system, f"touch '{marker}'"),
        "exec": Payload(exec, touch),
        "eval": Payload(eval, touch),
        "open": Payload(open, str(marker), "w"),
        "mkdir": Payload(os.mkdir, str(marker)),
    }
    return {name: pickle.dumps(payload, protocol=2) for name, payload in found.items()}
