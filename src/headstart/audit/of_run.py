"""The audit within a run: before training, and again after it, when the trained network can judge labels."""

import dataclasses
import logging
from typing import Any

import numpy as np

from headstart.audit.data import (
    all_features,
    describe_suspects,
    examine,
    principal_components,
    ranked,
    test_images_like_training,
    write_findings,
)
from headstart.data.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.metrics.calibration import probabilities
from headstart.metrics.classification import subset_figures
from headstart.metrics.figures import SubsetFigures
from headstart.record.folder import RunFolder
from headstart.record.history import FINE_TUNED, shown
from headstart.system.text import count
from headstart.training.checkpoint import Checkpoint
from headstart.training.features import FrozenLayers

logger = logging.getLogger("headstart")


def audit_run(run: RunFolder, frozen: FrozenLayers, data: Dataset, checkpoint: Checkpoint) -> Dataset:
    """Audit a run's data, once, before training. Return the data; with `--drop-duplicates`, without redundant training images.

    Nothing is audited if the run keeps no features: from scratch, or with `--no-cache-features`.

    Args:
        frozen: the frozen layers for the same data.
        checkpoint: the time and memory that this takes are added to it.

    Raises:
        HeadstartError: without its redundant images, a class would have no training image left.
    """
    config = run.config
    if not config.keeps_features:
        logger.info("no audit of the data: this run caches no features")
        return data
    if (run.path / "audit.json").exists():
        content = run.read_json("audit.json")
    else:
        checkpoint.start_clock()
        features = all_features(frozen, data)
        checkpoint.stop_clock("features")
        components = principal_components(features)
        content = examine(data, components, run.path, config.flip)
        checkpoint.stop_clock("audit")
    return without_redundant(data, content) if config.drop_duplicates else data


def finish_audit(run: RunFolder, data: Dataset, stages: list[str]) -> None:
    """Update a run's audit after training.

    `audit.json` gets the accuracy of each stage on the test images without a near-duplicate in training. Suspects of the
    validation and test splits are replaced by those that the fine-tuned network finds.
    """
    if not run.config.keeps_features:
        return
    content, labels = run.read_json("audit.json"), data.labels(data.test)
    if FINE_TUNED.key in stages:
        content["suspects"], content["suspects_note"] = judged_again(run, data, content, FINE_TUNED.key)
    correct = {stage: run.test_logits(stage).argmax(axis=1) == labels for stage in stages}
    figures = accuracies_without_near_duplicates(content, data, correct)
    write_findings(run.path, content | {"accuracy_without_near_duplicates": figures})
    for stage, found in figures.items():
        if not found["left_out"]:
            continue
        left_out = count(found["left_out"], "image that has", "images that have")
        logger.info(
            "test, %s, without %s a near-duplicate in training: %.2f %% (95 %% interval %.2f to %.2f)",
            shown(stage), left_out, 100 * found["accuracy"], *(100 * end for end in found["interval"]),
        )  # fmt: skip


def judged_again(run: RunFolder, data: Dataset, content: dict[str, Any], stage: str) -> tuple[list[dict[str, Any]], str]:
    """Return the suspects and the note for `audit.json`, after a stage's network has judged the validation and test splits.

    The trained network knows the classes better than a regression on frozen features, and was not trained on these splits.
    It was trained on the training split, so the suspects there stay. If it is too weak, it changes nothing.

    Args:
        content: of `audit.json`.
        stage: the key of the stage.
    """
    splits = {"validation": data.validation, "test": data.test}
    logits = np.concatenate([run.array(f"{split}_{stage}") for split in splits])
    found, weak = describe_suspects(
        probabilities(logits, run.metrics["test"][stage]["temperature"]), data,
        np.concatenate(list(splits.values())), np.repeat(list(splits), [len(rows) for rows in splits.values()]),
    )  # fmt: skip
    note = content.get("suspects_note", "")
    if weak:
        return content["suspects"], note
    kept = [entry for entry in content["suspects"] if entry["split"] not in splits]
    return ranked(kept + found), f"of the training images, {note}" if note else ""


def without_redundant(data: Dataset, content: dict[str, Any]) -> Dataset:
    """Return a data set without the training images that an audit found redundant.

    Raises:
        HeadstartError: a class would have no training image left.
    """
    names, redundant_names = data.source.names, set(content["redundant"])
    candidates = data.training_candidates  # a resumed run has left the redundant ones out already
    left_out = np.array([names[row] in redundant_names for row in candidates])
    kept = candidates[~left_out]
    missing = sorted(set(range(len(data.class_names))) - set(data.labels(kept).tolist()))
    if missing:
        raise HeadstartError(
            f"{data.source.name}: without its near-duplicates, class {data.class_names[missing[0]]!r} has no training image "
            f"left{', since most of these images resemble each other' if content.get('alike') else ''}: "
            "run it without --drop-duplicates"
        )
    logger.info("%s left out as near-duplicates", count(int(left_out.sum()), "training image is", "training images are"))
    return dataclasses.replace(data, train=kept, left_out=candidates[left_out])


def accuracies_without_near_duplicates(
    content: dict[str, Any], data: Dataset, correct: dict[str, np.ndarray]
) -> dict[str, SubsetFigures]:
    """Return the accuracy of each stage, with its 95 % interval, on the test images without a near-duplicate in training.

    Args:
        content: of `audit.json`.
        correct: for each stage, bool (N,): whether it classified each test image correctly.
    """
    names = data.source.names
    trained = {names[row] for row in data.train}  # without those that --drop-duplicates left out, which did not help
    known = test_images_like_training(content, trained)
    new = np.array([names[row] not in known for row in data.test])
    return {stage: subset_figures(right, new, data.groups(data.test)) for stage, right in correct.items() if new.any()}
