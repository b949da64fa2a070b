import io

import pytest
from rich.console import Console

from headstart.cli import tables
from headstart.cli.tables import print_table

COLUMNS = ["name", "about", "time"]
ROWS = [["a\x1b[31m", "word " * 60, "2.5 min"], ["[bold]b[/]", "", ""], ["c", "short", "1 h 10 min"]]


def test_what_is_piped_is_never_cut(capsys):
    print_table(COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert ("word " * 60).strip() in lines[1]
    assert lines[1].startswith("a\\x1b[31m ")
    assert lines[2] == "[bold]b[/]"
    assert len({len(line) for line in (lines[0], lines[1], lines[3])}) == 1  # numbers end in one column


@pytest.mark.parametrize("width", [80, 20])
def test_a_terminals_width_breaks_long_cells_and_cuts_nothing(width, capsys, monkeypatch):
    monkeypatch.setattr(
        tables, "Console", lambda **_: Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    )
    print_table(COLUMNS, ROWS)
    printed = capsys.readouterr().out
    assert printed.count("word") == 60
    assert "1 h 10 min" in printed
    assert width < 40 or max(map(len, printed.splitlines())) <= width
