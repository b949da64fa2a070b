"""Open an image file of unknown origin: kind, size, and the time and memory that it would take are checked before decoding."""

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from headstart.errors import HeadstartError, UnreachableError
from headstart.system.files import open_regular
from headstart.system.memory import trim
from headstart.system.remote import RemotePath

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
# The decoders of these keep the image several times, or in more bits.
HEAVY, MOST_PIXELS_OF_HEAVY = ("WEBP", "AVIF", "HEIF", "JPEG2000", "JXL"), 50_000_000
# A resized side needs a table of 32 bytes for each pixel.
MOST_SIDE = 1_000_000
# Some decoders read the whole file at once.
MOST_BYTES = 1 << 30
# A JPEG may come in several scans over the image, usually about 10. Each takes time, whatever it holds.
MOST_SCANS, MOST_PIXELS_OF_SCANS = 100, 2_000_000_000
# In bytes: what the images that threads decode at the same time may take together; the size from which a file is alone, and
# from which a decoded image's memory is given back at once.
MOST_MEMORY, LARGE_FILE, LARGE_IMAGE = 1_500_000_000, 32 << 20, 64 << 20

# How files begin that often lie where an image should be.
INSTEAD = {
    b"version https://git-lfs": "it is a pointer of Git LFS: fetch the images with git lfs pull",
    b"<!doctype": "it is a web page, saved under an image's name", b"<html": "it is a web page, saved under an image's name",
}  # fmt: skip
# How images begin whose headers may lie behind their first megabyte: TIFF, WebP, AVIF, HEIF, JPEG 2000, JPEG XL.
NEEDED_WHOLE = re.compile(rb"II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(avi|hei|hev|mif|msf)|.{4}(jP  |JXL )|\xff[\x0a\x4f]", re.DOTALL)
# A marker of JPEG. In coded data, FF is followed by 00.
MARKER = re.compile(rb"\xff[^\x00\xff]")
# Markers that no length follows, and those of a frame: baseline, extended, progressive, lossless, and the same arithmetic.
BARE = {0x01, *range(0xD0, 0xD9)}
START, PROGRESSIVE, SCAN, END = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, {0xC2, 0xC6, 0xCA, 0xCE}, 0xDA, 0xD9


class UnreadableImage(Exception):
    """A file is no image, is damaged, or is too large; the message says why."""


class Room:
    """Memory that threads share: who wants more than is free waits.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size, self.free, self.changed = size, size, threading.Condition()

    @contextlib.contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        """Take `wanted` bytes inside the block, or all if that is more than there is."""
        wanted = min(wanted, self.size)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= wanted)
            self.free -= wanted
        try:
            yield
        finally:
            with self.changed:
                self.free += wanted
                self.changed.notify_all()


ROOM = Room(MOST_MEMORY)


@cache
def formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that Pillow can open on this machine."""
    with contextlib.suppress(ImportError):  # HEIC, from phones, needs this optional package
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class Opened(NamedTuple):
    """An image file of which only the header has been read.

    Attributes:
        alone: whether all other threads wait for this file.
    """

    image: Image.Image
    file: BinaryIO
    alone: bool

    @contextlib.contextmanager
    def ready(self, size: tuple[int, int]) -> Iterator[None]:
        """Make sure that the image may be decoded in the block, and wait until there is memory for it.

        Args:
            size: width and height that are wanted. A JPEG is set to at least this, and its own size changes.

        Raises:
            UnreadableImage: it is too large, or a JPEG of too many scans. Nothing is decoded for that.
        """
        wanted = memory_to_decode(self.image, self.file, size)
        with ROOM.taken(0 if self.alone else wanted):
            try:
                yield
            finally:
                self.image.close()  # its memory is free before others take it
                if wanted > LARGE_IMAGE:
                    trim()  # the C library would keep it for this thread alone


@contextlib.contextmanager
def opened(path: Path | BinaryIO) -> Iterator[Opened]:
    """Open an image file of one of `FORMATS`. Only its header is read; no pixel is decoded.

    Raises:
        UnreadableImage: the file is too large.
        Exception: it is no image, or cannot be read: Pillow raises exceptions of almost any kind.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_regular(path)) if isinstance(path, Path) else path
        size = os.fstat(file.fileno()).st_size if isinstance(path, Path) else 0
        if size > MOST_BYTES:
            raise UnreadableImage(f"its {size:,} bytes are more than {MOST_BYTES:,}")
        alone = size > LARGE_FILE
        stack.enter_context(ROOM.taken(MOST_MEMORY if alone else 0))
        yield Opened(stack.enter_context(open_image(file)), file, alone)


def open_image(file: BinaryIO, kinds: tuple[str, ...] = ()) -> Image.Image:
    try:
        return Image.open(file, formats=kinds or COMMON)
    except UnidentifiedImageError:
        if kinds:
            raise
        return open_image(file, formats())


def memory_to_decode(image: Image.Image, file: BinaryIO, size: tuple[int, int]) -> int:
    """Prepare an image to be decoded, and return about how many bytes that takes.

    Raises:
        UnreadableImage: it is too large, or a JPEG of too many scans. Nothing is decoded for that.
    """
    kept = 0
    if image.format in ("JPEG", "MPO"):
        whole, scans = image.width * image.height, scans_of(file)
        if scans:  # all its coefficients are kept, of 16 bits each
            refuse_more_pixels(image, MOST_PIXELS)
            kept = 2 * 4 * whole
        if scans > MOST_SCANS or scans * whole > MOST_PIXELS_OF_SCANS:
            raise UnreadableImage(f"a JPEG of {image.width} x {image.height} pixels in {scans:,} scans would take too long")
        # A JPEG can be decoded directly at a half, a quarter or an eighth: much faster, and any camera's fits.
        image.draft("RGB", size)
    heavy = image.format in HEAVY
    refuse_more_pixels(image, MOST_PIXELS_OF_HEAVY if heavy else MOST_PIXELS)
    if max(image.size) > MOST_SIDE:
        raise UnreadableImage(f"{image.width} x {image.height} pixels: a side of more than {MOST_SIDE:,} is not read")
    # 4 bytes of each pixel, then 4 as RGB.
    return kept + image.width * image.height * (20 if heavy else 8)


def refuse_more_pixels(image: Image.Image, most: int) -> None:
    if image.width * image.height > most:
        raise UnreadableImage(f"{image.width} x {image.height} pixels are more than {most:,}")


def scans_of(file: BinaryIO, most: int = 1 << 16) -> int:
    """Return in how many scans a JPEG's coefficients come; 0 if one scan has all, so that they can be decoded as they come.

    Args:
        most: how many bytes are read at first; mostly they say enough.
    """
    file.seek(0)
    content = file.read(most)
    scans = components = place = 0
    progressive = False
    while (found := MARKER.search(content, place)) and content[found.start() + 1] != END:
        marker, place = content[found.start() + 1], found.end()
        if marker in BARE:
            continue
        segment = content[place : place + 8]
        if marker in START:
            progressive, components = marker in PROGRESSIVE, segment[7] if len(segment) == 8 else 0
        elif marker == SCAN:
            if not progressive and segment[2:3] >= bytes([components]) and not scans:
                return 0
            scans += 1
        place += max(2, int.from_bytes(segment[:2], "big"))
    return scans if len(content) < most or most < 0 else scans_of(file, -1)


def is_image(path: Path) -> bool:
    """Whether a file is an image: by its ending or, if the ending is unknown, by its content."""
    ending = path.suffix.lower()
    if ending in ENDINGS or ending in RAW_ENDINGS:
        return ending in ENDINGS
    try:
        # Without TGA, which has no signature: a text file could be taken for one.
        kinds = tuple(name for name in formats() if name != "TGA")
        with warnings.catch_warnings(action="ignore"), open_to_look(path) as file, open_image(file, kinds):
            return True
    except UnreachableError:
        raise
    except Exception:  # Pillow raises exceptions of almost any kind
        return False


def open_to_look(path: Path) -> BinaryIO:
    """Open a file that may be no image. Of a large one at an address, such as a film, only the beginning is fetched."""
    if not isinstance(path, RemotePath) or NEEDED_WHOLE.match(content := path.beginning()):
        return open_regular(path)
    return io.BytesIO(content)


def reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, in words."""
    with contextlib.suppress(OSError, ValueError):  # of a name that no file can have, or in a folder that is not ours
        if path.is_symlink() and not path.exists():
            return f"it is a link to {path.readlink().name}, which is missing"  # a page may quote this, without the folders above
    if path.suffix.lower() in (".heic", ".heif") and "HEIF" not in formats():
        return "HEIC needs a package that is not installed: pip install pillow-heif"
    for begin, what in INSTEAD.items():
        if beginning(path).lstrip().lower().startswith(begin):
            return what
    if isinstance(error, HeadstartError):  # it is no regular file
        return str(error).removeprefix(f"{path} ")
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    if isinstance(error, UnidentifiedImageError):
        return "UnidentifiedImageError: cannot identify image file"
    return f"{type(error).__name__}: {error}"


def beginning(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(64)
    except (OSError, ValueError, HeadstartError):
        return b""
