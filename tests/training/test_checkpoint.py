import numpy as np
import pytest
from safetensors import SafetensorError

from headstart.errors import UnwritableError
from headstart.training.checkpoint import Checkpoint


def test_a_disk_that_is_full_leaves_the_last_whole_state(tmp_path, monkeypatch):
    def save(epoch: int) -> None:
        checkpoint.history.append({"stage": "frozen", "epoch": epoch})
        checkpoint.save("frozen", model=[np.full(3, epoch)])

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
