"""Read files that anybody may have written: kind, size and structure are checked before memory is taken.

Each function raises `DamagedError`, in one line that names the file and the entry, if a file is not what it should be.
"""

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from headstart.errors import DamagedError
from headstart.system.files import of_cell, open_regular, read_bytes

Kind = TypeVar("Kind")

# Types for the entries of files. NaN fits none of those with a limit.
Count = Annotated[int, Meta(ge=0, le=2**53)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0, le=1e300)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
Checksum = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

# In bytes. Python's objects take up to 25 times the size of their JSON, and up to 10 times that of a row of a split.
MOST_JSON, MOST_CSV = 64 << 20, 256 << 20


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """Return the content of a JSON file, checked against a type. Entries that the type does not name may be anything.

    Args:
        kind: a type of JSON values, such as a `TypedDict`. `Annotated` types in it may give limits.

    Raises:
        DamagedError: the file is no JSON, or its content is not of this type.
        FileNotFoundError: there is none.
    """
    return as_kind(parse_json(read_bytes(path, MOST_JSON), path), kind, path)


def parse_json(content: bytes, path: Path) -> Any:
    """Return what the bytes of a JSON file mean; `path` is named in an error."""
    try:
        return json.loads(content)
    except RecursionError:
        raise DamagedError(f"{path} is damaged: its entries are nested too deeply") from None
    except ValueError as error:  # among them bytes that are no UTF-8
        raise DamagedError(f"{path} is damaged: {error}") from None


def as_kind(content: Any, kind: Any, path: Path, *, text: bool = False) -> Any:
    """Return decoded content, checked against a type.

    Args:
        path: of the file that it comes from, for the error.
        text: whether numbers stand as text in it, as in CSV; they are returned as numbers.
    """
    try:
        converted = msgspec.convert(content, kind, strict=not text)
        return converted if text else content
    except msgspec.ValidationError as error:
        what, _, place = str(error).replace("`", "").partition(" - at ")
        entry = re.sub(r"^(key in )?\$\.?", r"\1", place) or "its content"
        raise DamagedError(f"{path} is damaged: {entry}: {what[:1].lower()}{what[1:]}") from None
    except RecursionError:
        raise DamagedError(f"{path} is damaged: its entries are nested too deeply") from None


def seal(content: Mapping[str, Any]) -> str:
    """Return the checksum of the entries of a JSON file, which is kept in it under `seal`.

    It finds damage and a careless hand. It does not find somebody who computes it anew.
    """
    entries = {name: value for name, value in content.items() if name != "seal"}
    try:
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        return ""  # no file has it


def read_csv(path: Path, kind: type[Kind], columns: Collection[str], *, optional: str = "") -> Iterator[Kind]:
    """Yield the rows of a CSV file that `headstart.system.files.write_csv` has written, each as a type.

    Args:
        kind: the type of a row, a `TypedDict`.
        columns: the names that the first row must have.
        optional: one of them that may be missing.

    Raises:
        DamagedError: the file is not such a table.
        FileNotFoundError: there is none.
    """
    content = read_bytes(path, MOST_CSV).decode("utf-8", errors="surrogateescape")
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        first = next(reader, [])
        if optional and optional not in first:
            columns = [column for column in columns if column != optional]
        if first != list(columns):
            raise DamagedError(f"{path} is damaged: its columns must be {', '.join(columns)}")
        for row in reader:
            if len(row) != len(columns):
                raise DamagedError(f"{path} is damaged: row {reader.line_num} has {len(row)} columns, not {len(columns)}")
            yield as_kind(dict(zip(columns, map(of_cell, row), strict=True)), kind, path, text=True)
    except csv.Error as error:
        raise DamagedError(f"{path} is damaged: {error}") from None


def read_array(
    path: Path, dtypes: Collection[str], shape: tuple[int | None, ...], *, extra: int = 0, mapped: bool = False
) -> np.ndarray:
    """Return the array in a `.npy` file.

    Args:
        dtypes: the accepted types, such as `float32`. A file of Python objects is never read.
        shape: the expected shape; None stands for any length.
        extra: how many bytes follow the array in the file.
        mapped: whether the array stays on disk, and is read where it is indexed.

    Raises:
        DamagedError: the file has another type, shape or length.
        FileNotFoundError: there is none.
    """
    with open_regular(path) as file:
        return array_in(file, path, dtypes, shape, extra=extra, mapped=mapped)


def array_in(
    file: BinaryIO, path: Path, dtypes: Collection[str], shape: tuple[int | None, ...], *, extra: int = 0, mapped: bool = False
) -> np.ndarray:
    """Return the array in an open `.npy` file, see `read_array`; `path` is named in an error."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        found, fortran, dtype = read_header(file)
    except (ValueError, KeyError, EOFError, RecursionError, MemoryError, SyntaxError, TypeError) as error:
        raise DamagedError(f"{path} is damaged: {str(error).splitlines()[0] if str(error) else 'no header'}") from None
    if str(dtype) not in dtypes or fortran:
        raise DamagedError(f"{path} is damaged: it holds {dtype}, not {' or '.join(dtypes)} in C order")
    if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
        wanted = " x ".join("any" if length is None else str(length) for length in shape)
        raise DamagedError(f"{path} is damaged: its shape is {' x '.join(map(str, found))}, not {wanted}")
    values, start = math.prod(found), file.tell()
    if os.fstat(file.fileno()).st_size != start + values * dtype.itemsize + extra:
        raise DamagedError(f"{path} is damaged: its length does not fit its shape {' x '.join(map(str, found))}")
    if mapped and values:
        return np.memmap(file, dtype, "r", start, found)
    return np.fromfile(file, dtype, values).reshape(found)
