"""Near-duplicates: pairs of images with similar features, confirmed on their pixels."""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import affine_transform, gaussian_filter

from headstart.audit.index import has_index, pairs_by_index
from headstart.data.grey import SIDE, shades_of_grey
from headstart.data.source import SPLIT_NAMES
from headstart.data.store import reserve
from headstart.system.cache import cache_folder

# Candidates per image on average: the pairs with the most similar features.
CANDIDATES = 20
# So many images are used to estimate the similarity from which pairs are candidates; fewer if their comparisons are more than
# the second number.
SAMPLE, MOST_OF_SAMPLE = 250, 50_000_000
# All pairs of at most so many images are compared, which takes a minute for 200,000 on two cores. Among more, an index finds
# the candidates; without one, so many are searched, see `searched_among`.
MOST_COMPARED = 200_000

# Near-duplicates are often cropped and stretched a little differently. Shifts of up to `MOST_SHIFT` pixels are tried, and zooms
# by powers of `ZOOM`, up to `MOST_ZOOM` in both directions. First both axes are zoomed together by each of `ZOOMS`. Then each
# axis alone is zoomed up or down by each of `STEPS` in turn, if that makes the pair more similar.
MOST_SHIFT, ZOOM, MOST_ZOOM, ZOOMS, STEPS = 3, 1.04, 6, (-2, 2), (2, 2, 1)
# Structures wider than so many pixels are removed: all images with a bright sky have them in common.
DETAIL = 3.0
# Detail with a standard deviation below so many of the 255 shades is noise, and counts less.
FAINTEST = 1.0
# Positions per side of the first, coarse comparison. Structures wider than `COARSE_DETAIL` of these are removed.
GRID, COARSE_DETAIL = 8, 1.5
# A pair is given up if its correlation on the coarse grid, or the one without zoom, is below these; or if, with both axes
# zoomed together, it is more than `FURTHEST` below the correlation that it needs.
LEAST_COARSE, LEAST_UNZOOMED, FURTHEST = 0.4, 0.4, 0.25
# The correlation that a pair needs. It is lower the more of the image has detail: two small silhouettes on a plain background
# correlate by chance, two images full of detail do not. It is lower the closer the features are (0: the farthest candidates,
# 1: equal), and higher the larger the detail's standard deviation is, in shades of 255. From `SURE_SIMILARITY` on, every pair
# counts. The weights come from a logistic regression on 240 pairs of CIFAR-10 that were judged by eye.
BASE_SIMILARITY, SPREAD_BONUS, CLOSE_BONUS, CONTRAST_PENALTY, SURE_SIMILARITY = 1.015, 0.49, 0.21, 0.004, 0.95
# An image with a shorter side has too little detail to tell a near-duplicate from another image of the same kind.
SMALLEST_SIDE = 16
# So many blocks of pairs are compared at the same time.
AT_ONCE = 2
# Detail of images that takes more bytes, 4 KB each, lies on disk while they are compared.
MOST_IN_MEMORY = 1 << 29


def near_duplicates(
    images: np.ndarray, rows: np.ndarray, features: np.ndarray, mirrored: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Find near-duplicates among images in memory; see `near_duplicates_of_grey`.

    Args:
        images: uint8 (N, H, W, 3), RGB, 0..255. Nothing is found if a side is shorter than 16 pixels.
        rows: int (R,), the images to compare.
    """
    return near_duplicates_of_grey(lambda places: shades_of_grey(images, rows[places]), images.shape, features, mirrored)


def near_duplicates_of_grey(
    grey_of: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], features: np.ndarray, mirrored: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of images that show the same photograph, cropped, stretched or coloured a little differently.

    Candidates have similar features. They are confirmed by the largest normalised cross-correlation of their detail over
    small shifts and zooms. Barz and Denzler (2020, "Do we train on test data?") found candidates in the same way, and judged
    them by eye. They published 255 near-duplicates across CIFAR-10's test and training split. This function finds 241 of
    them with the features of a ResNet-50 at 96 px, and 234 at 64 px.

    Args:
        grey_of: gives the small grey versions, float32 (n, 32, 32), of some of these images, int (n,). It is asked for a few at a
            time, so that they need not lie in memory.
        shape: of the images themselves, (N, H, W, 3). Nothing is found if a side is shorter than 16 pixels.
        features: float (R, C), of these images, best centred and reduced by principal component analysis to far fewer
            columns than rows.
        mirrored: whether an image and its mirror image count as near-duplicates.

    Returns:
        Pairs of indices into these images, int64 (M, 2), the smaller index first; and their correlations, float32 (M,), at
        most 1. The most similar pair comes first.
    """
    if min(shape[1:3]) < SMALLEST_SIDE or len(features) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    features = whitened(features)
    grid, detail = prepared(grey_of, len(features))
    pairs, flipped = promising_pairs(candidates(features), grid, mirrored)
    comparison = Comparison(detail, window_lengths(detail))
    similarity = comparison.correlations(pairs, flipped, np.zeros((len(pairs), 2), int))
    promising = similarity >= LEAST_UNZOOMED
    pairs, flipped, similarity = pairs[promising], flipped[promising], similarity[promising]
    cosines = np.concatenate([np.empty(0, np.float32), *(
        np.vecdot(*features[pairs[start : start + (1 << 14)].T]) for start in range(0, len(pairs), 1 << 14)
    )])  # fmt: skip
    close = (cosines - cosines.min(initial=1)) / max(1 - cosines.min(initial=1), 1e-6)
    contrast = np.sqrt(np.einsum("nyx,nyx->n", detail, detail) / SIDE**2)[pairs].min(axis=1, initial=255)
    needed = BASE_SIMILARITY - SPREAD_BONUS * spread_of_detail(detail, pairs) - CLOSE_BONUS * close + CONTRAST_PENALTY * contrast
    needed = np.minimum(needed, SURE_SIMILARITY)
    similarity = comparison.best_correlations(pairs, flipped, similarity, needed)
    pairs, similarity = pairs[similarity >= needed], similarity[similarity >= needed]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarity))
    return pairs[order], similarity[order]


def prepared(grey_of: Callable[[np.ndarray], np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what images are compared by: their shades on a coarse grid, and their detail, on disk if there is much of it.

    Args:
        grey_of: see `near_duplicates_of_grey`.
        count: the number of images.

    Returns:
        float32 (count, GRID, GRID) and float32 (count, SIDE, SIDE).
    """
    grid, detail = np.empty((count, GRID, GRID), np.float32), scratch((count, SIDE, SIDE))
    for start in range(0, count, 256):
        grey = grey_of(np.arange(start, min(start + 256, count)))
        grid[start : start + 256] = on_grid(grey)
        detail[start : start + 256] = grey - gaussian_filter(grey, (0, DETAIL, DETAIL))
    return grid, detail


def scratch(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array to write to, float32: in memory or, if it is large, in a file of the cache that goes with it.

    Raises:
        UnwritableError: the disk is full.
    """
    size = 4 * math.prod(shape)
    if size <= MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    folder = cache_folder("images")
    with tempfile.TemporaryFile(dir=folder) as file:  # it has no name, and lives as long as the array
        reserve(file, folder, size)
        return np.asarray(np.memmap(file, np.float32, "w+", shape=shape))


def searched_among(splits: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the images among which near-duplicates are looked for, int, sorted; and a note if these are not all, else "".

    Without an index library, at most `MOST_COMPARED` are compared: of the test split as many as possible, then of the
    validation split, then of the training split.

    Args:
        splits: str (N,), the split of each image.
    """
    count = len(splits)
    if count <= MOST_COMPARED or has_index():
        return np.arange(count), ""
    random = np.random.default_rng(0)
    ordered = np.concatenate([random.permutation(np.flatnonzero(splits == name)) for name in reversed(SPLIT_NAMES)])
    chosen = np.sort(ordered[:MOST_COMPARED])
    of_each = [f"{np.count_nonzero(splits[chosen] == name):,} of {np.count_nonzero(splits == name):,} {name} images"
               for name in reversed(SPLIT_NAMES)]  # fmt: skip
    return chosen, (
        f"near-duplicates were looked for among {MOST_COMPARED:,} of {count:,} images only ({', '.join(of_each)}): "
        "pip install 'headstart[index]' for all"
    )


def whitened(features: np.ndarray) -> np.ndarray:
    """Return features with all columns scaled to the same deviation, as rows of length 1, float32.

    With this whitening (Jégou and Chum 2012, "Negative evidences and co-occurrences in image retrieval"), the candidates
    include 99 % of CIFAR-10's published near-duplicates, without it 93 %.
    """
    rows = np.array(features, np.float32)  # a copy: np.float32 gives an array of this type back as it is
    rows /= np.maximum(rows.std(axis=0), 1e-12)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


def candidates(rows: np.ndarray, block: int = 1024) -> Iterator[np.ndarray]:
    """Yield blocks of the most similar pairs, int64 (M, 2), about `CANDIDATES` per row in all. Blocks bound the memory.

    Args:
        rows: float (N, C), each of length 1.
        block: rows per block.
    """
    rows = np.asarray(rows, np.float32)
    number = min(SAMPLE, len(rows), max(1, MOST_OF_SAMPLE // len(rows)))
    sample = np.random.default_rng(0).choice(len(rows), number, replace=False)
    cosines = rows[sample] @ rows.T
    cosines[np.arange(len(sample)), sample] = -1  # an image is not its own near-duplicate
    least = np.quantile(cosines, max(0.0, 1 - 2 * CANDIDATES / len(rows)))
    if len(rows) > MOST_COMPARED and has_index():
        yield from pairs_by_index(rows, float(least))
        return
    for first in range(0, len(rows), block):
        for second in range(first, len(rows), 4 * block):
            cosines = rows[first : first + block] @ rows[second : second + 4 * block].T
            # Ten times as fast as `argwhere`, which allows any number of dimensions.
            found = np.stack(np.divmod(np.flatnonzero(cosines >= least), cosines.shape[1]), axis=1) + np.array([first, second])
            yield found[found[:, 0] < found[:, 1]]


def spread_of_detail(detail: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return, for each pair, the smaller of both images' shares of area with detail, 0..1, float32 (M,).

    The share is the participation ratio of the detail's energy: 1 / N if one of N pixels has all of it, 1 if all pixels have
    the same.
    """
    rows, places = np.unique(pairs, return_inverse=True)
    share = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 1024):
        energy = gaussian_filter(detail[rows[start : start + 1024]] ** 2, (0, 2, 2)).reshape(-1, SIDE**2)
        share[start : start + 1024] = energy.sum(axis=1) ** 2 / np.maximum((energy**2).sum(axis=1), 1e-12) / SIDE**2
    return share[places.reshape(-1, 2)].min(axis=1, initial=1)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., C) with mean 0 and length 1 (faint ones are shorter): the product of two is their correlation."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), FAINTEST * centred.shape[-1] ** 0.5)


def on_grid(grey: np.ndarray) -> np.ndarray:
    """Return the mean shades on a grid of `GRID` positions per side, float32 (N, GRID, GRID), of those of `shades_of_grey`."""
    return grey.reshape(len(grey), GRID, SIDE // GRID, GRID, SIDE // GRID).mean(axis=(2, 4))


def promising_pairs(blocks: Iterable[np.ndarray], grid: np.ndarray, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return those pairs that are alike on a coarse grid, int64 (M, 2), and whether mirroring the second is better, bool (M,).

    Args:
        blocks: of pairs, from `candidates`. Only the promising ones of each are kept.
        grid: from `on_grid`, which is changed.
        mirrored: whether to try mirroring.
    """
    grid -= gaussian_filter(grid, (0, COARSE_DETAIL, COARSE_DETAIL))
    views = [normalised(view.reshape(len(grid), -1)) for view in ([grid, grid[:, :, ::-1]] if mirrored else [grid])]
    kept, mirrors = [np.empty((0, 2), np.int64)], [np.empty(0, bool)]
    for block in blocks:
        for pairs in np.split(block, range(1 << 16, len(block), 1 << 16)):
            first, second = pairs.T
            correlations = np.stack([np.vecdot(views[0][first], view[second]) for view in views])
            promising = correlations.max(axis=0) >= LEAST_COARSE
            kept.append(pairs[promising])
            mirrors.append(correlations.argmax(axis=0)[promising] == 1)
    return np.concatenate(kept), np.concatenate(mirrors)


class Comparison:
    """Compares images pair by pair: the middle of the second image, zoomed, is shifted over the first image.

    Args:
        detail: float32 (N, SIDE, SIDE).
        lengths: from `window_lengths`.
    """

    def __init__(self, detail: np.ndarray, lengths: np.ndarray) -> None:
        self.detail, self.lengths = detail, lengths
        self.edge = slice(MOST_SHIFT, SIDE - MOST_SHIFT)
        self.zooms = np.stack([zoom_matrix(ZOOM**power)[self.edge] for power in range(-MOST_ZOOM, MOST_ZOOM + 1)])

    def correlations(self, pairs: np.ndarray, flipped: np.ndarray, powers: np.ndarray, block: int = 256) -> np.ndarray:
        """Return the largest normalised cross-correlation of each pair over shifts of the second image, float32 (M,).

        It is computed as a product of spectra (Lewis 1995, "Fast normalized cross-correlation").

        Args:
            pairs: int (M, 2).
            flipped: bool (M,), whether the second image is mirrored.
            powers: int (M, 2), the powers of `ZOOM` by which the second image is enlarged down and across.
        """
        blocks = [slice(start, start + block) for start in range(0, len(pairs), block)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = pool.map(lambda part: self.of_block(pairs[part], flipped[part], powers[part]), blocks)
            return np.concatenate([np.empty(0, np.float32), *results])

    def of_block(self, pairs: np.ndarray, flipped: np.ndarray, powers: np.ndarray) -> np.ndarray:
        shifts, (first, second) = np.arange(-MOST_SHIFT, MOST_SHIFT + 1), pairs.T
        moved = np.where(flipped[:, None, None], self.detail[second][:, :, ::-1], self.detail[second])
        down, across = self.zooms[powers.T + MOST_ZOOM]
        middle = down @ moved @ across.transpose(0, 2, 1)
        template = np.zeros_like(moved)
        template[:, self.edge, self.edge] = normalised(middle.reshape(len(middle), -1)).reshape(middle.shape)
        products = irfft2(rfft2(self.detail[first]) * rfft2(template).conj())[:, shifts[:, None], shifts]
        return (products / self.lengths[first]).max(axis=(1, 2))

    def best_correlations(self, pairs: np.ndarray, flipped: np.ndarray, unzoomed: np.ndarray, needed: np.ndarray) -> np.ndarray:
        """Return the largest correlation of each pair over shifts and zooms, float32 (M,), by hill climbing over the zooms.

        Args:
            unzoomed: float32 (M,), the correlations without zoom.
            needed: float32 (M,), what a pair needs to count. A pair more than `FURTHEST` below it is given up.
        """
        best, powers = unzoomed.copy(), np.zeros((len(pairs), 2), int)

        def climb(rows: np.ndarray, moves: list[tuple[int, int]]) -> None:
            starts = powers[rows]
            for move in moves:
                tried = np.clip(starts + move, -MOST_ZOOM, MOST_ZOOM)
                results = self.correlations(pairs[rows], flipped[rows], tried)
                better = results > best[rows]
                best[rows[better]], powers[rows[better]] = results[better], tried[better]

        climb(np.arange(len(pairs)), [(power, power) for power in ZOOMS])
        for step in STEPS:
            climb(np.flatnonzero(best >= needed - FURTHEST), [(step, 0), (-step, 0), (0, step), (0, -step)])
        return best


def window_lengths(detail: np.ndarray) -> np.ndarray:
    """Return the length of each shift's window of an image, minus its mean, as a vector, float32 (N, shifts, shifts)."""
    size = SIDE - 2 * MOST_SHIFT
    # Each row computes the mean over the window of one shift.
    window = np.stack([np.roll(np.arange(SIDE) < size, shift) for shift in range(2 * MOST_SHIFT + 1)]).astype(np.float32) / size
    lengths = np.empty((len(detail), len(window), len(window)), np.float32)
    for start in range(0, len(detail), 256):
        block = detail[start : start + 256]
        mean, square = window @ block @ window.T, window @ block**2 @ window.T
        lengths[start : start + 256] = size * np.sqrt(np.maximum(square - mean**2, FAINTEST**2))
    return lengths


@cache
def zoom_matrix(factor: float) -> np.ndarray:
    """Return the matrix that enlarges a column of SIDE pixels around its middle, float32 (SIDE, SIDE)."""
    middle = (SIDE - 1) / 2
    return affine_transform(
        np.eye(SIDE, dtype=np.float32), [1 / factor, 1], (middle - middle / factor, 0), order=1, mode="nearest"
    )


def redundant(pairs: np.ndarray, training: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the training images to leave out so that no pair with a training image is left.

    Only training images are left out. Pairs with different labels stay: one of the labels is wrong, and a person must decide
    which.

    Args:
        pairs: int (M, 2), indices.
        training: bool (N,), whether each image is in the training split.
        labels: int (N,).

    Returns:
        Sorted indices, int64 (L,).
    """
    pairs = pairs[labels[pairs[:, 0]] == labels[pairs[:, 1]]]
    out = {int(one if training[one] else other) for one, other in pairs if training[one] != training[other]}
    for one, other in sorted(pair for pair in pairs.tolist() if training[pair].all()):
        if not out & {one, other}:
            out.add(other)
    return np.array(sorted(out), np.int64)
