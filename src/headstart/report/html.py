"""Pages of HTML: elements whose text is escaped by the standard library, tables that sort, images within."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from PIL import Image

from headstart.system.files import written_whole
from headstart.system.text import MOST_COLUMNS, printable, shortened

STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("style.css", "sort.js"))
# No request leaves the page, and nothing in it runs but our own script.
# Their text is ours, and has lines.
LITERAL = ("style", "script", "pre", "code")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def E(tag: str, *content: Any, **attributes: Any) -> Element:
    """Return an element; of the content, None is left out, lists are flattened, and strings become text.

    Names may stand in it as they are: what would be no valid page is made visible, see `printable`.
    An attribute's `_` stands for `-` and a last one is dropped: `class_`, `aria_label`; None leaves it out.
    """
    element = Element(
        tag,
        {name.rstrip("_").replace("_", "-"): printable(str(value)) for name, value in attributes.items() if value is not None},
    )
    append(element, content)
    return element


def append(element: Element, content: Iterable[Any]) -> None:
    for item in content:
        if isinstance(item, Element):
            element.append(item)
        elif isinstance(item, str):
            text = "\n".join(map(printable, item.split("\n"))) if element.tag in LITERAL else printable(item)
            if len(element):
                element[-1].tail = (element[-1].tail or "") + text
            else:
                element.text = (element.text or "") + text
        elif item is not None:
            append(element, item)


def write_page(path: Path, title: str, *body: Any) -> None:
    """Write a page that needs no other file and no network."""
    page = E(
        "html",
        E(
            "head",
            E("meta", charset="utf-8"),
            E("meta", name="viewport", content="width=device-width, initial-scale=1"),
            E("meta", name="color-scheme", content="light dark"),
            E("meta", http_equiv="Content-Security-Policy", content=POLICY),
            E("title", title),
            E("style", STYLE.read_text(encoding="utf-8")),
        ),
        E("body", *body, E("script", SCRIPT.read_text(encoding="utf-8"))),
        lang="en",
    )
    text = "<!doctype html>\n" + tostring(page, encoding="unicode", method="html")
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def named(name: str, most: int = MOST_COLUMNS) -> Element:
    """Return a name for a table or a sentence, whole or shortened, which keeps to itself if it is read from right to left."""
    short = shortened(name, most)
    return E("bdi", short, title=None if short == printable(name) else name)


def section(title: str, *content: Any) -> Element:
    """Return a section with a heading, which the page's list of contents links to."""
    name = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return E("section", E("h2", title), *content, id=name)


def contents(sections: Sequence[Element]) -> Element:
    """Return links to sections."""
    links = [E("a", element[0].text, href=f"#{element.get('id')}") for element in sections]
    return E("nav", *[E("span", link) for link in links], aria_label="Contents")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, sorted_by: int | None = None, caption: str = "") -> Element:
    """Return a table that scrolls sideways where it is too wide, with sort buttons where it says by what it is sorted.

    A cell is text, an element, or a pair of a number to sort by and one of these. Columns of such pairs are numbers.
    The first cell of a row is its heading.
    """
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and isinstance(rows[0][column], tuple) for column in range(len(columns))]

    def heading(column: int, name: str) -> Element:
        content = name if sorted_by is None or not name else E("button", name, type="button")
        order = None if sorted_by != column else "ascending"
        return E("th", content, scope="col", class_="number" if numeric[column] else None, aria_sort=order)

    def cell(column: int, value: Any) -> Element:
        attributes = {"class_": "number", "data_value": value[0]} if numeric[column] else {}
        content = value[1] if numeric[column] else value
        return E("th", content, scope="row", **attributes) if column == 0 else E("td", content, **attributes)

    body = E("tbody", *[E("tr", *[cell(column, value) for column, value in enumerate(row)]) for row in rows])
    head = E("thead", E("tr", *[heading(column, name) for column, name in enumerate(columns)]))
    whole = E(
        "table", E("caption", caption) if caption else None, head, body, class_="sortable" if sorted_by is not None else None
    )
    return E("div", whole, class_="wide", tabindex=0, role="region", aria_label=caption or ", ".join(filter(None, columns)))


def embedded(image: Image.Image, alt: str) -> Element:
    """Return an image that lies within the page, as WebP."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80, method=4)
    source = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return E("img", src=source, alt=alt, width=image.width, height=image.height)


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
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value}\N{NO-BREAK SPACE}{unit}" for value, unit in parts if value) or "0 s"
