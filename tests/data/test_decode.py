"""Source of every kind become what a person would see; what is none says why."""

import numpy as np
import pytest
from PIL import Image

from headstart.data.decode import Decoding, decode, fit, read_image
from headstart.data.opening import UnreadableImage, is_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def assert_colour(pixels, colour):
    """All pixels have about this colour; JPEG is not exact."""
    assert np.abs(pixels.astype(int) - colour).max() <= 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"red.{suffix}"
    Image.new("RGB", (20, 20), RED).save(path)
    image = read_image(path, 16, 12)
    assert image.shape == (16, 12, 3)
    assert image.dtype == np.uint8
    assert_colour(image, RED)


def test_camera_file_of_two_jpegs(tmp_path):
    """MPO, as stereo cameras and many telephones write it under the name .jpg."""
    path = tmp_path / "two.jpg"
    Image.new("RGB", (20, 20), RED).save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (20, 20), BLUE)])
    assert_colour(read_image(path, 16, 16), RED)


def test_exif_orientation_6_is_turned_upright(tmp_path):
    upright = Image.new("RGB", (64, 64), RED)
    upright.paste(BLUE, (0, 32, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif)
    image = read_image(tmp_path / "turned.jpg", 64, 64)
    assert_colour(image[:24], RED)
    assert_colour(image[40:], BLUE)


def test_damaged_exif_does_not_spoil_a_image(tmp_path):
    Image.new("RGB", (20, 20), RED).save(tmp_path / "a.jpg", exif=b"Exif\0\0not exif data at all")
    assert_colour(read_image(tmp_path / "a.jpg", 16, 16), RED)


@pytest.mark.parametrize(("mode", "colour"), [("L", 100), ("1", 1)])
def test_greyscale(tmp_path, mode, colour):
    Image.new(mode, (16, 16), colour).save(tmp_path / "grey.png")
    assert_colour(read_image(tmp_path / "grey.png", 16, 16), (100,) * 3 if mode == "L" else WHITE)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_mid_grey_of_16_bits_stays_mid_grey(tmp_path, suffix):
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]] * 3, np.uint16)).save(path)
    assert read_image(path, 3, 3)[1].tolist() == [[0] * 3, [127] * 3, [255] * 3]


def test_float_image(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]] * 3, np.float32)).save(tmp_path / "float.tif")
    assert read_image(tmp_path / "float.tif", 3, 3)[1].tolist() == [[0] * 3, [127] * 3, [255] * 3]


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert_colour(read_image(tmp_path / "print.jpg", 16, 16), RED)


def test_transparent_palette_colour_lies_on_white(tmp_path):
    image = Image.new("P", (16, 16), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (8, 0, 16, 16))
    image.save(tmp_path / "palette.png", transparency=0)
    image = read_image(tmp_path / "palette.png", 16, 16)
    assert_colour(image[:, :8], WHITE)
    assert_colour(image[:, 8:], BLUE)


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGBA", (*RED, 0), WHITE),
        ("RGBA", (*RED, 128), (255, 127, 127)),
        ("RGBA", (*RED, 255), RED),
        ("LA", (0, 0), WHITE),
        ("LA", (0, 128), (127,) * 3),
    ],
)
def test_transparent_parts_lie_on_white(tmp_path, mode, colour, seen):
    Image.new(mode, (16, 16), colour).save(tmp_path / "clear.png")
    assert_colour(read_image(tmp_path / "clear.png", 16, 16), seen)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert_colour(read_image(tmp_path / "moving.gif", 16, 16), RED)


@pytest.mark.parametrize("turned", [False, True])
def test_crop_about_the_centre(tmp_path, turned):
    image = Image.new("RGB", (96, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    image.paste(BLUE, (64, 0, 96, 32))
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(tmp_path / "wide.png")
    assert_colour(read_image(tmp_path / "wide.png", 32, 32), GREEN)


def test_small_image_is_enlarged():
    assert_colour(fit(Image.new("RGB", (1, 1), RED), 16, 16), RED)


def test_truncated_jpeg(tmp_path):
    path = tmp_path / "half.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImage, match="truncated"):
        read_image(path, 64, 64)


@pytest.mark.parametrize("content", [b"", b"this is a text", b"\x89PNG\r\n\x1a\n and no more"])
def test_file_that_is_no_image(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match="cannot identify image file"):
        read_image(path, 16, 16)


def test_format_of_unknown_origin_stays_closed(tmp_path):
    """EPS would start Ghostscript."""
    path = tmp_path / "vector.jpg"
    Image.new("RGB", (16, 16)).save(path, "EPS")
    with pytest.raises(UnreadableImage):
        read_image(path, 16, 16)


def test_missing_file(tmp_path):
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "none.png", 16, 16)


def test_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.data.opening.MOST_PIXELS", 100)
    Image.new("RGB", (10, 10)).save(tmp_path / "fits.png")
    Image.new("RGB", (11, 10)).save(tmp_path / "huge.png")
    read_image(tmp_path / "fits.png", 4, 4)
    with pytest.raises(UnreadableImage, match="11 x 10 pixels are more than 100"):
        read_image(tmp_path / "huge.png", 4, 4)


def test_a_jpeg_with_too_many_pixels_is_decoded_at_a_fraction(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.data.opening.MOST_PIXELS", 1500)
    Image.new("RGB", (160, 120), RED).save(tmp_path / "camera.jpg")
    assert_colour(read_image(tmp_path / "camera.jpg", 8, 8), RED)


def halves(size):
    """An image that is red at its left end, blue at its right end and green between."""
    image = Image.new("RGB", size, GREEN)
    image.paste(RED, (0, 0, size[0] // 8, size[1]))
    image.paste(BLUE, (size[0] - size[0] // 8, 0, *size))
    return image


def test_three_ways_to_a_square():
    wide = halves((128, 32))
    cropped, squashed, padded = (fit(wide, 32, 32, Decoding(how)) for how in ("crop", "squash", "pad"))
    assert_colour(cropped, GREEN)
    assert_colour(squashed[:, 1], RED)
    assert_colour(squashed[:, -2], BLUE)
    assert_colour(padded[16, 1], RED)
    assert_colour(padded[16, -2], BLUE)
    assert_colour(padded[:8], (124, 116, 104))


def test_a_known_scale_of_greys(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[1000, 1500, 2000]] * 3, np.uint16)).save(path)
    shades = read_image(path, 3, 3, Decoding(grey_range=(1000, 2000)))
    assert shades[1].tolist() == [[0] * 3, [127] * 3, [255] * 3]
    assert decode(path, 3, 3, Decoding()).remarks == ("more than 8 bits and no known scale: scaled by the range of its type",)
    assert decode(path, 3, 3, Decoding(grey_range=(1000, 2000))).remarks == ()


def test_values_that_are_no_numbers_are_black(tmp_path):
    Image.fromarray(np.array([[np.nan, 0.5, 1]] * 3, np.float32)).save(tmp_path / "float.tif")
    assert read_image(tmp_path / "float.tif", 3, 3)[1].tolist() == [[0] * 3, [127] * 3, [255] * 3]


def test_what_an_image_loses_is_said(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "moving.gif", 8, 8, Decoding()).remarks == ("several frames: only the first is used",)
    frames[0].save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "two.jpg", 8, 8, Decoding()).remarks == ()


def test_the_size_before_decoding_is_that_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), RED).save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg", 8, 8, Decoding()).size == (32, 64)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a.jpg", "JPEG", True), ("a.JFIF", "JPEG", True), ("a", "PNG", True), ("a.data", "WEBP", True), ("a.avif", "AVIF", True),
        ("a.nef", "TIFF", False), ("a.txt", None, False), ("a", None, False), ("a.eps", "EPS", False),
    ],
)  # fmt: skip
def test_what_is_an_image(tmp_path, name, kind, expected):
    path = tmp_path / name
    if kind:
        Image.new("RGB", (8, 8)).save(path, format=kind)
    else:
        path.write_text("a text that is no image")
    assert is_image(path) is expected


def test_the_thumbnail_in_a_camera_raw_is_not_taken_for_the_image(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.nef", format="TIFF")
    with pytest.raises(UnreadableImage, match="convert it to JPEG or PNG"):
        read_image(tmp_path / "a.nef", 8, 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"), (b"\n<!DOCTYPE html><html>", "web page")],
)
def test_what_stands_where_an_image_should_be(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=said):
        read_image(tmp_path / "a.jpg", 8, 8)
