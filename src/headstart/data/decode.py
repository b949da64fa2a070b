"""Decode one image file of any kind to RGB at one size, as a person would see it."""

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The formats that occur in image folders. Pillow's other decoders are not used on files of unknown origin: EPS would start
# Ghostscript. JPEG opens MPO too, which many cameras write and for which Pillow has no opener of its own.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000", "JXL", "TGA", "PCX", "SGI", "QOI",
)  # fmt: skip
# Pillow loads these when it starts. Loading the others takes as long as classifying a few images.
COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM")
# A file with one of these endings is meant as an image, so it is reported if it cannot be read.
ENDINGS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".tga", ".pcx", ".sgi", ".qoi",
}  # fmt: skip
# A camera raw file looks like TIFF, and Pillow would read its thumbnail instead of the image.
RAW_ENDINGS = {".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
# A decoded image takes 3 bytes per pixel, so this is 300 MB: enough for any camera.
MOST_PIXELS = 100_000_000
# JPEG is decoded at a half, a quarter or an eighth of its size if that suffices, so it may be larger.
MOST_PIXELS_OF_JPEG = 250_000_000
Image.MAX_IMAGE_PIXELS = MOST_PIXELS_OF_JPEG // 2  # Pillow refuses more than twice this; MOST_PIXELS is checked here

# Photographs have aspect ratios of up to 3 : 2. A crop to a central square then cuts only margins.
LONGEST_PHOTOGRAPH, LONGEST_OF_MOST = 1.51, 2.0
# Images whose shapes differ by at most this factor look alike when they are squashed to one square.
ALIKE_SHAPES = 1.5
# How files begin that often lie where an image should be.
INSTEAD = {
    b"version https://git-lfs": "it is a pointer of Git LFS: fetch the images with git lfs pull",
    b"<!doctype": "it is a web page, saved under an image's name", b"<html": "it is a web page, saved under an image's name",
}  # fmt: skip
# The colour of padding is ImageNet's mean, which most networks see as zero.
PADDING = (124, 116, 104)


class UnreadableImage(Exception):
    """A file is no image, is damaged, or is too large; the message says why."""


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


@cache
def formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that Pillow can open on this machine."""
    with contextlib.suppress(ImportError):  # HEIC, from phones, needs this optional package
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(path: Path | BinaryIO) -> Image.Image:
    """Open an image file of one of `FORMATS`. Only its header is read; no pixel is decoded."""
    try:
        return Image.open(path, formats=COMMON)
    except UnidentifiedImageError:
        return Image.open(path, formats=formats())


def is_image(path: Path) -> bool:
    """Whether a file is an image: by its ending or, if the ending is unknown, by its content."""
    ending = path.suffix.lower()
    if ending in ENDINGS or ending in RAW_ENDINGS:
        return ending in ENDINGS
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=[name for name in formats() if name != "TGA"]):
            return True  # without TGA, which has no signature: a text file could be taken for one
    except Exception:  # Pillow raises exceptions of almost any kind
        return False


def read_image(path: Path, height: int, width: int, decoding: Decoding = Decoding()) -> np.ndarray:
    """Return the image in a file, uint8 (height, width, 3); see `decode`."""
    return decode(path, height, width, decoding).pixels


def decode(path: Path | BinaryIO, height: int, width: int, decoding: Decoding) -> Decoded:
    """Read the image in a file or an open binary file.

    It is turned as its EXIF data say. Greyscale, palette, CMYK and 16-bit images become RGB. Transparency is put on white.
    Only the first frame of an animation is used.

    Raises:
        UnreadableImage: the file cannot be read; the message says why.
    """
    if isinstance(path, Path) and path.suffix.lower() in RAW_ENDINGS:
        raise UnreadableImage("camera raw is not read: convert it to JPEG or PNG")
    try:
        with warnings.catch_warnings():
            # Pillow warns about oddities in files that it can read.
            warnings.simplefilter("ignore")
            with open_image(path) as image:
                size, remarks = image.size, [*frames_remark(image), *depth_remark(image, decoding)]
                # A JPEG can be decoded directly at a half, a quarter or an eighth: much faster, and any camera's fits.
                image.draft("RGB", (2 * width, 2 * height))
                refuse_huge(image)
                turned = ImageOps.exif_transpose(image)
                if turned.size != image.size:
                    size = size[::-1]
                return Decoded(fit(turned, height, width, decoding), size, tuple(remarks))
    except UnreadableImage:
        raise
    # Pillow's decoders raise exceptions of almost any kind on damaged files (SyntaxError, struct.error, ...).
    except Exception as error:
        why = reason(path, error) if isinstance(path, Path) else "these bytes are no image, or a damaged one"
        raise UnreadableImage(why) from error


def reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, in words."""
    if path.is_symlink() and not path.exists():
        return f"it is a link to {path.readlink()}, which is missing"
    if path.suffix.lower() in (".heic", ".heif") and "HEIF" not in formats():
        return "HEIC needs a package that is not installed: pip install pillow-heif"
    for begin, what in INSTEAD.items():
        if beginning(path).lstrip().lower().startswith(begin):
            return what
    return f"{type(error).__name__}: {error}".replace(f" {str(path)!r}", "")


def beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


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


def refuse_huge(image: Image.Image) -> None:
    """Raise `UnreadableImage` if an image is too large. Nothing is decoded for that."""
    if image.width * image.height > MOST_PIXELS:
        raise UnreadableImage(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")


def to_rgb(image: Image.Image, grey_range: tuple[float, float] | None = None) -> Image.Image:
    """Return the image in mode RGB as a person would see it."""
    if is_deep(image):
        # convert("RGB") would clip instead of scale: a 16-bit image would turn white.
        values = np.asarray(image, dtype=np.float64)
        low, high = grey_range or (0.0, own_range(image.mode, values))
        shades = np.nan_to_num((values - low) / max(high - low, 1e-30) * 255, nan=0.0)
        image = Image.fromarray(np.uint8(np.clip(shades, 0, 255)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def own_range(mode: str, values: np.ndarray) -> float:
    """Return the value that becomes white in a deep image for which no scale is known."""
    highest = np.nanmax(values, initial=0.0)
    return 65535.0 if mode.startswith("I;16") or highest > 255 else 1.0 if highest <= 1 else 255.0


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
