"""Show progress and the time left: as a bar on a terminal, as lines in the log elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from headstart.system.text import printable

logger = logging.getLogger("headstart")

Item = TypeVar("Item")

# Results go to stdout, so that they can be piped, and everything else to stderr. A notebook would show stderr in red, as errors,
# so there everything goes to stdout.
IN_NOTEBOOK = "ipykernel" in sys.modules
console = Console(
    stderr=not IN_NOTEBOOK, force_jupyter=False, force_terminal=False if IN_NOTEBOOK else None, soft_wrap=True, highlight=False
)

# Where no bar can be drawn (in a notebook or a file), a line is logged every so many seconds.
LINE_EVERY = 60.0


class Bar(Progress):
    """A bar with description, count and time left; without a terminal, a line in the log every minute."""

    def __init__(self, unit: str = "") -> None:
        super().__init__(
            TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.unit, self.logged = unit, time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if self.disable and time.monotonic() - self.logged > LINE_EVERY:
            self.logged, task = time.monotonic(), self.tasks[self.task_ids.index(task_id)]
            done = max(task.completed, 1e-9)
            left = (task.elapsed or 0.0) * ((task.total or done) / done - 1)
            what = " ".join(filter(None, [task.description, f"{task.completed:.0f}/{task.total:.0f}", self.unit]))
            logger.info("%s, %.1f minutes left%s", what, left / 60, f", {task.fields['note']}" if task.fields["note"] else "")


def track(items: Sequence[Item], description: str) -> Iterable[Item]:
    """Yield the items under a progress bar."""
    with Bar() as bar:
        task = bar.add_task(description, total=len(items), note="")
        for item in items:
            yield item
            bar.update(task, advance=1)


class ConsoleHandler(logging.Handler):
    """Prints what is logged; warnings begin with "warning: ", and errors as those of the command line, with "headstart: "."""

    def emit(self, record: logging.LogRecord) -> None:
        beginning = {logging.WARNING: "warning: ", logging.ERROR: "headstart: "}.get(record.levelno, "")
        console.print(beginning + printable(record.getMessage()), markup=False)


@contextlib.contextmanager
def show_progress() -> Iterator[None]:
    """Print what is logged inside the block, unless the program has configured logging itself.

    Training takes minutes, so a user of a notebook or a script should see how far it is.
    """
    if logger.handlers or logging.getLogger().handlers:
        yield
        return
    handler, level = ConsoleHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
