"""The folders below a place on the disk, with the images in each, and a count of everything that is none."""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from headstart.data.decode import RAW_ENDINGS, is_image
from headstart.errors import HeadstartError

# Folders and files that systems and programs leave beside a user's own; hidden ones begin with a dot.
SYSTEM = {
    "thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin", "recycler", "lost+found",
    "system volume information",
}  # fmt: skip
# These are skipped inside a class only: a class may well be called so.
THUMBNAILS = {"thumbnails", "thumbs", "_thumbs"}
# Files by which a run or an audit of ours is known.
RUN = "run or audit of Headstart"
RUN_FILES = ("manifest.json", "split.csv", "log.txt", "checkpoint", "seeds.json")


@dataclass
class Folder:
    """A folder as it was found.

    Attributes:
        path: where it is.
        images: files directly in it that are images, or look like some, sorted.
        folders: visible folders directly in it, sorted by name.
        skipped: how many files and folders directly in it are no images, by kind.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @cached_property
    def count(self) -> int:
        """How many images lie in it and below."""
        return len(self.images) + sum(folder.count for folder in self.folders)

    def all_images(self) -> list[Path]:
        """Return the images in it and below, sorted, without those in folders of thumbnails."""
        return sorted([*self.images, *(path for folder in self.own_folders() for path in folder.all_images())])

    def all_skipped(self) -> Counter[str]:
        """Return what is no image in it and below, by kind."""
        thumbnails = len(self.folders) - len(self.own_folders())
        total = self.skipped + Counter({"folder of thumbnails": thumbnails})
        return sum((folder.all_skipped() for folder in self.own_folders()), total)

    def own_folders(self) -> list["Folder"]:
        return [folder for folder in self.folders if folder.path.name.lower() not in THUMBNAILS]


def walk(root: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Folder:
    """Return a folder and all below it. Links are followed, but for those that lead back to a folder above.

    Raises:
        HeadstartError: a folder cannot be read.
    """
    try:
        with os.scandir(root) as listing:
            entries, status = sorted(listing, key=lambda entry: entry.name), root.stat()
    except OSError as error:
        raise HeadstartError(f"{root} cannot be read: {error.strerror}") from None
    here, found = above | {(status.st_dev, status.st_ino)}, Folder(root)
    for entry in entries:
        path, name = root / entry.name, entry.name.lower()
        if name.startswith(".") or name in SYSTEM:
            found.skipped["hidden or system folder" if entry.is_dir() else "hidden or system file"] += 1
        elif entry.is_dir():
            status = path.stat()
            if (status.st_dev, status.st_ino) in here:
                found.skipped["link to a folder above"] += 1
            elif is_ours(path):
                found.skipped[RUN] += 1
            else:
                found.folders.append(walk(path, here))
        elif not entry.is_file() and not entry.is_symlink():
            found.skipped["device, pipe or socket"] += 1
        elif is_image(path):
            found.images.append(path)
        else:
            found.skipped[kind(path)] += 1
    return found


def kind(path: Path) -> str:
    """Return what a file is that is no image, in words that can be counted."""
    if not path.exists():
        return "link to nothing"
    ending = path.suffix.lower()
    what = "camera raw" if ending in RAW_ENDINGS else "no image"
    return f"{what} ({ending})" if ending else f"{what} (without an ending)"


def is_ours(path: Path) -> bool:
    """Whether a folder is a run or an audit that Headstart has written, whose images are no data."""
    if (path / "config.toml").is_file():
        return any((path / name).exists() for name in RUN_FILES)
    return (path / "audit.json").is_file()


def skipped_words(skipped: Counter[str] | dict[str, int]) -> str:
    """Return counts by kind as text: `3 x no image (.txt), 1 x link to nothing`."""
    return ", ".join(f"{number:,} x {what}" for what, number in sorted(skipped.items(), key=lambda item: (-item[1], item[0])))
