"""The results of a run, written from its own checkpoint and predictions."""

import logging

import keras

from headstart.audit.job import finish_audit
from headstart.data.dataset import Dataset
from headstart.files import write_json
from headstart.memory import give_back_freed_memory, peak_memory_mb
from headstart.report.page import write_report
from headstart.run.calibration import fit_temperature
from headstart.run.folder import Run
from headstart.run.metrics import compare_stages, measure, verdict
from headstart.run.plots import draw_plots
from headstart.training.checkpoint import Checkpoint

logger = logging.getLogger("headstart")

# What the stages are called in metrics.json under `seconds` and `memory_mb`.
SECONDS = {
    "preparation": "preparation",
    "features": "features",
    "audit": "audit",
    "frozen": "head",
    "fine_tuned": "fine_tuning",
    "scratch": "training",
}


def write_results(run: Run, model: keras.Model, data: Dataset, checkpoint: Checkpoint) -> None:
    """Write history, metrics, plots, report and the model; the model's manifest, last, marks the run as finished."""
    give_back_freed_memory()
    labels = data.labels(data.test)
    stages = [stage for stage in ("frozen", "fine_tuned", "scratch") if run.has_array(f"test_{stage}")]
    # Fitted on validation, since the test part chooses nothing.
    temperatures = {stage: fit_temperature(run.array(f"validation_{stage}"), data.labels(data.validation)) for stage in stages}
    logits = {stage: run.test_logits(stage) for stage in stages}
    test = {stage: measure(logits[stage], labels, data.class_names, temperatures[stage]) for stage in stages}
    both = len(stages) == 2
    seconds = {SECONDS[key]: round(value, 2) for key, value in checkpoint.seconds.items()}
    metrics = {
        "test": test,
        **({"comparison": compare_stages(logits["frozen"], logits["fine_tuned"], labels)} if both else {}),
        "seconds": seconds | {"total": round(sum(checkpoint.seconds.values()), 2)},
        "memory_mb": {SECONDS[key]: round(value) for key, value in checkpoint.memory_mb.items()},
        "peak_memory_mb": round(max(peak_memory_mb(), *checkpoint.memory_mb.values())),
        "parameters": model.count_params(),
    }
    run.write_history(checkpoint.history)
    write_json(run.path / "metrics.json", metrics)
    draw_plots(run, data, checkpoint.history, metrics)
    finish_audit(run, data, stages)
    write_report(run, model, data)
    run.write_model(model, data, temperatures[stages[-1]])
    for stage in stages:
        low, high = test[stage]["interval"]
        logger.info(
            "test, %s: %.2f %% of %d pictures (95 %% interval %.2f to %.2f)", stage.replace("_", "-"),
            100 * test[stage]["accuracy"], test[stage]["pictures"], 100 * low, 100 * high,
        )  # fmt: skip
    if both:
        logger.info("%s", verdict(metrics["comparison"]))
    logger.info(
        "calibration: confidence and accuracy differ by %.2f %% (ECE), by %.2f %% with temperature %.3f",
        100 * test[stages[-1]]["ece"], 100 * test[stages[-1]]["calibrated"]["ece"], temperatures[stages[-1]],
    )  # fmt: skip
    logger.info("%.0f seconds; the run is in %s", metrics["seconds"]["total"], run.path)
