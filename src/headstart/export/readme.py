"""The README and the script beside an exported file: what it is, how well it was proved, and how to use it."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from headstart.export.formats import FORMATS
from headstart.report.pages import p_value, percent
from headstart.system.files import read_bytes, written_whole
from headstart.system.text import count, printable

TEMPLATES = Path(__file__).with_name("templates")
SCRIPT = "predict.py"
MOST_CLASSES = 20
# What Markdown could take for a mark. A dash or a dot means something at the beginning of a line alone, where no name stands.
MARKS = re.compile(r"([\\`*_{}\[\]<>()#|~&!])")


def write_readme(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `README.md` and `predict.py` into the folder of an export.

    Args:
        content: of `export.json`, see `headstart.export.formats.Export`.

    Raises:
        UnwritableError: a file cannot be written.
    """
    one = FORMATS[content["format"]]
    facts = {"main": one.file, "any_size": one.any_size, "most_classes": MOST_CLASSES}
    text = environment().get_template(f"{content['format']}.md.j2").render(content, **facts)
    script = read_bytes(TEMPLATES / SCRIPT, 1 << 20)
    for name, written in (("README.md", text.encode()), (SCRIPT, script)):
        with written_whole(folder / name) as partial:
            partial.write_bytes(written)


@functools.cache
def environment() -> Environment:
    """The templates of Markdown. Names in them are given through `literal`, or in blocks of code through `line`."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"percent": percent, "p_value": p_value, "counted": count, "literal": literal, "line": printable}
    return found


def literal(name: str) -> str:
    """Return a name for a sentence of Markdown, in which no character of it means anything."""
    return MARKS.sub(r"\\\1", printable(name))
