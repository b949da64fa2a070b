import contextlib
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from headstart.errors import UnwritableError
from headstart.system import files
from headstart.system.files import refuse_unwritable, remove_partial, write_csv, written_whole
from headstart.system.reading import read_csv
from helpers import DRAWN


@contextlib.contextmanager
def small_files(most: int = 1000):
    """Let no file grow beyond some bytes: what a full disk does to whoever writes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


BIG = np.random.default_rng(0).random((100, 100))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("state.json", lambda partial: partial.write_text(json.dumps(BIG.tolist()))),
        ("array.npy", lambda partial: np.save(partial, BIG)),
        ("checkpoint.safetensors", lambda partial: save_file({"weights": BIG}, partial)),
        ("model.keras", lambda partial: keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)]).save(partial)),
        ("plot.png", lambda partial: DRAWN(Figure(), partial)),
    ],
)
def test_a_full_disk_is_an_error_in_words_whoever_writes(name, write, tmp_path):
    (tmp_path / name).write_text("old")
    refused = pytest.raises(UnwritableError, match=rf"the disk is full: .*{name} cannot be written; make room")
    with refused, small_files(), written_whole(tmp_path / name) as partial:
        write(partial)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_that_has_gone_is_an_error_in_words(tmp_path):
    with pytest.raises(UnwritableError, match=r"run/state\.json cannot be written: No such file"):
        files.write_json(tmp_path / "run" / "state.json", "content")


def test_what_cannot_be_read_while_a_file_is_written_stays_that_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"), written_whole(tmp_path / "copy") as partial:
        partial.write_bytes((tmp_path / "missing").read_bytes())
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("\u4f60" * 83 + ".json")
    files.write_json(path, "content")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_in_the_way_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    refuse_unwritable(tmp_path / "new" / "folder")
    with pytest.raises(UnwritableError, match=f"{tmp_path}/file is a file"):
        refuse_unwritable(tmp_path / "file" / "run")
    with pytest.raises(UnwritableError, match="File name too long"):
        refuse_unwritable(tmp_path / ("a" * 300))
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UnwritableError, match=f"{tmp_path} is read-only"):
        refuse_unwritable(tmp_path / "run")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def interrupted_write():
        with written_whole(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted_write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_good_write_replaces_the_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with written_whole(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_may_write_the_same_file(tmp_path):
    path = tmp_path / "features.npy"
    other = f"import pathlib; from headstart.system import files; files.write_json(pathlib.Path({str(path)!r}), 'theirs')"
    with written_whole(path) as partial:
        partial.write_text("ours")
        subprocess.run([sys.executable, "-c", other], check=True)
        assert path.read_text() == '"theirs"\n'
    assert path.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    kept, path = tmp_path / "config.toml", tmp_path / "checkpoint" / "state.json"
    kept.touch()
    killed = (
        "import os, pathlib; from headstart.system import files\n"
        f"with files.written_whole(pathlib.Path({str(path)!r})) as partial:\n"
        "    partial.touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert len(list(path.parent.iterdir())) == 1
    remove_partial(tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [kept]


class Row(TypedDict):
    name: str
    number: float


@pytest.mark.parametrize(
    "text",
    [
        "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n", " =1", '"=1', "'=1", "''=1", "'\"' -x", "\uff1d1",
        '=HYPERLINK("http://x","y")', "-rf.jpg", b"=caf\xe9".decode("utf-8", "surrogateescape"),
    ],
)  # fmt: skip
def test_a_text_is_no_formula_in_a_spreadsheet_and_comes_back_as_it_was(tmp_path, text):
    write_csv(tmp_path / "a.csv", ["name", "number"], [[text, -1.5]])
    assert list(read_csv(tmp_path / "a.csv", Row, ["name", "number"])) == [{"name": text, "number": -1.5}]
    with (tmp_path / "a.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file))[1] == [f"'{text}", "-1.5"]


@pytest.mark.parametrize("text", ["", "cat", "'cat'", "'", "''", "a=b", "'a=b", "3-4", '"', "\N{CAT FACE}", "o'=x"])
def test_any_other_text_stands_as_it_is(tmp_path, text):
    write_csv(tmp_path / "a.csv", ["name", "number"], [[text, 2.0]])
    assert list(read_csv(tmp_path / "a.csv", Row, ["name", "number"])) == [{"name": text, "number": 2.0}]
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1] == [text, "2.0"]
