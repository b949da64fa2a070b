"""Against real servers on loopback. MLflow's takes the whole of mlflow, which may lie elsewhere: MLFLOW_COMMAND says where."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import headstart as hs
from headstart.config import replace, write_toml
from headstart.record.folder import RunFolder
from headstart.record.tracking import TensorBoard, epoch_figures, tracked
from headstart.system.files import write_json
from helpers import free_port

ROWS = [
    {"stage": stage, "epoch": epoch, "accuracy": 0.5, "val_accuracy": epoch / 10, "loss": 1.0, "val_loss": 1.5}
    for stage, epoch in (("frozen", 1), ("frozen", 2), ("fine_tuned", 1))
]  # fmt: skip
has_tensorboard = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))), reason="pip install 'headstart[tensorboard]'"
)
has_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="pip install 'headstart[mlflow]'")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def server(command: list[str], probe: str, log: Path):
    """Run a server, with all processes that it starts, until the block ends; wait until it answers."""
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                get(probe)
                break
            except (OSError, urllib.error.URLError):
                if process.poll() is not None or time.monotonic() > deadline:
                    if "No module named" in log.read_text():
                        pytest.skip(f"{command[0]} is not whole: {log.read_text().strip().splitlines()[-1]}")
                    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def mlflow_command() -> str:
    command = os.environ.get("MLFLOW_COMMAND") or shutil.which("mlflow")
    if command is None:
        pytest.skip("no MLflow server on this machine: pip install mlflow, there or elsewhere, and name it by MLFLOW_COMMAND")
    return command


@pytest.fixture(scope="module")
def mlflow_server(mlflow_command, tmp_path_factory):
    """A function that starts an MLflow server, at the same address and with the same memory each time."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        mlflow_command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    return address, lambda: server(command, f"{address}/health", folder / "log")


@pytest.fixture
def options(tiny):
    """A function that returns the configuration of a run of both stages."""
    return lambda out, **changes: hs.recipe("starter", out=str(out), **tiny | {"head_epochs": 2, "epochs": 1} | changes)


def metric_history(client, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def interrupt(run: RunFolder) -> None:
    """Carry a run out up to Ctrl-C after its first epoch."""
    with contextlib.suppress(KeyboardInterrupt), tracked(run) as (tracker,):
        tracker.update(ROWS[:1])
        raise KeyboardInterrupt


@has_tensorboard
def test_tensorboard_shows_what_the_run_folder_says(options, tmp_path):
    run = hs.train(options(tmp_path / "run", tensorboard=True))
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--port", str(port), "--load_fast=false"]
    with server(command, f"http://127.0.0.1:{port}/", tmp_path / "log"):
        scalars = f"http://127.0.0.1:{port}/data/plugin/scalars"
        deadline = time.monotonic() + 60
        while not (tags := json.loads(get(f"{scalars}/tags"))) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert {"frozen/accuracy", "fine_tuned/learning_rate", "test/fine_tuned/calibrated_ece"} <= tags["run/tensorboard"].keys()
        points = json.loads(get(f"{scalars}/scalars?run=run/tensorboard&tag=frozen/val_loss"))
    expected = [(row["epoch"], row["val_loss"]) for row in run.history if row["stage"] == "frozen"]
    assert [(step, value) for _, step, value in points] == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


@has_tensorboard
def test_a_run_killed_while_its_results_are_copied_is_copied_when_it_goes_on(options, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(TensorBoard, "finish", killed)
        hs.train(options(tmp_path / "run", tensorboard=True))
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    run = hs.resume(tmp_path / "run")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    accuracy = run.metrics["test"]["frozen"]["accuracy"]
    assert [event.value for event in events.Scalars("test/frozen/accuracy")] == [pytest.approx(accuracy)]
    assert run.metrics["test"] == json.loads(metrics)["test"]
    assert not (run.path / "checkpoint").exists()


@has_tensorboard
def test_a_run_that_goes_on_shows_no_epoch_twice(options, digits, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder.create(options(tmp_path / "run", tensorboard=True), digits)
    for history in (ROWS[:2], ROWS):
        with tracked(run) as (tensorboard,):
            tensorboard.update(history[:1])
            tensorboard.update(history)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("frozen/val_accuracy")] == [1, 2]
    assert [event.step for event in events.Scalars("fine_tuned/val_accuracy")] == [1]


@has_mlflow
def test_mlflow_gets_the_run_and_outlives_its_server(options, small_run, mlflow_server, digits, tmp_path, caplog, capsys):
    from mlflow.tracking import MlflowClient

    address, start = mlflow_server
    with start() as process:
        # A finished run is told again, as training tells it; tests of TensorBoard train through the same trackers.
        run = hs.Run(shutil.copytree(small_run.path, tmp_path / "run"))
        write_toml(replace(run.config, mlflow=address), run.path / "config.toml")
        run = hs.Run(run.path)
        with tracked(run) as (tracker,):
            tracker.update(run.history[:1])
            tracker.update(run.history)
            tracker.finish(run.history, run.metrics)
        client = MlflowClient(address)
        run_id = run.read_json("mlflow.json")["run_id"]
        found = client.get_run(run_id)
        assert found.info.status == "FINISHED"
        assert found.data.params["recipe"] == "starter"
        assert found.data.metrics["test/fine_tuned/accuracy"] == run.metrics["test"]["fine_tuned"]["accuracy"]
        for stage in ("frozen", "fine_tuned"):
            rows = [(row["epoch"], row["val_accuracy"]) for row in run.history if row["stage"] == stage]
            assert metric_history(client, run_id, f"{stage}/val_accuracy") == rows
        kept = {entry.path for folder in (None, "images") for entry in client.list_artifacts(run_id, folder)}
        assert {"metrics.json", "history.csv", "config.toml", "images/calibration.png"} <= kept
        assert "weights.safetensors" not in kept
        assert capsys.readouterr().out == ""

        # A run that is killed by Ctrl-C, goes on, and loses its server on the way.
        interrupted = RunFolder.create(options(tmp_path / "other", mlflow=address), digits)
        interrupt(interrupted)
        run_id = interrupted.read_json("mlflow.json")["run_id"]
        assert client.get_run(run_id).info.status == "KILLED"
        with tracked(interrupted) as (mlflow,):
            assert client.get_run(run_id).info.status == "RUNNING"
            stop(process)
            begin = time.monotonic()
            mlflow.update(ROWS[:2])
            mlflow.update(ROWS)
            assert time.monotonic() - begin < 10
            assert caplog.text.count("is lost") == 1
            with start():
                write_json(interrupted.path / "metrics.json", run.metrics)
                shutil.copytree(run.path / "images", interrupted.path / "images")
                mlflow.finish(ROWS, run.metrics)
                assert metric_history(client, run_id, "frozen/val_accuracy") == [(1, 0.1), (2, 0.2)]
                assert metric_history(client, run_id, "fine_tuned/val_accuracy") == [(1, 0.1)]
                assert client.get_run(run_id).info.status == "FINISHED"
                assert caplog.text.count("is lost") == 1


@has_mlflow
def test_a_new_run_wants_a_server_and_a_resumed_one_goes_on_without(options, digits, tmp_path, caplog):
    address = f"http://127.0.0.1:{free_port()}"
    run = RunFolder.create(options(tmp_path / "run", mlflow=address), digits)
    with pytest.raises(hs.HeadstartError, match=f"no MLflow server at {address}"), tracked(run):
        pass
    write_json(run.path / "mlflow.json", {"uri": address, "run_id": "0" * 32})
    with tracked(run) as (mlflow,):
        mlflow.update(ROWS)
        mlflow.finish(ROWS, {"test": {}})
    assert caplog.text.count("is lost") == 1


@pytest.mark.parametrize("wanted", [{"tensorboard": True}, {"mlflow": "http://127.0.0.1:9"}], ids=["tensorboard", "mlflow"])
def test_a_missing_extra_is_said_before_a_folder_is_made(wanted, options, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(hs.HeadstartError, match=rf"pip install 'headstart\[{next(iter(wanted))}\]'"):
        hs.train(options(tmp_path / "run", **wanted))
    assert not (tmp_path / "run").exists()


def test_a_password_in_the_address_is_refused():
    with pytest.raises(hs.HeadstartError, match="must hold no password"):
        hs.Config(mlflow="http://me:secret@localhost:5000")


def test_no_tracker_is_the_rule(small_run):
    with tracked(small_run) as trackers:
        assert trackers == []


def test_epochs_have_the_names_of_their_stage():
    assert epoch_figures(ROWS[2])["fine_tuned/val_accuracy"] == 0.1
