import json
import os

import numpy as np
import pytest
from safetensors import SafetensorError

from headstart.errors import HeadstartError, UnwritableError
from headstart.training.checkpoint import Checkpoint

FIGURES = ("accuracy", "loss", "val_accuracy", "val_loss", "learning_rate")


def test_a_disk_that_is_full_leaves_the_last_whole_state(tmp_path, monkeypatch):
    def save(epoch: int) -> None:
        checkpoint.history.append({"stage": "frozen", "epoch": epoch} | dict.fromkeys(FIGURES, 0.5))
        checkpoint.save("frozen", finished=True, model=[np.full(3, epoch)])

    def full(arrays, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    checkpoint = Checkpoint(tmp_path / "checkpoint")
    save(1)
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr("headstart.training.checkpoint.save_file", full)
        with pytest.raises(UnwritableError, match="the disk is full"):
            save(2)
    assert sorted(tmp_path.rglob("*")) == before
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert [row["epoch"] for row in checkpoint.history] == [1]
    np.testing.assert_array_equal(checkpoint.load("frozen")["model"][0], np.full(3, 1))
    save(2)
    np.testing.assert_array_equal(Checkpoint(tmp_path / "checkpoint").load("frozen")["model"][0], np.full(3, 2))


@pytest.fixture
def saved(tmp_path) -> Checkpoint:
    """A checkpoint after the frozen stage's first epoch, whose training has diverged: such a one is as good as any."""
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    row = {"stage": "frozen", "epoch": 1} | dict.fromkeys(FIGURES, 0.5) | {"loss": float("nan"), "val_loss": float("inf")}
    checkpoint.history.append(row)
    checkpoint.save("frozen", model=[np.ones(3)], optimizer=[np.zeros(2)], kept=[np.ones(3)])
    return checkpoint


def test_a_state_comes_back_as_it_was_written(saved):
    again = Checkpoint(saved.folder)
    assert (again.stage, again.finished, again.sha256) == ("frozen", False, saved.sha256)
    assert repr(again.history) == repr(saved.history)
    assert again.load("frozen").keys() == {"model", "optimizer", "kept"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrays": "../../elsewhere.safetensors"}, "arrays: expected str matching regex"),
        ({"stage": "other"}, "stage: invalid enum value 'other'"),
        ({"seconds": {"frozen": -1.0}}, "expected float >= 0"),
        ({"history": [{"stage": "frozen", "epoch": "1"}]}, r"history\[0\].epoch: expected int"),
        ({"history": 3}, "history: expected array"),
        ({"format": 99}, "written by another version"),
        ({"format": None}, "format: expected int"),
        ({"memory_mb": {"frozen": 1.0}}, "was changed since it was written"),
        ({"history": []}, "was changed since it was written"),
    ],
)
def test_a_state_that_was_changed_is_refused_in_a_line(change, message, saved):
    saved.file.write_text(json.dumps(json.loads(saved.file.read_text()) | change))
    with pytest.raises(HeadstartError, match=message) as refusal:
        Checkpoint(saved.folder)
    assert "\n" not in str(refusal.value)


def replace_by_pipe(file) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"x"), lambda file: file.unlink(), replace_by_pipe])
def test_arrays_that_are_not_those_of_the_state_are_refused(damage, saved):
    damage(saved.folder / saved.arrays)
    with pytest.raises(HeadstartError, match=r"start the run again with --overwrite|is no regular file"):
        Checkpoint(saved.folder).load("frozen")
