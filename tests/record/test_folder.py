import logging
import os
import shutil
from pathlib import Path

import pytest

import headstart as hs


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(small_run.path, tmp_path / "copy")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(hs.HeadstartError, match="is not a run"):
        hs.Run(tmp_path)


def test_an_unfinished_run_says_how_to_go_on(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(hs.HeadstartError, match="is not finished: go on with headstart train --resume"):
        hs.Run(copy).model  # noqa: B018


def test_an_option_of_a_newer_version_is_named(copy):
    with (copy / "config.toml").open("a") as file:
        file.write("warp_drive = true\n")
    with pytest.raises(hs.HeadstartError, match=r"newer Headstart.*warp_drive"):
        hs.Run(copy)


def test_damaged_metrics_are_named(copy):
    (copy / "metrics.json").write_text('{"test": ')
    with pytest.raises(hs.HeadstartError, match=r"metrics\.json is damaged"):
        hs.Run(copy).metrics  # noqa: B018


def test_a_log_line_is_one_line_whatever_names_it_holds(small_run, copy, monkeypatch):
    monkeypatch.setattr(logging.getLogger("headstart"), "propagate", False)  # pytest-xdist cannot send bytes that are no UTF-8
    with hs.Run(copy).log():
        logging.getLogger("headstart").warning(
            "skipped %s", os.fsdecode(b"\xe9\x1b[31m\n2026-01-01 00:00:00 INFO \xe4\xbd\xa0.jpg")
        )
    lines = (copy / "log.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len((small_run.path / "log.txt").read_text(encoding="utf-8").splitlines())
    assert lines[-1].endswith("skipped \ufffd\\x1b[31m\\n2026-01-01 00:00:00 INFO \u4f60.jpg")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_log_that_cannot_be_written_stops_the_run_in_words(copy, capsys):
    (copy / "log.txt").unlink()
    (copy / "log.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as refusal, hs.Run(copy).log():
        logging.getLogger("headstart").info("anything")
    assert refusal.value.__notes__ == [f"go on with headstart train --resume {copy}"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_long_path_makes_no_long_line(small_run, monkeypatch):
    assert repr(small_run).endswith(f"small_run': {small_run.summary()})")
    monkeypatch.setattr(small_run, "path", small_run.path / ("deeper/" * 200))
    assert len(repr(small_run)) < 300
