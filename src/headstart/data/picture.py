"""One picture: from a file of any kind to what a person would see of it, as RGB."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

# What turns up in picture folders; Pillow's rarer decoders stay closed to files of unknown origin.
# JPEG opens MPO too, which many cameras write; Pillow knows no opener of that name.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
# A decoded picture takes 3 bytes a pixel: 300 MB here, enough for any camera.
MOST_PIXELS = 100_000_000


class UnreadablePicture(Exception):
    """A file that is no picture, is damaged, or is larger than `MOST_PIXELS`."""


def is_picture(path: Path) -> bool:
    """Whether a path looks like a picture file; hidden ones, such as macOS' `._a.jpg`, do not."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def read_picture(path: Path | BinaryIO, height: int, width: int) -> np.ndarray:
    """Return the picture in a file, cropped about its centre to the wanted shape.

    Turned as its EXIF data say; greyscale, palette, CMYK and 16 bit become RGB; transparent parts
    lie on white; of an animation, the first frame.

    Returns:
        uint8 (height, width, 3), RGB, 0..255.

    Raises:
        UnreadablePicture: with the reason.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of oddities in files that it reads all the same.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                refuse_huge(image)
                # JPEG can be decoded at a half, a quarter or an eighth at once: much faster.
                image.draft("RGB", (2 * width, 2 * height))
                return fit(image, height, width)
    except UnreadablePicture:
        raise
    # Pillow's decoders raise almost anything on damaged files (SyntaxError, struct.error, ...).
    except Exception as error:
        raise UnreadablePicture(f"{type(error).__name__}: {error}") from error


def fit(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Return a Pillow image as uint8 (height, width, 3): RGB, upright, cropped about its centre.

    Cropping keeps proportions, which squashing to a square does not.
    """
    image = to_rgb(ImageOps.exif_transpose(image))
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))


def refuse_huge(image: Image.Image) -> None:
    """Raise `UnreadablePicture` by the size in the header, before anything is decoded."""
    if image.width * image.height > MOST_PIXELS:
        raise UnreadablePicture(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB as a person would see it."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Convert("RGB") would clip instead of scale: a 16-bit picture would turn white.
        values = np.asarray(image, dtype=np.float64)
        full_scale = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 1.0 if values.max() <= 1 else 255.0
        image = Image.fromarray(np.uint8(np.clip(values / full_scale * 255, 0, 255)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
