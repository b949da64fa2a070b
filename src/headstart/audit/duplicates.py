"""Near-duplicates: pairs that a backbone finds alike, confirmed on their pixels."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image
from scipy.fft import irfft2, rfft2
from scipy.ndimage import affine_transform, gaussian_filter

# Candidates per picture, over all: the pairs whose features are most alike.
CANDIDATES = 20
# So many pictures estimate which similarity the candidates begin at.
SAMPLE = 250

# Pixels are compared at this size, in shades of grey, so that JPEG, colour and brightness matter little.
SIDE = 32
# Twins are often cropped a little differently: what is tried, in pixels and as factors.
MOST_SHIFT, ZOOMS = 3, (0.92, 0.96, 1.0, 1.04, 1.08)
# Shades wider than this many pixels do not count: any two pictures with a bright sky have them in common.
DETAIL = 3.0
# Detail whose deviation is below so many of the 255 shades is noise, and does not count in full.
FAINTEST = 1.0
# Correlation of the coarsest 8 x 8 pixels below which a pair is not worth the whole comparison.
LEAST_COARSE = 0.7
# Correlation without zoom below which zooms are not tried.
LEAST_UNZOOMED = 0.45
# A pair counts from this correlation on, less the share of the picture that has detail times `SPREAD_BONUS`: two small
# silhouettes on a plain ground correlate by chance, two pictures full of detail do not. Chosen by looking at pairs of CIFAR-10.
LEAST_SIMILARITY, SPREAD_BONUS = 0.9, 0.25
# Below this side there is too little detail to tell a twin from another picture of its kind.
SMALLEST_SIDE = 16


def near_duplicates(images: np.ndarray, rows: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of pictures that show the same photograph, cropped, mirrored or coloured a little differently.

    Candidates have similar features; they are confirmed by the largest normalised cross-correlation
    of their detail over small shifts and zooms, mirrored or not. Barz and Denzler (2020, "Do we
    train on test data?") found candidates in the same way and judged them by eye.

    Args:
        images: uint8 (N, H, W, 3), RGB, 0..255. Where a side is under 16 pixels, nothing is found.
        rows: int (R,), which of the pictures to compare.
        features: float (R, C) of these, best centred and reduced by a principal component analysis.

    Returns:
        Pairs of positions in `rows`, int64 (M, 2), each with the smaller first, and their
        correlation, float32 (M,), up to 1; the most similar first.
    """
    if min(images.shape[1:3]) < SMALLEST_SIDE or len(rows) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    grey = shades_of_grey(images, rows)
    pairs = np.concatenate(list(candidates(features)))
    alike, mirrored = compare_coarsely(grey, pairs)
    worth = alike >= LEAST_COARSE
    pairs, mirrored = pairs[worth], mirrored[worth]
    for block in np.split(grey, range(256, len(grey), 256)):  # in place: for 60,000 pictures it is a quarter of a gigabyte
        block -= gaussian_filter(block, (0, DETAIL, DETAIL))
    detail = grey
    lengths = window_lengths(detail)
    worth = compare(detail, lengths, pairs, mirrored, (1.0,)) >= LEAST_UNZOOMED
    pairs, mirrored = pairs[worth], mirrored[worth]
    similarity = compare(detail, lengths, pairs, mirrored, ZOOMS)
    possible = similarity >= LEAST_SIMILARITY - SPREAD_BONUS
    pairs, similarity = pairs[possible], similarity[possible]
    spread = spread_of_detail(detail, pairs)
    confirmed = similarity >= LEAST_SIMILARITY - SPREAD_BONUS * spread
    pairs, similarity = pairs[confirmed], similarity[confirmed]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarity))
    return pairs[order], similarity[order]


def candidates(features: np.ndarray, block: int = 1024) -> Iterator[np.ndarray]:
    """Yield int64 (M, 2), about `CANDIDATES` pairs for each row of `features`, in blocks that bound the memory."""
    rows = np.float32(features)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    sample = np.random.default_rng(0).choice(len(rows), min(SAMPLE, len(rows)), replace=False)
    cosines = rows[sample] @ rows.T
    cosines[np.arange(len(sample)), sample] = -1  # a picture is not its own twin
    least = np.quantile(cosines, max(0.0, 1 - 2 * CANDIDATES / len(rows)))
    for first in range(0, len(rows), block):
        for second in range(first, len(rows), 4 * block):
            cosines = rows[first : first + block] @ rows[second : second + 4 * block].T
            # Ten times as fast as `argwhere`, which is made for any number of dimensions.
            found = np.stack(np.divmod(np.flatnonzero(cosines >= least), cosines.shape[1]), axis=1) + np.array([first, second])
            yield found[found[:, 0] < found[:, 1]]


def shades_of_grey(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the luminance of some pictures (ITU-R 601) at one size, float32 (R, SIDE, SIDE), 0..255."""
    grey = np.empty((len(rows), SIDE, SIDE), np.float32)
    down, across = (shrinking(side) for side in images.shape[1:3])
    for start in range(0, len(rows), 256):
        luminance = images[rows[start : start + 256]] @ np.array([0.299, 0.587, 0.114], np.float32)
        grey[start : start + 256] = down @ luminance @ across.T
    return grey


@cache
def shrinking(side: int) -> np.ndarray:
    """Return the matrix that brings a column of pixels to SIDE of them by Pillow's box filter, float32 (SIDE, side)."""
    return np.asarray(Image.fromarray(np.eye(side, dtype=np.float32)).resize((side, SIDE), Image.Resampling.BOX))


def spread_of_detail(detail: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the share of a picture that holds its detail, 0..1, the lesser one of each pair, float32 (M,).

    It is the participation ratio of the detail's energy: 1 / N where one pixel of N has all of it, 1 where all have the same.
    """
    rows, places = np.unique(pairs, return_inverse=True)
    energy = gaussian_filter(detail[rows] ** 2, (0, 2, 2)).reshape(len(rows), SIDE**2)
    share = energy.sum(axis=1) ** 2 / np.maximum((energy**2).sum(axis=1), 1e-12) / SIDE**2
    return share[places.reshape(-1, 2)].min(axis=1, initial=1)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., C) without their mean and with length 1, so that a product of two is their correlation."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), FAINTEST * centred.shape[-1] ** 0.5)


def compare_coarsely(grey: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of each pair at 8 x 8 pixels, float32 (M,), and whether the second is better mirrored, (M,) bool."""
    small = grey.reshape(len(grey), 8, SIDE // 8, 8, SIDE // 8).mean(axis=(2, 4))
    plain, mirror = (normalised(view.reshape(len(grey), -1)) for view in (small, small[:, :, ::-1]))
    correlations = np.empty((2, len(pairs)), np.float32)
    for start in range(0, len(pairs), 1 << 16):
        first, second = pairs[start : start + (1 << 16)].T
        for row, views in enumerate((plain, mirror)):
            correlations[row, start : start + (1 << 16)] = np.vecdot(plain[first], views[second])
    return correlations.max(axis=0), correlations[1] > correlations[0]


def compare(
    detail: np.ndarray, lengths: np.ndarray, pairs: np.ndarray, mirrored: np.ndarray, zooms: tuple[float, ...], block: int = 1024
) -> np.ndarray:
    """Return the largest normalised cross-correlation of each pair over shifts and zooms of the second, float32 (M,).

    The second's middle is moved over the first by a product of their spectra (Lewis 1995, "Fast normalized cross-correlation").

    Args:
        lengths: of `window_lengths`.
    """
    edge, shifts = slice(MOST_SHIFT, SIDE - MOST_SHIFT), np.arange(-MOST_SHIFT, MOST_SHIFT + 1)
    similarity = np.full(len(pairs), -1, np.float32)
    for start in range(0, len(pairs), block):
        first, second = pairs[start : start + block].T
        turned = np.where(mirrored[start : start + block, None, None], detail[second][:, :, ::-1], detail[second])
        spectrum = rfft2(detail[first])
        for factor in zooms:
            scale = zoom_matrix(factor)[edge]
            middle = np.einsum("yi,nij,xj->nyx", scale, turned, scale, optimize=True)
            template = np.zeros_like(turned)
            template[:, edge, edge] = normalised(middle.reshape(len(middle), -1)).reshape(middle.shape)
            products = irfft2(spectrum * rfft2(template).conj())[:, shifts[:, None], shifts]
            found = similarity[start : start + block]
            np.maximum(found, (products / lengths[first]).max(axis=(1, 2)), out=found)
    return similarity


def window_lengths(detail: np.ndarray) -> np.ndarray:
    """Return the length of what each shift's window shows, less its mean, float32 (N, shifts, shifts)."""
    size = SIDE - 2 * MOST_SHIFT
    # A row for each shift, with the mean over its window.
    window = np.stack([np.roll(np.arange(SIDE) < size, shift) for shift in range(2 * MOST_SHIFT + 1)]).astype(np.float32) / size
    mean = window @ detail @ window.T
    square = np.concatenate([window @ detail[start : start + 256] ** 2 @ window.T for start in range(0, len(detail), 256)])
    return size * np.sqrt(np.maximum(square - mean**2, FAINTEST**2))


@cache
def zoom_matrix(factor: float) -> np.ndarray:
    """Return the matrix that enlarges a column of SIDE pixels about its middle, float32 (SIDE, SIDE)."""
    middle = (SIDE - 1) / 2
    return affine_transform(
        np.eye(SIDE, dtype=np.float32), [1 / factor, 1], (middle - middle / factor, 0), order=1, mode="nearest"
    )


def redundant(pairs: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return which pictures to leave out of training so that no pair is left: of each two one, and never one that tests.

    Args:
        pairs: int (M, 2), positions.
        training: bool (N,), whether each picture is in the training part.

    Returns:
        Positions, int64 (L,), sorted.
    """
    out = {int(one if training[one] else other) for one, other in pairs if training[one] != training[other]}
    for one, other in sorted(pair for pair in pairs.tolist() if training[pair].all()):
        if not out & {one, other}:
            out.add(other)
    return np.array(sorted(out), np.int64)
