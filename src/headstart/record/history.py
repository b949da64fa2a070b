"""The stages of a run, as its files and pages name them, and its history of epochs."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypedDict

from headstart.metrics.figures import StageKey
from headstart.system.files import write_csv
from headstart.system.reading import Count, Fraction, NotNegative, read_csv


class Stage(NamedTuple):
    """A stage of training.

    Attributes:
        key: its name in history and metrics.
        title: its name in a sentence.
        seconds: its name under `seconds` in `metrics.json`.
    """

    key: str
    title: str
    seconds: str

    @property
    def name(self) -> str:
        """The key as it is shown: `fine-tuned`."""
        return shown(self.key)


FROZEN = Stage("frozen", "frozen backbone", "head")
FINE_TUNED = Stage("fine_tuned", "fine-tuned", "fine_tuning")
SCRATCH = Stage("scratch", "from scratch", "training")
STAGES = {stage.key: stage for stage in (FROZEN, FINE_TUNED, SCRATCH)}
# The parts of a run that take time, in order, as `metrics.json` and `plan.json` name them.
TIMES = ("preparation", "features", "audit", FROZEN.seconds, FINE_TUNED.seconds, SCRATCH.seconds)


class EpochRow(TypedDict, total=False):
    """A row of `history.csv`. Epochs count from 1; accuracies lie in 0..1; figures with `val_` are of the validation split.

    A loss is NaN or infinite where training has diverged. The macro recall is there if classes were weighted.
    """

    stage: StageKey
    epoch: Count
    accuracy: Fraction
    loss: float
    val_accuracy: Fraction
    val_loss: float
    learning_rate: NotNegative
    val_macro_recall: Fraction


# The column that is not there in every run.
OPTIONAL = "val_macro_recall"


def shown(key: str) -> str:
    """Return a key as it is shown to a user: `fine_tuned` becomes `fine-tuned`."""
    return key.replace("_", "-")


def write_history(folder: Path, rows: Iterable[EpochRow]) -> None:
    """Write `history.csv`, a row for each epoch."""
    rows = list(rows)
    columns = [one for one in EpochRow.__annotations__ if one != OPTIONAL or any(OPTIONAL in row for row in rows)]
    write_csv(folder / "history.csv", columns, [[row[column] for column in columns] for row in rows])  # type: ignore[literal-required]


def read_history(folder: Path) -> list[EpochRow]:
    """Return the rows of `history.csv`.

    Raises:
        DamagedError: the file is not such a table.
    """
    return list(read_csv(folder / "history.csv", EpochRow, EpochRow.__annotations__, optional=OPTIONAL))
