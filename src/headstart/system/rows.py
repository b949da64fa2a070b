"""Rows of arrays in the cache, which stay on disk until they are indexed."""

import math
from typing import Any

import numpy as np

from headstart.system.entries import StoredArray


class StoredRows:
    """The rows of several arrays of the cache, one array after the other. A row is read from disk when it is indexed.

    Args:
        arrays: which differ only in their number of rows, and in float16 or float32.
        chosen: int (N,), the rows that count, and their order; by default all.
    """

    def __init__(self, arrays: list[StoredArray], chosen: np.ndarray | None = None) -> None:
        self.arrays = arrays
        lengths = np.array([len(array) for array in arrays])
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        self.chosen = np.arange(self.ends[-1]) if chosen is None else chosen
        self.dtype = np.result_type(*(array.dtype for array in arrays))
        self.shape = (len(self.chosen), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = self.chosen[rows]
        if rows.ndim == 0:
            row: np.ndarray = self.read(rows[None])[0]
            return row
        return self.read(rows)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return some of all rows, int (n,), also of those that were not chosen."""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if not len(rows):
            return found
        numbers = np.searchsorted(self.ends, rows, side="right")
        # Rows that lie side by side are read together.
        begins = np.concatenate([[0], np.flatnonzero((np.diff(rows) != 1) | (np.diff(numbers) != 0)) + 1])
        firsts = (rows - self.starts[numbers])[begins].tolist()
        ends = [*begins[1:].tolist(), len(rows)]
        for begin, end, number, first in zip(begins.tolist(), ends, numbers[begins].tolist(), firsts, strict=True):
            self.arrays[number].read(first, found[begin:end])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    @property
    def nbytes(self) -> int:
        """The bytes that all rows would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def joined(parts: list[StoredRows]) -> StoredRows:
    """Return the rows of all parts, one part after the other."""
    starts = np.cumsum([0, *(part.ends[-1] for part in parts[:-1])])
    chosen = [start + part.chosen for start, part in zip(starts, parts, strict=True)]
    return StoredRows([array for part in parts for array in part.arrays], np.concatenate(chosen))
