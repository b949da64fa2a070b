"""Find the folders below a folder, the images in each, and count everything else by kind."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from headstart.data.opening import RAW_ENDINGS, is_image
from headstart.errors import HeadstartError
from headstart.system.remote import RemotePath, ahead

# Files and folders that systems and programs leave among a user's own. Hidden ones, with a dot in front, are skipped too.
SYSTEM = {
    "thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin", "recycler", "lost+found",
    "system volume information",
}  # fmt: skip
# These are skipped only inside a class: a class itself may have such a name.
THUMBNAILS = {"thumbnails", "thumbs", "_thumbs"}
RUN, THUMBNAILS_FOLDER = "run or audit of Headstart", "folder of thumbnails"
# What is not skipped.
IMAGE, FOLDER = "image", "folder"
# Links among folders can be followed in more ways than there is time for, and deep folders take Python's stack.
DEEPEST, MOST_VISITS = 64, 16
# Files that, beside config.toml, mark a folder as a run.
RUN_FILES = ("manifest.json", "split.csv", "log.txt", "checkpoint", "seeds.json", "folds.json")


@dataclass
class Folder:
    """A folder and what lies in it.

    Attributes:
        path: where it is.
        images: files directly in it that are images by their ending or content, sorted.
        folders: folders directly in it that are not skipped, sorted by name.
        skipped: how many files and folders directly in it are skipped, by kind.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @cached_property
    def count(self) -> int:
        """How many images lie in it and below, those in folders of thumbnails included."""
        return len(self.images) + sum(folder.count for folder in self.folders)

    def all_images(self) -> list[Path]:
        """Return the images in it and below, sorted, without those in folders of thumbnails."""
        return sorted([*self.images, *(path for folder in self.own_folders() for path in folder.all_images())])

    def all_skipped(self) -> Counter[str]:
        """Return how many files and folders are skipped in it and below, by kind."""
        thumbnails = len(self.folders) - len(self.own_folders())
        total = self.skipped + Counter({THUMBNAILS_FOLDER: thumbnails})
        return sum((folder.all_skipped() for folder in self.own_folders()), total)

    def own_folders(self) -> list["Folder"]:
        return [folder for folder in self.folders if folder.path.name.lower() not in THUMBNAILS]


def walk(root: Path) -> Folder:
    """Return a folder with everything below it. Links are followed unless they lead back to a folder above.

    Raises:
        HeadstartError: a folder cannot be read, lies too deep, or is reached by too many links.
    """
    with told(root):
        return walk_below(root, above(root), Counter(), 0)


def walk_images(root: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield the images in a folder and below in the order of `Folder.all_images`, each when it is found.

    Of files that are not yet reached, only the names in the folders above are in memory.

    Args:
        skipped: gets what `Folder.all_skipped` returns.

    Raises:
        HeadstartError: as for `walk`.
    """
    with told(root):
        yield from images_below(root, above(root), Counter(), 0, skipped)


@contextlib.contextmanager
def told(root: Path) -> Iterator[None]:
    """Raise what the system says of a folder that cannot be read as an error for the user."""
    try:
        yield
    except OSError as error:
        raise HeadstartError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    except RuntimeError:  # of `resolve`
        raise HeadstartError(f"{root} cannot be read: it is a link to itself") from None


def identity(folder: Path) -> tuple[int, int]:
    """Return a folder's device and inode: the same for every path that leads to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


Identities = frozenset[tuple[int, int]]


def above(root: Path) -> Identities:
    """Return the identities of the folders above a folder. At addresses there are no links that could lead back to them."""
    return frozenset() if isinstance(root, RemotePath) else frozenset(map(identity, root.resolve().parents))


def walk_below(root: Path, above: Identities, visits: Counter[tuple[int, int]], depth: int) -> Folder:
    """Return a folder with everything below it.

    Args:
        above: the identities of the folders above.
        visits: how often each folder was reached so far.
    """
    here, found = entered(root, above, visits, depth), Folder(root)
    for what, path in entries(root, here):
        if what == FOLDER:
            found.folders.append(walk_below(path, here, visits, depth + 1))
        elif what == IMAGE:
            found.images.append(path)
        else:
            found.skipped[what] += 1
    return found


def images_below(
    root: Path, above: Identities, visits: Counter[tuple[int, int]], depth: int, skipped: Counter[str]
) -> Iterator[Path]:
    """Yield the images in a folder and below; see `walk_below` and `walk_images`."""
    here = entered(root, above, visits, depth)
    for what, path in entries(root, here):
        if what == FOLDER and path.name.lower() not in THUMBNAILS:
            yield from images_below(path, here, visits, depth + 1, skipped)
        elif what == IMAGE:
            yield path
        else:
            skipped[THUMBNAILS_FOLDER if what == FOLDER else what] += 1


def entered(root: Path, above: Identities, visits: Counter[tuple[int, int]], depth: int) -> Identities:
    """Return the identities of a folder and of those above it, unless it lies too deep or is reached too often."""
    if depth > DEEPEST:
        raise HeadstartError(f"{root} cannot be read: it lies more than {DEEPEST} folders deep")
    own = identity(root)
    visits[own] += 1
    if visits[own] > MOST_VISITS:
        raise HeadstartError(f"{root} cannot be read: links lead to this folder in more than {MOST_VISITS} ways")
    return above | {own}


def entries(root: Path, here: Identities) -> Iterator[tuple[str, Path]]:
    """Yield what lies in a folder, sorted by name: `IMAGE`, `FOLDER`, or the kind as which it is skipped; and its path.

    Args:
        here: the identities of this folder and of those above.
    """
    if isinstance(root, RemotePath):
        paths = list(root.iterdir())  # to look into some, and list those that are folders, is asked for ahead of its turn
        yield from zip(ahead(lambda path: what_is(path, path if path.is_dir() else None, here), paths), paths, strict=True)
        return
    names: list[str] = []
    special: dict[str, os.DirEntry[str]] = {}  # a folder may hold a million files: of these, the names alone are kept
    with os.scandir(root) as listing:
        for entry in listing:
            names.append(entry.name)
            if not leads_to(partial(entry.is_file, follow_symlinks=False)):
                special[entry.name] = entry
    for name in sorted(names):
        path = root / name
        yield what_is(path, special.get(name), here), path


def what_is(path: Path, entry: os.DirEntry[str] | Path | None, here: Identities) -> str:
    """Return `IMAGE`, `FOLDER`, or the kind as which something is skipped.

    Args:
        entry: None for a regular file that no link leads to.
    """
    name, is_folder = path.name.lower(), entry is not None and leads_to(entry.is_dir)
    if name.startswith(".") or name in SYSTEM:
        return "hidden or system folder" if is_folder else "hidden or system file"
    if is_folder:
        return "link to a folder above" if identity(path) in here else RUN if is_ours(path) else FOLDER
    if entry is not None and not leads_to(entry.is_file) and not entry.is_symlink():
        return "device, pipe or socket"
    return IMAGE if is_image(path) else kind(path)


def leads_to(question: Callable[[], bool]) -> bool:
    """Whether an entry leads to a folder or file: `entry.is_dir` or `entry.is_file`. A link to itself leads to nothing."""
    try:
        return question()
    except OSError:
        return False


def kind(path: Path) -> str:
    """Return what kind of file a skipped file is, in fixed words, so that they can be counted."""
    if not path.exists():
        return "link to nothing"
    ending = path.suffix.lower()
    what = "camera raw" if ending in RAW_ENDINGS else "no image"
    return f"{what} ({ending})" if ending else f"{what} (without an ending)"


def is_ours(path: Path) -> bool:
    """Whether a folder is a run or an audit that Headstart has written. Its images are no data."""
    if isinstance(path, RemotePath):  # its list is needed anyway, and to ask for each name takes longer
        names = {child.name for child in path.children()}
        return not names.isdisjoint(RUN_FILES) if "config.toml" in names else "audit.json" in names
    if (path / "config.toml").is_file():
        return any((path / name).exists() for name in RUN_FILES)
    return (path / "audit.json").is_file()


def relative(path: Path, folder: Path) -> Path:
    """Return a path below a folder relative to it; another path as it is."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def skipped_words(skipped: Counter[str] | dict[str, int]) -> str:
    """Return counts by kind as text: `3 x no image (.txt), 1 x link to nothing`."""
    return ", ".join(f"{number:,} x {what}" for what, number in sorted(skipped.items(), key=lambda item: (-item[1], item[0])))
