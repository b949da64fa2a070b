"""Write files completely or not at all; open files that anybody may have written."""

import csv
import errno
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PosixPath
from typing import IO, Any

from headstart.errors import DamagedError, HeadstartError, UnwritableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The messages for a full disk from libraries that raise no OSError with a number: safetensors, HDF5, NumPy for a short write,
# and OpenVINO, which only says that a stream failed.
FULL_DISK = re.compile(
    r"No space left|[Qq]uota exceeded|File too large|errno = (28|122|27)\b|\d+ requested and \d+ written|iostream error"
)

# Open files that a process needs beside those of the cache.
SPARE_FILES = 256

# How the names of temporary folders begin.
PARTIAL = ".partial-"

# A text that spreadsheets take for a formula, which they compute: it may open programs and send data away.
FORMULA = re.compile(r"""['"\s]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]""")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name, and move the file to `path` if the block ends without an exception.

    Other files that the block writes beside the temporary path are moved as well, before it. Several processes may write the
    same path at once, as runs that share a cache do: the last one wins. A process that is killed inside the block leaves
    `path` as it was, and at most one temporary folder, which `remove_partial` removes.

    Raises:
        UnwritableError: the file cannot be written. No partial file stays.
    """
    with temporary_folder(path) as folder:
        partial = folder / path.name
        try:
            yield partial
            for file in [*(other for other in folder.iterdir() if other != partial), partial]:
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
                os.replace(file, path.with_name(file.name))
        except Exception as error:
            if not concerns(error, folder):
                raise
            raise unwritable(path, error) from error


def holds_something_else(folder: Path, own: str) -> bool:
    """Whether a path is taken by what is neither an empty folder nor one that has the file `own`."""
    return folder.exists() and not (folder / own).is_file() and (not folder.is_dir() or any(folder.iterdir()))


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that nobody else can enter, and remove it after the block.

    In a folder that others can enter, they could put a link where a file will be written. The folder is locked, so that other
    processes know whether its process lives, see `remove_abandoned`.

    Raises:
        UnwritableError: it cannot be made.
    """
    try:
        folder, held = new_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # its parent may be gone, or read-only by now
        if held is not None:
            os.close(held)


def new_folder(parent: Path) -> tuple[Path, int | None]:
    """Make a private folder, and return it with the descriptor that keeps it locked, see `lock_if_possible`."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=parent))
        with suppress(FileNotFoundError):  # another process took the folder for an abandoned one, before it was locked
            return folder, lock_if_possible(folder, wait=True)


@contextmanager
def held_folder(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder, which is made if it is missing, for this process alone.

    Where the disk cannot lock folders, as some network disks, nothing is kept from anybody.

    Args:
        busy: what is said if another process holds it.

    Raises:
        HeadstartError: the folder is locked already.
        UnwritableError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock_if_possible(folder)
    except BlockingIOError:
        raise HeadstartError(busy) from None
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def lock_if_possible(folder: Path, *, wait: bool = False) -> int | None:
    """Lock a folder until the returned descriptor is closed or the process ends. No file is made for it.

    Args:
        wait: until no other process has it locked.

    Returns:
        The descriptor; None if the system or the disk, such as some network disks, cannot lock folders.

    Raises:
        BlockingIOError: the folder is locked, by another process or by this one.
        FileNotFoundError: there is no such folder, or it was removed meanwhile.
    """
    if fcntl is None:
        return None
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(opened), os.stat(folder)):
            return opened
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    except (BlockingIOError, FileNotFoundError):
        os.close(opened)
        raise
    except OSError:
        os.close(opened)
        return None


def share_if_possible(file: IO[Any]) -> None:
    """Lock an open file against `lock_if_possible` of others until it is closed; several can share it."""
    if fcntl is not None:
        with suppress(OSError):  # somebody removes it just now, or this disk cannot lock
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_used(file: Path) -> bool:
    """Whether some process, or this one, has a file open that `share_if_possible` has locked."""
    try:
        held = lock_if_possible(file)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if held is not None:
        os.close(held)
    return False


def allow_open_files(number: int) -> None:
    """Make sure that this process can open so many files more.

    Raises:
        HeadstartError: the system allows fewer.
    """
    with open(os.devnull, "rb") as lowest:  # the lowest free number is about that of the open files
        wanted = lowest.fileno() + number + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise HeadstartError(f"{number:,} files of the cache must be open, and this system allows {hard:,}: raise ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders in a folder whose process has ended. Those of processes that live stay."""
    with suppress(OSError):
        for partial in folder.glob(f"{PARTIAL}*"):
            with suppress(OSError):
                if not partial.is_symlink() and (held := lock_if_possible(partial)) is not None:
                    shutil.rmtree(partial, ignore_errors=True)
                    os.close(held)


def concerns(error: Exception, folder: Path) -> bool:
    """Whether an exception says that a file in this folder cannot be written, and is not about another file."""
    if is_disk_full(error):
        return True
    about = isinstance(error, OSError) and bool(error.errno) and (error.filename or folder)
    return bool(about) and str(about).startswith(str(folder))


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


class Elsewhere(PosixPath):
    """The path of a file that is no file of this machine, see `headstart.system.remote`."""

    __slots__ = ()

    def fetched(self) -> BufferedReader:
        """Open a copy of the file."""
        raise NotImplementedError


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. A pipe or a device is refused: to read one may take for ever.

    Raises:
        DamagedError: it is no regular file.
        FileNotFoundError: there is none.
    """
    if isinstance(path, Elsewhere):
        return path.fetched()
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(opened).st_mode
    if not stat.S_ISREG(mode):
        os.close(opened)
        raise DamagedError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
    return os.fdopen(opened, "rb")


def open_mine(path: Path) -> BufferedReader:
    """Open a file of the cache that is the user's, and that nobody else can write.

    Raises:
        DamagedError: it is something else.
        FileNotFoundError: there is none.
    """
    named = path.lstat()
    if not stat.S_ISREG(named.st_mode):
        raise DamagedError(f"{path} is no regular file")
    file = open_regular(path)
    found = os.fstat(file.fileno())
    if not os.path.samestat(named, found) or (hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022)):
        file.close()
        raise DamagedError(f"{path} could be written by another user")
    return file


def exists(path: Path) -> bool:
    """Whether there is a file or folder that can be seen; of a name that no file can have, there is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises:
        DamagedError: it is larger, or no regular file.
        FileNotFoundError: there is none.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DamagedError(f"{path} is damaged: it is larger than {most:,} bytes")
    return content


def remove_partial(folder: Path) -> None:
    """Remove the partial files that a killed process left in a folder. No other process may use the folder."""
    for partial in list(folder.rglob(f"{PARTIAL}*")):
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, completely or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, completely or not at all; `headstart.system.reading.read_csv` reads it."""
    # A file name in the table may be invalid UTF-8.
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(as_cell, header))
        writer.writerows(map(as_cell, row) for row in rows)


def as_cell(value: Any) -> Any:
    """Return a value for a table: a text that a spreadsheet would take for a formula gets an apostrophe before it.

    `of_cell` takes it off again, also where a text itself begins with such an apostrophe.
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def of_cell(text: str) -> str:
    """Return the text that `as_cell` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text, 1) else text


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits.

    Raises:
        DamagedError: it is no regular file.
        FileNotFoundError: there is none.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
