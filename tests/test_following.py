"""Training on several devices and in several processes: JAX simulates devices on a CPU, and processes meet on the loopback."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import headstart as hs
from helpers import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed"),
]

PATIENCE = 300  # seconds; more is a hang
# Everything that could differ: batch norm that learns, augmentation, dropout, moving averages, class weights, and a validation
# split that no number of devices divides.
OPTIONS = [
    "--data", "digits", "--limit", "77", "--preprocess", "unit", "--image-size", "32", "--weights", "none", "--hidden-units", "0",
    "--dropout", "0.2", "--epochs", "5", "--batch-size", "16", "--ema", "0.9", "--class-weights", "--label-smoothing", "0.1",
    "--fine-tune-from", "all", "--fewest-steps", "0", "--precision", "float32",
]  # fmt: skip


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"KERAS_BACKEND": "jax"} | changes


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "headstart", "train", *map(str, arguments)]


def train(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(**changes), capture_output=True, text=True, check=True, timeout=PATIENCE
    )


def start_two(folder: Path, *arguments: str | Path) -> list[subprocess.Popen[bytes]]:
    """Start two processes on the loopback. What each prints goes to `0.txt` and `1.txt` in the folder."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    started = []
    for rank in range(2):
        with (folder / f"{rank}.txt").open("wb") as printed:
            started.append(subprocess.Popen(
                command(*arguments, "--devices", "cluster"), env=environment(**shared, RANK=str(rank)), cwd=folder,
                stdout=printed, stderr=subprocess.STDOUT,
            ))  # fmt: skip
    return started


def ended(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    try:
        return [process.wait(PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()


def assert_same(one: Path, other: Path) -> None:
    """Two runs have the same weights and figures to rounding."""
    first, second = (load_file(run / "weights.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    for name, weight in first.items():
        np.testing.assert_allclose(second[name], weight, rtol=1e-3, atol=1e-4)
    for row, same in zip(hs.Run(one).history, hs.Run(other).history, strict=True):
        assert row["val_accuracy"] == pytest.approx(same["val_accuracy"], abs=0.011)  # an image may be on the edge
        assert row["val_loss"] == pytest.approx(same["val_loss"], rel=1e-4)
        assert row["loss"] == pytest.approx(same["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def options(tiny) -> list[str]:
    return [*OPTIONS, "--backbone", tiny["backbone"]]


@pytest.fixture(scope="module")
def alone(shared, options) -> Path:
    """The run of one device."""
    return shared("alone", lambda out: train(*options, "--out", out))


def test_eight_devices_learn_what_one_learns(options, alone, tmp_path):
    train(*options, "--out", tmp_path / "run", "--devices", "8", XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert len(hs.Run(alone).history) * 4 == 20  # steps
    assert_same(alone, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["devices"] == "8"
    assert "devices = " not in (tmp_path / "run" / "config.toml").read_text()


def test_two_processes_learn_what_one_learns_and_one_writes(options, alone, tmp_path):
    assert ended(start_two(tmp_path, *options, "--out", tmp_path / "run")) == [0, 0]
    assert_same(alone, tmp_path / "run")
    printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert "scratch 0." in printed[0]
    assert printed[1].splitlines()[-1] == "process 1 is done; process 0 has written the run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.txt", "1.txt", "run"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in alone.iterdir())


@pytest.mark.parametrize("killed", [0, 1])
def test_one_is_killed_the_other_says_so_and_the_run_goes_on(killed, options, tmp_path):
    # So many epochs that it is killed long before the end.
    processes = start_two(tmp_path, *options, "--epochs", "40", "--out", tmp_path / "run")
    deadline = time.monotonic() + PATIENCE
    while "epoch 2/40:" not in (tmp_path / "0.txt").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[killed].send_signal(signal.SIGKILL)
    assert ended(processes)[1 - killed] == 2
    last = (tmp_path / f"{1 - killed}.txt").read_text().splitlines()[-1]
    assert last.startswith(f"headstart: process {killed} (")
    assert " has ended in the stage scratch; " in last
    assert last.endswith(f"go on with headstart train --resume {tmp_path}/run --devices cluster")
    before = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())["history"]
    assert 2 <= len(before) < 40

    if killed:
        train("--resume", tmp_path / "run")
    else:
        assert ended(start_two(tmp_path, "--resume", tmp_path / "run")) == [0, 0]
    history = hs.Run(tmp_path / "run").history
    assert len(history) == 40
    assert [row["loss"] for row in history[: len(before)]] == pytest.approx([row["loss"] for row in before])


def test_who_cannot_begin_ends_all_with_its_message(options, tmp_path):
    processes = start_two(tmp_path, *options, "--out", tmp_path / "run", "--batch-size", "15")
    assert ended(processes) == [2, 2]
    text = "1 of 2 devices divide a batch of 15: give --batch-size 16 to use all"
    assert (tmp_path / "0.txt").read_text().splitlines()[-1] == f"headstart: {text}"
    last = (tmp_path / "1.txt").read_text().splitlines()[-1]
    assert last.startswith("headstart: process 0 (")
    assert text in last
