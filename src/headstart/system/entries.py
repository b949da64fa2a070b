"""The entries of the cache that are read again: arrays and small JSON files.

Each holds the SHA-256 of its own name and content. An entry that does not fit, or that another user could have written, is
removed and made again.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TypedDict, TypeVar

import numpy as np

from headstart.errors import DamagedError, HeadstartError
from headstart.system import reading
from headstart.system.files import open_mine, share_if_possible, unwritable, written_whole
from headstart.system.progress import track
from headstart.system.reading import Checksum, array_in, as_kind, parse_json

logger = logging.getLogger("headstart")

Kind = TypeVar("Kind")

# The bytes of a SHA-256; how many bytes are hashed at a time; from how many on there is a progress bar; the largest JSON entry.
SEAL, BLOCK, LONG, MOST_JSON = 32, 1 << 24, 1 << 30, 1 << 24

# The files that this process has verified or written, by device, number and size.
VERIFIED: set[tuple[int, int, int]] = set()


class StoredArray:
    """An array entry whose content has been verified. Its file stays open, so that nobody can exchange or remove it.

    It is locked too, so that `headstart.system.cache.prune` of other processes knows that it is in use.

    Args:
        path: of the file.
        file: the open file.
        array: the memory-mapped array in it.
    """

    def __init__(self, path: Path, file: BinaryIO, array: np.ndarray) -> None:
        self.path, self.file, self.dtype, self.shape = path, file, array.dtype, array.shape
        self.start = array.offset  # type: ignore[attr-defined]  # of numpy.memmap
        self.row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize

    def __del__(self) -> None:
        self.file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill an array, in C order, with the rows from `first` on.

        Nothing is mapped: mapped pages count as this process's memory, and to map them takes longer than to copy them.

        Raises:
            DamagedError: the file was cut off meanwhile.
        """
        if out.dtype != self.dtype:
            rows = np.empty(out.shape, self.dtype)
            self.read(first, rows)
            out[...] = rows
            return
        place = self.start + first * self.row_bytes
        done = os.preadv(self.file.fileno(), [out.data], place)
        while done < out.nbytes:  # the system reads at most 2 GB at once
            more = os.preadv(self.file.fileno(), [out.data.cast("B")[done:]], place + done)
            if not more:
                raise DamagedError(f"{self.path} is damaged: it ends too early")
            done += more

    def mapped(self) -> np.ndarray:
        """Map the array anew: pages that stay mapped count as this process's memory."""
        return np.memmap(self.file, self.dtype, "r", self.start, self.shape)

    @property
    def seal(self) -> str:
        """The SHA-256 of the entry's name and content, as hexadecimal digits."""
        self.file.seek(-SEAL, os.SEEK_END)
        return self.file.read().hex()


class Sealing:
    """The file of an array entry while it is written: it hashes what passes through.

    Args:
        file: open for writing.
        name: the name of the entry.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.digest = file, named_digest(name)

    def write(self, content: Any) -> None:
        self.digest.update(content)
        self.file.write(content)


@contextlib.contextmanager
def written_array(path: Path) -> Iterator[Sealing]:
    """Yield what an array entry is to be written to, as a `.npy` file; the entry is there if the block ends without an exception.

    Raises:
        UnwritableError: it cannot be written.
    """
    with written_whole(path) as partial, partial.open("wb") as file:
        sealing = Sealing(file, path.name)
        yield sealing
        finish(file, sealing.digest.digest())


def seal(partial: Path, name: str) -> str:
    """Make a new `.npy` file the array entry of a name: the file is hashed, and the hash is added and returned."""
    with partial.open("rb+") as file:
        digest = named_digest(name)
        for start in blocks(partial.stat().st_size, "hashing"):
            file.seek(start)
            digest.update(file.read(BLOCK))
        file.seek(0, os.SEEK_END)
        finish(file, digest.digest())
    return str(digest.hexdigest())


def finish(file: BinaryIO, digest: bytes) -> None:
    """Write the last bytes of an array entry. This process need not verify what it has written itself."""
    file.write(digest)
    file.flush()
    only_mine(file)
    VERIFIED.add(identity(file))


def read_stored(path: Path, dtypes: Collection[str], shape: tuple[int, ...]) -> StoredArray | None:
    """Return an array entry, verified once in the life of this process; None if it must be made, because it is missing or does
    not fit. What does not fit is removed, and the log says why.

    Args:
        dtypes: the accepted types, such as `float32`.
        shape: the expected shape.
    """
    with explained(path):
        file = open_mine(path)
        try:
            array = array_in(file, path, dtypes, shape, extra=SEAL, mapped=True)
            if identity(file) not in VERIFIED:
                refuse_changed(file, path)
            VERIFIED.add(identity(file))
            share_if_possible(file)
            return StoredArray(path, file, array)
        except BaseException:
            file.close()
            raise
    return None


def identity(file: BinaryIO) -> tuple[int, int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size


def refuse_changed(file: BinaryIO, path: Path) -> None:
    """Raise `DamagedError` if the last bytes of an entry are not the hash of its name and of what stands before them."""
    size = os.fstat(file.fileno()).st_size - SEAL
    digest = named_digest(path.name)
    file.seek(0)
    for start in blocks(size, "checking the cache"):
        digest.update(file.read(min(BLOCK, size - start)))
    if file.read(SEAL) != digest.digest():
        raise DamagedError(f"{path} is damaged: its content is not what was written")


def blocks(size: int, description: str) -> Iterable[int]:
    """Return where the blocks of a file begin, with a progress bar if they are many."""
    starts = range(0, size, BLOCK)
    return track(starts, description) if size >= LONG else starts


class Sealed(TypedDict):
    """What stands in a JSON entry."""

    content: dict[str, Any]
    sha256: Checksum


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON entry, with the hash of its name and content, completely or not at all."""
    sealed = Sealed(content=content, sha256=reading.seal({"name": path.name, "content": content}))
    with written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        json.dump(sealed, file, indent=2)
        only_mine(file)


def read_sealed(path: Path, kind: type[Kind]) -> Kind | None:
    """Return the content of a JSON entry as a type; None if it must be made, because it is missing or does not fit. What does not
    fit is removed, and the log says why.

    Args:
        kind: see `headstart.system.reading.read_json`.
    """
    with explained(path), open_mine(path) as file:
        read = file.read(MOST_JSON + 1)
        if len(read) > MOST_JSON:
            raise DamagedError(f"{path} is damaged: it is larger than {MOST_JSON:,} bytes")
        sealed: Sealed = as_kind(parse_json(read, path), Sealed, path)
        if sealed["sha256"] != reading.seal({"name": path.name, "content": sealed["content"]}):
            raise DamagedError(f"{path} is damaged: its content is not what was written")
        content: Kind = as_kind(sealed["content"], kind, path)
        return content
    return None


def named_digest(name: str) -> Any:
    """Return a SHA-256 that has taken in the name of an entry, so that no entry can stand for another."""
    return hashlib.sha256(f"{name}\0".encode())


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Remove an entry that does not fit, log why, and leave the block, whose caller then makes it again."""
    try:
        yield
    except FileNotFoundError:
        pass
    except (DamagedError, OSError) as error:
        logger.warning("%s; it is made again", str(error) if isinstance(error, DamagedError) else f"{path}: {error.strerror}")
        discard(path)


def gone(path: Path) -> HeadstartError:
    """Return the error for an entry that is missing just after it was made."""
    return HeadstartError(f"{path.parent}: what was just written there is gone; is the cache being cleared?")


def discard(path: Path) -> None:
    """Remove whatever has the name of an entry. The target of a link stays."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


def only_mine(file: IO[Any]) -> None:
    """Let only the user read and write an open file."""
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), 0o600)
