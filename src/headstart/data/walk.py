"""Find the folders below a folder, the images in each, and count everything else by kind."""

import os
from collections import Counter
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
# Files that, beside config.toml, mark a folder as a run.
RUN_FILES = ("manifest.json", "split.csv", "log.txt", "checkpoint", "seeds.json")


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


def walk(root: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Folder:
    """Return a folder with everything below it. Links are followed unless they lead back to a folder above.

    Args:
        above: device and inode of each folder above.

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
