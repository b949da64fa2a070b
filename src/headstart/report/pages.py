"""Pages of HTML: templates whose text is escaped, images within the page, and numbers as a reader wants them."""

import base64
import functools
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from headstart.system.files import written_whole
from headstart.system.text import MOST_COLUMNS, count, printable, shortened


class Number(NamedTuple):
    """A table's number: the value to sort by, what is shown, and the share of a bar below it, in 0..1."""

    value: float
    shown: str
    bar: float | None = None


@functools.cache
def environment() -> Environment:
    """The templates. Names may stand in them as they are: what would not be valid HTML is made visible, see `printable`."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": percent, "points": points, "p_value": p_value, "duration": duration, "named": named, "lines": lines,
        "counted": count, "options": options,
    }  # fmt: skip
    return found


def write_page(path: Path, template: str, **content: Any) -> None:
    """Write a page that needs no other file and no network.

    Raises:
        UnwritableError: the file cannot be written.
    """
    text = environment().get_template(template).render(content)
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def named(name: str, most: int = MOST_COLUMNS) -> Markup:
    """Return a name for a table or a sentence, whole or shortened; text from right to left in it does not disturb the rest."""
    short, whole = shortened(name, most), printable(name)
    return Markup("<bdi>{}</bdi>").format(short) if short == whole else Markup('<bdi title="{}">{}</bdi>').format(whole, short)


def lines(text: str) -> Markup:
    """Return a text that keeps its lines."""
    return Markup("\n").join(escape(printable(line)) for line in text.split("\n"))


def options(text: str) -> Markup:
    """Return a sentence with the options in it, such as `--epochs 4`, as code."""
    parts = re.split(r"(--[a-z-]+(?: [0-9.e-]*[0-9])?)", printable(text))
    return Markup().join(Markup("<code>{}</code>").format(part) if part.startswith("--") else escape(part) for part in parts)


def embedded(image: Image.Image, alt: str) -> dict[str, Any]:
    """Return what a template needs of an image that lies within the page, as WebP."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80, method=4)
    source = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return {"source": source, "alt": alt, "width": image.width, "height": image.height}


def share(value: float, digits: int = 1) -> Number:
    """Return a table's number that is a share of the whole, with its bar."""
    return Number(value, percent(value, digits), value)


def percent(value: float, digits: int = 1) -> str:
    """0.8123 is 81.2 %, the number and its sign on one line."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def points(value: float, digits: int = 1) -> str:
    """0.0123 is +1.2 points."""
    return f"{signed(100 * value, digits)}\N{NO-BREAK SPACE}points"


def signed(value: float, digits: int) -> str:
    """Always with its sign, and a minus as wide as a plus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def p_value(value: float) -> str:
    """Two digits, and no more zeros than a reader can count."""
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"


def duration(seconds: float) -> str:
    """90 is 1 min 30 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    units = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value}\N{NO-BREAK SPACE}{unit}" for value, unit in units if value) or "0 s"
