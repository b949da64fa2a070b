"""Read a folder of images: a subfolder for each class, possibly below `train`, `val` and `test`; decoded to one size."""

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
from typing import Annotated, TypedDict

import numpy as np
from msgspec import Meta

from headstart.data.decode import Decoded, Decoding, choose_fit, cut_away, decode, is_deep, range_of
from headstart.data.labels import Labelling, read_labels, relative
from headstart.data.opening import UnreadableImage, opened
from headstart.data.source import Source
from headstart.errors import HeadstartError
from headstart.system.cache import cache_folder
from headstart.system.entries import gone, read_sealed, read_stored, seal, write_sealed
from headstart.system.files import is_disk_full, unwritable, written_whole
from headstart.system.progress import track
from headstart.system.reading import Checksum, Count, Fraction

logger = logging.getLogger("headstart")

# Above this, the decoded images are kept in a memory-mapped file, which later runs use too.
MOST_BYTES_IN_MEMORY = 2 << 30
# Something is wrong with the data if more than this share and more than this number of files are unreadable, or, in small
# data sets too, more than the second share.
MOST_UNREADABLE, FEW_UNREADABLE, MOST_UNREADABLE_OF_FEW = 0.01, 10, 0.25
# At most so many unreadable files are named in a message.
NAMED = 10
# How many headers are sampled for the shapes of a data set, and how many deep images for its range of values.
HEADERS, DEEP_IMAGES = 1000, 200
# The images whose width and height are told.
SIZES = ("smallest", "median", "largest")


def read_folder(
    root: Path, size: int, *, fit: str = "auto", layout: str = "auto", decoding: Decoding | None = None,
    known: Collection[str] | None = None, labelling: Labelling | None = None,
) -> Source:  # fmt: skip
    """Decode all images below a folder, or those that a table names, to one size.

    Args:
        root: the folder, or the table.
        size: height and width in pixels.
        fit: `crop`, `squash` or `pad`; `auto` chooses by the images' shapes, see `headstart.data.decode.choose_fit`.
        layout, known: see `headstart.data.layout.read_layout`.
        decoding: of a run; it is used instead of `fit`.
        labelling: where labels and groups are; it is used instead of `layout`.

    Raises:
        HeadstartError: labels cannot be told (see `headstart.data.labels.read_labels`), or too many files are unreadable.
    """
    found = read_labels(root, labelling or Labelling(layout), known)
    folder = root if root.is_dir() else root.parent
    class_names = tuple(sorted({name for _, name, _ in found.rows}))
    paths = [path for path, _, _ in found.rows]
    remarks = list(found.remarks)
    if decoding is None:
        decoding, why = choose_decoding(paths, fit)
        remarks += why
    images, files = decode_all(folder, paths, size, decoding)
    unreadable = files["unreadable"]
    names = [str(relative(path, folder)) for path in paths]
    readable = [row for row, name in enumerate(names) if name not in unreadable]
    remarks += [f"{number:,} x {what}" for what, number in files["remarks"].items()]
    if decoding.fit == "crop" and files["cut"] >= 0.005:
        remarks.append(f"images are cropped to their centre: {100 * files['cut']:.0f} % of each is cut away on average "
                       "(--fit squash or --fit pad keeps all)")  # fmt: skip
    return Source(
        images=images,
        labels=np.array([class_names.index(found.rows[row][1]) for row in readable], np.int32),
        class_names=class_names,
        splits=np.array([found.rows[row][2] for row in readable], np.int8),
        name=str(root),
        files=tuple(names[row] for row in readable),
        groups=tuple(found.groups[row] or names[row] for row in readable) if found.groups else (),
        unreadable=tuple(f"{file}: {reason}" for file, reason in unreadable.items()),
        skipped=dict(found.skipped),
        remarks=tuple(remarks),
        decoding=decoding,
        sizes=files["sizes"],
    )


def choose_decoding(paths: list[Path], fit: str) -> tuple[Decoding, list[str]]:
    """Return how the images of a data set are to be decoded, judged by a sample of them, and remarks about it."""
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        sample = spread(paths, HEADERS)
        headers = [(path, *header) for path, header in zip(sample, pool.map(read_header, sample), strict=True) if header]
        remarks = []
        if fit == "auto":
            fit = choose_fit([size for _, size, _ in headers])
            if fit != "crop":
                shapes = "share one long shape" if fit == "squash" else "have long shapes of many kinds"
                how = "squashed to a square" if fit == "squash" else "padded to a square"
                remarks.append(f"the images {shapes}: they are {how}, so that nothing is cut away (--fit crop cuts)")
        deep_paths = [path for path, _, deep in headers if deep]
        if not deep_paths:
            return Decoding(fit), remarks
        ranges = [found for found in pool.map(read_range, spread(deep_paths, DEEP_IMAGES)) if found]
    if not ranges:
        return Decoding(fit), remarks
    # Quantiles, so that a few outliers do not push everything else into one shade of grey.
    lows, highs = np.array(ranges).T
    low, high = float(np.quantile(lows, 0.01)), float(np.quantile(highs, 0.99))
    remarks.append(f"images of more than 8 bits: values from {low:g} to {high:g} become 0 to 255 in all of them")
    return Decoding(fit, (low, high)), remarks


def spread(paths: list[Path], most: int) -> list[Path]:
    """Return at most `most` of the paths, evenly spread over all."""
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, min(most, len(paths)))] if paths else []


def read_header(path: Path) -> tuple[tuple[int, int], bool] | None:
    """Return an image's width and height, and whether it is grey with more than 8 bits; None if it cannot be read."""
    try:
        with opened(path) as one:
            return one.image.size, is_deep(one.image)
    except Exception:  # Pillow raises exceptions of almost any kind; decoding reports them later
        return None


def read_range(path: Path) -> tuple[float, float] | None:
    """Return the 0.01 % and 99.99 % quantiles of a deep image's values; None if it cannot be read or has no finite value."""
    try:
        with opened(path) as one, one.ready(one.image.size):
            return range_of(one.image)
    except Exception:
        return None


class Found(TypedDict):
    """What was found when the images of a folder were decoded, see `decode_into`."""

    unreadable: dict[str, str]
    sizes: dict[str, Annotated[list[Count], Meta(min_length=2, max_length=2)]]
    cut: Fraction
    remarks: dict[str, Count]


class Findings(TypedDict):
    """The cached findings, and the seal of the images that they belong to."""

    found: Found
    images: Checksum


def decode_all(root: Path, paths: list[Path], size: int, decoding: Decoding) -> tuple[np.ndarray, Found]:
    """Return the readable images, uint8 (N, size, size, 3), and the findings of `decode_into`."""
    shape = (len(paths), size, size, 3)
    if np.prod(shape, dtype=np.int64) <= MOST_BYTES_IN_MEMORY:
        images = np.empty(shape, np.uint8)
        found = decode_into(images, root, paths, decoding)
        return images[: len(paths) - len(found["unreadable"])], found
    stats = [(str(path), *fingerprint(path)) for path in paths]
    key = hashlib.sha256(json.dumps([2, size, asdict(decoding), stats]).encode()).hexdigest()[:32]
    file = cache_folder("images") / f"{key}.npy"
    if not (stored := read_decoded(file, shape)):
        # If there are too many unreadable files, the user will change them, and nothing would use these gigabytes again: the
        # partial file goes.
        with written_whole(file) as partial:
            images = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
            reserve(partial)
            found = decode_into(images, root, paths, decoding)
            images.flush()
            del images
            digest = seal(partial, file.name)
        write_sealed(file.with_suffix(".json"), {"found": found, "images": digest})
        if not (stored := read_decoded(file, shape)):
            raise gone(file)
    array, found = stored
    return array[: len(paths) - len(found["unreadable"])], found


def read_decoded(file: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, Found] | None:
    """Return decoded images from the cache, memory-mapped, and their findings; None if they must be decoded."""
    findings = read_sealed(file.with_suffix(".json"), Findings)
    if not findings or not (stored := read_stored(file, ("uint8",), shape)):
        return None
    found = findings["found"]
    fitting = found["sizes"].keys() == set(SIZES) and len(found["unreadable"]) < shape[0]
    if not fitting or stored.seal != findings["images"]:
        logger.warning("%s does not belong to its findings; the images are decoded again", file)
        return None
    return stored.mapped(), found


def reserve(file: Path) -> None:
    """Allocate the disk space of a memory-mapped file. If the disk filled up later, writing to the map would kill the process.

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
                raise unwritable(file, error) from None  # other errors: some network drives do not support the call


def fingerprint(path: Path) -> tuple[int, int]:
    """Return the size and modification time of a file; zeros for a broken link."""
    try:
        return path.stat().st_size, path.stat().st_mtime_ns
    except OSError:
        return 0, 0


def decode_into(images: np.ndarray, root: Path, paths: list[Path], decoding: Decoding) -> Found:
    """Fill the first rows of `images` with the readable images, in order.

    Returns:
        `unreadable`: why, by file; `sizes`: width and height of the smallest, the median and the largest image; `cut`: the
        mean share of an image that a crop leaves out, 0..1; `remarks`: the number of images by remark.

    Raises:
        HeadstartError: too many files are unreadable.
    """
    size, row, unreadable = images.shape[1], 0, {}
    sizes: list[tuple[int, int]] = []
    remarks: Counter[str] = Counter()

    def attempt(path: Path) -> Decoded | UnreadableImage:
        try:
            return decode(path, size, size, decoding)
        except UnreadableImage as error:
            return error

    # Pillow releases Python's lock while it decodes, so threads use every core. Slices bound the memory. Threads share the
    # warning filters, so filters that `decode` sets in one thread could stay behind: they are restored here.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        for start in track(range(0, len(paths), 256), "decoding images"):
            chunk = paths[start : start + 256]
            for path, found in zip(chunk, pool.map(attempt, chunk), strict=True):
                if isinstance(found, UnreadableImage):
                    unreadable[str(relative(path, root))] = str(found)
                else:
                    images[row] = found.pixels
                    sizes.append(found.size)
                    remarks.update(found.remarks)
                    row += 1
    refuse_unreadable(root, unreadable, len(paths))
    ordered = sorted(sizes, key=lambda one: one[0] * one[1])
    places = dict(zip(SIZES, (0, len(ordered) // 2, -1), strict=True))
    return {
        "unreadable": unreadable,
        "sizes": {name: list(ordered[place]) for name, place in places.items()},
        "cut": float(np.mean([cut_away(one) for one in sizes])),
        "remarks": dict(remarks),
    }


def refuse_unreadable(root: Path, unreadable: dict[str, str], total: int) -> None:
    """Refuse a folder if too many of its files cannot be read, and list all of these in a file."""
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
