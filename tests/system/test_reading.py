import io
import json
import math
import os
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pytest

from headstart.errors import DamagedError
from headstart.system.files import open_regular, read_bytes, write_csv
from headstart.system.reading import Count, Fraction, Positive, read_array, read_csv, read_json, seal


class Row(TypedDict):
    name: str
    share: Fraction
    number: NotRequired[Count]


class Nested(TypedDict):
    rows: list[Row]
    scale: Positive


def refused(read, *words: str) -> None:
    with pytest.raises(DamagedError) as refusal:
        read()
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is damaged"]),
        (b"{", ["is damaged"]),
        (b"\xff\xfe{}", ["is damaged"]),
        (b"[" * 100_000, ["nested too deeply"]),
        (b"9" * 5000, ["is damaged"]),
        (b"[]", ["its content: expected object, got array"]),
        (b'{"scale": 1}', ["its content: object missing required field rows"]),
        (b'{"rows": [], "scale": 0}', ["scale: expected float > 0"]),
        (b'{"rows": [], "scale": NaN}', ["scale: expected float > 0"]),
        (b'{"rows": [], "scale": 1e999}', ["scale: expected float <= 1e+300"]),
        (b'{"rows": [], "scale": "1"}', ["scale: expected float, got str"]),
        (b'{"rows": [], "scale": true}', ["scale: expected float, got bool"]),
        (b'{"rows": [{"name": "a", "share": 2}], "scale": 1}', ["rows[0].share: expected float <= 1"]),
        (b'{"rows": [{"name": "a", "share": 1, "number": -1}], "scale": 1}', ["rows[0].number: expected int >= 0"]),
    ],
)
def test_json_that_is_not_of_its_type_is_refused_by_file_and_entry(content, words, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    refused(lambda: read_json(tmp_path / "x.json", Nested), str(tmp_path / "x.json"), *words)


def test_json_comes_back_as_it_is_with_entries_of_other_versions(tmp_path):
    content = {"rows": [{"name": "\udcff", "share": 1, "new": None}], "scale": 2, "later": [1]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "x.json", Nested) == content


def test_large_files_pipes_and_folders_are_not_read(tmp_path):
    (tmp_path / "large").write_bytes(b" " * 101)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    refused(lambda: read_bytes(tmp_path / "large", 100), "larger than 100 bytes")
    for path, what in ((tmp_path / "pipe", "no regular file"), (tmp_path / "device", "no regular file"), (tmp_path, "a folder")):
        refused(lambda path=path: open_regular(path), f"is {what}")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


def test_a_table_comes_back_with_its_numbers(tmp_path):
    names = ["plain", "two\nlines", '"quoted", with comma', "\u2028", "\udcff", ""]
    write_csv(tmp_path / "x.csv", ["name", "share"], [[name, number / 10] for number, name in enumerate(names)])
    rows = list(read_csv(tmp_path / "x.csv", Row, ["name", "share"]))
    assert rows == [{"name": name, "share": number / 10} for number, name in enumerate(names)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["columns must be name, share"]),
        (b"name\na\n", ["columns must be name, share"]),
        (b"name,share\na\n", ["row 2 has 1 columns, not 2"]),
        (b"name,share\na,b\n", ["share: expected float, got str"]),
        (b"name,share\na,nan\n", ["share: expected float >= 0"]),
        (b'name,share\n"a,1\n', ["is damaged"]),
        (b"name,share\n" + b"a" * 200_000 + b",1\n", ["is damaged"]),
    ],
)
def test_a_table_of_another_kind_is_refused(content, words, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    refused(lambda: list(read_csv(tmp_path / "x.csv", Row, ["name", "share"])), *words)


def npy(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("mapped", [False, True])
def test_an_array_comes_back(mapped, tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    (tmp_path / "x.npy").write_bytes(npy(array) + b"more")
    found = read_array(tmp_path / "x.npy", ("float16", "float32"), (None, 3), extra=4, mapped=mapped)
    np.testing.assert_array_equal(found, array)
    assert isinstance(found, np.memmap) == mapped
    (tmp_path / "x.npy").write_bytes(npy(array[:0]))
    assert read_array(tmp_path / "x.npy", ("float32",), (None, 3), mapped=mapped).shape == (0, 3)


class Payload:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is damaged"]),
        (b"no array", ["is damaged"]),
        (npy(np.zeros((4, 3), np.float32))[:-1], ["its length does not fit its shape 4 x 3"]),
        (npy(np.zeros((4, 3), np.float32)) + b"x", ["its length does not fit its shape"]),
        (npy(np.zeros((4, 3))), ["it holds float64, not float32"]),
        (npy(np.zeros((4, 3), ">f4")), ["it holds >f4, not float32"]),
        (npy(np.zeros((4, 3), np.float32, order="F")), ["in C order"]),
        (npy(np.zeros((4, 2), np.float32)), ["its shape is 4 x 2, not any x 3"]),
        (npy(np.zeros(12, np.float32)), ["its shape is 12, not any x 3"]),
        (npy(np.array([Payload()]), allow_pickle=True), ["it holds object"]),
        (header((10**12, 3)), ["its length does not fit its shape"]),
        (header((-1, 3)), ["is damaged"]),
        (header((2**62, 3)), ["its length does not fit its shape"]),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, ["is damaged"]),
        (b"\x93NUMPY\x09\x00\x00\x00", ["is damaged"]),
    ],
)
def test_an_array_of_another_kind_is_refused_before_it_takes_memory(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(content)
    refused(lambda: read_array(tmp_path / "x.npy", ("float32",), (None, 3)), str(tmp_path / "x.npy"), *words)
    assert not (tmp_path / "executed").exists()


def test_a_seal_is_that_of_all_other_entries_in_any_order():
    content = {"a": 1.5, "b": [math.nan], "c": "é"}
    assert seal(content) == seal(dict(reversed(content.items())) | {"seal": "any"})
    assert seal(content) != seal(content | {"a": 1.25})
    assert seal(json.loads(json.dumps(content))) == seal(content)
