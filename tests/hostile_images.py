"""Image files that are damaged, misleading or made to harm, from a seed: for tests of whatever reads images.

Nothing in them is larger than a few megabytes, though some claim, or unpack to, much more.
"""

import functools
import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

Made = tuple[str, bytes]  # the ending and the content of a file


def make(folder: Path, count: int, seed: int) -> list[Path]:
    """Write `count` hostile files into a folder, and return their paths.

    The same seed gives the same files, and those of a smaller `count` are the first of a larger one. Some paths are no files:
    pipes, sockets, links to devices, folders and links to nothing. Some names are no UTF-8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind = KINDS[number % len(KINDS)]
        if kind is special:
            paths.append(special(folder, number, rng))
            continue
        ending, content = kind(rng)
        path = folder / (strange_name(rng, number, ending) if kind is named else f"{number:04d}-{kind.__name__}.{ending}")
        path.write_bytes(content)
        paths.append(path)
    return paths


# Honest files, from which most of the others are made


def encoded(image: Image.Image, kind: str, *more: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    # Copies: Pillow leaves at an image what it was told for one kind, and trips over that in the next.
    several = {"save_all": True, "append_images": [one.copy() for one in more]} if more else {}
    image.copy().save(file, kind, **several, **options)
    return file.getvalue()


@functools.cache
def photograph(width: int = 48, height: int = 40) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 80, (height, width, 3))
    slope = np.linspace(0, 175, width)[None, :, None]
    return Image.fromarray(np.uint8(noise + slope))


@functools.cache
def seeds() -> dict[str, Made]:
    """Return honest files of every kind, by a name."""
    image = photograph().copy()
    grey, clear = image.convert("L"), image.copy()
    clear.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey, np.float32) / 255)
    frames = [image.rotate(angle) for angle in (0, 90, 180)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return {
        "jpeg": ("jpg", encoded(image, "JPEG", exif=exif, comment=b"a comment")),
        "progressive": ("jpg", encoded(image, "JPEG", progressive=True)),
        "cmyk": ("jpg", encoded(image.convert("CMYK"), "JPEG")),
        "grey": ("jpg", encoded(grey, "JPEG", progressive=True)),
        "mpo": ("jpg", encoded(frames[0], "MPO", *frames[1:])),
        "png": ("png", encoded(image, "PNG", exif=exif)),
        "palette": ("png", encoded(image.quantize(16), "PNG", transparency=bytes(range(0, 160, 10)))),
        "clear": ("png", encoded(clear, "PNG")),
        "deep": ("png", encoded(deep, "PNG")),
        "apng": ("png", encoded(frames[0], "PNG", *frames[1:])),
        "gif": ("gif", encoded(image, "GIF", comment=b"a comment")),
        "moving": ("gif", encoded(frames[0], "GIF", *frames[1:], loop=0)),
        "webp": ("webp", encoded(image, "WEBP", exif=exif)),
        "lossless": ("webp", encoded(clear, "WEBP", lossless=True)),
        "moving webp": ("webp", encoded(frames[0], "WEBP", *frames[1:])),
        "avif": ("avif", encoded(image, "AVIF")),
        "moving avif": ("avif", encoded(frames[0], "AVIF", *frames[1:])),
        "tiff": ("tif", encoded(image, "TIFF", exif=exif)),
        "lzw": ("tif", encoded(image, "TIFF", compression="tiff_lzw")),
        "jpeg tiff": ("tif", encoded(image, "TIFF", compression="jpeg")),
        "float": ("tif", encoded(floats, "TIFF", compression="tiff_deflate")),
        "pages": ("tif", encoded(frames[0], "TIFF", *frames[1:])),
        "big": ("tif", encoded(image, "TIFF", big_tiff=True)),
        "bmp": ("bmp", encoded(image, "BMP")),
        "dib": ("dib", encoded(image.quantize(16), "DIB")),
        "ppm": ("ppm", encoded(image, "PPM")),
        "pgm": ("pgm", encoded(deep, "PPM")),
        "jp2": ("jp2", encoded(image, "JPEG2000")),
        "tga": ("tga", encoded(clear, "TGA", compression="tga_rle")),
        "pcx": ("pcx", encoded(image, "PCX")),
        "sgi": ("sgi", encoded(image, "SGI")),
        "qoi": ("qoi", b"qoif" + struct.pack(">IIBB", 48, 40, 3, 0) + b"\xfe\x50\x60\x70" * 1920 + bytes(7) + b"\x01"),
    }


def one(rng: random.Random, *names: str) -> Made:
    return seeds()[rng.choice(names or list(seeds()))]


def noise(rng: random.Random, most: int) -> bytes:
    return rng.randbytes(rng.randint(1, most))


# Damage


def truncated(rng: random.Random) -> Made:
    ending, content = one(rng)
    return ending, content[: rng.randint(0, len(content) - 1)]


def flipped(rng: random.Random) -> Made:
    ending, content = one(rng)
    changed = bytearray(content)
    for _ in range(rng.randint(1, 40)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return ending, bytes(changed)


def header_changed(rng: random.Random) -> Made:
    ending, content = one(rng)
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(min(64, len(changed)))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return ending, bytes(changed)


def spliced(rng: random.Random) -> Made:
    (ending, content), (_, other) = one(rng), one(rng)
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    middle = rng.choice((b"", content[start:end] * 2, other[: end - start], other, bytes(end - start), noise(rng, 5000)))
    return ending, content[:start] + middle + content[end:]


def wrong_ending(rng: random.Random) -> Made:
    return rng.choice([ending for ending, _ in seeds().values()]), one(rng)[1]


# Sizes


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    """Return a chunk of a PNG file; a false length may be claimed."""
    size = len(content) if length is None else length
    return struct.pack(">I", size) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + chunk(b"IEND", b"")


@functools.cache
def packed_zeros(size: int) -> bytes:
    """Return so many zeros as a zlib stream."""
    packer, left, found = zlib.compressobj(1), size, []
    while left:
        found.append(packer.compress(bytes(min(left, 1 << 20))))
        left -= min(left, 1 << 20)
    return b"".join([*found, packer.flush()])


SIZES = (0, 1, 2, 255, 4095, 9_999, 16_383, 65_500, 65_535, 100_000, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def claimed_size(rng: random.Random) -> Made:
    """A header that claims a huge or empty image."""
    width, height = rng.choice(SIZES), rng.choice(SIZES)
    short = min(width, 65_535), min(height, 65_535)
    kind = rng.choice(("png", "gif", "bmp", "tif", "ppm", "jpg", "webp", "tga", "pcx", "sgi", "qoi", "jp2", "avif"))
    content = bytearray({"jp2": seeds()["jp2"], "avif": seeds()["avif"]}.get(kind, ("", b""))[1])
    match kind:
        case "png":
            return kind, png(width, height, rng.choice((1, 8, 16)), rng.choice((0, 2, 4, 6)), chunk(b"IDAT", packed_zeros(5000)))
        case "gif":
            return kind, b"GIF89a" + struct.pack("<HH", *short) + seeds()["gif"][1][10:]
        case "bmp":
            return kind, seeds()["bmp"][1][:18] + struct.pack("<II", width, height) + seeds()["bmp"][1][26:]
        case "tif":
            return kind, tiff({256: width, 257: height, 273: 8, 278: height, 279: 100, 258: 8, 262: 1, 259: 1, 277: 1})
        case "ppm":
            return kind, f"P{rng.randint(1, 6)}\n{width} {height}\n255\n".encode() + bytes(100)
        case "jpg":
            content = bytearray(one(rng, "jpeg", "progressive", "cmyk")[1])
            place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
            content[place + 5 : place + 9] = struct.pack(">HH", *short)
        case "webp":
            size = (min(width, 2**24) - 1) % 2**24, (min(height, 2**24) - 1) % 2**24
            start = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + size[0].to_bytes(3, "little") + size[1].to_bytes(3, "little")
            content = bytearray(b"RIFF" + struct.pack("<I", 5000) + start + seeds()["lossless"][1][12:])
        case "tga":
            content = bytearray(b"\0\0\x0a\0\0\0\0\0\0\0\0\0" + struct.pack("<HHBB", *short, 24, 0) + bytes(100))
        case "pcx":
            content = bytearray(seeds()["pcx"][1])
            content[4:12] = struct.pack("<HHHH", 0, 0, *short)
        case "sgi":
            content = bytearray(seeds()["sgi"][1])
            content[6:10] = struct.pack(">HH", *short)
        case "qoi":
            content = bytearray(b"qoif" + struct.pack(">IIBB", width, height, rng.choice((3, 4)), 0) + bytes(50))
        case "jp2":
            place = content.find(b"\xff\x51")
            content[place + 6 : place + 14] = struct.pack(">II", width, height)
        case "avif":
            place = content.find(b"ispe")
            content[place + 8 : place + 16] = struct.pack(">II", width, height)
    return kind, bytes(content)


def thin(rng: random.Random) -> Made:
    """An honest image of one row or column."""
    size = rng.choice(((1, 60_000), (60_000, 1), (1, 1), (3, 65_000), (65_000, 2)))
    kind = rng.choice(("PNG", "JPEG", "TIFF", "BMP", "GIF"))
    return kind.lower(), encoded(Image.new(rng.choice(("L", "RGB")), size, "red"), kind)


def unpacks_to_much(rng: random.Random) -> Made:
    """A small file whose image takes hundreds of megabytes, within the limit or beyond it."""
    width, height = rng.choice(((9_990, 9_990), (99_999_000, 1), (1, 99_999_000), (14_000, 14_000), (50_000, 50_000)))
    channels, colour = rng.choice(((1, 0), (3, 2), (4, 6), (1, 3)))
    size = min(height * (1 + width * channels), 400_000_000)
    packed = chunk(b"IDAT", packed_zeros(size))
    palette = [chunk(b"PLTE", bytes(range(30))), chunk(b"tRNS", bytes(5))] if colour == 3 else []
    return "png", png(width, height, 8, colour, *palette, packed)


def deep_and_large(rng: random.Random) -> Made:
    """A TIFF of up to 100 megapixels of 32 or 16 bits, in a strip or in several."""
    bits, sample_format = rng.choice(((32, 3), (32, 2), (32, 1), (16, 1), (16, 2)))
    side = rng.choice((9_990, 9_990, 5_000))
    rows = rng.choice((side, 1_000))
    strips = -(-side // rows)
    packed = packed_zeros(rows * side * bits // 8)
    entries = {256: side, 257: side, 258: bits, 259: 8, 262: 1, 277: 1, 278: rows, 339: sample_format}
    return "tif", tiff(entries | {273: [8] * strips, 279: [len(packed)] * strips}, packed)


def many_bytes_per_pixel(rng: random.Random) -> Made:
    """A large JPEG, perhaps with coefficients that are kept in memory, of little content."""
    side = rng.choice((9_000, 15_000, 20_000, 30_000, 60_000))
    content = bytearray(one(rng, "jpeg", "progressive", "cmyk", "grey")[1])
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return "jpg", bytes(content)


# TIFF and EXIF


def directory(entries: dict[int, int | list[int]], offset: int, following: int = 0, order: str = "<") -> bytes:
    """Return a TIFF directory that will lie at `offset`, with its arrays behind it."""
    rows, arrays = [], b""
    behind = offset + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        if isinstance(value, int):
            rows.append(struct.pack(order + "HHII", tag, 4, 1, value % 2**32))
        elif len(value) == 1:
            rows.append(struct.pack(order + "HHII", tag, 4, 1, value[0] % 2**32))
        else:
            rows.append(struct.pack(order + "HHII", tag, 4, len(value), behind + len(arrays)))
            arrays += struct.pack(f"{order}{len(value)}I", *value)
    return struct.pack(order + "H", len(rows)) + b"".join(rows) + struct.pack(order + "I", following) + arrays


def tiff(entries: dict[int, int | list[int]], content: bytes = bytes(200), following: int = 0) -> bytes:
    """Return a TIFF file whose data begin at its eighth byte."""
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory(entries, 8 + len(content), following)


SMALL = {256: 10, 257: 10, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 10, 279: 100}


def directories(rng: random.Random) -> Made:
    """A TIFF of many directories, of directories that form a ring, or with one inside another."""
    number = rng.choice((1, 2, 50, 3_000))
    size = len(directory(SMALL, 0))
    starts = [8 + 200 + size * place for place in range(number)]
    last = rng.choice((0, starts[0], starts[-1], 2**32 - 1, 7))
    content = b"II*\0" + struct.pack("<I", starts[0]) + bytes(200)
    inner = {34665: rng.choice(starts), 330: rng.choice(starts)} if rng.random() < 0.3 and number == 1 else {}
    for start, following in zip(starts, [*starts[1:], last], strict=True):
        content += directory(SMALL | inner, start, following)
    return "tif", content


def tags(rng: random.Random) -> Made:
    """A TIFF with one or more impossible entries: tiles of gigabytes, 64 bits, 65,535 channels, unknown compressions."""
    entries: dict[int, int | list[int]] = dict(SMALL)
    for _ in range(rng.randint(1, 3)):
        tag = rng.choice(
            (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339, 347)
        )
        values = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 255, 32773, 34712, 50001, 65535, 2**31 - 1, 2**32 - 1)
        entries[tag] = rng.choice((rng.choice(values), [rng.choice(values) for _ in range(rng.choice((2, 4, 300)))]))
    if rng.random() < 0.4:
        side = rng.choice((16, 4096, 30_000, 2**20, 2**31 - 16))
        entries |= {322: side, 323: side, 324: [8], 325: [100], 259: rng.choice((1, 5, 7, 8))}
        entries.pop(273, None)
    return "tif", tiff(entries)


def exif(rng: random.Random) -> Made:
    """An honest image with EXIF data that are garbage, huge, or a ring of directories."""
    order = rng.choice("<>")
    entries = {0x0112: rng.choice((0, 3, 6, 9, 255, 65535)), 0x8769: rng.choice((8, 2**31, 26)), 0x8825: rng.choice((8, 0))}
    ring = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + directory(entries, 8, 8, order)
    long = struct.pack("<HHII", 0x010E, 2, 2**31 - 1, 8)
    found = rng.choice(
        (ring, noise(rng, 60_000), b"II*\0\x08\0\0\0\xff\xff" + long * 5_000, ring[: rng.randrange(len(ring))], b"")
    )
    kind = rng.choice(("JPEG", "PNG", "WEBP", "many"))
    if kind != "many":
        return kind.lower(), encoded(photograph(), kind, exif=b"Exif\0\0" + found if kind == "JPEG" else found)
    content = seeds()["jpeg"][1]
    piece = b"Exif\0\0" + found[:65_000]
    return "jpg", content[:2] + (b"\xff\xe1" + struct.pack(">H", 2 + len(piece)) + piece) * rng.randint(2, 60) + content[2:]


# JPEG


def scans(rng: random.Random) -> Made:
    """A JPEG whose last scans are repeated, up to thousands of times."""
    side = rng.choice((48, 400, 2_000))
    content = large_jpeg(side, progressive=rng.random() < 0.8)
    start = content.rfind(b"\xff\xda")
    return "jpg", content[:start] + content[start:-2] * rng.choice((1, 20, 300, 4_000)) + rng.choice((b"\xff\xd9", b""))


@functools.cache
def large_jpeg(side: int, *, progressive: bool) -> bytes:
    return encoded(Image.new("RGB", (side, side), "red"), "JPEG", progressive=progressive)


def empty_scans(rng: random.Random) -> Made:
    """A progressive JPEG of many scans that hold nothing, of a large image."""
    side = rng.choice((1_000, 4_000, 9_000))
    content = bytearray(seeds()["progressive"][1])
    place = content.find(b"\xff\xc2")
    content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    start = content.find(b"\xff\xda")
    header = b"\xff\xda\0\x08\x01" + bytes([content[start + 5]]) + b"\0" + bytes([1, 5, 0x00])
    return "jpg", bytes(content[:start]) + header * rng.choice((30, 500, 4_000)) + b"\xff\xd9"


def frame_kind(rng: random.Random) -> Made:
    """A JPEG that says it is coded in another way: arithmetic, lossless, hierarchical."""
    content = bytearray(one(rng, "jpeg", "progressive", "cmyk", "grey")[1])
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    content[place + 1] = rng.choice((0xC1, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
    return "jpg", bytes(content)


def segments(rng: random.Random) -> Made:
    """A JPEG with thousands of segments, or with false ones: profiles, comments, Photoshop's and MPO's directories."""
    content, marker = one(rng, "jpeg", "mpo")[1], rng.choice((0xE0, 0xE1, 0xE2, 0xEC, 0xED, 0xEE, 0xFE, 0xDB, 0xC4, 0xDD))
    begin = rng.choice(
        (b"ICC_PROFILE\0\x01\x01", b"MPF\0II*\0\x08\0\0\0", b"Photoshop 3.0\0" + b"8BIM", b"JFIF\0", b"Adobe\0", b"")
    )
    piece = begin + noise(rng, 2_000)
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(piece)) + piece
    return "jpg", content[:2] + segment * rng.choice((1, 3, 2_000)) + content[2:]


# PNG, GIF, PPM


def chunks(rng: random.Random) -> Made:
    """A PNG with chunks that are false, doubled, endless, or unpack to gigabytes."""
    row = packed_zeros(40 * (1 + 3 * 48))
    bomb = packed_zeros(200_000_000)
    data, endless = chunk(b"IDAT", row), 2**31 - 1
    extra = rng.choice((
        chunk(b"zTXt", b"Comment\0\0" + bomb),
        chunk(b"iCCP", b"profile\0\0" + bomb),
        chunk(b"iTXt", b"Comment\0\x01\0\0\0" + bomb),
        chunk(b"zTXt", b"Comment\0\0" + packed_zeros(900_000)) * 200,
        chunk(b"tEXt", b"Comment\0" + bytes(1000)) * 2_000,
        chunk(b"tEXt", b"x", 2**31 - 1),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
        chunk(b"PLTE", bytes(3 * 300)) + chunk(b"tRNS", bytes(300)),
        chunk(b"tRNS", b"\0"),
        chunk(b"acTL", struct.pack(">II", endless, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, endless, *[1] * 5, 0, 0)),
        chunk(b"eXIf", noise(rng, 3_000)),
        chunk(rng.choice((b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD", b"cICP")), noise(rng, 50)),
        chunk(noise(rng, 1)[:1] + b"abc", b""),
        chunk(b"IDAT", b"") * 50_000,
        b"",
    ))  # fmt: skip
    colour = rng.choice((0, 2, 3, 4, 6, 9))
    depth = rng.choice((0, 1, 2, 4, 8, 8, 8, 16, 32))
    return "png", png(48, 40, depth, colour, *((extra, data) if rng.random() < 0.7 else (data, extra)))


def written_text(rng: random.Random) -> Made:
    info = PngImagePlugin.PngInfo()
    info.add_text(
        rng.choice(("XML:com.adobe.xmp", "Raw profile type exif", "Comment")),
        rng.choice(("exif\n99999999\nzz", "x" * 10**6, "\nexif\n   3\n00\n")),
    )
    return "png", encoded(photograph(), "PNG", pnginfo=info)  # fmt: skip


def frames(rng: random.Random) -> Made:
    """An animation of many frames, or of frames that lie outside its canvas."""
    kind, number = rng.choice((("GIF", 1_500), ("PNG", 500), ("WEBP", 100), ("TIFF", 1_000), ("AVIF", 5)))
    content = animation(kind, number)
    if kind == "GIF" and rng.random() < 0.5:
        changed = bytearray(content)
        place = content.find(b"\x2c", 13)
        changed[place + 1 : place + 9] = struct.pack("<HHHH", *(rng.choice((0, 5, 65_535)) for _ in range(4)))
        content = bytes(changed)
    return kind.lower(), content


@functools.cache
def animation(kind: str, number: int) -> bytes:
    first, *rest = (Image.new("P" if kind == "GIF" else "RGB", (4, 4), place % 256) for place in range(number))
    return encoded(first, kind, *rest)


def gif_blocks(rng: random.Random) -> Made:
    """A GIF with megabytes of comment, with unknown extensions, or whose data are garbage."""
    content = seeds()["gif"][1]
    block = bytes([255]) + noise(rng, 1) * 255
    extra = rng.choice(
        (
            b"!\xfe" + block[:256] * 20_000 + b"\0",
            (b"!\xfe\x01a\0") * 100_000,
            b"!\xff\x0bNETSCAPE2.0\0",
            b"!\xf9\0",
            b"!",
            noise(rng, 500),
        )
    )
    start = 13 + 3 * 2 ** (1 + (content[10] & 7))
    return "gif", content[:start] + extra + content[start:]  # fmt: skip


def netpbm(rng: random.Random) -> Made:
    """A PPM of its family with a strange header, or with its numbers as text."""
    kind = rng.choice(("P1", "P2", "P3", "P4", "P5", "P6", "Pf", "PF", "Py", "P7"))
    size = rng.choice(("8 8", "99999999999999999999 1", "-5 8", "8", "# " + "x" * 100_000 + "\n8 8", "1e3 2", "0 0"))
    most = rng.choice(("255", "0", "65535", "65536", "99999999999", "-1", "nan", "1e400", "-1e-400"))
    rest = rng.choice((bytes(500), b"1 " * 1_000, b"9" * 1_000_000, b"256 " * 300, b"# no end", noise(rng, 900)))
    return rng.choice(("ppm", "pgm", "pbm", "pnm")), f"{kind}\n{size}\n{most}\n".encode() + rest


# Values


def modes(rng: random.Random) -> Made:
    """An honest image of a rare mode."""
    mode = rng.choice(("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"))
    kind = rng.choice(("TIFF", "PNG", "JPEG", "WEBP", "GIF", "JPEG2000", "BMP", "AVIF", "TGA"))
    image = Image.new(mode, (rng.randint(1, 90), rng.randint(1, 90)))
    try:
        return kind.lower().replace("jpeg2000", "jp2"), encoded(image, kind)
    except (OSError, ValueError, KeyError):  # the kind cannot hold it
        return "png", encoded(photograph(), "PNG")


def numbers(rng: random.Random) -> Made:
    """A TIFF of floats among which are NaN, infinity and the largest ones."""
    values = np.array([rng.choice((0.0, 1.0, 255.0, -1e38, 3e38, 1e-40, np.nan, np.inf, -np.inf)) for _ in range(64)], np.float32)
    if rng.random() < 0.3:
        values[:] = rng.choice((np.nan, np.inf, -np.inf))
    return "tif", encoded(Image.fromarray(values.reshape(8, 8)), "TIFF")


# What is no image


def text(rng: random.Random) -> Made:
    content = rng.choice((
        b"", b"\0" * 1000, b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64, b"<!DOCTYPE html>", b"{}",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0", b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\xff\xffWEBP", b"II*\0", b"BM", b"PK\x03\x04", noise(rng, 3000),
    ))  # fmt: skip
    return rng.choice(("jpg", "png", "tif", "heic", "jxl", "tga", "pcx", "avif", "bmp")), content


def polyglot(rng: random.Random) -> Made:
    """Two files in one."""
    (ending, content), (_, other) = one(rng), one(rng)
    behind = rng.choice(
        (other, b"PK\x05\x06" + bytes(18), b"<script>alert(1)</script>", b"%PDF-1.7\n", b"\x7fELF", b"#!/bin/sh\n")
    )
    return ending, content + behind if rng.random() < 0.7 else behind + content


# Names and kinds of files

NAMES = (
    b"\xff\xfe bytes", b"-rf", b"--help", b"new\nline", b"tab\tand\rreturn", b"\x1b[31mred\x1b[0m", b"\x1b]0;t\x07", b"\x7f\x08",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj".encode(), "Ü\u0308 日本語 🐈".encode(), b"'\"`$(id)&<b>|;", b"=1+1", b"@SUM(1)", b"%s%n{0}",
    b" leading", b"trailing ", b"~", b"a" * 240, "\N{BYTE ORDER MARK}bom".encode(), b"\xc2\x9b31m", b"\xed\xa0\x80 half",
    b"javascript:alert(1)", b"<img src=x onerror=alert(1)>", b"..%2f..", b"$\\mathdefault{x}$", b"[bold red]rich[link=x]",
)  # fmt: skip


def strange_name(rng: random.Random, number: int, ending: str) -> str:
    name = rng.choice(NAMES)
    end = f"{number:04d}.{ending}".encode()
    return os.fsdecode((name + b"a" * 240)[: 255 - len(end)] + end if name.startswith(b"a") else name + end)


def named(rng: random.Random) -> Made:
    """An honest image, or a damaged one, under a strange name."""
    return one(rng) if rng.random() < 0.7 else truncated(rng)


def special(folder: Path, number: int, rng: random.Random) -> Path:
    """Make what is no regular file, under an image's name."""
    path = folder / f"{number:04d}-special.{rng.choice(('jpg', 'png', 'tif', 'webp', 'x'))}"
    match rng.choice(("pipe", "socket", "folder", "nothing", "ring", "zero", "full", "tty", "locked", "sparse", "self")):
        case "pipe":
            os.mkfifo(path)
        case "socket":
            # The path of a socket may have 108 bytes, so it is bound under a short name and moved.
            short = Path("/tmp") / f"hostile-{os.getpid()}"
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(short))
            os.replace(short, path)
        case "folder":
            path.mkdir()
        case "nothing":
            path.symlink_to("/no/such/\x1b[31mplace")
        case "ring":
            path.symlink_to(path.name)
        case "locked":
            path.write_bytes(seeds()["jpeg"][1])
            path.chmod(0)
        case "sparse":  # claims gigabytes, takes none
            path.write_bytes(seeds()["webp"][1])
            os.truncate(path, 3 << 30)
        case "self":
            path.symlink_to("/proc/self/mem")
        case device:
            path.symlink_to(f"/dev/{device}")
    return path


KINDS: tuple[Callable[..., object], ...] = (
    truncated, flipped, header_changed, spliced, wrong_ending, claimed_size, thin, directories, tags, exif, scans, frame_kind,
    segments, chunks, written_text, frames, gif_blocks, netpbm, modes, numbers, text, polyglot, named, special, empty_scans,
    many_bytes_per_pixel, claimed_size, truncated, flipped, header_changed, tags, named, unpacks_to_much, deep_and_large,
)  # fmt: skip
