"""A folder of images with a subfolder for each class, below `train`, `val` and `test` or not, decoded to one size."""

import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.decode import Decoded, Decoding, UnreadableImage, choose_fit, cut_away, decode, is_deep, open_image
from headstart.data.layout import read_layout
from headstart.data.source import Source
from headstart.errors import HeadstartError
from headstart.system.cache import cache_folder
from headstart.system.files import is_disk_full, unwritable, write_json, written_whole
from headstart.system.progress import track

logger = logging.getLogger("headstart")

# Above this the decoded images lie in a memory-mapped file, which also serves the next run.
MOST_BYTES_IN_MEMORY = 2 << 30
# Beyond this share of unreadable files, and this number, something is wrong with the data; so it is beyond the second share
# in any case, which protects small sets.
MOST_UNREADABLE, FEW_UNREADABLE, MOST_UNREADABLE_OF_FEW = 0.01, 10, 0.25
# So many unreadable files are named in a message.
NAMED = 10
# So many headers say which shapes a data set has, and so many deep images which greys.
HEADERS, DEEP_IMAGES = 1000, 200


def read_folder(
    root: Path, size: int, *, fit: str = "auto", layout: str = "auto", decoding: Decoding | None = None,
    known: Collection[str] | None = None,
) -> Source:  # fmt: skip
    """Decode all images below a folder to one size.

    Args:
        size: height and width in pixels.
        fit: `crop`, `squash` or `pad`; `auto` chooses by the images' shapes, see `headstart.data.decode.choose_fit`.
        layout, known: see `headstart.data.layout.read_layout`.
        decoding: how a run's images were decoded, instead of `fit`.

    Raises:
        HeadstartError: there are no class folders, a class has no image, or too many files are unreadable.
    """
    found = read_layout(root, layout, known)
    class_names = tuple(sorted({name for _, name, _ in found.rows}))
    paths = [path for path, _, _ in found.rows]
    remarks = list(found.remarks)
    if decoding is None:
        decoding, why = choose_decoding(paths, fit)
        remarks += why
    images, files = decode_all(root, paths, size, decoding)
    unreadable: dict[str, str] = files["unreadable"]
    names = [str(path.relative_to(root)) for path in paths]
    good = [row for row, name in enumerate(names) if name not in unreadable]
    remarks += [f"{number:,} x {what}" for what, number in files["remarks"].items()]
    if decoding.fit == "crop" and files["cut"] >= 0.005:
        remarks.append(f"images are cropped to their centre: {100 * files['cut']:.0f} % of each in the mean is cut away "
                       "(--fit squash or --fit pad keeps all)")  # fmt: skip
    return Source(
        images=images,
        labels=np.array([class_names.index(found.rows[row][1]) for row in good], np.int32),
        class_names=class_names,
        splits=np.array([found.rows[row][2] for row in good], np.int8),
        name=str(root),
        files=tuple(names[row] for row in good),
        unreadable=tuple(f"{file}: {reason}" for file, reason in unreadable.items()),
        skipped=dict(found.skipped),
        remarks=tuple(remarks),
        decoding=decoding,
        sizes=files["sizes"],
    )


def choose_decoding(paths: list[Path], fit: str) -> tuple[Decoding, list[str]]:
    """Return how the images of a data set are decoded, by a sample of them, and what that means in words."""
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        headers = [header for header in pool.map(read_header, spread(paths, HEADERS)) if header]
        remarks = []
        if fit == "auto":
            fit = choose_fit([size for size, _ in headers])
            if fit != "crop":
                shapes = "share one long shape" if fit == "squash" else "have long shapes of many kinds"
                how = "squashed to a square" if fit == "squash" else "padded to a square"
                remarks.append(f"the images {shapes}: they are {how}, so that nothing is cut away (--fit crop cuts)")
        deep = [path for (_, is_deep), path in zip(headers, spread(paths, HEADERS), strict=False) if is_deep]
        if not deep:
            return Decoding(fit), remarks
        ranges = [found for found in pool.map(read_range, spread(deep, DEEP_IMAGES)) if found]
    if not ranges:
        return Decoding(fit), remarks
    # Robust, so that a few dead pixels do not make all else one grey.
    lows, highs = np.array(ranges).T
    low, high = float(np.quantile(lows, 0.01)), float(np.quantile(highs, 0.99))
    remarks.append(f"images of more than 8 bits: values from {low:g} to {high:g} become 0 to 255, in all of them alike")
    return Decoding(fit, (low, high)), remarks


def spread(paths: list[Path], most: int) -> list[Path]:
    """Return at most so many of the paths, evenly spread over all."""
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, min(most, len(paths)))] if paths else []


def read_header(path: Path) -> tuple[tuple[int, int], bool] | None:
    """Return an image's width and height, and whether it is grey with more than 8 bits; None where it cannot be read."""
    try:
        with open_image(path) as image:
            return image.size, is_deep(image)
    except Exception:  # Pillow raises almost anything; decoding says why
        return None


def read_range(path: Path) -> tuple[float, float] | None:
    """Return the lowest and the highest value of a deep image, but for one pixel in ten thousand; None where there is none."""
    try:
        with open_image(path) as image:
            values = np.asarray(image, np.float64)
    except Exception:
        return None
    values = values[np.isfinite(values)]
    return (float(np.quantile(values, 1e-4)), float(np.quantile(values, 1 - 1e-4))) if values.size else None


def decode_all(root: Path, paths: list[Path], size: int, decoding: Decoding) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the readable images, uint8 (N, size, size, 3), and what was found out: see `decode_into`."""
    shape = (len(paths), size, size, 3)
    if np.prod(shape, dtype=np.int64) <= MOST_BYTES_IN_MEMORY:
        images = np.empty(shape, np.uint8)
        found = decode_into(images, root, paths, decoding)
        return images[: len(paths) - len(found["unreadable"])], found
    stats = [(str(path), *fingerprint(path)) for path in paths]
    key = hashlib.sha256(json.dumps([2, size, asdict(decoding), stats]).encode()).hexdigest()[:32]
    file = cache_folder("images") / f"{key}.npy"
    # What was found out is written last: where it is, the images are whole.
    done = file.with_suffix(".json")
    if not (done.exists() and file.exists()):
        images = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
        try:
            reserve(file)
            found = decode_into(images, root, paths, decoding)
        except HeadstartError:
            # The user will change the files, and then nothing would ever use or remove these gigabytes.
            file.unlink()
            raise
        images.flush()
        write_json(done, found)
    found = json.loads(done.read_text(encoding="utf-8"))
    return np.load(file, mmap_mode="r")[: len(paths) - len(found["unreadable"])], found


def reserve(file: Path) -> None:
    """Take the disk that a file will fill: a map of a file with holes would end the process where the disk is full.

    Raises:
        UnwritableError: the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if is_disk_full(error):
                raise unwritable(file, error) from None  # others do not know the call, as some network drives


def fingerprint(path: Path) -> tuple[int, int]:
    """Return size and time of change of a file; of a link to nothing, zeros."""
    try:
        return path.stat().st_size, path.stat().st_mtime_ns
    except OSError:
        return 0, 0


def decode_into(images: np.ndarray, root: Path, paths: list[Path], decoding: Decoding) -> dict[str, Any]:
    """Fill the first rows of `images` with the readable images, in order.

    Returns:
        `unreadable`: the reason of each file that is not there; `sizes`: width and height of the smallest, the median and
        the largest image; `cut`: the mean share that a crop leaves out; `remarks`: what was lost, with counts.
    """
    size, row, unreadable = images.shape[1], 0, {}
    sizes: list[tuple[int, int]] = []
    remarks: Counter[str] = Counter()

    def attempt(path: Path) -> Decoded | UnreadableImage:
        try:
            return decode(path, size, size, decoding)
        except UnreadableImage as error:
            return error

    # Pillow decodes outside Python's lock, so threads use every core. A slice at a time bounds memory.
    # Threads share the warning filters, and those that `decode` sets in one could outlast the others'.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        for start in track(range(0, len(paths), 256), "decoding images"):
            chunk = paths[start : start + 256]
            for path, found in zip(chunk, pool.map(attempt, chunk), strict=True):
                if isinstance(found, UnreadableImage):
                    unreadable[str(path.relative_to(root))] = str(found)
                else:
                    images[row] = found.pixels
                    sizes.append(found.size)
                    remarks.update(found.remarks)
                    row += 1
    refuse_unreadable(root, unreadable, len(paths))
    ordered = sorted(sizes, key=lambda one: one[0] * one[1])
    kinds = {"smallest": 0, "median": len(ordered) // 2, "largest": -1}
    return {
        "unreadable": unreadable,
        "sizes": {name: list(ordered[place]) for name, place in kinds.items()},
        "cut": float(np.mean([cut_away(one) for one in sizes])),
        "remarks": dict(remarks),
    }


def refuse_unreadable(root: Path, unreadable: dict[str, str], total: int) -> None:
    """Refuse a folder of which too many files cannot be read, and list them all in a file."""
    share = len(unreadable) / max(1, total)
    if share <= MOST_UNREADABLE or (len(unreadable) <= FEW_UNREADABLE and share <= MOST_UNREADABLE_OF_FEW):
        return
    file = cache_folder("unreadable") / f"{hashlib.sha256(str(root).encode(errors='replace')).hexdigest()[:16]}.txt"
    with written_whole(file) as partial:
        lines = (f"{name}: {why}\n" for name, why in unreadable.items())
        partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    first = list(unreadable)[:NAMED]
    more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
    raise HeadstartError(
        f"{root}: {len(unreadable)} of {total} image files cannot be read: mend or remove them; all are listed in {file}\n"
        f"They are {', '.join(first)}{more}; the first: {unreadable[first[0]]}"
    )
