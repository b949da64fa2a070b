"""Tables of answers as files: `.csv`, `.jsonl` and `.parquet`, written in pieces that are joined without reading them whole."""

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from headstart.data.table import parquet
from headstart.errors import HeadstartError
from headstart.inference.predictions import Answer
from headstart.system.files import as_cell

# The columns beside the classes'. `rejected` and `unlike` are there if they are known.
IMAGE, LABEL, CONFIDENCE, REJECTED, UNLIKE, ERROR = OWN = ("image", "class", "confidence", "rejected", "unlike", "error")
DIGITS = 6  # of probabilities, where they are text


class CsvRows:
    """A table of answers as CSV, which spreadsheets and pandas read.

    Args:
        class_names: the classes, each of which has a column of probabilities.
        marks: which of `REJECTED` and `UNLIKE` are known.
    """

    def __init__(self, class_names: Sequence[str], marks: Sequence[str]) -> None:
        self.class_names, self.marks = class_names, marks
        # A class may be called as one of the other columns.
        self.columns = [f"probability of {name}" if name in OWN else name for name in class_names]

    def write(self, path: Path, answers: Iterable[Answer]) -> None:
        """Write some of the rows."""
        # A file name may be invalid UTF-8: its bytes arrive as they are.
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file).writerows(map(self.row, answers))

    def row(self, one: Answer) -> list[Any]:
        name, error = as_cell(one.name), as_cell(one.error)
        if one.probabilities is None:
            return [name, "", "", *("" for _ in self.marks), error, *("" for _ in self.columns)]
        marked = ["yes" if getattr(one, mark) else "no" for mark in self.marks]
        return [name, as_cell(one.label), round(one.confidence, DIGITS), *marked, error, *rounded(one)]

    def join(self, path: Path, parts: Iterable[Path]) -> None:
        """Write the whole table of parts that `write` has written."""
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file).writerow(map(as_cell, [IMAGE, LABEL, CONFIDENCE, *self.marks, ERROR, *self.columns]))
        with path.open("ab") as whole:
            append(whole, parts)


class JsonRows:
    """A table of answers as JSON Lines: an object for each image, with its probabilities by class. See `CsvRows`."""

    def __init__(self, class_names: Sequence[str], marks: Sequence[str]) -> None:
        self.class_names, self.marks = class_names, marks

    def write(self, path: Path, answers: Iterable[Answer]) -> None:
        # All but ASCII is escaped: names arrive as they are.
        path.write_text("".join(f"{json.dumps(self.entry(one))}\n" for one in answers), encoding="ascii", newline="")

    def entry(self, one: Answer) -> dict[str, Any]:
        if one.probabilities is None:
            return {IMAGE: one.name, LABEL: None, CONFIDENCE: None, **dict.fromkeys(self.marks), ERROR: one.error, CLASSES: None}
        return {
            IMAGE: one.name, LABEL: one.label, CONFIDENCE: round(one.confidence, DIGITS),
            **{mark: getattr(one, mark) for mark in self.marks}, ERROR: None,
            CLASSES: dict(zip(self.class_names, rounded(one), strict=True)),
        }  # fmt: skip

    def join(self, path: Path, parts: Iterable[Path]) -> None:
        with path.open("wb") as whole:
            append(whole, parts)


CLASSES = "probabilities"


class ParquetRows:
    """A table of answers as Parquet, with the whole float32 probabilities. See `CsvRows`.

    Raises:
        HeadstartError: pyarrow is not installed.
    """

    def __init__(self, class_names: Sequence[str], marks: Sequence[str]) -> None:
        self.arrow, self.marks, arrow = parquet(), marks, parquet()
        columns = [(utf8(name), arrow.float32()) for name in CsvRows(class_names, marks).columns]
        marked = [(mark, arrow.bool_()) for mark in marks]
        texts = {name: (name, arrow.string()) for name in (IMAGE, LABEL, ERROR)}
        self.schema = arrow.schema(
            [texts[IMAGE], texts[LABEL], (CONFIDENCE, arrow.float32()), *marked, texts[ERROR], *columns]
        )  # fmt: skip

    def write(self, path: Path, answers: Iterable[Answer]) -> None:
        self.arrow.parquet.write_table(self.table(answers), path)

    def table(self, answers: Iterable[Answer]) -> Any:
        """Return some of the rows as a `pyarrow.Table`."""
        rows = list(answers)
        read = [one.probabilities is not None for one in rows]

        def of(name: str) -> list[Any]:
            return [getattr(one, name) if known else None for one, known in zip(rows, read, strict=True)]

        texts = [[utf8(one.name) for one in rows], [utf8(one.label) if one.label else None for one in rows]]
        errors = [utf8(one.error) if one.error else None for one in rows]
        number = len(self.schema) - len(texts) - len(self.marks) - 2
        columns = [
            [None if one.probabilities is None else one.probabilities[place] for one in rows] for place in range(number)
        ]  # fmt: skip
        arrays = [*texts, of(CONFIDENCE), *map(of, self.marks), errors, *columns]
        typed = [self.arrow.array(values, field.type) for values, field in zip(arrays, self.schema, strict=True)]
        return self.arrow.Table.from_arrays(typed, schema=self.schema)

    def join(self, path: Path, parts: Iterable[Path]) -> None:
        with self.arrow.parquet.ParquetWriter(path, self.schema) as writer:
            for part in parts:
                # Not `read_table`: from a path it would take names such as `a=b` of folders for columns.
                with part.open("rb") as file:
                    writer.write_table(self.arrow.parquet.ParquetFile(file).read())


Rows = CsvRows | JsonRows | ParquetRows
KINDS: dict[str, type[Rows]] = {".csv": CsvRows, ".jsonl": JsonRows, ".parquet": ParquetRows}


def kind_of(path: Path) -> type[Rows]:
    """Return what writes a table to a path, by its ending.

    Raises:
        HeadstartError: the ending is another.
    """
    if path.suffix.lower() not in KINDS:
        raise HeadstartError(f"--out {path}: results are written as {', '.join(KINDS)}; give it one of these endings")
    return KINDS[path.suffix.lower()]


def rounded(one: Answer) -> list[float]:
    assert one.probabilities is not None
    return one.probabilities.astype(float).round(DIGITS).tolist()


def utf8(text: str) -> str:
    """Return a text in which bytes that are invalid UTF-8 are U+FFFD: Parquet has no others."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def append(whole: BinaryIO, parts: Iterable[Path]) -> None:
    for part in parts:
        with part.open("rb") as file:
            shutil.copyfileobj(file, whole)
