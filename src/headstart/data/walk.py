"""Find the folders below a folder, the images in each, and count everything else by kind."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from headstart.data.opening import RAW_ENDINGS, is_image
from headstart.errors import HeadstartError

# Files and folders that systems and programs leave among a user's own. Hidden ones, with a dot in front, are skipped too.
SYSTEM = {
    "thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin", "recycler", "lost+found",
    "system volume information",
}  # fmt: skip
# These are skipped only inside a class: a class itself may have such a name.
THUMBNAILS = {"thumbnails", "thumbs", "_thumbs"}
RUN = "run or audit of Headstart"
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
        total = self.skipped + Counter({"folder of thumbnails": thumbnails})
        return sum((folder.all_skipped() for folder in self.own_folders()), total)

    def own_folders(self) -> list["Folder"]:
        return [folder for folder in self.folders if folder.path.name.lower() not in THUMBNAILS]


def walk(root: Path) -> Folder:
    """Return a folder with everything below it. Links are followed unless they lead back to a folder above.

    Raises:
        HeadstartError: a folder cannot be read, lies too deep, or is reached by too many links.
    """
    try:
        above = frozenset(map(identity, root.resolve().parents))
        return walk_below(root, above, Counter(), 0)
    except OSError as error:
        raise HeadstartError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    except RuntimeError:  # of `resolve`
        raise HeadstartError(f"{root} cannot be read: it is a link to itself") from None


def identity(folder: Path) -> tuple[int, int]:
    """Return a folder's device and inode: the same for every path that leads to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def walk_below(root: Path, above: frozenset[tuple[int, int]], visits: Counter[tuple[int, int]], depth: int) -> Folder:
    """Return a folder with everything below it.

    Args:
        above: the identities of the folders above.
        visits: how often each folder was reached so far.
    """
    if depth > DEEPEST:
        raise HeadstartError(f"{root} cannot be read: it lies more than {DEEPEST} folders deep")
    own = identity(root)
    visits[own] += 1
    if visits[own] > MOST_VISITS:
        raise HeadstartError(f"{root} cannot be read: links lead to this folder in more than {MOST_VISITS} ways")
    with os.scandir(root) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    here, found = above | {own}, Folder(root)
    for entry in entries:
        path, name = root / entry.name, entry.name.lower()
        if name.startswith(".") or name in SYSTEM:
            found.skipped["hidden or system folder" if leads_to(entry.is_dir) else "hidden or system file"] += 1
        elif leads_to(entry.is_dir):
            if identity(path) in here:
                found.skipped["link to a folder above"] += 1
            elif is_ours(path):
                found.skipped[RUN] += 1
            else:
                found.folders.append(walk_below(path, here, visits, depth + 1))
        elif not leads_to(entry.is_file) and not entry.is_symlink():
            found.skipped["device, pipe or socket"] += 1
        elif is_image(path):
            found.images.append(path)
        else:
            found.skipped[kind(path)] += 1
    return found


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
    if (path / "config.toml").is_file():
        return any((path / name).exists() for name in RUN_FILES)
    return (path / "audit.json").is_file()


def skipped_words(skipped: Counter[str] | dict[str, int]) -> str:
    """Return counts by kind as text: `3 x no image (.txt), 1 x link to nothing`."""
    return ", ".join(f"{number:,} x {what}" for what, number in sorted(skipped.items(), key=lambda item: (-item[1], item[0])))
