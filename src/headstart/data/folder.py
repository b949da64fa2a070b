"""Read a folder of images: a subfolder for each class, possibly below `train`, `val` and `test`; decoded to one size."""

import warnings
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from headstart.data.decode import Decoding, choose_fit, is_deep, range_of
from headstart.data.labels import Labelling, read_labels
from headstart.data.on_demand import fingerprint
from headstart.data.opening import opened
from headstart.data.source import Source
from headstart.data.store import decode_all
from headstart.data.walk import relative
from headstart.errors import UnreachableError
from headstart.system.remote import ahead, threads_for

# How many headers are sampled for the shapes of a data set, and how many deep images for its range of values.
HEADERS, DEEP_IMAGES = 1000, 200


def read_folder(
    root: Path, size: int, *, fit: str = "auto", layout: str = "auto", decoding: Decoding | None = None,
    known: Collection[str] | None = None, labelling: Labelling | None = None, often: bool = True,
) -> Source:  # fmt: skip
    """Decode all images below a folder, or those that a table names, to one size.

    Args:
        root: the folder, or the table.
        size: height and width in pixels.
        fit: `crop`, `squash` or `pad`; `auto` chooses by the images' shapes, see `headstart.data.decode.choose_fit`.
        layout, known: see `headstart.data.layout.read_layout`.
        decoding: of a run; it is used instead of `fit`.
        labelling: where labels and groups are; it is used instead of `layout`.
        often: whether the images are looked at in every epoch, see `headstart.data.store.way_to_hold`.

    Raises:
        HeadstartError: labels cannot be told (see `headstart.data.labels.read_labels`), or too many files are unreadable.
    """
    found = read_labels(root, labelling or Labelling(layout), known)
    folder = root if root.is_dir() else root.parent
    class_names = tuple(sorted({name for _, name, _ in found.rows}))
    paths = [path for path, _, _ in found.rows]
    if threads_for(paths):  # what stands in a table was not listed: what its stores say of each file is asked for together
        for _ in ahead(fingerprint, paths):
            pass
    remarks = list(found.remarks)
    if decoding is None:
        decoding, why = choose_decoding(paths, fit)
        remarks += why
    images, files, survey = decode_all(folder, paths, size, decoding, often)
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
        survey=survey,
    )


def choose_decoding(paths: list[Path], fit: str) -> tuple[Decoding, list[str]]:
    """Return how the images of a data set are to be decoded, judged by a sample of them, and remarks about it."""
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(threads_for(paths)) as pool:
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
    except UnreachableError:
        raise
    except Exception:  # Pillow raises exceptions of almost any kind; decoding reports them later
        return None


def read_range(path: Path) -> tuple[float, float] | None:
    """Return the 0.01 % and 99.99 % quantiles of a deep image's values; None if it cannot be read or has no finite value."""
    try:
        with opened(path) as one, one.ready(one.image.size):
            return range_of(one.image)
    except UnreachableError:
        raise
    except Exception:
        return None
