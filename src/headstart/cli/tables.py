"""Tables on the terminal, and in what is piped from it."""

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headstart.system.text import printable

# A number, perhaps with a sign and a unit; columns of numbers are set to the right.
NUMBER = re.compile(r"[+\-\u2212~<x]? ?(\d[\d.,]* ?[%A-Za-z]{0,4} ?)+|")
# Cells of at most so many characters are not broken to fit a terminal.
LONGEST_WHOLE = 16


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout: fitted to the width of a terminal, and elsewhere as wide as it is.

    Args:
        columns: their headings.
        rows: the text of each cell.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    natural = least = 0
    for heading, *cells in zip(columns, *([printable(cell) for cell in row] for row in rows), strict=True):
        longest = max(cell_len(cell) for cell in (heading, *cells))
        right = all(NUMBER.fullmatch(cell) for cell in cells)
        whole = longest <= LONGEST_WHOLE
        table.add_column(Text(heading), justify="right" if right else "left", overflow="fold", no_wrap=whole)
        natural, least = natural + longest + 2, least + min(longest, LONGEST_WHOLE) + 2
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal or console.width < least:
        console.width = natural  # nothing is cut: a narrow terminal breaks the lines
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
