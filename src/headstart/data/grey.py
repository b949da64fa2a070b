"""Small grey versions of images, by which near-duplicates are confirmed."""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

# Pixels are compared at this size and in shades of grey, so that JPEG, colour and brightness matter little.
SIDE = 32


def shades_of_grey(images: Any, rows: np.ndarray) -> np.ndarray:
    """Return the luminance (ITU-R 601) of the images in `rows`, resized, float32 (R, SIDE, SIDE), 0..255."""
    grey = np.empty((len(rows), SIDE, SIDE), np.float32)
    down, across = (shrinking(side) for side in images.shape[1:3])
    for start in range(0, len(rows), 256):
        luminance = images[rows[start : start + 256]] @ np.array([0.299, 0.587, 0.114], np.float32)
        grey[start : start + 256] = down @ luminance @ across.T
    return grey


@cache
def shrinking(side: int) -> np.ndarray:
    """Return the matrix that resizes a column of `side` pixels to SIDE pixels by Pillow's box filter, float32 (SIDE, side)."""
    return np.asarray(Image.fromarray(np.eye(side, dtype=np.float32)).resize((side, SIDE), Image.Resampling.BOX))
