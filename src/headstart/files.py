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

    A process killed inside the block leaves `path` as it was, and at most a file whose name
    starts with `.partial-`, which the next write to the same path replaces.
    """
    # The suffix stays, since Keras and matplotlib choose the format by it.
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
