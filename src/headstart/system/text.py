"""Make texts fit to be printed and drawn: names of classes and files, which may contain anything, and counts."""

import re
import unicodedata
from pathlib import Path

MOST_COLUMNS = 40


def printable(name: str) -> str:
    """Return a name as one line of valid Unicode that cannot disturb the text around it.

    Bytes that are invalid UTF-8 (lone surrogates in Python) become U+FFFD. Control characters, line separators and marks that
    change the direction of the following text become visible escapes, such as `\\n`. Nothing else changes.
    """
    return name if name.isascii() and name.isprintable() else "".join(map(printable_character, name))


def printable_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    directed = unicodedata.bidirectional(character) in DIRECTIONS
    return ascii(character)[1:-1] if category in ("Cc", "Zl", "Zp") or directed else character


# Overrides, embeddings and isolates. Marks that only separate words of two scripts are harmless.
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def shortened(name: str, most: int = MOST_COLUMNS) -> str:
    """Return a printable name of at most `most` columns. A long name gets an ellipsis in its middle: ends often differ."""
    name = printable(name)
    if columns(name) <= most:
        return name
    begin, end = "", ""
    for place in range(len(name)):
        if columns(begin) + columns(end) + columns(name[place]) >= most:
            break
        begin += name[place]
        if columns(begin) + columns(end) + columns(name[-1 - place]) >= most:
            break
        end = name[-1 - place] + end
    return f"{begin}…{end}"


def first_line(error: BaseException, most: int = 300) -> str:
    """Return the first line of an exception that says something. Keras puts a head of its own above what a layer has raised."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception encountered when calling")]
    return (said or [type(error).__name__])[0][:most]


def count(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun: `1 label`, `2 labels`. The plural is `nouns`, by default the noun with an s."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def columns(text: str) -> int:
    """Return how many columns a text takes in a monospaced font: two for a Chinese, Japanese or Korean character."""
    return sum(0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def last_part(source: str) -> str:
    """Return the name of a path's last folder or file. Anything else, such as the name of a data set, stays as it is."""
    return Path(source).name or source
