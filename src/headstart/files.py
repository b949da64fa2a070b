"""Files that are whole or absent, and the folder where work that can be used again is kept."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there once the block has ended well.

    Several processes may write the same path at once, as runs that share a cache do: the last one counts. A process
    killed inside the block leaves `path` as it was, and at most one file for `remove_partial`.
    """
    # The suffix stays, since Keras and matplotlib choose the format by it; and the name, by which OpenVINO finds a second file.
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder of which it was the only user."""
    for partial in folder.rglob(".partial-*"):
        partial.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(kind: str) -> Path:
    """Return (and make) the folder for cached work of one kind, say `features`.

    It lies in `$HEADSTART_CACHE`, or else in `headstart` of the user's cache folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("HEADSTART_CACHE") or Path(home) / "headstart") / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
