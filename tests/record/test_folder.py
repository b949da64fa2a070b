import json
import logging
import os
import shutil
from pathlib import Path

import keras
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
    with pytest.raises(hs.HeadstartError, match="--resume"):
        hs.Run(copy).model  # noqa: B018


def test_a_model_that_does_not_match_its_manifest_is_refused(copy):
    with (copy / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(hs.HeadstartError, match="not the file that its manifest describes"):
        hs.Run(copy).model  # noqa: B018


def test_a_run_of_a_newer_format_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(hs.HeadstartError, match="newer Headstart"):
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


@pytest.mark.parametrize("version", ["99.1.0", None])
def test_a_model_that_cannot_be_loaded_says_which_keras_can(version, copy, monkeypatch):
    def unknown(*_, **__):
        raise TypeError("Could not locate class 'Novelty'.\n\nconfig={...}")

    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"] = manifest["versions"] | {"keras": version}
    if version is None:  # as older versions wrote it
        del manifest["versions"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("keras.models.load_model", unknown)
    with pytest.raises(hs.HeadstartError, match=r"model\.keras cannot be loaded by Keras .*Novelty") as refusal:
        hs.Run(copy).model  # noqa: B018
    assert "\n" not in str(refusal.value)
    assert ("pip install keras==99.1.0" in str(refusal.value)) == (version is not None)


def test_a_run_knows_what_saved_its_model(small_run):
    assert small_run.classifier.manifest["versions"]["keras"] == keras.version()


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


def test_an_unfinished_run_is_said_to_be_unfinished(copy):
    (copy / "manifest.json").unlink()
    (copy / "model.keras").unlink()
    with pytest.raises(hs.HeadstartError, match="is not finished: go on with headstart train --resume"):
        hs.Run(copy).model  # noqa: B018
