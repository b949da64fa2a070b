"""The cache folder, which keeps results that can be used again: where it is, what it holds, and how it is emptied."""

import contextlib
import errno
import functools
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from headstart.errors import HeadstartError
from headstart.system.files import is_used, remove_abandoned, unwritable

logger = logging.getLogger("headstart")

# Each kind has a folder of this name in the cache. Nothing else in the cache is removed.
KINDS = {
    "archives": "data sets that came in an archive, unpacked",
    "compiled": "programs that JAX has compiled",
    "features": "what frozen layers computed from images",
    "images": "image folders, decoded at one size",
    "plan": "how long the steps of a training take on this machine",
    "remote": "copies of files from addresses such as s3://, up to --remote-cache",
    "unreadable": "lists of image files that cannot be read",
}


def cache_folder(kind: str) -> Path:
    """Return (and make) the folder for one kind of cached results, a key of `KINDS`. Only the user can enter it.

    If somebody else owns it, or it is a link, a private folder among the system's temporary files takes its place, and a
    warning says so once. What killed processes left in it is removed.

    Raises:
        HeadstartError: no cache folder can be written.
    """
    folder = cache_root() / kind
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
        if why := others_can_enter(folder):
            elsewhere = private_folder() / kind
            elsewhere.mkdir(mode=0o700, exist_ok=True)
            say_once(f"the cache folder {folder} is not used ({why}): {elsewhere} is used")
            folder = elsewhere
    except OSError as error:
        raise unwritable(folder, error) from None
    tidy(folder)
    return folder


def others_can_enter(folder: Path) -> str:
    """Return why a folder is not the user's alone, once its mode has been set; "" if it is."""
    if not hasattr(os, "getuid"):  # on Windows, the user's folders are the user's
        return ""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link" if stat.S_ISLNK(found.st_mode) else "it is no folder"
    if found.st_uid != os.getuid():
        return "it belongs to another user"
    if found.st_mode & 0o077:
        folder.chmod(0o700)
        if folder.lstat().st_mode & 0o077:
            return "this disk cannot keep others out of it"
    return ""


def exchangeable(folder: Path) -> str:
    """Return why another user could put another folder in the place of this one; "" if none can."""
    if not hasattr(os, "getuid"):
        return ""
    if folder.stat().st_uid not in (os.getuid(), 0):
        return "it belongs to another user"
    here, target = folder.absolute(), folder.resolve()
    for place in {here, *here.parents, target, *target.parents}:
        found = place.lstat()
        if not stat.S_ISLNK(found.st_mode) and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"all users can write to {place}"
    return ""


@functools.cache
def say_once(message: str) -> None:
    logger.warning("%s; HEADSTART_CACHE=FOLDER chooses another", message)


@functools.cache
def tidy(folder: Path) -> None:
    """Remove what killed processes left in a folder, once in the life of this process."""
    remove_abandoned(folder)


def cache_root() -> Path:
    """Return (and make) the cache folder: `$HEADSTART_CACHE`, or else `headstart` in the user's cache folder.

    If that cannot be written, or others could exchange it, it is a private folder among the system's temporary files, and a
    warning says so once.

    Raises:
        HeadstartError: no cache folder can be written.
    """
    try:
        wanted = os.environ.get("HEADSTART_CACHE") or str(user_cache_path("headstart", appauthor=False))
    except RuntimeError:  # there is no home folder
        wanted = "~/.cache/headstart"
    return writable_cache(wanted)


class Usage(NamedTuple):
    """How much a folder holds: the number of files, and their total size in bytes."""

    files: int
    size: int


def usage(kind: str) -> Usage:
    """Return how much is cached of one kind. The folder need not exist."""
    files = sizes = 0
    for file in files_of(kind):
        with contextlib.suppress(FileNotFoundError):  # a training may remove old features at the same time
            sizes += file.lstat().st_size
            files += 1
    return Usage(files, sizes)


def clear(kind: str) -> Usage:
    """Remove what is cached of one kind, and return how much that was. Links are removed, their targets are not.

    Raises:
        HeadstartError: a file cannot be removed, or the kind's folder is a link to another place.
    """
    folder, files, sizes = cache_root() / kind, 0, 0
    if folder.is_symlink():
        raise HeadstartError(f"{folder} is a link to {folder.resolve()}: empty that folder yourself")
    try:
        for file in list(files_of(kind)):
            with contextlib.suppress(FileNotFoundError):
                size = file.lstat().st_size
                file.unlink()
                files, sizes = files + 1, sizes + size
        for path, _, _ in os.walk(folder, topdown=False):
            os.rmdir(path)
    except OSError as error:
        raise HeadstartError(f"{error.filename} cannot be removed: {error.strerror}") from None
    return Usage(files, sizes)


def files_of(kind: str) -> Iterator[Path]:
    """Yield all files below the folder of a kind. A link counts as a file."""
    for path, folders, files in os.walk(cache_root() / kind):
        links = [name for name in folders if os.path.islink(os.path.join(path, name))]
        yield from (Path(path, name) for name in files + links)


def prune(files: Iterable[Path], most_bytes: int, set_of: Callable[[Path], str] = str) -> None:
    """Remove those of some files that were used least recently, until the others take at most `most_bytes`.

    Files that somebody uses stay, see `headstart.system.files.is_used`.

    Args:
        set_of: files for which it returns the same are kept or removed together.
    """
    sets: dict[str, list[tuple[float, int, Path]]] = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # another process may prune at the same time
            if stat.S_ISREG((entry := file.lstat()).st_mode):
                used = max(entry.st_atime, entry.st_mtime)
                sets.setdefault(set_of(file), []).append((used, entry.st_size, file))
    total = 0
    for found in sorted(sets.values(), key=max, reverse=True):
        total += sum(size for _, size, _ in found)
        if total > most_bytes and not any(is_used(file) for _, _, file in found):
            for _, _, file in found:
                file.unlink(missing_ok=True)


@functools.cache
def writable_cache(wanted: str) -> Path:
    """Return the wanted cache folder if it can be written and nobody else can exchange it, else a private one, with a warning."""
    folder = Path(os.path.expanduser(wanted))
    try:
        if str(folder).startswith("~"):
            raise FileNotFoundError(errno.ENOENT, "there is no home folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if not (why := exchangeable(folder)):
            return folder
        why = f"is not used ({why})"
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
    other = private_folder()
    say_once(f"the cache folder {folder} {why}: {other} is used")
    return other


@functools.cache
def private_folder() -> Path:
    """Return (and make) a folder among the system's temporary files that only the user can read and write.

    Anybody can create files there. If something with the expected name is a link, or belongs to somebody else, a new folder is
    made.
    """
    try:
        parent = Path(tempfile.gettempdir())
        user = os.getuid() if hasattr(os, "getuid") else None  # on Windows, the folder of temporary files is the user's own
        folder = parent / ("headstart" if user is None else f"headstart-{user}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (user is not None and (found.st_uid != user or found.st_mode & 0o077)):
            folder = Path(tempfile.mkdtemp(prefix="headstart-", dir=parent))
        return folder
    except OSError as error:
        raise HeadstartError(
            f"no cache folder can be written ({error.strerror}): set HEADSTART_CACHE to a folder that can"
        ) from None
