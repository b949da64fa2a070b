"""Write the results of a run, from its checkpoint and its recorded logits."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from headstart.audit.data import test_images_like_training
from headstart.audit.of_run import accuracies_without_near_duplicates, finish_audit
from headstart.data.dataset import Dataset
from headstart.inference.limits import Limits
from headstart.inference.saving import save_classifier
from headstart.metrics.calibration import calibration_in_words, fit_temperature, probabilities
from headstart.metrics.claim import known_images, what_it_holds_for
from headstart.metrics.classification import measure
from headstart.metrics.comparison import compare_stages, verdict
from headstart.metrics.figures import Figures, OutsiderFigures
from headstart.metrics.outsiders import SHARE, passing_distance
from headstart.metrics.rejection import rejection_figures
from headstart.model.network import Network
from headstart.record.folder import RunFolder
from headstart.record.history import STAGES, shown, write_history
from headstart.report.plots import draw_plots
from headstart.report.run_page import write_report
from headstart.report.sheets import draw_sheets
from headstart.system.files import write_json
from headstart.system.memory import give_back_freed_memory, peak_memory_mb
from headstart.system.reading import read_array
from headstart.system.text import count
from headstart.training.checkpoint import Checkpoint

logger = logging.getLogger("headstart")


def write_results(run: RunFolder, network: Network, data: Dataset, checkpoint: Checkpoint) -> None:
    """Write history, metrics, plots, report and model. The model's manifest is last, and marks the run as finished."""
    give_back_freed_memory()
    labels, groups = data.labels(data.test), data.groups(data.test)
    stages = [stage for stage in STAGES if run.has_array(f"test_{stage}")]
    # On validation, since the test split must choose nothing.
    known, together = data.labels(data.validation), data.groups(data.validation)
    fitted = {stage: fit_temperature(run.array(f"validation_{stage}"), known, together) for stage in stages}
    logits = {stage: run.test_logits(stage) for stage in stages}
    on_new = figures_on_new_images(run, data, {stage: logits[stage].argmax(axis=1) == labels for stage in stages})
    test: dict[str, Figures] = {}
    for stage in stages:
        figures: Any = measure(logits[stage], labels, data.class_names, fitted[stage].temperature, groups)
        figures["calibration"] = dataclasses.asdict(fitted[stage])
        validated = answers(run.array(f"validation_{stage}"), known, fitted[stage].temperature)
        figures["rejection"] = rejection_figures(*validated, *answers(logits[stage], labels, fitted[stage].temperature), together)
        test[stage] = figures | on_new[stage] | ({"of_known_groups": int(data.of_known_groups.sum())} if data.torn else {})
    references = read_array(references_file(run), ("float16",), (None, None))
    numbers = None if together is None else np.unique(together, return_inverse=True)[1].astype(np.int32)
    limits = Limits(*validated, run.array("distances_validation"), references, numbers)
    test[stages[-1]]["outsiders"] = outsider_figures(limits, run.array("distances_test"))
    both, model = len(stages) == 2, network.classifier()
    seconds = {time_key(key): round(value, 2) for key, value in checkpoint.seconds.items()}
    metrics: Any = {
        "test": test,
        **({"comparison": compare_stages(logits["frozen"], logits["fine_tuned"], labels, groups)} if both else {}),
        "seconds": seconds | {"total": round(sum(checkpoint.seconds.values()), 2)},
        "memory_mb": {time_key(key): round(value) for key, value in checkpoint.memory_mb.items()},
        "peak_memory_mb": round(max(peak_memory_mb(), *checkpoint.memory_mb.values())),
        "parameters": model.count_params(),
    }
    write_history(run.path, checkpoint.history)
    write_json(run.path / "metrics.json", metrics)
    draw_plots(run, data, checkpoint.history, metrics)
    finish_audit(run, data, stages)
    if run.audit:
        draw_sheets(run.path, data, run.audit)
    write_report(run, network, data)
    save_classifier(run.path, model, data, fitted[stages[-1]].temperature, limits)
    for stage in stages:
        low, high = test[stage]["interval"]
        logger.info(
            "test, %s: %.2f %% of %s (%s)",
            shown(stage), 100 * test[stage]["accuracy"], images_in_words(test[stage]),
            known_images(test[stage]) or f"95 % interval {100 * low:.2f} to {100 * high:.2f}",
        )  # fmt: skip
    if both:
        logger.info("%s", verdict(metrics["comparison"]))
    last = test[stages[-1]]
    if warning := known_images(last):
        logger.warning("%s. %s", warning, what_it_holds_for(last))
    after = f", {100 * last['calibrated']['ece']:.2f} % with the temperature" if fitted[stages[-1]].applied else ""
    logger.info("calibration: confidence and accuracy differ by %.2f %% (ECE)%s", 100 * last["ece"], after)
    logger.info("calibration: %s", calibration_in_words(last))
    logger.info("%.0f seconds; the run is in %s", metrics["seconds"]["total"], run.path)


def images_in_words(figures: Figures) -> str:
    """Return how many images some figures were measured on: `48 images of 4 groups`."""
    of_groups = f" of {count(figures['groups'], 'group')}" if "groups" in figures else ""
    return count(figures["images"], "image") + of_groups


def references_file(run: RunFolder) -> Path:
    """Return where the features of training images lie until the model is saved."""
    return run.path / "checkpoint" / "references.npy"


def answers(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each answer, float32 (N,), as `predict` gives it, and whether it is right, bool (N,)."""
    return probabilities(logits, temperature).astype(np.float32).max(axis=1), logits.argmax(axis=1) == labels


def outsider_figures(limits: Limits, distances: np.ndarray) -> OutsiderFigures:
    """Return how images unlike the training images are told, and how many of the test images count as such.

    Args:
        distances: float32 (N,), of the test images.
    """
    passing = passing_distance(limits.distances)
    flagged = float((distances > passing).mean())
    return {"images": len(limits.references), "distance": passing, "share": SHARE, "flagged": flagged}


def time_key(key: str) -> str:
    """Return the name, under `seconds` and `memory_mb` in `metrics.json`, for a key of the checkpoint's times."""
    return STAGES[key].seconds if key in STAGES else key


def figures_on_new_images(run: RunFolder, data: Dataset, correct: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return, by stage, how many test images have a near-duplicate in training, and if any have, the figures on the others.

    The figures of each stage are empty if the run has no audit.

    Args:
        correct: for each stage, bool (N,): whether it classified each test image correctly.
    """
    audit, names = run.audit, data.source.names
    if not audit:
        return {stage: {} for stage in correct}
    known = len(test_images_like_training(audit, {names[row] for row in data.train}))
    new = accuracies_without_near_duplicates(audit, data, correct) if known else {}
    alike = bool(audit.get("alike")) or any(pair.get("alike") for pair in audit["near_duplicates"])
    return {
        stage: {"near_duplicates_in_training": known}
        | ({"images_alike": True} if alike else {})
        | ({"without_near_duplicates": new[stage]} if stage in new else {})
        for stage in correct
    }
