import pytest

from headstart.system.text import columns, printable, shortened


@pytest.mark.parametrize("name", ["cat", "$0_to_$20", "bär", "猫", "חתול", "قطة", "<b>&amp;", "a b", "🐈", "a\\nb", "a\u200cb"])
def test_a_name_that_can_be_printed_stays(name):
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07\x00\x7f\x85", r"\x1b[31mred\x07\x00\x7f\x85"),
        ("one\u2028two", r"one\u2028two"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),  # which a terminal shows as photoexe.jpg
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_what_would_disturb_the_text_around_it_becomes_visible(name, shown):
    assert printable(name) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize("name", ["x" * 255, "猫" * 85, "ab猫" * 40, "é" * 255, "\n" * 255, "x" * 20 + "\udcff" * 100])
@pytest.mark.parametrize("most", [1, 2, 3, 14, 40])
def test_a_long_name_keeps_its_ends_and_fits(name, most):
    short = shortened(name, most)
    assert columns(short) <= most
    assert "…" in short
    begin, end = short.split("…")
    assert printable(name).startswith(begin)
    assert printable(name).endswith(end)


def test_a_name_that_fits_stays_whole():
    assert shortened("x" * 40, 40) == "x" * 40
    assert shortened("猫" * 20, 40) == "猫" * 20
