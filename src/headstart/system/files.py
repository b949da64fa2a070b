"""Files that are whole or absent."""

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headstart.errors import UnwritableError

# How those say that a disk is full who raise no OSError with a number: safetensors, HDF5, NumPy of a short write, and
# OpenVINO, which says no more than that a stream failed.
FULL_DISK = re.compile(
    r"No space left|[Qq]uota exceeded|File too large|errno = (28|122|27)\b|\d+ requested and \d+ written|iostream error"
)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there once the block has ended well.

    Several processes may write the same path at once, as runs that share a cache do: the last one counts. A process
    killed inside the block leaves `path` as it was, and at most one file for `remove_partial`.

    Raises:
        UnwritableError: the file cannot be written; nothing half-written stays.
    """
    # The suffix stays, since Keras and matplotlib choose the format by it; and the name, by which OpenVINO finds a second file.
    # Of a long name its end: with the beginning that is added here it could be longer than a file's name may be.
    name = os.fsencode(path.name)[-200:].decode(errors="ignore")
    partial = path.with_name(f".partial-{os.getpid()}-{name}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception as error:
        if not concerns(error, partial):
            raise
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # of a folder that is no longer there, or can no longer be written
            partial.unlink(missing_ok=True)


def concerns(error: Exception, file: Path) -> bool:
    """Whether an exception says that a file cannot be written, and not that another one cannot be read."""
    return is_disk_full(error) or (isinstance(error, OSError) and bool(error.errno) and error.filename in (None, str(file)))


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception says that the disk is full, that a quota is used up, or that a file may grow no further."""
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or bool(FULL_DISK.search(str(error)))


def unwritable(path: Path, error: BaseException) -> UnwritableError:
    """Return the error for a file or folder that cannot be written."""
    if is_disk_full(error):
        return UnwritableError(f"the disk is full: {path} cannot be written; make room")
    return UnwritableError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}")


def refuse_unwritable(path: Path) -> None:
    """Refuse a file or folder that is to be written and cannot be, before anything slow starts.

    Raises:
        UnwritableError: it names what is in the way.
    """
    try:
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    except OSError as error:
        raise unwritable(path, error) from None
    if existing != path and not existing.is_dir():
        raise UnwritableError(f"{path} cannot be written: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise UnwritableError(f"{path} cannot be written: {'it' if existing == path else existing} is read-only, or not yours")


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder of which it was the only user."""
    for partial in folder.rglob(".partial-*"):
        partial.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    # A file's name in it may be no UTF-8.
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
