"""How decoded images are held: in memory, in a file of the cache, or decoded on demand, by what fits.

More images than memory holds are looked at once in a first pass, whichever way they are held. It finds the unreadable files,
and keeps in the cache what is asked of all images again and again: their digests, and small grey versions. It does so in blocks
of images, each whole or absent: a pass that was killed goes on.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple, TypedDict

import numpy as np
from msgspec import Meta

from headstart.data.decode import Decoded, Decoding, cut_away, decode
from headstart.data.grey import SIDE, shades_of_grey
from headstart.data.on_demand import OnDemand, digest, fingerprint
from headstart.data.opening import UnreadableImage
from headstart.data.walk import relative
from headstart.errors import HeadstartError
from headstart.system.cache import cache_folder
from headstart.system.entries import StoredArray, discard, gone, read_sealed, read_stored, write_sealed, written_array
from headstart.system.files import allow_open_files, is_disk_full, unwritable, written_whole
from headstart.system.progress import track
from headstart.system.reading import Checksum, Count, Fraction
from headstart.system.remote import threads_for
from headstart.system.rows import StoredRows

logger = logging.getLogger("headstart")

# The ways to hold images.
IN_MEMORY, IN_CACHE, ON_DEMAND = "in memory", "in a file of the cache", "decoded on demand"
# Above this, images are not held in memory.
MOST_BYTES_IN_MEMORY = 2 << 30
# A file of decoded images may take this share of the free disk.
MOST_OF_DISK = 0.5
# Something is wrong with the data if more than this share and more than this number of files are unreadable, or, in small
# data sets too, more than the second share.
MOST_UNREADABLE, FEW_UNREADABLE, MOST_UNREADABLE_OF_FEW = 0.01, 10, 0.25
# At most so many unreadable files are named in a message.
NAMED = 10
# The images whose width and height are told.
SIZES = ("smallest", "median", "largest")
# So many images, and fewer if these take more bytes, are decoded before they are stored.
CHUNK, MOST_BYTES_OF_CHUNK = 256, 64 << 20
# Images that the first pass stores together: what a kill costs, 10 seconds on two cores at 300 px.
ROWS_OF_BLOCK = 2048

Images = np.ndarray | StoredRows | OnDemand


@dataclass(frozen=True, eq=False)
class Survey:
    """What a first pass keeps of all images.

    Attributes:
        digests: (N,) of 16 bytes, see `headstart.data.source.Source`.
        grey: float32 (N, 32, 32), on disk, see `headstart.data.grey`.
    """

    digests: np.ndarray
    grey: StoredRows


class FoundInBlock(TypedDict):
    """What was found when some images were decoded, see `decode_each`."""

    unreadable: dict[str, str]
    sizes: list[Annotated[list[Count], Meta(min_length=3, max_length=3)]]
    remarks: dict[str, Count]


class Found(TypedDict):
    """What was found when the images of a folder were decoded, see `together`."""

    unreadable: dict[str, str]
    sizes: dict[str, Annotated[list[Count], Meta(min_length=2, max_length=2)]]
    cut: Fraction
    remarks: dict[str, Count]


class Findings(TypedDict):
    """The cached findings, and the seals of the arrays that they belong to: `digests`, `grey` and, unless on demand, `images`."""

    found: FoundInBlock
    seals: dict[str, Checksum]


class Held(NamedTuple):
    """The readable images of a folder.

    Attributes:
        images: uint8 (N, size, size, 3).
        found: what was found when they were decoded.
        survey: None if the images are in memory.
    """

    images: Images
    found: Found
    survey: Survey | None = None


def way_to_hold(count: int, size: int, often: bool) -> str:
    """Return how so many images of this height and width are held.

    Args:
        often: whether they are looked at in every epoch. If not, to decode them once or twice more takes less than to write
            them and read them again.
    """
    needed = bytes_of(count, size)
    if needed <= MOST_BYTES_IN_MEMORY:
        return IN_MEMORY
    return IN_CACHE if often and needed <= MOST_OF_DISK * shutil.disk_usage(cache_folder("images")).free else ON_DEMAND


def bytes_of(count: int, size: int) -> int:
    return count * size * size * 3


def bytes_on_disk(way: str, count: int, size: int) -> int:
    """Return how many bytes of the cache so many images take; a first pass over many of them keeps something in any case."""
    survey = count * (4 * SIDE**2 + 16)
    return {IN_MEMORY: 0, ON_DEMAND: survey, IN_CACHE: survey + bytes_of(count, size)}[way]


def way_of(images: Images) -> str:
    """Return how images are held."""
    return ON_DEMAND if isinstance(images, OnDemand) else IN_CACHE if isinstance(images, StoredRows) else IN_MEMORY


def held_in_words(way: str, count: int, size: int) -> str:
    """Return how so many images are held, and what disk that takes, as a line for the log; "" if they are in memory."""
    if way == IN_MEMORY:
        return ""
    disk = bytes_on_disk(way, count, size)
    return f"decoded, the images take {bytes_of(count, size) / 1e9:.1f} GB: they are {way} ({disk / 1e9:.1f} GB of disk)"


def decode_all(root: Path, paths: list[Path], size: int, decoding: Decoding, often: bool = True) -> Held:
    """Return the readable images of some files, and what was found.

    Args:
        often: see `way_to_hold`.

    Raises:
        HeadstartError: too many files are unreadable; or the disk is full.
    """
    if (way := way_to_hold(len(paths), size, often)) == IN_MEMORY:
        images = np.empty((len(paths), size, size, 3), np.uint8)
        found = together([decode_into(images, root, paths, decoding)])
        refuse_unreadable(root, found["unreadable"], len(paths))
        return Held(images[: len(paths) - len(found["unreadable"])], found)
    stats = np.array([fingerprint(path) for path in paths], np.int64)
    blocks = [slice(start, start + ROWS_OF_BLOCK) for start in range(0, len(paths), ROWS_OF_BLOCK)]
    allow_open_files(3 * len(blocks))
    folder = cache_folder("images")
    files = [folder / key_of(paths[block], stats[block], size, decoding) for block in blocks]
    held, with_images = [opened(file, paths[block], size, often) for file, block in zip(files, blocks, strict=True)], often
    if way == ON_DEMAND and often and not all(held):
        held, with_images = [opened(file, paths[block], size, False) for file, block in zip(files, blocks, strict=True)], False
    missing = [number for number, one in enumerate(held) if not one]
    if missing and len(missing) < len(blocks):
        logger.info("images: %d of %d blocks are in the cache", len(blocks) - len(missing), len(blocks))
    for number in track(missing, "decoding images"):
        file, block = files[number], blocks[number]
        store(file, root, paths[block], size, decoding, arrays_of(paths[block], size, with_images))
        held[number] = opened(file, paths[block], size, with_images)
        if not held[number]:
            raise gone(file)
    whole = [one for one in held if one]
    found = together([one for _, one in whole])
    try:
        refuse_unreadable(root, found["unreadable"], len(paths))
    except HeadstartError:
        # The user will change the files, and nothing would use these gigabytes again.
        for number in missing:
            for path in folder.glob(f"{files[number].name}*"):
                discard(path)
        raise
    names = [str(relative(path, root)) for path in paths]
    rows = np.array([row for row, name in enumerate(names) if name not in found["unreadable"]])
    # In each block, the readable images come first.
    present = np.concatenate([
        block.start + np.arange(sum(number for *_, number in one["sizes"])) for block, (_, one) in zip(blocks, whole, strict=True)
    ])  # fmt: skip
    entries = {name: StoredRows([arrays[name] for arrays, _ in whole], present) for name in whole[0][0]}
    digests = np.asarray(entries["digests"]).view("V16")[:, 0]
    survey = Survey(digests, entries["grey"])
    if with_images:
        return Held(entries["images"], found, survey)
    return Held(OnDemand(root, [names[row] for row in rows], stats[rows], size, decoding, digests), found, survey)


def arrays_of(paths: list[Path], size: int, with_images: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of each array that is stored of some files."""
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {
        "digests": ("uint8", (len(paths), 16)), "grey": ("float32", (len(paths), SIDE, SIDE)),
    }  # fmt: skip
    return arrays | ({"images": ("uint8", (len(paths), size, size, 3))} if with_images else {})


def opened(
    file: Path, paths: list[Path], size: int, with_images: bool
) -> tuple[dict[str, StoredArray], FoundInBlock] | None:  # fmt: skip
    """Return what is stored of a block of files; None if they must be decoded."""
    return read_entries(file, arrays_of(paths, size, with_images))


def together(blocks: list[FoundInBlock]) -> Found:
    """Return what was found in all blocks.

    Returns:
        `unreadable`: why, by file; `sizes`: width and height of the smallest, the median and the largest image; `cut`: the
        mean share of an image that a crop leaves out, 0..1; `remarks`: the number of images by remark.
    """
    numbers: Counter[tuple[int, int]] = Counter()
    remarks: Counter[str] = Counter()
    for block in blocks:
        for width, height, number in block["sizes"]:
            numbers[width, height] += number
        remarks.update(block["remarks"])
    ordered = sorted(numbers, key=lambda one: one[0] * one[1])
    counts = [numbers[one] for one in ordered]
    ends, images = np.cumsum(counts), sum(counts)
    middle = int(np.searchsorted(ends, images // 2, side="right"))
    return {
        "unreadable": {file: why for block in blocks for file, why in block["unreadable"].items()},
        "sizes": {name: list(ordered[place]) for name, place in zip(SIZES, (0, middle, -1), strict=True)} if images else {},
        "cut": float(np.average([cut_away(one) for one in ordered], weights=counts)) if images else 0.0,
        "remarks": dict(remarks),
    }


def key_of(paths: list[Path], stats: np.ndarray, size: int, decoding: Decoding) -> str:
    """Return the name of what is stored of some files, which another size, time or way of decoding changes."""
    digest = hashlib.sha256(json.dumps([4, size, asdict(decoding)]).encode())
    for path in paths:
        digest.update(f"{path}\0".encode(errors="surrogateescape"))
    digest.update(stats.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def place(file: Path, name: str) -> Path:
    return file.with_name(f"{file.name}-{name}.npy")


def read_entries(
    file: Path, wanted: dict[str, tuple[str, tuple[int, ...]]]
) -> tuple[dict[str, StoredArray], FoundInBlock] | None:  # fmt: skip
    """Return stored arrays, by name, and the findings that belong to them; None if the images must be decoded.

    Args:
        wanted: type and shape of each array.
    """
    findings = read_sealed(file.with_suffix(".json"), Findings)
    if not findings or not wanted.keys() <= findings["seals"].keys():
        return None
    stored = {name: read_stored(place(file, name), (dtype,), shape) for name, (dtype, shape) in wanted.items()}
    entries = {name: entry for name, entry in stored.items() if entry}
    if len(entries) < len(wanted):
        return None
    found = findings["found"]
    fitting = sum(number for *_, number in found["sizes"]) + len(found["unreadable"]) == len(entries["digests"])
    if not fitting or any(entry.seal != findings["seals"][name] for name, entry in entries.items()):
        logger.warning("%s does not belong to its findings; the images are decoded again", file)
        return None
    return entries, found


def store(
    file: Path, root: Path, paths: list[Path], size: int, decoding: Decoding, wanted: dict[str, tuple[str, tuple[int, ...]]]
) -> None:  # fmt: skip
    """Decode the images of a block once, and write what is wanted of them to the cache."""
    row_bytes = {name: math.prod(shape[1:]) * np.dtype(dtype).itemsize for name, (dtype, shape) in wanted.items()}
    with contextlib.ExitStack() as stack:
        streams = {}
        for name, (dtype, shape) in wanted.items():
            streams[name] = stream = stack.enter_context(written_array(place(file, name)))
            np.lib.format.write_array_header_1_0(stream, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
            reserve(stream.file, place(file, name), len(paths) * row_bytes[name])

        def keep(images: np.ndarray) -> None:
            content: dict[str, Any] = {
                "digests": b"".join(map(digest, images)), "grey": shades_of_grey(images, np.arange(len(images))).tobytes(),
                "images": images,
            }  # fmt: skip
            for name, stream in streams.items():
                stream.write(content[name])

        found = decode_each(root, paths, size, decoding, keep)
        for name, stream in streams.items():
            for _ in found["unreadable"]:
                stream.write(bytes(row_bytes[name]))
    entries = {name: read_stored(place(file, name), (dtype,), shape) for name, (dtype, shape) in wanted.items()}
    seals = {name: entry.seal for name, entry in entries.items() if entry}
    write_sealed(file.with_suffix(".json"), {"found": found, "seals": seals})


def reserve(file: IO[bytes], path: Path, size: int) -> None:
    """Allocate the disk space of a file before it is filled: a full disk is said at once, and not after an hour.

    Raises:
        UnwritableError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if is_disk_full(error):
                raise unwritable(path, error) from None  # other errors: some network drives do not support the call


def decode_into(images: np.ndarray, root: Path, paths: list[Path], decoding: Decoding) -> FoundInBlock:
    """Fill the first rows of `images` with the readable images, in order; see `decode_each`."""
    row = 0

    def keep(chunk: np.ndarray) -> None:
        nonlocal row
        images[row : row + len(chunk)] = chunk
        row += len(chunk)

    return decode_each(root, paths, images.shape[1], decoding, keep, shown=True)


def decode_each(
    root: Path, paths: list[Path], size: int, decoding: Decoding, keep: Callable[[np.ndarray], None], *, shown: bool = False
) -> FoundInBlock:  # fmt: skip
    """Give the readable images to `keep`, in order, some at a time: uint8 (n, size, size, 3).

    Args:
        shown: whether there is a progress bar.

    Returns:
        `unreadable`: why, by file; `sizes`: width, height and number of the images of each size; `remarks`: the number of images
        by remark.
    """
    unreadable: dict[str, str] = {}
    sizes: Counter[tuple[int, int]] = Counter()
    remarks: Counter[str] = Counter()
    for chunk, decoded in in_chunks(paths, size, decoding, shown):
        readable = []
        for path, found in zip(chunk, decoded, strict=True):
            if isinstance(found, UnreadableImage):
                unreadable[str(relative(path, root))] = str(found)
            else:
                readable.append(found.pixels)
                sizes[found.size] += 1
                remarks.update(found.remarks)
        if readable:
            keep(np.stack(readable))
    return {
        "unreadable": unreadable,
        "sizes": [[*one, number] for one, number in sizes.items()],
        "remarks": dict(remarks),
    }


def in_chunks(
    paths: list[Path], size: int, decoding: Decoding, shown: bool
) -> Iterator[tuple[list[Path], list[Decoded | UnreadableImage]]]:  # fmt: skip
    """Yield files, some at a time, with their images, or why they are unreadable."""

    def attempt(path: Path) -> Decoded | UnreadableImage:
        try:
            return decode(path, size, size, decoding)
        except UnreadableImage as error:
            return error

    # Pillow releases Python's lock while it decodes, so threads use every core. Chunks bound the memory.
    with ThreadPoolExecutor(threads_for(paths)) as pool:
        number = min(CHUNK, max(16, MOST_BYTES_OF_CHUNK // bytes_of(1, size)))
        starts = range(0, len(paths), number)
        for start in track(starts, "decoding images") if shown else starts:
            chunk = paths[start : start + number]
            yield chunk, list(pool.map(attempt, chunk))


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
