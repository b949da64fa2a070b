"""Outputs of frozen layers in the cache, in blocks of rows: each is a file, whole or absent, so that what was killed goes on.

Several processes that compute the same outputs share the work: a block is computed by the process that has claimed it.
"""

import contextlib
import itertools
import logging
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.system.cache import prune
from headstart.system.entries import StoredArray, discard, gone, read_stored, written_array
from headstart.system.files import PARTIAL, allow_open_files, lock_if_possible, unwritable
from headstart.system.progress import track
from headstart.system.rows import StoredRows

logger = logging.getLogger("headstart")

# A multiple of the batches that pass through the frozen layers, so that a batch lies in one block. On two cores, a ResNet-50
# takes ten seconds for so many images at 64 px, and two minutes at 224: what is lost if it is killed.
ROWS_OF_BLOCK = 2048
# float16 takes half the disk space, at a relative error of 0.0005. Outputs are stored as float32 if their first batch comes
# within a factor of 16 of float16's largest number.
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
MOST_CACHE_BYTES = 30 << 30

# The outputs for one batch of images, or for the images of one block: an array for each output.
Outputs = list[np.ndarray]


class Claim(NamedTuple):
    """A block that this process computes.

    Attributes:
        number: of the block; -1 for a batch that only tells in which type the outputs are stored.
        held: keeps other processes from it until it is closed.
    """

    number: int
    held: contextlib.ExitStack


class Blocks:
    """Arrays of the cache that are computed together, a block of rows at a time.

    Args:
        folder: of the cache.
        names: of each array; its files are `NAME-00000.npy`, `NAME-00001.npy`, ...
        rows: how many there are.
        shapes: of a row of each array.
        batch: how many rows are computed together.
    """

    def __init__(self, folder: Path, names: list[str], rows: int, shapes: list[tuple[int, ...]], batch: int) -> None:
        self.folder, self.names, self.rows, self.shapes, self.batch = folder, names, rows, shapes, batch
        self.found: dict[int, list[StoredArray]] = {}
        self.dtypes: list[np.dtype] = []  # of each array, once they are known

    def __len__(self) -> int:
        return math.ceil(self.rows / ROWS_OF_BLOCK)

    def rows_of(self, number: int) -> range:
        return range(number * ROWS_OF_BLOCK, min((number + 1) * ROWS_OF_BLOCK, self.rows))

    def files(self, number: int) -> list[Path]:
        """Return the file of each array for one block, whether it exists or not."""
        return [self.folder / f"{name}-{number:05}.npy" for name in self.names]

    def missing_rows(self) -> int:
        """Return how many rows are not in the cache, judged by the names of its files alone."""
        return sum(len(self.rows_of(n)) for n in range(len(self)) if not all(file.exists() for file in self.files(n)))

    def complete(
        self, inputs: Callable[[range], np.ndarray], compute: Callable[[Iterable[np.ndarray]], Iterator[Outputs]], name: str
    ) -> list[StoredRows]:
        """Compute the blocks that are missing, and return all rows of each array.

        Which process computes a block, and when, does not change the result.

        Args:
            inputs: the images of a batch of rows.
            compute: the outputs, float32, for each batch in turn.
            name: the name of the rows in the progress bar.
        """
        allow_open_files(len(self) * len(self.names))
        missing = self.missing()
        if missing and self.found:
            logger.info("features of %s: %d of %d blocks are in the cache", name, len(self.found), len(self))
        made = False
        while missing:
            if self.compute(missing, inputs, compute, name):
                made = True
            else:
                logger.info("features of %s: waiting for the process that computes block %d", name, missing[0] + 1)
                if claim := self.claim(missing[0], wait=True):
                    claim.held.close()  # that process was killed
            missing = self.missing()
        if made:
            remove_least_used(self.folder)
        return [StoredRows([self.found[number][place] for number in range(len(self))]) for place in range(len(self.names))]

    def missing(self) -> list[int]:
        """Open the blocks that are in the cache and fit, and return the numbers of the others."""
        for number in range(len(self)):
            arrays = self.found.get(number) or self.opened(number)
            if arrays and self.dtypes and [array.dtype for array in arrays] != self.dtypes:
                for file in self.files(number):
                    discard(file)
                arrays = []
                self.found.pop(number, None)
            if arrays:
                self.found[number] = arrays
                # The first batch of all chooses the types.
                self.dtypes = self.dtypes or ([array.dtype for array in arrays] if number == 0 else [])
        return [number for number in range(len(self)) if number not in self.found]

    def opened(self, number: int) -> list[StoredArray]:
        """Return the arrays of one block; nothing if one of them is missing."""
        arrays = []
        for file, shape in zip(self.files(number), self.shapes, strict=True):
            if not (array := read_stored(file, ("float16", "float32"), (len(self.rows_of(number)), *shape))):
                return []
            arrays.append(array)
            with contextlib.suppress(OSError):
                os.utime(file)  # `prune` removes recently used files last
        return arrays

    def compute(
        self, missing: list[int], inputs: Callable[[range], np.ndarray],
        compute: Callable[[Iterable[np.ndarray]], Iterator[Outputs]], name: str,
    ) -> bool:  # fmt: skip
        """Compute and store those of some blocks that no other process has claimed; return whether there were any.

        The engine gets the batches of all blocks in one row, so that it need not run empty between them.
        """
        claims: deque[Claim] = deque()
        first_batch = range(min(self.batch, self.rows))

        def batches() -> Iterator[np.ndarray]:
            claimed = False
            starts = [(number, start) for number in missing for start in self.rows_of(number)[:: self.batch]]
            for number, start in track(starts, f"features of {name}"):
                rows = self.rows_of(number)
                if start == rows.start:
                    claim = self.claim(number)
                    claimed = claim is not None
                    if claim:
                        if number and not self.dtypes and not claims:  # another process computes the first block
                            claims.append(Claim(-1, contextlib.ExitStack()))
                            yield inputs(first_batch)
                        claims.append(claim)
                if claimed:
                    yield inputs(range(start, min(start + self.batch, rows.stop)))

        made, outputs = False, compute(batches())
        try:
            for first in outputs:
                claim = claims.popleft()
                self.dtypes = self.dtypes or [dtype_for(values) for values in first]
                if claim.number < 0:
                    continue
                with claim.held:
                    count = math.ceil(len(self.rows_of(claim.number)) / self.batch)
                    self.write(claim.number, itertools.chain([first], itertools.islice(outputs, count - 1)))
                made = True
        finally:
            for claim in claims:
                claim.held.close()
        return made

    def claim(self, number: int, *, wait: bool = False) -> Claim | None:
        """Keep other processes from computing a block; return None if it need not be computed here, since another does or did.

        What is locked is a temporary folder, which others remove if this process is killed.
        """
        folder = self.folder / f"{PARTIAL}{self.names[-1]}-{number:05}"
        while True:
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                held = lock_if_possible(folder, wait=wait)
                break
            except FileNotFoundError:  # another process removed it meanwhile
                if not self.folder.is_dir():
                    raise gone(folder) from None
            except BlockingIOError:
                return None
            except OSError as error:
                raise unwritable(folder, error) from None
        stack = contextlib.ExitStack()
        if held is not None:
            stack.callback(os.close, held)
        stack.callback(remove_if_empty, folder)
        if all(file.exists() for file in self.files(number)):
            stack.close()
            return None
        return Claim(number, stack)

    def write(self, number: int, outputs: Iterable[Outputs]) -> None:
        """Store the outputs of one block, batch by batch."""
        files, rows = self.files(number), len(self.rows_of(number))
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(written_array(file)) for file in files]
            for stream, dtype, shape in zip(streams, self.dtypes, self.shapes, strict=True):
                header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
            for batch in outputs:
                for stream, values, dtype in zip(streams, batch, self.dtypes, strict=True):
                    limit = LARGEST_FLOAT16 if dtype == np.float16 else np.inf
                    stream.write(values.clip(-limit, limit).astype(dtype).tobytes())
        if not (arrays := self.opened(number)):
            raise gone(files[0])
        self.found[number] = arrays


def dtype_for(values: np.ndarray) -> np.dtype:
    """Return the type in which outputs are stored, judged by their first batch."""
    return np.dtype(np.float16 if np.abs(values).max() < LARGEST_FLOAT16 / 16 else np.float32)


def remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_least_used(folder: Path) -> None:
    """Keep at most `MOST_CACHE_BYTES` of features in the cache. What belongs together is removed together."""
    prune(folder.glob("*.npy"), MOST_CACHE_BYTES, lambda file: re.sub(r"-\d{5}$", "", file.stem))
