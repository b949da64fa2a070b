"""Read tables that anybody may have written, row by row: `.csv`, `.tsv`, `.jsonl` and `.parquet`. Every cell is text."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from headstart.errors import DamagedError, HeadstartError
from headstart.system.files import Elsewhere, open_regular
from headstart.system.text import printable, shortened

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
# Larger tables of labels are not met; what is larger is another file, which would be held in memory as one line or one row.
MOST_LINE, MOST_COLUMNS = 1 << 20, 1000
# How many rows of a `.parquet` file are in memory at a time.
BATCH = 4096
NAMED = 20


def is_table(path: Path) -> bool:
    """Whether a path ends like a table."""
    return path.suffix.lower() in ENDINGS


class Table:
    """A table in a file. Each iteration reads the file anew, in constant memory, and yields its rows as texts by column.

    An empty cell, and a missing value, is the empty text. Numbers are written as Python writes them, whole ones without a
    point: a column of labels 0, 1, 2 has the labels `0`, `1`, `2`, of whichever type they are in the file.

    Args:
        path: a `.csv` or `.tsv` file (UTF-8, with a header; commas, semicolons or tabs between cells), a `.jsonl` file of one
            object a line, or a `.parquet` file, which needs pyarrow.

    Attributes:
        columns: the names of the columns, in order. Columns without a name are not read.
        not_text: the type of each column that holds something else than text and numbers, by name. They are not read.
        place: where the row stands that was read last: `line 12`, or `row 12` of a `.parquet` file.

    Raises:
        DamagedError: the file is no such table, here or while it is iterated; the message names the line.
        FileNotFoundError: there is none.
        HeadstartError: it is a `.parquet` file and pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.kind = path, path.suffix.lower()
        self.not_text: dict[str, str] = {}
        self.place = ""
        if self.kind == ".parquet":
            names = self.parquet_columns()
        elif self.kind == ".jsonl":
            names = list(next(self.objects(), {}))
        else:
            self.delimiter = "\t" if self.kind == ".tsv" else self.sniffed()
            names = next(self.cells(), (0, []))[1]
        names = [name.strip() for name in names]
        if not any(names):
            raise DamagedError(f"{path} is no table: it is empty, or its first line names no column")
        if len(names) > MOST_COLUMNS:
            raise DamagedError(f"{path} is no table of labels: it has {len(names):,} columns")
        if repeated := [name for name, number in Counter(filter(None, names)).items() if number > 1]:
            raise DamagedError(f"{path}: the column {printable(repeated[0])!r} is there twice: rename one of them")
        self.names = names
        self.columns = tuple(filter(None, names))

    def __iter__(self) -> Iterator[dict[str, str]]:
        if self.kind == ".parquet":
            yield from self.parquet_rows()
        elif self.kind == ".jsonl":
            for one in self.objects():
                yield {name: as_text(one.get(name)) for name in self.columns}
        else:
            rows = self.cells()
            next(rows, None)
            for line, cells in rows:
                if len(cells) != len(self.names):
                    raise DamagedError(
                        f"{self.path}, line {line}: {len(cells)} cells, and the first line names {len(self.names)} columns; "
                        'a cell with a delimiter in it stands in quotes: "a, b"'
                    )
                yield {name: cell for name, cell in zip(self.names, cells, strict=True) if name}

    def listed(self) -> str:
        """Return the names of the columns as text, for a message."""
        names = [shortened(name) for name in self.columns]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more

    def lines(self) -> Iterator[str]:
        """Yield the lines of a text file, with their ends."""
        with open_regular(self.path) as file:
            number = 0
            while line := file.readline(MOST_LINE + 1):
                number += 1
                if len(line) > MOST_LINE:
                    raise DamagedError(f"{self.path}, line {number}: longer than {MOST_LINE:,} bytes; is it a table?")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise DamagedError(f"{self.path}, line {number}: it is not UTF-8; save the table as UTF-8") from None
                if "\0" in text:
                    raise DamagedError(f"{self.path}, line {number}: a null character; save the table as UTF-8")
                yield text

    def sniffed(self) -> str:
        """Return the delimiter by which the first line has the most cells; a comma if there is one cell."""
        header = next(self.lines(), "")
        return max(",;\t", key=lambda one: len(next(csv.reader([header], delimiter=one), [])))

    def cells(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the line at which each row ends, and its cells. Empty lines are passed over."""
        reader = csv.reader(self.lines(), delimiter=self.delimiter, strict=True)
        try:
            for cells in reader:
                if cells:
                    self.place = f"line {reader.line_num}"
                    yield reader.line_num, cells
        except csv.Error as error:
            raise DamagedError(f"{self.path}, line {reader.line_num}: {error}") from None

    def objects(self) -> Iterator[dict[str, Any]]:
        """Yield the objects of a `.jsonl` file."""
        for number, line in enumerate(self.lines(), start=1):
            if not line.strip():
                continue
            try:
                one = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DamagedError(f"{self.path}, line {number}: it is no JSON ({error})") from None
            if not isinstance(one, dict):
                raise DamagedError(f'{self.path}, line {number}: it is no object such as {{"file_name": "a.jpg"}}')
            self.place = f"line {number}"
            yield one

    def parquet_columns(self) -> list[str]:
        types = parquet().types
        with opened_parquet(self.path) as file:
            schema = file.schema_arrow
        for field in schema:
            kind = field.type.value_type if types.is_dictionary(field.type) else field.type
            if types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
                self.not_text[field.name] = str(kind)
        return [name for name in schema.names if name not in self.not_text]

    def parquet_rows(self) -> Iterator[dict[str, str]]:
        arrow, number = parquet(), 0
        with opened_parquet(self.path) as file:
            try:
                for batch in file.iter_batches(BATCH, columns=list(self.names)):
                    columns = [map(as_text, column.to_pylist()) for column in batch.columns]
                    for cells in zip(*columns, strict=True):
                        number += 1
                        self.place = f"row {number}"
                        yield {name: cell for name, cell in zip(self.names, cells, strict=True) if name}
            except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
                raise DamagedError(f"{self.path} is damaged: {str(error).splitlines()[0]}") from None


def rows(path: Path) -> Iterable[dict[str, str]]:
    """Return the rows of a table, see `Table`."""
    return Table(path)


def as_text(value: Any) -> str:
    """Return a cell as text. A whole number has no point: a column of numbers with gaps is one of floats in many programs."""
    if value is None or value != value:  # a missing value, or NaN, which stands for one
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, list | dict) else str(value)


def parquet() -> Any:
    """Return the package that reads `.parquet` files, which takes a while to import."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise HeadstartError(
            ".parquet files need a package that is not installed: pip install 'headstart[parquet]'; or save the table as .csv"
        ) from None
    return pyarrow


def opened_parquet(path: Path) -> Any:
    """Return an open `.parquet` file."""
    arrow = parquet()
    try:
        file = open_regular(path)
        if isinstance(path, Elsewhere):
            return arrow.parquet.ParquetFile(file)
        file.close()
        return arrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise
    except (arrow.ArrowException, OSError) as error:
        raise DamagedError(f"{path} is no .parquet file: {str(error).splitlines()[0]}") from None
