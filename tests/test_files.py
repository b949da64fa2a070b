import subprocess
import sys

import pytest

from headstart.files import remove_partial, written_whole


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
    other = f"import pathlib; from headstart import files; files.write_json(pathlib.Path({str(path)!r}), 'theirs')"
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
        f"import os, pathlib; from headstart import files\nwith files.written_whole(pathlib.Path({str(path)!r})) as partial:\n"
        "    partial.touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert len(list(path.parent.iterdir())) == 1
    remove_partial(tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [kept]
