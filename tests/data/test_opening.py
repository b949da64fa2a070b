"""A file is opened only if decoding it takes a reasonable time and amount of memory."""

import io
import os
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from headstart.data import opening
from headstart.data.decode import Decoding, decode, range_of, read_image, to_rgb
from headstart.data.opening import Room, UnreadableImage, is_image, scans_of
from hostile_images import chunk, encoded, large_jpeg, packed_zeros, photograph, png, seeds, tiff


def test_the_scans_of_a_jpeg_are_counted():
    image = photograph()
    assert scans_of(io.BytesIO(encoded(image, "JPEG"))) == 0  # decoded as it comes
    assert scans_of(io.BytesIO(encoded(image, "JPEG", progressive=True))) == 10
    assert scans_of(io.BytesIO(encoded(image.convert("L"), "JPEG", progressive=True))) == 6
    # The scans of a preview, in EXIF data or behind the image, are not the image's.
    preview = encoded(image, "JPEG", progressive=True)
    assert scans_of(io.BytesIO(encoded(image, "JPEG", progressive=True, exif=b"Exif\0\0" + preview) + preview)) == 10
    assert scans_of(io.BytesIO(b"\xff\xd8" + b"\xff" * 1_000_000)) == 0


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path, progressive):
    content = large_jpeg(48, progressive=progressive)
    start = content.rfind(b"\xff\xda")
    scan = content[start:-2]
    if not progressive:  # the first scan holds one colour of three
        scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + scan[14:]
    (tmp_path / "a.jpg").write_bytes(content[:start] + scan * 4_000 + b"\xff\xd9")
    with pytest.raises(UnreadableImage, match=r"48 x 48 pixels in 4,0.. scans would take too long"):
        read_image(tmp_path / "a.jpg", 8, 8)


def test_a_progressive_jpeg_keeps_its_coefficients_and_so_may_have_fewer_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MOST_PIXELS", 1500)
    for progressive in (False, True):
        (tmp_path / f"{progressive}.jpg").write_bytes(encoded(Image.new("RGB", (160, 120)), "JPEG", progressive=progressive))
    read_image(tmp_path / "False.jpg", 8, 8)
    with pytest.raises(UnreadableImage, match="160 x 120 pixels are more than 1,500"):
        read_image(tmp_path / "True.jpg", 8, 8)


def test_decoders_that_take_more_memory_get_fewer_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MOST_PIXELS_OF_HEAVY", 100)
    for kind in ("webp", "avif", "png"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"a.{kind}")
    read_image(tmp_path / "a.png", 8, 8)
    for kind in ("webp", "avif"):
        with pytest.raises(UnreadableImage, match="16 x 16 pixels are more than 100"):
            read_image(tmp_path / f"a.{kind}", 8, 8)


def test_a_side_that_no_table_could_resize_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(99_999_000, 1, 8, 0, chunk(b"IDAT", packed_zeros(99_999_001))))
    with pytest.raises(UnreadableImage, match="a side of more than 1,000,000"):
        read_image(tmp_path / "a.png", 8, 8)


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    (tmp_path / "a.webp").write_bytes(seeds()["webp"][1])
    os.truncate(tmp_path / "a.webp", 3 << 30)
    with pytest.raises(UnreadableImage, match="its 3,221,225,472 bytes are more than"):
        read_image(tmp_path / "a.webp", 8, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "without-an-ending")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(UnreadableImage, match=r"^is no regular file$"):
            read_image(tmp_path / name, 8, 8)
    assert not is_image(tmp_path / "without-an-ending")


def test_a_reason_names_no_folder(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    for name in ("empty.jpg", "link.jpg", "none.jpg"):
        with pytest.raises(UnreadableImage) as caught:
            read_image(tmp_path / name, 8, 8)
        assert str(tmp_path) not in str(caught.value)


def test_threads_share_the_memory():
    room, running, most, lock = Room(100), 0, 0, threading.Lock()

    def work(wanted: int) -> None:
        nonlocal running, most
        for _ in range(50):
            with room.taken(wanted):
                with lock:
                    running += wanted
                    most = max(most, running)
                with lock:
                    running -= wanted

    threads = [threading.Thread(target=work, args=(wanted,)) for wanted in (60, 60, 30, 30, 10, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most <= 100
    assert room.free == 100
    with room.taken(1_000):  # more than there is: all of it
        assert room.free == 0


def test_a_large_image_is_converted_in_strips_and_equal_to_the_bit(monkeypatch):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(50, 40)).astype(np.float32) * 100
    values[generator.random(values.shape) < 0.1] = np.nan
    colours = Image.fromarray(generator.integers(0, 256, (50, 40, 4), dtype=np.uint8), "RGBA")
    images = [
        Image.fromarray(values), Image.fromarray(generator.integers(-99, 2**20, (50, 40)).astype(np.int32)),
        Image.fromarray(generator.integers(0, 2**16, (50, 40)).astype(np.uint16)),
        colours, colours.quantize(9), colours.convert("LA"),
    ]  # fmt: skip
    whole = [np.asarray(to_rgb(image)) for image in images]
    monkeypatch.setattr("headstart.data.decode.PIXELS_OF_STRIP", 130)
    for image, expected in zip(images, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected)
    for image in images[:3]:
        numbers = np.asarray(image, np.float64)
        numbers = numbers[np.isfinite(numbers)]
        assert range_of(image) == (np.quantile(numbers, 1e-4), np.quantile(numbers, 1 - 1e-4))
    assert range_of(Image.fromarray(np.full((3, 3), np.nan, np.float32))) is None


def test_an_honest_large_tiff_of_32_bits_is_read(tmp_path):
    side = 3_000
    packed = packed_zeros(side * side * 4)
    entries = {256: side, 257: side, 258: 32, 259: 8, 262: 1, 273: 8, 277: 1, 278: side, 279: len(packed), 339: 3}
    (tmp_path / "a.tif").write_bytes(tiff(entries, packed))
    assert not decode(tmp_path / "a.tif", 8, 8, Decoding()).pixels.any()


def test_a_size_that_a_header_only_claims_takes_nothing(tmp_path):
    content = bytearray(seeds()["jpeg"][1])
    place = content.find(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", 65_500, 65_500)
    (tmp_path / "a.jpg").write_bytes(bytes(content))
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "a.jpg", 8, 8)
