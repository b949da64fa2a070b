"""From what a client sends to the model's input."""

import asyncio
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from headstart.data.decode import Decoding, decode
from headstart.data.opening import UnreadableImage
from headstart.serve.limits import MOST_PIXELS, Refusal

Value = TypeVar("Value")

# Pillow decodes without Python's lock.
THREADS = ThreadPoolExecutor(os.cpu_count(), "decoding")


def decoded(content: bytes, height: int, width: int, decoding: Decoding) -> np.ndarray:
    """Return an encoded image as the model takes it, uint8 (height, width, 3), as `headstart predict` would.

    Raises:
        Refusal: it is no image (415), too large (413) or damaged (422).
    """
    try:
        return decode(io.BytesIO(content), height, width, decoding, MOST_PIXELS).pixels
    except UnreadableImage as error:
        if error.__cause__ is None:
            raise Refusal(413, f"the image is too large: {error}") from None
        if isinstance(error.__cause__, Image.DecompressionBombError):  # Pillow has a limit of its own
            raise Refusal(413, f"the image is too large: it has more than {MOST_PIXELS:,} pixels") from None
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise Refusal(415, "this is no image of a known kind: send a JPEG, PNG, WebP, GIF, BMP or TIFF file") from None
        raise Refusal(422, "the image is damaged, and cannot be decoded") from None


async def in_thread(function: Callable[..., Value], *arguments: object) -> Value:
    """Return what a function gives that is called in one of the threads that decode."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, function, *arguments)
