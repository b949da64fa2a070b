"""Images that are decoded each time they are looked at, since they would fit neither the memory nor the disk, or need not."""

import hashlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.decode import Decoding, read_image
from headstart.data.opening import UnreadableImage
from headstart.errors import HeadstartError, UnreachableError
from headstart.system.remote import DOWNLOADS, Found, RemotePath, below, is_address


def fingerprint(path: Path) -> tuple[int, int]:
    """Return the size and modification time of a file; zeros for a broken link."""
    try:
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    except OSError:
        return 0, 0


def digest(image: np.ndarray) -> bytes:
    """Return 16 bytes that tell an image's pixels from those of any other image."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


class OnDemand:
    """Images of one size in files, uint8 (N, size, size, 3), indexed as an array is by its first axis.

    All cores decode together what is indexed. Nothing is kept.

    Args:
        root: the folder of the files.
        names: the files, relative to it, all of which could be decoded once.
        stats: int64 (N, 2), from `fingerprint`, when they were.
        size: height and width.
        decoding: how files become arrays.
        digests: (N,) of 16 bytes, of their pixels, see `digest`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, root: Path, names: list[str], stats: np.ndarray, size: int, decoding: Decoding, digests: np.ndarray
    ) -> None:  # fmt: skip
        self.root, self.names, self.stats, self.size, self.decoding = root, names, stats, size, decoding
        self.digests = digests
        self.shape = (len(names), size, size, 3)
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return OnDemand, (self.root, self.names, self.stats, self.size, self.decoding, self.digests)

    def part(self, rows: np.ndarray) -> "OnDemand":
        """Return the images of some rows, which are decoded when they are indexed, maybe in another process."""
        names = [self.names[row] for row in rows]
        return OnDemand(self.root.absolute(), names, self.stats[rows], self.size, self.decoding, self.digests[rows])

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        far = isinstance(self.root, RemotePath) or any(map(is_address, self.names))
        return ThreadPoolExecutor(DOWNLOADS if far else None)

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
        path, (size, version) = below(self.root, self.names[row]), self.stats[row].tolist()
        changed = f"{path} has changed or is gone since it was read first: start again, so that all is read anew"
        if isinstance(path, RemotePath):
            # To ask for its version would take as long as to fetch it. What it shows is compared instead.
            path.found = Found(False, size, version)
        elif fingerprint(path) != (size, version):
            raise HeadstartError(changed)
        try:
            pixels = read_image(path, self.size, self.size, self.decoding)
            if isinstance(path, RemotePath) and digest(pixels) != self.digests[row].tobytes():
                raise UnreachableError(changed)
            return pixels
        except UnreadableImage as error:
            raise HeadstartError(f"{path} could be read before, and cannot be read now: {error}") from None
