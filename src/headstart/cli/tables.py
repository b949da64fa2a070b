"""Tables on the terminal, and in what is piped from it."""

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headstart.system.text import printable

# A number, perhaps with a sign and a unit; columns of numbers are set to the right.
NUMBER = re.compile(r"[+\-\u2212~<x]? ?\d.*|")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout: fitted to a terminal, and elsewhere without frames and as wide as it is.

    Args:
        columns: their headings.
        rows: the text of each cell.
    """
    console = Console(highlight=False, emoji=False, markup=False)
    terminal = console.is_terminal
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(columns):
        right = all(NUMBER.fullmatch(row[number]) for row in rows)
        table.add_column(Text(heading), justify="right" if right else "left", overflow="fold", no_wrap=not terminal)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if terminal:
        return console.print(table)
    # Elsewhere the width is a guess, and a cell that is cut would be lost.
    wide = Console(width=1 + sum(2 + max((Text(printable(cell)).cell_len for cell in column), default=0)
                                 for column in zip(columns, *rows, strict=True)), highlight=False)  # fmt: skip
    with wide.capture() as captured:
        wide.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
