"""How a batch is shared by several devices and processes. `tests/test_following.py` trains on real and simulated ones."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from headstart.errors import HeadstartError
from headstart.system import cluster
from headstart.system.backend import keras
from headstart.system.devices import learning_devices
from headstart.training import devices
from headstart.training.batches import Batches
from headstart.training.devices import SharedBatches, WithoutPadding, devices_for


@pytest.fixture
def six(monkeypatch):
    monkeypatch.setattr(devices, "learning_devices", lambda asked: [f"gpu:{number}" for number in range(6)])


def test_as_many_devices_take_part_as_divide_the_batch(six, caplog):
    assert len(devices_for("all", 48)) == 6
    assert not caplog.records
    assert len(devices_for("all", 64)) == 4
    assert "4 of 6 devices divide a batch of 64: give --batch-size 66 to use all" in caplog.text


def test_all_of_a_cluster_must_take_part(six):
    with pytest.raises(HeadstartError, match="4 of 6 devices divide a batch of 64: give --batch-size 66"):
        devices_for("cluster", 64)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="what other backends cannot do")
def test_other_backends_compute_on_one_device():
    assert devices_for("all", 64) == devices_for("1", 64) == []
    for asked in ("2", "cluster"):
        with pytest.raises(HeadstartError, match=f"--devices {asked} needs JAX, not {keras.backend.backend()}"):
            devices_for(asked, 64)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about JAX's devices")
def test_more_devices_than_there_are():
    with pytest.raises(HeadstartError, match="--devices 900: JAX finds only"):
        learning_devices("900")


def batches(rows: int, seed: int | None = None) -> Batches:
    return Batches(np.arange(rows)[:, None], np.arange(rows) % 3, np.arange(rows), 8, seed, classes=3)


def test_the_last_batch_is_filled_up_with_rows_of_no_weight():
    shared = SharedBatches(batches(21), 4, padded=True)
    inputs, labels, weights = shared[2]
    assert inputs[:, 0].tolist() == [16, 17, 18, 19, 20, 16, 16, 16]
    assert weights.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert len(labels) == 8
    assert shared[0][2].tolist() == [1] * 8
    assert shared.surplus == 24 / 21


def test_each_process_has_its_rows_in_the_order_of_the_processes(monkeypatch):
    whole = batches(16, seed=1)
    parts = []
    for process in range(2):
        monkeypatch.setattr(cluster, "joined", SimpleNamespace(process=process, count=2))
        parts.append(SharedBatches(whole, 4, padded=False)[1])
    for number in range(2):
        assert np.array_equal(np.concatenate([part[number] for part in parts]), whole[1][number])


def test_figures_of_padded_batches_become_those_of_their_rows():
    callback = WithoutPadding(SharedBatches(batches(21), 4, padded=True))
    logs = {"val_accuracy": 0.5, "val_weighted_accuracy": 0.6, "val_loss": 2.1, "loss": 1.0}
    callback.on_epoch_end(0, logs)
    assert logs["val_accuracy"] == 0.6
    assert logs["val_loss"] == pytest.approx(2.4)
    assert logs["loss"] == 1.0


def test_nothing_is_said_where_one_device_is_asked_for(caplog):
    caplog.set_level(logging.INFO)
    assert len(devices_for("1", 7)) <= 1
    assert not caplog.records


def test_all_validation_batches_have_one_shape_where_another_would_be_compiled(monkeypatch):
    monkeypatch.setattr(devices, "compiles_each_shape", lambda: True)
    training, validation = batches(21, seed=0), batches(21)
    fed, padded = devices.shared_batches(training, validation, None)
    assert fed is training
    assert [len(padded[index][0]) for index in range(3)] == [8, 8, 8]
    monkeypatch.setattr(devices, "compiles_each_shape", lambda: False)
    assert devices.shared_batches(training, validation, None) == (training, validation)
