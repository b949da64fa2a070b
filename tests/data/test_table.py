"""Tables of files and labels, as programs and people write them."""

import json
from pathlib import Path

import pytest

from headstart.data.table import MOST_LINE, Table, is_table, rows
from headstart.errors import DamagedError, HeadstartError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "file,label\na.jpg,cat\nb.jpg,dog\n"),
        ("a.csv", "\ufefffile,label\r\na.jpg,cat\r\n\r\nb.jpg,dog"),
        ("a.csv", "file;label\na.jpg;cat\nb.jpg;dog\n"),
        ("a.csv", "file\tlabel\na.jpg\tcat\nb.jpg\tdog\n"),
        ("A.TSV", "file\tlabel\na.jpg\tcat\nb.jpg\tdog\n"),
        ("a.csv", ',file,label\n0,a.jpg,"cat"\n1,"b.jpg",dog\n'),  # with the index of a data frame, which has no name
        ("a.jsonl", '{"file": "a.jpg", "label": "cat"}\n\n{"label": "dog", "file": "b.jpg", "more": [1]}\n'),
    ],
)
def test_text_tables_have_the_same_rows_in_every_spelling(tmp_path, name, content):
    table = Table(write(tmp_path / name, content))
    assert table.columns == ("file", "label")
    assert list(table) == list(table) == [{"file": "a.jpg", "label": "cat"}, {"file": "b.jpg", "label": "dog"}]


def test_cells_may_hold_delimiters_quotes_and_line_ends(tmp_path):
    path = write(tmp_path / "a.csv", 'file,label\n"a, b.jpg","the ""big"" cat\nof all"\n')
    assert list(rows(path)) == [{"file": "a, b.jpg", "label": 'the "big" cat\nof all'}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "it is empty"),
        ("a.csv", ",,\n1,2,3\n", "names no column"),
        ("a.csv", "file,label,file\n", "the column 'file' is there twice"),
        ("a.csv", "file,label\na.jpg,cat\nb.jpg,dog,1\n", "line 3: 3 cells, and the first line names 2 columns"),
        ("a.csv", "file,label\na.jpg,\"cat\n", "line 2: unexpected end of data"),
        ("a.csv", "file,label\na.jpg,M\u00fcller\n".encode("latin-1"), "line 2: it is not UTF-8; save the table as UTF-8"),
        ("a.csv", "file,label\n".encode("utf-16"), "line 1: it is not UTF-8"),
        ("a.csv", "f\0ile,label\n", "line 1: a null character"),
        ("a.csv", "x" * (MOST_LINE + 1), "line 1: longer than"),
        ("a.csv", ",".join(map(str, range(1001))), "1,001 columns"),
        ("a.jsonl", '{"file": 1}\n[1]\n', "line 2: it is no object"),
        ("a.jsonl", '{"file": 1}\nx\n', "line 2: it is no JSON"),
        ("a.parquet", "file,label\n", "is no .parquet file"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DamagedError, match="^[^\n]*" + message.replace("(", r"\(") + "[^\n]*$"):
        list(Table(write(tmp_path / name, content)))


def test_a_table_that_is_missing_or_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        Table(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DamagedError, match="is a folder"):
        Table(tmp_path / "b.csv")
    assert is_table(tmp_path / "x.CSV")
    assert not is_table(tmp_path / "x.txt")


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    content = {
        "file": ["a.jpg", "b.jpg", None], "label": [1.0, None, 2.5], "n": [3, 4, 5], "ok": [True, False, None],
        "image": [b"1", b"2", b"3"], "tags": [["a"], [], ["b"]],
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
    }  # fmt: skip
    pyarrow.parquet.write_table(pa.table(content), tmp_path / "a.parquet")
    table = Table(tmp_path / "a.parquet")
    assert table.columns == ("file", "label", "n", "ok", "kind")
    assert set(table.not_text) == {"image", "tags"}
    assert list(table) == [
        {"file": "a.jpg", "label": "1", "n": "3", "ok": "True", "kind": "x"},
        {"file": "b.jpg", "label": "", "n": "4", "ok": "False", "kind": "y"},
        {"file": "", "label": "2.5", "n": "5", "ok": "", "kind": "x"},
    ]


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(HeadstartError, match=r"pip install 'headstart\[parquet\]'; or save the table as .csv"):
        Table(write(tmp_path / "a.parquet", json.dumps({})))
