"""The results of a run, written from its own checkpoint and predictions."""

import logging

import keras

from headstart.audit.job import add_accuracies
from headstart.data import Dataset
from headstart.files import write_json
from headstart.run.folder import Run
from headstart.run.metrics import measure
from headstart.run.plots import draw_plots
from headstart.training.checkpoint import Checkpoint

logger = logging.getLogger("headstart")

# What the stages are called in metrics.json under `seconds`.
SECONDS = {
    "preparation": "preparation",
    "features": "features",
    "audit": "audit",
    "frozen": "head",
    "fine_tuned": "fine_tuning",
    "scratch": "training",
}


def write_results(run: Run, model: keras.Model, data: Dataset, checkpoint: Checkpoint, peak_memory_mb: float) -> None:
    """Write history, metrics, plots and the model; the model's manifest, last, marks the run as finished."""
    labels = data.labels(data.test)
    stages = [stage for stage in ("frozen", "fine_tuned", "scratch") if run.has_tested(stage)]
    test = {stage: measure(run.test_logits(stage), labels, data.class_names) for stage in stages}
    seconds = {SECONDS[key]: round(value, 2) for key, value in checkpoint.seconds.items()}
    metrics = {
        "test": test,
        "seconds": seconds | {"total": round(sum(checkpoint.seconds.values()), 2)},
        "peak_memory_mb": round(peak_memory_mb),
        "parameters": model.count_params(),
    }
    run.write_history(checkpoint.history)
    write_json(run.path / "metrics.json", metrics)
    draw_plots(run, data, checkpoint.history, metrics)
    run.write_model(model, data)
    for stage in stages:
        low, high = test[stage]["interval"]
        logger.info(
            "test, %s: %.2f %% of %d pictures (95 %% interval %.2f to %.2f)", stage.replace("_", "-"),
            100 * test[stage]["accuracy"], test[stage]["pictures"], 100 * low, 100 * high,
        )  # fmt: skip
    add_accuracies(run, data, stages)
    logger.info("%.0f seconds; the run is in %s", metrics["seconds"]["total"], run.path)
