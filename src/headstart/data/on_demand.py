"""Images that are decoded each time they are looked at, since they would fit neither the memory nor the disk, or need not."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.decode import Decoding, read_image
from headstart.data.opening import UnreadableImage
from headstart.errors import HeadstartError


def fingerprint(path: Path) -> tuple[int, int]:
    """Return the size and modification time of a file; zeros for a broken link."""
    try:
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    except OSError:
        return 0, 0


class OnDemand:
    """Images of one size in files, uint8 (N, size, size, 3), indexed as an array is by its first axis.

    All cores decode together what is indexed. Nothing is kept.

    Args:
        root: the folder of the files.
        names: the files, relative to it, all of which could be decoded once.
        stats: int64 (N, 2), from `fingerprint`, when they were.
        size: height and width.
        decoding: how files become arrays.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, root: Path, names: list[str], stats: np.ndarray, size: int, decoding: Decoding) -> None:
        self.root, self.names, self.stats, self.size, self.decoding = root, names, stats, size, decoding
        self.shape = (len(names), size, size, 3)
        self.lock = threading.Lock()

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor()

    @property
    def nbytes(self) -> int:
        """The bytes that all images would take in memory."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return the images of some rows, uint8 (n, size, size, 3), or of one, uint8 (size, size, 3).

        Raises:
            HeadstartError: a file has changed since it was read first, or can no longer be read.
        """
        rows = np.arange(len(self))[rows]
        if rows.ndim == 0:
            return self.decoded(int(rows))
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def fill(place: int) -> None:
            images[place] = self.decoded(int(rows[place]))

        with self.lock:  # one caller at a time, as all cores work for it
            for _ in self.threads.map(fill, range(len(rows))):
                pass
        return images

    def decoded(self, row: int) -> np.ndarray:
        path = self.root / self.names[row]
        if fingerprint(path) != tuple(self.stats[row].tolist()):
            raise HeadstartError(f"{path} has changed or is gone since it was read first: start again, so that all is read anew")
        try:
            return read_image(path, self.size, self.size, self.decoding)
        except UnreadableImage as error:
            raise HeadstartError(f"{path} could be read before, and cannot be read now: {error}") from None
