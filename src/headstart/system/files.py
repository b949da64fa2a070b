"""Write files completely or not at all."""

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

# The messages for a full disk from libraries that raise no OSError with a number: safetensors, HDF5, NumPy for a short write,
# and OpenVINO, which only says that a stream failed.
FULL_DISK = re.compile(
    r"No space left|[Qq]uota exceeded|File too large|errno = (28|122|27)\b|\d+ requested and \d+ written|iostream error"
)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move the file there if the block ends without an exception.

    Several processes may write the same path at once, as runs that share a cache do: the last one wins. A process that is
    killed inside the block leaves `path` as it was, and at most one temporary file, which `remove_partial` removes.

    Raises:
        UnwritableError: the file cannot be written. No partial file stays.
    """
    # The suffix stays, since Keras and matplotlib choose the format by it. The name stays too: OpenVINO finds its second file by
    # it. A long name loses its beginning, since with the prefix it could become too long for a file name.
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
        with contextlib.suppress(OSError):  # the folder may be gone, or read-only by now
            partial.unlink(missing_ok=True)


def concerns(error: Exception, file: Path) -> bool:
    """Whether an exception says that this file cannot be written, and is not about another file."""
    return is_disk_full(error) or (isinstance(error, OSError) and bool(error.errno) and error.filename in (None, str(file)))


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception says that the disk is full, a quota is used up, or a file is too large."""
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or bool(FULL_DISK.search(str(error)))


def unwritable(path: Path, error: BaseException) -> UnwritableError:
    """Return the error for a file or folder that cannot be written."""
    if is_disk_full(error):
        return UnwritableError(f"the disk is full: {path} cannot be written; make room")
    return UnwritableError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}")


def refuse_unwritable(path: Path) -> None:
    """Refuse, before anything slow starts, a path that cannot be written.

    Raises:
        UnwritableError: the path cannot be written; the message says why.
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
    """Remove the partial files that a killed process left in a folder. No other process may use the folder."""
    for partial in folder.rglob(".partial-*"):
        partial.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, completely or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, completely or not at all."""
    # A file name in the table may be invalid UTF-8.
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
