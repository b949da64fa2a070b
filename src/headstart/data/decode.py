"""Decode one image file of any kind to RGB at one size, as a person would see it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from headstart.data.opening import MOST_PIXELS_OF_JPEG, RAW_ENDINGS, UnreadableImage, opened, reason, refuse_more_pixels
from headstart.errors import UnreachableError
from headstart.system.quiet import quiet

# Photographs have aspect ratios of up to 3 : 2. A crop to a central square then cuts only margins.
LONGEST_PHOTOGRAPH, LONGEST_OF_MOST = 1.51, 2.0
# Images whose shapes differ by at most this factor look alike when they are squashed to one square.
ALIKE_SHAPES = 1.5
# The colour of padding is ImageNet's mean, which most networks see as zero.
PADDING = (124, 116, 104)
# What is converted at a time. Converted in float64, it takes 8 bytes a pixel, three times.
PIXELS_OF_STRIP = 1 << 21


@dataclass(frozen=True)
class Decoding:
    """How image files become arrays of one size: the same way in training and in use.

    Attributes:
        fit: `crop` to the centre, `squash` to the wanted shape, or `pad` to it.
        grey_range: the values that become 0 and 255 in grey images of more than 8 bits, estimated over the data set. With
            None, each image is scaled by the range of its own type.
    """

    fit: str = "crop"
    grey_range: tuple[float, float] | None = None


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: uint8 (height, width, 3), RGB, 0..255.
        size: width and height of the upright image before it was brought to this size.
        remarks: what a user might not expect, in fixed words, so that equal remarks can be counted.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    remarks: tuple[str, ...]


def read_image(path: Path, height: int, width: int, decoding: Decoding = Decoding()) -> np.ndarray:
    """Return the image in a file, uint8 (height, width, 3); see `decode`."""
    return decode(path, height, width, decoding).pixels


def decode(path: Path | BinaryIO, height: int, width: int, decoding: Decoding, most_pixels: int = MOST_PIXELS_OF_JPEG) -> Decoded:
    """Read the image in a file or an open binary file.

    It is turned as its EXIF data say. Greyscale, palette, CMYK and 16-bit images become RGB. Transparency is put on white.
    Only the first frame of an animation is used.

    Args:
        most_pixels: an image whose header says more is not decoded.

    Raises:
        UnreadableImage: the file cannot be read; the message says why. It has a cause if Pillow cannot read the file, and none
            if the file is refused before it is decoded.
        UnreachableError: it lies at an address that does not answer.
    """
    if isinstance(path, Path) and path.suffix.lower() in RAW_ENDINGS:
        raise UnreadableImage("camera raw is not read: convert it to JPEG or PNG")
    try:
        with quiet(), opened(path) as one:  # Pillow warns about oddities in files that it can read
            image = one.image
            refuse_more_pixels(image, most_pixels)
            size, remarks = image.size, [*frames_remark(image), *depth_remark(image, decoding)]
            with one.ready((2 * width, 2 * height)):
                lying = image.size
                ImageOps.exif_transpose(image, in_place=True)
                if image.size != lying:
                    size = size[::-1]
                return Decoded(fit(image, height, width, decoding), size, tuple(remarks))
    except (UnreadableImage, UnreachableError):
        raise
    # Pillow's decoders raise exceptions of almost any kind on damaged files (SyntaxError, struct.error, ...).
    except Exception as error:
        why = reason(path, error) if isinstance(path, Path) else "these bytes are no image, or a damaged one"
        raise UnreadableImage(why) from error


def frames_remark(image: Image.Image) -> list[str]:
    # The further images in a camera's MPO are previews, not frames.
    moving = image.format != "MPO" and getattr(image, "is_animated", False)
    return ["several frames: only the first is used"] if moving else []


def depth_remark(image: Image.Image, decoding: Decoding) -> list[str]:
    """Return a remark about what an image of more than 8 bits loses, or none."""
    if is_deep(image):
        return [] if decoding.grey_range else ["more than 8 bits and no known scale: scaled by the range of its type"]
    # Pillow has no mode for several channels of 16 bits.
    deep = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    return ["16 bits per channel: only the upper 8 are used"] if deep else []


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def fit(image: Image.Image, height: int, width: int, decoding: Decoding = Decoding()) -> np.ndarray:
    """Return an upright Pillow image as uint8 (height, width, 3), RGB."""
    image, size = to_rgb(image, decoding.grey_range), (width, height)
    if decoding.fit == "squash":
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    if decoding.fit == "pad":
        return np.asarray(ImageOps.pad(image, size, Image.Resampling.BICUBIC, PADDING))
    return np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC))


def to_rgb(image: Image.Image, grey_range: tuple[float, float] | None = None) -> Image.Image:
    """Return the image in mode RGB as a person would see it."""
    if is_deep(image):
        low, high = grey_range or (0.0, own_range(image))
        return by_strips(image, lambda strip: shades_to_rgb(strip, low, high))
    if image.has_transparency_data:
        return by_strips(image, on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def strips(image: Image.Image) -> Iterator[Image.Image]:
    """Yield an image in pieces, from top to bottom, so that what is made of it takes little memory at a time."""
    rows = max(1, PIXELS_OF_STRIP // image.width)
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return the image, in mode RGB, that a function of single pixels makes of an image."""
    whole, top = Image.new("RGB", image.size), 0
    for strip in strips(image):
        whole.paste(convert(strip), (0, top))
        top += strip.height
    return whole


def shades_to_rgb(image: Image.Image, low: float, high: float) -> Image.Image:
    # convert("RGB") would clip instead of scale: a 16-bit image would turn white.
    values = np.asarray(image, dtype=np.float64)
    shades = np.nan_to_num((values - low) / max(high - low, 1e-30) * 255, nan=0.0)
    return Image.fromarray(np.uint8(np.clip(shades, 0, 255))).convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def own_range(image: Image.Image) -> float:
    """Return the value that becomes white in a deep image for which no scale is known."""
    if image.mode.startswith("I;16"):
        return 65535.0
    highest = max(np.nanmax(np.asarray(strip), initial=0.0) for strip in strips(image))
    return 65535.0 if highest > 255 else 1.0 if highest <= 1 else 255.0


def range_of(image: Image.Image) -> tuple[float, float] | None:
    """Return the 0.01 % and 99.99 % quantiles of a deep image's values; None if no value is finite."""
    values, found = np.empty(image.width * image.height, np.asarray(image.crop((0, 0, 1, 1))).dtype), 0
    for strip in strips(image):
        part = np.asarray(strip)
        part = part[np.isfinite(part)]
        values[found : found + len(part)] = part
        found += len(part)
    values = values[:found]
    places = [(found - 1) * share for share in (1e-4, 1 - 1e-4)]
    if not found:
        return None
    # NumPy's quantiles of all values, in float64, would take seven times the memory: only the neighbours of each are needed.
    values.partition(sorted({row for place in places for row in (int(place), min(int(place) + 1, found - 1))}))
    low, high = (
        float(np.quantile(values[int(place) : int(place) + 2].astype(np.float64), place - int(place))) for place in places
    )
    return low, high


def choose_fit(sizes: Sequence[tuple[int, int]]) -> str:
    """Return `crop`, `squash` or `pad`: the best way to bring images of these widths and heights to a square.

    Photographs are cropped, as ImageNet's are: what matters lies in the middle, and the proportions stay true. Longer images
    are not cropped, since most of them would be lost. They are squashed if they share a shape, which distorts all of them
    alike, and padded if they do not, so that the proportions keep their meaning.
    """
    width, height = np.array(sizes, float).reshape(-1, 2).T
    elongation = np.maximum(width, height) / np.minimum(width, height)
    if not len(width) or (np.median(elongation) <= LONGEST_PHOTOGRAPH and np.quantile(elongation, 0.9) <= LONGEST_OF_MOST):
        return "crop"
    narrow, wide = np.quantile(width / height, [0.05, 0.95])
    return "squash" if wide / narrow <= ALIKE_SHAPES else "pad"


def cut_away(size: tuple[int, int]) -> float:
    """Return the share of an image of this size that a crop to a square leaves out, 0..1."""
    return 1 - min(size) / max(size)
