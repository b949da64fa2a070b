"""Progress on the terminal: what is being done, how far it is, and how long it will still take."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")

# Results go to stdout, so that they can be piped; everything else to stderr.
console = Console(stderr=True, soft_wrap=True, highlight=False)


def progress_bar(unit: str = "") -> Progress:
    """Return a bar with description, count and the time left; it draws itself only on a terminal."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn(unit),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def track(items: Sequence[Item], description: str) -> Iterable[Item]:
    """Yield the items under a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=len(items), note="")
        for item in items:
            yield item
            bar.advance(task)
