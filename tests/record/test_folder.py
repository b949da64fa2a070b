import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import headstart as hs
from headstart.record.folder import RunFolder, locked


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


TRAINS = """
import sys, time
from pathlib import Path
from headstart.record.folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["run"])
def another_process(request, tmp_path):
    """A process that trains in a folder below `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", TRAINS, str(tmp_path / request.param)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_that_another_process_trains_is_left_to_it(another_process, digits, tiny, tmp_path):
    options = hs.recipe("starter", out=str(tmp_path / "run"), **tiny)
    run = RunFolder.create(options, digits)
    before = sorted(run.path.rglob("*"))
    refused = pytest.raises(hs.HeadstartError, match=r"run is being trained by another process")
    with refused:
        hs.resume(run.path, digits)
    with refused:
        hs.train(options, digits, overwrite=True)
    assert sorted(run.path.rglob("*")) == before
    another_process.kill()
    another_process.wait()
    with locked(run.path):
        pass


def test_of_two_that_start_in_a_new_folder_one_is_refused(another_process, digits, tiny, tmp_path):
    """The folder is empty, as the other process has just made it."""
    with pytest.raises(hs.HeadstartError, match="is being trained by another process"):
        hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **tiny), digits)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("another_process", ["seeds/seed-0"], indirect=True)
def test_a_seed_that_another_process_trains_is_left_to_it(another_process, digits, tiny, tmp_path):
    run = RunFolder.create(hs.recipe("starter", out=str(tmp_path / "new"), seeds=2, **tiny), digits)
    for file in run.path.iterdir():
        file.rename(tmp_path / "seeds" / file.name)
    with pytest.raises(hs.HeadstartError, match="seed-0 is being trained"):
        hs.resume(tmp_path / "seeds", digits)


def test_a_training_that_failed_holds_its_folder_no_longer(digits, tiny, tmp_path, monkeypatch):
    """Not even if its traceback is kept, as in a notebook."""
    monkeypatch.setattr("headstart.trainer.load_backbone", lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception) as kept:
        hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **tiny), digits)
    with locked(tmp_path / "run"):
        assert kept.value.__traceback__


def test_a_disk_that_cannot_lock_keeps_nobody_from_training(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr("fcntl.flock", unsupported)
    with locked(tmp_path / "run"), locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_run_is_replaced_in_its_folder_and_counts_as_one_until_the_end(digits, tiny, tmp_path, monkeypatch):
    options = hs.recipe("starter", out=str(tmp_path / "run"), **tiny)
    run = RunFolder.create(options, digits)
    (run.path / "images").mkdir()
    (run.path / "images" / "history.png").touch()
    folder = run.path.stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", killed_at("config.toml", Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            RunFolder.create(options, digits, overwrite=True)
    assert [file.name for file in run.path.iterdir()] == ["config.toml"]
    RunFolder.create(options, digits, overwrite=True)
    assert {file.name for file in run.path.iterdir()} == {"config.toml", "split.csv", "data.json"}
    assert run.path.stat().st_ino == folder


def killed_at(name, unlink):
    def killed(path, **options):
        if path.name == name:
            raise KeyboardInterrupt
        unlink(path, **options)

    return killed
