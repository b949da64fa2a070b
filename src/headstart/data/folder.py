"""A folder of pictures with a subfolder for each class, below `train`, `val` and `test` or not."""

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from headstart.data.dataset import TEST, TRAIN, VALIDATION, Pictures
from headstart.data.picture import UnreadablePicture, is_picture, read_picture
from headstart.errors import HeadstartError
from headstart.files import cache_folder, write_json
from headstart.progress import track

PART_FOLDERS = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST,
}  # fmt: skip
# Above this the decoded pictures lie in a memory-mapped file, which also serves the next run.
MOST_BYTES_IN_MEMORY = 2 << 30
MOST_UNREADABLE = 0.01


def read_folder(root: Path, size: int) -> Pictures:
    """Decode all pictures below a folder to one size.

    Args:
        size: height and width in pixels, cropped about the centre.

    Raises:
        HeadstartError: there are no class folders or only one, a class has no picture, the parts
            have different classes, or more than 1 % of the files are unreadable.
    """
    listing = list_pictures(root)
    class_names = tuple(sorted({name for _, name, _ in listing}))
    if len(class_names) < 2:
        raise HeadstartError(f"{root} has only one class, {class_names[0]!r}: a classifier needs two subfolders or more")
    paths = [path for path, _, _ in listing]
    images, unreadable = decode_all(root, paths, size)
    good = [row for row, path in enumerate(paths) if str(path.relative_to(root)) not in unreadable]
    return Pictures(
        images=images,
        labels=np.array([class_names.index(listing[row][1]) for row in good], np.int32),
        class_names=class_names,
        parts=np.array([listing[row][2] for row in good], np.int8),
        source=str(root),
        files=tuple(str(paths[row].relative_to(root)) for row in good),
        unreadable=tuple(f"{file}: {reason}" for file, reason in unreadable.items()),
    )


def list_pictures(root: Path) -> list[tuple[Path, str, int]]:
    """Return path, class name and part of every picture file, in a fixed order."""
    folders = subfolders(root)
    parts = {folder: PART_FOLDERS[folder.name.lower()] for folder in folders if folder.name.lower() in PART_FOLDERS}
    if TRAIN not in parts.values():
        if folders and len(parts) == len(folders):
            present = " and ".join(f"{folder.name}/" for folder in folders)
            raise HeadstartError(f"{root} has {present} and no pictures to train on: put them into {root / 'train'}")
        parts = {root: TRAIN}
    listing, classes = [], {}
    for folder, part in parts.items():
        classes[folder] = [below.name for below in subfolders(folder)]
        for below in subfolders(folder):
            files = sorted(path for path in below.rglob("*") if is_picture(path))
            if not files:
                raise HeadstartError(f"{below} holds no picture: add some, or remove the folder of this class")
            listing += [(path, below.name, part) for path in files]
    if not listing:
        raise HeadstartError(f"{root} is no data set: it needs a subfolder of pictures for each class")
    training = {name for folder, part in parts.items() if part == TRAIN for name in classes[folder]}
    for folder, names in classes.items():
        if strange := sorted(set(names) - training):
            raise HeadstartError(f"{folder / strange[0]}: the class {strange[0]!r} has no pictures to train on")
    return listing


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def decode_all(root: Path, paths: list[Path], size: int) -> tuple[np.ndarray, dict[str, str]]:
    """Return the readable pictures, uint8 (N, size, size, 3), and the reason for each unreadable file."""
    shape = (len(paths), size, size, 3)
    if np.prod(shape, dtype=np.int64) <= MOST_BYTES_IN_MEMORY:
        images = np.empty(shape, np.uint8)
        unreadable = decode_into(images, root, paths)
        return images[: len(paths) - len(unreadable)], unreadable
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = hashlib.sha256(json.dumps([size, stats]).encode()).hexdigest()[:32]
    file = cache_folder("pictures") / f"{key}.npy"
    # The list of unreadable files is written last: where it is, the pictures are whole.
    done = file.with_suffix(".json")
    if not (done.exists() and file.exists()):
        images = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
        try:
            unreadable = decode_into(images, root, paths)
        except HeadstartError:
            # The user will change the files, and then nothing would ever use or remove these gigabytes.
            file.unlink()
            raise
        images.flush()
        write_json(done, unreadable)
    unreadable = json.loads(done.read_text(encoding="utf-8"))
    return np.load(file, mmap_mode="r")[: len(paths) - len(unreadable)], unreadable


def decode_into(images: np.ndarray, root: Path, paths: list[Path]) -> dict[str, str]:
    """Fill the first rows of `images` with the readable pictures, in order; return the others' reasons."""
    size, row, unreadable = images.shape[1], 0, {}

    def decode(path: Path) -> np.ndarray | UnreadablePicture:
        try:
            return read_picture(path, size, size)
        except UnreadablePicture as error:
            return error

    # Pillow decodes outside Python's lock, so threads use every core. A slice at a time bounds memory.
    # Threads share the warning filters, and those that read_picture sets in one could outlast the others'.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        for start in track(range(0, len(paths), 256), "decoding pictures"):
            chunk = paths[start : start + 256]
            for path, picture in zip(chunk, pool.map(decode, chunk), strict=True):
                if isinstance(picture, UnreadablePicture):
                    unreadable[str(path.relative_to(root))] = str(picture)
                else:
                    images[row] = picture
                    row += 1
    if len(unreadable) > MOST_UNREADABLE * len(paths):
        file, reason = next(iter(unreadable.items()))
        raise HeadstartError(
            f"{root}: {len(unreadable)} of {len(paths)} files are unreadable, more than {MOST_UNREADABLE:.0%}; "
            f"the first is {file} ({reason})"
        )
    return unreadable
