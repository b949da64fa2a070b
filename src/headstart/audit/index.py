"""Similar images among very many, found by an index library instead of a comparison of all pairs."""

import importlib.util
from collections.abc import Iterator

import numpy as np

# Cells of the index for each root of the number of images, as the library advises; and how many of them are searched for each
# image, those whose centres are most similar to it.
CELLS, SEARCHED = 4, 16
# Images that are searched for at a time.
AT_ONCE = 4096


def has_index() -> bool:
    """Whether the index library is installed."""
    return importlib.util.find_spec("faiss") is not None


def pairs_by_index(rows: np.ndarray, least: float) -> Iterator[np.ndarray]:
    """Yield blocks of the pairs whose cosine is at least `least`, int64 (M, 2), the smaller index first.

    Nearly all of them are found: an image is compared with those in the most similar of some thousand cells.

    Args:
        rows: float32 (N, C), each of length 1.
    """
    import faiss

    rows = np.ascontiguousarray(rows, np.float32)
    cells = max(1, int(CELLS * len(rows) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    index.nprobe = SEARCHED
    for start in range(0, len(rows), AT_ONCE):
        ends, _, others = index.range_search(rows[start : start + AT_ONCE], least)
        found: np.ndarray = np.diff(ends.astype(np.int64))  # how many for each image
        firsts = np.repeat(np.arange(start, start + len(found)), found)
        yield np.stack([firsts, others], axis=1)[others > firsts]
