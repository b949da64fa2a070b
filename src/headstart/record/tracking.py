"""Copies of a run's figures for TensorBoard and MLflow. The run's folder stays the only source."""

import dataclasses
import importlib.util
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from headstart.config import Config
from headstart.errors import HeadstartError
from headstart.metrics.classification import single_figures
from headstart.metrics.figures import Metrics
from headstart.record.folder import RunFolder
from headstart.record.history import EpochRow
from headstart.system.files import write_json
from headstart.system.text import first_line, printable

logger = logging.getLogger("headstart")

# The files of a run that MLflow gets besides the figures. The model and the arrays are not copied.
ARTIFACTS = (".json", ".toml", ".csv", ".html", ".txt")
MLFLOW_SETTINGS = {
    # A lost server must not hold up training; by default MLflow would try for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would contact servers that nobody asked for
}


def refuse_missing_extras(config: Config) -> None:
    """Refuse `--tensorboard` or `--mlflow`, before anything slow starts, if its package is not installed.

    Raises:
        HeadstartError: it says how to install the package.
    """
    for wanted, option, module in ((config.tensorboard, "tensorboard", "tensorboardX"), (config.mlflow, "mlflow", "mlflow")):
        if wanted and importlib.util.find_spec(module) is None:
            raise HeadstartError(f"--{option} needs a package that is not installed: pip install 'headstart[{option}]'")


class TensorBoard:
    """Writes event files to the run's folder `tensorboard`. Each process that works on the run writes them anew."""

    def __init__(self, run: RunFolder) -> None:
        from tensorboardX import SummaryWriter, event_file_writer

        # It would put the name of the machine into the name of the event file, and offers no other way.
        event_file_writer.socket = SimpleNamespace(gethostname=lambda: "headstart")
        folder = run.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)  # otherwise a resumed run would show its first epochs twice
        self.writer, self.sent = SummaryWriter(str(folder)), 0

    def update(self, history: list[EpochRow]) -> None:
        """Write the new rows."""
        for row in history[self.sent :]:
            for name, value in epoch_figures(row).items():
                self.writer.add_scalar(name, value, row["epoch"])
        self.sent = len(history)
        self.writer.flush()

    def finish(self, history: list[EpochRow], metrics: Metrics) -> None:
        """Write the new rows and the final figures."""
        self.update(history)
        for name, value in final_figures(metrics).items():
            self.writer.add_scalar(name, value, 0)

    def close(self, status: str) -> None:
        self.writer.close()


class MLflow:
    """Sends figures to a run on an MLflow server. Its id is in `mlflow.json`, so a resumed run continues it.

    If the server is lost, nothing is sent until the end of the run, when it is tried once more.

    Raises:
        HeadstartError: no server answers at the beginning of a new run.
    """

    def __init__(self, run: RunFolder) -> None:
        for name, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.run, self.uri = run, run.config.mlflow
        # The stage and epoch of each row that the server has. With None, the server must be asked.
        self.sent: set[tuple[str, int]] | None = None
        self.lost = False
        goes_on = (run.path / "mlflow.json").exists()
        try:
            self.client = MlflowClient(self.uri)
            self.run_id = run.read_json("mlflow.json")["run_id"] if goes_on else self.begin()
        except Exception as error:
            raise HeadstartError(
                f"--mlflow: there is no MLflow server at {self.uri} ({first_line(error)}); start one or leave the option out"
            ) from None
        if goes_on:
            with self.without_harm():
                self.client.update_run(self.run_id, status="RUNNING")

    def begin(self) -> str:
        """Create a run on the server, with all options as parameters, and return its id."""
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "headstart")
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        run_id = self.client.create_run(experiment_id, run_name=printable(self.run.path.absolute().name)).info.run_id
        options = dataclasses.asdict(self.run.config).items()
        self.client.log_batch(run_id, params=[Param(option, printable(str(value))) for option, value in options])
        write_json(self.run.path / "mlflow.json", {"uri": self.uri, "run_id": run_id})
        return run_id

    @contextmanager
    def without_harm(self) -> Iterator[None]:
        """Catch any failure inside the block, warn once, and go on without the server."""
        try:
            yield
        except Exception as error:  # the exceptions of MLflow, its stores and the network have no common class
            if not self.lost:
                logger.warning("MLflow at %s is lost (%s); the run goes on without it", self.uri, first_line(error))
            self.lost, self.sent = True, None

    def update(self, history: list[EpochRow]) -> None:
        """Send the rows that the server does not have."""
        if not self.lost:
            with self.without_harm():
                self.send(history)

    def send(self, history: list[EpochRow]) -> None:
        if self.sent is None:
            self.sent = {
                (stage, metric.step)
                for stage in {row["stage"] for row in history}
                for metric in self.client.get_metric_history(self.run_id, f"{stage}/val_loss")
            }
        for row in history:
            if (row["stage"], row["epoch"]) not in self.sent:
                self.log(epoch_figures(row), row["epoch"])
                self.sent.add((row["stage"], row["epoch"]))

    def log(self, figures: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        self.client.log_batch(self.run_id, [Metric(name, value, now, step) for name, value in figures.items()])

    def finish(self, history: list[EpochRow], metrics: Metrics) -> None:
        """Send the missing rows, the final figures and the files of the report."""
        with self.without_harm():
            self.send(history)
            self.log(final_figures(metrics), 0)
            for file in sorted(self.run.path.iterdir()):
                if file.suffix in ARTIFACTS:
                    self.client.log_artifact(self.run_id, str(file))
            self.client.log_artifacts(self.run_id, str(self.run.path / "images"), "images")
            self.client.set_terminated(self.run_id, "FINISHED")
            if self.lost:
                logger.info("MLflow at %s is back and has the whole run", self.uri)

    def close(self, status: str) -> None:
        if status != "FINISHED" and not self.lost:
            with self.without_harm():
                self.client.set_terminated(self.run_id, status)


@contextmanager
def tracked(run: RunFolder) -> Iterator[list[TensorBoard | MLflow]]:
    """Yield the trackers that a run's options ask for, often none, and close them at the end of the block.

    Call `update(history)` with the rows of all finished epochs, and `finish(history, metrics)` with these and the content of
    `metrics.json` when the run's folder is complete.
    """
    trackers: list[TensorBoard | MLflow] = []
    status = "FAILED"
    try:
        if run.config.tensorboard:
            trackers.append(TensorBoard(run))
        if run.config.mlflow:
            trackers.append(MLflow(run))
        yield trackers
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        for tracker in trackers:
            tracker.close(status)


def epoch_figures(row: EpochRow) -> dict[str, float]:
    """Return the figures of a history row by the names for trackers, such as `frozen/val_accuracy`."""
    return {f"{row['stage']}/{name}": value for name, value in row.items() if isinstance(value, float)}


def final_figures(metrics: Metrics) -> dict[str, float]:
    """Return the single numbers of `metrics.json` by the names for trackers, such as `test/frozen/accuracy`."""
    test = {f"test/{stage}": single_figures(figures) for stage, figures in metrics["test"].items()}
    groups: dict[str, Mapping[str, Any]] = {**test, "seconds": metrics["seconds"]}
    if "comparison" in metrics:
        groups["comparison"] = metrics["comparison"]
    return {f"{group}/{name}": float(value) for group, figures in groups.items() for name, value in figures.items()}
