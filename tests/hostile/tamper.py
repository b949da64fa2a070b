"""Ways to tamper with a file: any file, JSON, TOML, a table and an array."""

import copy
import io
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from case import Payload, cleared, payloads, put

# A change: it gets the path of the file, the path of the marker and a folder of the user's elsewhere.
Change = Callable[[Path, Path, Path], None]
DEEP, MANY_BYTES = 100_000, 70_000_000


def of_any_file(random: random.Random, flips: int = 2) -> dict[str, tuple[Change, bool]]:
    """Return changes of any file by name, and whether each could have been honest."""
    seeds = [random.randrange(10**6) for _ in range(flips)]
    found: dict[str, tuple[Change, bool]] = {
        "removed": (lambda path, *_: void(cleared(path)), True),
        "empty": (lambda path, *_: put(path, b""), False),
        "cut in half": (lambda path, *_: put(path, path.read_bytes()[: path.stat().st_size // 2]), True),
        "cut by one byte": (lambda path, *_: put(path, path.read_bytes()[:-1]), True),
        "longer": (lambda path, *_: put(path, path.read_bytes() + bytes(1000)), True),
        "zeros": (lambda path, *_: put(path, bytes(path.stat().st_size)), False),
        "a folder": (lambda path, *_: cleared(path).mkdir(), False),
        "a pipe": (lambda path, *_: os.mkfifo(cleared(path)), False),
        "a dangling link": (lambda path, *_: cleared(path).symlink_to("nowhere"), True),
        "a link to itself": (lambda path, *_: cleared(path).symlink_to(path.name), False),
        "a link to /dev/zero": (lambda path, *_: cleared(path).symlink_to("/dev/zero"), False),
        "a link to a file elsewhere": (lambda path, _, victim: cleared(path).symlink_to(victim / "letter.txt"), False),
        "not to be read": (lambda path, *_: path.chmod(0), True),
    }
    for seed in seeds:
        found[f"flipped {seed}"] = (lambda path, *_, seed=seed: put(path, flipped(path.read_bytes(), seed)), True)
    return found


def void(_: Any) -> None:
    """Take a result and return nothing."""


def flipped(content: bytes, seed: int) -> bytes:
    """Return content with a few of its bytes replaced."""
    array, rng = np.frombuffer(content, np.uint8).copy(), np.random.default_rng(seed)
    if len(array):
        array[rng.integers(0, len(array), 8)] ^= rng.integers(1, 256, 8).astype(np.uint8)
    return array.tobytes()


def of_text(comment: str = "") -> dict[str, tuple[Change, bool]]:
    """Return changes of a text file."""
    return {
        "UTF-16": (lambda path, *_: put(path, path.read_text().encode("utf-16")), False),
        "a byte order mark": (lambda path, *_: put(path, b"\xef\xbb\xbf" + path.read_bytes()), True),
        "not UTF-8": (lambda path, *_: put(path, path.read_bytes().replace(b"e", b"\xff", 3)), False),
        "a zero byte": (lambda path, *_: put(path, path.read_bytes()[:20] + b"\0" + path.read_bytes()[20:]), False),
        "70 MB of spaces": (lambda path, *_: put(path, b" " * MANY_BYTES), False),
        "70 MB of brackets": (lambda path, *_: put(path, b"[" * MANY_BYTES), False),
        "a long line": (lambda path, *_: put(path, path.read_bytes() + b"x" * 5_000_000), False),
    }


# JSON as it is written, for an entry of any type. NaN, Infinity and 1e999 are what Python takes for a number.
RAW = {
    "null": "null", "true": "true", "-1": "-1", "0": "0", "0.5": "0.5", "99": "99", "NaN": "NaN", "-Infinity": "-Infinity",
    "1e999": "1e999", "10**400": "1" + "0" * 400, "10**5000": "1" + "0" * 5000, "1e300": "1e300", "2**63": str(2**63),
    '"12"': '"12"', "[]": "[]", "{}": "{}", "[[[]]]": "[[[]]]", "a zero byte": '"\\u0000"', "a path": '"../../x"',
    "half a character": '"\\ud800"', "control characters": '"\\u001b[2J\\u0007\\n"', "a long text": '"' + "a" * 100_000 + '"',
    "a million numbers": "[" + "0," * 999_999 + "0]", "deep": "[" * DEEP + "]" * DEEP,
}  # fmt: skip
REMOVED = "removed"


def of_json(content: Any, random: random.Random, count: int) -> dict[str, tuple[Change, bool]]:
    """Return changes of a JSON file: those of the whole, and `count` of single entries.

    Args:
        content: of the honest file.
    """

    def text(new: str) -> Change:
        return lambda path, *_: put(path, new)

    found: dict[str, tuple[Change, bool]] = {
        f"all {name}": (text(RAW[name]), False)
        for name in ("null", "true", "-1", "NaN", "10**5000", '"12"', "[]", "{}", "deep", "a million numbers")
    }
    whole = json.dumps(content)
    found["twice"] = (text(whole + whole), False)
    found["open"] = (text("[" * DEEP), False)
    found["deep objects"] = (text('{"a":' * DEEP + "1" + "}" * DEEP), False)
    if isinstance(content, dict):
        unknown = '{"__class__": "os.system", "x": [1, {"y": null}], "": 0'
        found["more keys"] = (text(f"{unknown}, {whole[1:]}"), True)
        found["100,000 more keys"] = (text("{" + "".join(f'"k{i}": {i}, ' for i in range(100_000)) + whole[1:]), True)
        if content:
            first = next(iter(content))
            found["a key twice"] = (text(f"{{{json.dumps(first)}: [null], {whole[1:]}"), True)
            found["a key twice, wrong"] = (text(f"{whole[:-1]}, {json.dumps(first)}: [null]}}"), False)
    places = list(walk(content))
    for _ in range(count):
        place, old = random.choice(places)
        change = random.choice([REMOVED, *RAW, "longer", "shorter"])
        if change in ("longer", "shorter") and not isinstance(old, list | str):
            change = random.choice([*RAW])
        if change == REMOVED and not place:
            continue
        name = f"{'.'.join(map(str, place))} {change}"
        found[name] = (text(with_entry(content, place, change)), alike(old, change))
    return found


def alike(old: Any, change: str) -> bool:
    """Whether an entry might have this value in an honest file: it has the type of the old one."""
    if change in (REMOVED, "longer", "shorter"):
        return True
    try:
        new = json.loads(RAW[change])
    except (ValueError, RecursionError):
        return False
    number = isinstance(old, int | float) and isinstance(new, int | float) and not isinstance(old, bool)
    return (number and change in ("0", "0.5", "99", "-1")) or type(old) is type(new) or old is None or new is None


def walk(content: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield the place and the value of each entry."""
    yield place, content
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from walk(value, (*place, key))


def with_entry(content: Any, place: tuple[str | int, ...], change: str, raw: str = "") -> str:
    """Return JSON text in which one entry is another; `raw` is its new text, if `change` is none of `RAW`."""
    mark, content = "@@entry@@", copy.deepcopy(content)
    if not place:
        return raw or RAW.get(change, "[]")
    above = content
    for key in place[:-1]:
        above = above[key]
    if change == REMOVED:
        del above[place[-1]]
    elif change == "shorter":
        above[place[-1]] = above[place[-1]][:-1]
    elif change == "longer":
        above[place[-1]] = above[place[-1]] + above[place[-1]][-1:] * 1000
    else:
        above[place[-1]] = mark
    return json.dumps(content, indent=2).replace(f'"{mark}"', raw or RAW.get(change, "null"))


TOML_VALUES = (
    "-1",
    "0",
    "99",
    "100000",
    "1" + "0" * 400,
    "nan",
    "inf",
    "-inf",
    "1e300",
    "true",
    '""',
    '"../../x"',
    '"/dev/zero"',
    '"\\u0000"',
    '"\\u001b[2J"',
    "[]",
    "{}",
    "1979-05-27",
    '"' + "a" * 100_000 + '"',
    "[" * 5000 + "]" * 5000,
    "''",
    '"~nobody/x"',
)


def of_toml(text: str, random: random.Random, count: int) -> dict[str, tuple[Change, bool]]:
    """Return changes of a TOML file without tables: those of the whole, and `count` of single entries."""
    keys = [line.partition(" = ")[0] for line in text.splitlines()]

    def new(content: str) -> tuple[Change, bool]:
        return (lambda path, *_: put(path, content)), False

    found = {
        "no TOML": new("}{"), "a table": new("[a]\n" + text), "deep": new(f"data = {'[' * DEEP}\n"),
        "dotted keys": new(".".join(["a"] * 50_000) + " = 1\n"), "a key twice": new(text + text.splitlines()[0] + "\n"),
        "an unknown option": new(text + "evil = 1\n"), "a strange option": new(text + '"\\u001b[2J__class__" = 1\n'),
        "100,000 options": new(text + "".join(f"k{i} = 0\n" for i in range(100_000))),
        "a long number": new(text.replace("seed = 0", "seed = " + "1" * 100_000)),
    }  # fmt: skip
    for _ in range(count):
        key, value = random.choice(keys), random.choice(TOML_VALUES)
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in text.splitlines()]
        found[f"{key} {value[:12]}"] = (lambda path, *_, lines=lines: put(path, "\n".join(lines) + "\n"), True)
    return found


CELLS = ("", "nan", "inf", "-1", "1e999", "x", "\0", "../../x", "=1+1", "\x1b[2J", "9" * 5000, "a" * 200_000, '"', "\udcff")


def of_csv(text: str, random: random.Random, count: int) -> dict[str, tuple[Change, bool]]:
    """Return changes of a table with a heading: those of the whole, and `count` of single cells."""
    lines = text.splitlines()
    cut = [line.rpartition(",")[0] for line in lines]

    def new(rows: list[str], plausible: bool = False) -> tuple[Change, bool]:
        return (lambda path, *_: put(path, "\n".join(rows) + "\n")), plausible

    found = {
        "heading alone": new(lines[:1], True), "no heading": new(lines[1:]), "a column less": new(cut),
        "a column more": new([f"{line},x" for line in lines], True), "a short row": new([*lines, "x"]),
        "a long row": new([*lines, "x," * 50]), "rows twice": new([*lines, *lines[1:]], True), "rows turned": new(
            [lines[0], *lines[:0:-1]], True), "an open quote": new([*lines, '"' + "x\n" * 1000]),
        "other columns": new(["a,b,c,d", *lines[1:]]), "a million columns": new(["," * 1_000_000, *lines[1:]]),
        "a million rows": new([*lines, *(lines[-1:] * 1_000_000)], True), "quotes": new(["\"'" * 1000] * 10),
    }  # fmt: skip
    for _ in range(count):
        # Of a table without rows, the heading.
        row, value = random.randrange(min(1, len(lines) - 1), len(lines)), random.choice(CELLS)
        cells = lines[row].split(",")
        column = random.randrange(len(cells))
        cells[column] = value
        rows = [*lines[:row], ",".join(cells), *lines[row + 1 :]]
        found[f"row {row} column {column} {value[:9]!r}"] = new(rows, True)
    return found


def npy_header(descr: str, shape: str, order: str = "False", version: int = 1, rest: str = "") -> bytes:
    """Return the beginning of a `.npy` file, whatever its shape and type."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {rest}}}".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text) & (0xFFFF if version == 1 else 0xFFFFFFFF))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def of_array(array: np.ndarray) -> dict[str, tuple[Change, bool]]:
    """Return changes of a `.npy` file. NumPy's own functions would open pickles in one, if they were allowed to."""
    data, dtype, shape = array.tobytes(), array.dtype.str, array.shape
    signed = array.astype(np.int64 if array.dtype.kind in "ui" else np.float64)
    with_nan = array.astype(np.float32)
    with_nan.flat[0] = np.nan
    huge = (10**12, *shape[1:])

    def content(new: bytes, plausible: bool = False) -> tuple[Change, bool]:
        return (lambda path, *_: put(path, new)), plausible

    def pickled(kind: str) -> tuple[Change, bool]:
        def change(path: Path, marker: Path, _: Path) -> None:
            put(path, npy_header("'|O'", "(1,)") + payloads(marker)[kind])

        return change, False

    def pickled_alone(path: Path, marker: Path, _: Path) -> None:
        put(path, payloads(marker)["exec"])

    found = {
        "objects os.system": pickled("os.system"), "objects exec": pickled("exec"), "objects open": pickled("open"),
        "a pickle": (pickled_alone, False),
        "huge shape": content(npy_header(repr(dtype), repr(huge)) + data),
        "huge shape 2**62": content(npy_header(repr(dtype), f"({2**62},)") + data),
        "shape that overflows": content(npy_header(repr(dtype), f"({2**40}, {2**40})") + data),
        "negative shape": content(npy_header(repr(dtype), "(-1, 3)") + data),
        "a shape of text": content(npy_header(repr(dtype), "'x'") + data),
        "a shape of floats": content(npy_header(repr(dtype), "(1.5, 2)") + data),
        "a shape that is true": content(npy_header(repr(dtype), "(True, True)") + data),
        "no shape": content(npy_header(repr(dtype), "()") + data),
        "a deep header": content(npy_header("(" * 200 + ")" * 200, repr(shape))),
        "a long header": content(npy_header(repr(dtype), repr(shape) + " " * 100_000, version=2) + data),
        "a header of 4 GB": content(b"\x93NUMPY\x02\0\xff\xff\xff\xff{}"),
        "code in the header": content(npy_header("__import__('os').system('true')", repr(shape)) + data),
        "more keys": content(npy_header(repr(dtype), repr(shape), rest="'x': 1") + data),
        "version 9": content(b"\x93NUMPY\x09\0" + npy(array)[8:]),
        "columns first": content(npy(np.asfortranarray(array))),
        "float16": content(npy(array.astype(np.float16)), True), "float64": content(npy(array.astype(np.float64)), True),
        "other end first": content(npy(array.astype(array.dtype.newbyteorder(">"))), True),
        "complex": content(npy(array.astype(np.complex64))), "bool": content(npy(array.astype(bool))),
        "text": content(npy(array.astype(str))), "dates": content(npy(array.astype(np.int64).view("M8[s]"))),
        "records": content(npy(np.zeros(len(array), "f4,i4"))),
        "NaN": content(npy(with_nan)), "all NaN": content(npy(np.full(shape, np.nan, np.float32))),
        "infinite": content(npy(np.full(shape, np.inf, np.float32))), "1e38": content(npy(np.full(shape, 3e38, np.float32))),
        "negative": content(npy((-1 - np.abs(signed)).astype(array.dtype))), "rows shuffled": content(npy(array[::-1]), True),
        "zeros instead": content(npy(np.zeros_like(array)), True), "a row less": content(npy(array[:-1])),
        "a row more": content(npy(np.concatenate([array, array[:1]]))), "no rows": content(npy(array[:0])),
        "a column less": content(npy(array[..., :-1] if array.ndim > 1 else array[:, None])),
        "a column more": content(npy(np.concatenate([array, array[..., :1]], -1) if array.ndim > 1 else np.stack([array] * 2))),
        "an axis more": content(npy(array[None])), "a scalar": content(npy(array.ravel()[0])),
        "an npz": content(npz(array)),
    }  # fmt: skip
    return found


def npz(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, array)
    return stream.getvalue()


def safetensors(tensors: dict[str, np.ndarray], header: dict[str, Any] | None = None) -> bytes:
    """Return a safetensors file; `header` replaces entries of its true one."""
    names = {"float32": "F32", "int32": "I32", "int64": "I64", "float64": "F64", "float16": "F16", "uint8": "U8", "uint32": "U32"}
    entries: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        content = np.ascontiguousarray(array).tobytes()
        offsets = [len(data), len(data) + len(content)]
        entries[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(entries | (header or {})).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    entries, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kinds = {
        "F32": "f4", "I32": "i4", "I64": "i8", "F64": "f8", "F16": "f2", "U8": "u1", "U32": "u4", "BOOL": "?", "U64": "u8",
        "BF16": "u2", "I8": "i1", "I16": "i2", "U16": "u2",
    }  # fmt: skip
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def of_safetensors(path: Path) -> dict[str, tuple[Change, bool]]:
    """Return changes of a safetensors file."""
    tensors = read_safetensors(path)
    name = next(name for name, array in tensors.items() if array.dtype == np.float32 and array.size > 1)
    array = tensors[name]

    def changed(new: np.ndarray, header: dict[str, Any] | None = None, plausible: bool = False) -> tuple[Change, bool]:
        return (lambda path, *_: put(path, safetensors(tensors | {name: new}, header))), plausible

    def without() -> bytes:
        return safetensors({other: value for other, value in tensors.items() if other != name})

    entry = {"dtype": "F32", "data_offsets": [0, array.nbytes]}
    content = path.read_bytes()
    return {
        "NaN": changed(np.full_like(array, np.nan)), "infinite": changed(np.full_like(array, np.inf)),
        "zeros instead": changed(np.zeros_like(array), plausible=True), "3e38": changed(np.full_like(array, 3e38)),
        "float64": changed(array.astype(np.float64)), "int32": changed(array.astype(np.int32)),
        "another shape": changed(array.ravel()[:-1]), "one number": changed(array.ravel()[:1]), "no numbers": changed(array[:0]),
        "a tensor less": ((lambda path, *_: put(path, without())), False),
        "a tensor more": ((lambda path, *_: put(path, safetensors(tensors | {"zzz": array}))), False),
        "other names": ((lambda path, *_: put(path, safetensors({f"x.{key}": value for key, value in tensors.items()}))), False),
        "names without an end": ((lambda path, *_: put(path, safetensors(dict.fromkeys(("a", "b."), array)))), False),
        "huge shape": changed(array, {name: entry | {"shape": [10**12]}}),
        "offsets outside": changed(array, {name: entry | {"shape": list(array.shape), "data_offsets": [0, 2**60]}}),
        "negative offsets": changed(array, {name: entry | {"shape": list(array.shape), "data_offsets": [-8, 8]}}),
        "unknown type": changed(array, {name: entry | {"shape": list(array.shape), "dtype": "O"}}),
        "a header of 2**63 bytes": ((lambda path, *_: put(path, struct.pack("<Q", 2**63) + content[8:])), False),
        "a deep header": ((lambda path, *_: put(path, struct.pack("<Q", 2 * DEEP) + b"[" * DEEP + b"]" * DEEP)), False),
        "a pickle": ((lambda path, marker, _: put(path, payloads(marker)["exec"])), False),
    }  # fmt: skip


__all__ = ["Payload", "of_any_file", "of_array", "of_csv", "of_json", "of_safetensors", "of_text", "of_toml"]
