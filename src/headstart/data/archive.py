"""Archives of images, `.zip` and `.tar`: unpacked safely into the cache, whole or not at all, and once."""

import hashlib
import logging
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NamedTuple, cast

from headstart.data.cifar import MOST_ELSE, Limited, TooMuchElse
from headstart.data.cifar import unpacked as uncompressed
from headstart.errors import DamagedError, HeadstartError, UnwritableError
from headstart.system.cache import cache_folder
from headstart.system.files import is_disk_full, open_regular, temporary_folder, unwritable

logger = logging.getLogger("headstart")

ZIP, TAR = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ENDINGS = (*ZIP, *TAR)
MOST_FILES = 5_000_000
# Images hardly shrink. An archive that unpacks to more than so many times its size, beyond the first gigabyte, has others.
MOST_RATIO, MOST_UNASKED = 100, 1 << 30
MOST_NAME, DEEPEST = 1024, 64
COPIED = 1 << 20  # bytes at a time
BLOCK = 4096  # bytes of which disks give whole ones to a file


class Member(NamedTuple):
    """A file in an archive: its name there, how many bytes it is said to have, and what opens it."""

    name: str
    size: int
    opened: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether a path ends like an archive."""
    return path.name.lower().endswith(ENDINGS)


def unpacked(path: Path) -> Path:
    """Return the folder of an archive's content in the cache; it is unpacked if it is not there, or if the archive has changed.

    Args:
        path: the archive.

    Raises:
        HeadstartError: it is damaged, too large, or holds links, devices or names that lead out of the folder; or the disk has
            not the room for it.
    """
    folder = cache_folder("archives") / key(path)
    if folder.is_dir():
        logger.info("data: %s is unpacked in %s", path, folder)
        return folder
    logger.info("data: %s is unpacked to %s (headstart cache clear archives removes it)", path, folder)
    with temporary_folder(folder) as temporary:
        content = temporary / "content"
        content.mkdir()
        try:
            unpack(path, content)
            os.replace(content, folder)
        except OSError as error:
            if folder.is_dir():  # another process was faster
                return folder
            if is_disk_full(error):
                raise unwritable(folder, error) from None
            why = error.strerror or error
            raise HeadstartError(f"{path} cannot be unpacked: {why}; unpack it yourself, and give the folder") from None
    return folder


def key(path: Path) -> str:
    """Return the name of an archive's folder in the cache. Another archive, or the same one after a change, has another."""
    found = path.stat()
    text = f"{path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def unpacked_before(path: Path) -> Path | None:
    """Return the folder of an archive's content if it is in the cache."""
    folder = cache_folder("archives") / key(path)
    return folder if folder.is_dir() else None


def content_around(file: Path) -> Path | None:
    """Return the folder of the archive's content that a file in the cache is part of; None for a file that is in no archive."""
    folder = cache_folder("archives")
    return folder / file.relative_to(folder).parts[0] if file.is_relative_to(folder) else None


def unpack(path: Path, folder: Path) -> None:
    """Unpack the files of an archive into an empty folder.

    Raises:
        HeadstartError: see `unpacked`.
        OSError: a file cannot be written.
    """
    with open_regular(path) as packed:
        most = max(MOST_UNASKED, MOST_RATIO * os.fstat(packed.fileno()).st_size)
        with damaged(path):
            members = of_zip(path, packed, folder, most) if path.name.lower().endswith(ZIP) else of_tar(path, packed, folder)
            for number, member in enumerate(members, start=1):
                if number > MOST_FILES:
                    raise refusal(path, f"it holds more than {MOST_FILES:,} files")
                refuse_full_disk(path, folder, member.size)
                target = folder / safe_name(path, member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    written = target.open("xb")
                except FileExistsError:
                    raise refusal(path, f"it holds {member.name} twice") from None
                with written, member.opened() as file:
                    while block := file.read(COPIED):
                        written.write(block)
                        most -= len(block)
                        if most < 0:
                            raise refusal(path, f"it unpacks to more than {MOST_RATIO} times its size")


def of_zip(path: Path, packed: BinaryIO, folder: Path, most: int) -> Iterator[Member]:
    """Yield the files of a ZIP archive."""
    with zipfile.ZipFile(packed) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > most:
            raise refusal(path, f"it unpacks to more than {MOST_RATIO} times its size")
        refuse_full_disk(path, folder, sum(whole_blocks(entry.file_size) for entry in entries))
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refusal(path, f"it holds a link or a device, {entry.filename}")
            if entry.flag_bits & 1:
                raise refusal(path, "it asks for a password")
            if not entry.is_dir():
                yield Member(entry.filename, entry.file_size, lambda entry=entry: archive.open(entry))  # type: ignore[misc]


def of_tar(path: Path, packed: BinaryIO, folder: Path) -> Iterator[Member]:
    """Yield the files of a tar archive, packed or not. Each is opened before the next one is asked for."""
    refuse_full_disk(path, folder, os.fstat(packed.fileno()).st_size)  # packed, it takes more: nobody knows before it is read
    # Read as a stream, an archive cannot send the reader back, and a header cannot take more memory than is granted.
    stream = Limited(uncompressed(packed))
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive:
        for entry in archive:
            if entry.isdir():
                continue
            if not entry.isreg() or entry.issparse():
                raise refusal(path, f"it holds a link or a device, {entry.name}")
            stream.left = MOST_ELSE + max(0, entry.size)
            yield Member(entry.name, entry.size, lambda entry=entry: archive.extractfile(entry))  # type: ignore[misc, arg-type]
            archive.members = []  # type: ignore[attr-defined]  # it would keep all that it has read


def safe_name(path: Path, name: str) -> PurePosixPath:
    """Return the name of a file in an archive as a path that stays in the folder it is unpacked to."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    wrong = name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or (parts and ":" in parts[0])
    if wrong or not parts or len(name) > MOST_NAME or len(parts) > DEEPEST:
        raise refusal(path, f"the name {name[:80]!r} in it leads elsewhere, or is too long")
    return PurePosixPath(*parts)


def whole_blocks(size: int) -> int:
    """Return how many bytes of the disk a file of so many bytes takes."""
    return -(-size // BLOCK) * BLOCK


def refuse_full_disk(path: Path, folder: Path, needed: int) -> None:
    """Refuse to unpack an archive, or the next file in it, into a folder whose disk has less room than so many bytes."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise UnwritableError(
            f"{path} is not unpacked: it needs at least {needed / 1e9:.1f} GB, and {cache_folder('archives')} has "
            f"{free / 1e9:.1f} GB free: make room (headstart cache clear), or set HEADSTART_CACHE to a folder on another disk"
        )


def refusal(path: Path, why: str) -> DamagedError:
    return DamagedError(f"{path} is not unpacked: {why}; if you trust it, unpack it yourself, and give the folder")


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Say of what the libraries raise that an archive is damaged."""
    try:
        yield
    except TooMuchElse:
        raise refusal(path, "its headers are too large") from None
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        zlib.error,
        LZMAError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise DamagedError(f"{path} is not a readable archive ({error}); download or pack it again") from None


def inner_folder(folder: Path) -> Path:
    """Return the folder that the content of an archive lies in: many unpack into a folder of their own."""
    for _ in range(DEEPEST):
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX"]
        if len(entries) != 1 or not entries[0].is_dir():
            break
        folder = entries[0]
    return folder
