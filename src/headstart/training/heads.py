"""Which head the frozen stage trains: a dense one by Adam, or a linear one by logistic regression."""

import copy
import logging
import math
import time
from typing import Any

import numpy as np
from sklearn.metrics import log_loss

from headstart.config import AUTO, DENSE, LINEAR, Config, replace
from headstart.data.dataset import Dataset
from headstart.metrics.calibration import probabilities
from headstart.metrics.heads import MOST_LINEAR, decide, even_shares, head_in_words
from headstart.model.head import build_head, set_logits, standardise, standardised
from headstart.model.network import Network
from headstart.record.folder import RunFolder
from headstart.record.history import FROZEN
from headstart.system.backend import keras
from headstart.system.files import write_json
from headstart.system.kernels import without_autotuning
from headstart.training.checkpoint import Checkpoint
from headstart.training.features import FrozenLayers
from headstart.training.linear import fit_linear, usual_strength
from headstart.training.stages import BatchesOfSplits, class_weights, feature_batches, head_learner

logger = logging.getLogger("headstart")


def choose_head(
    run: RunFolder, network: Network, frozen: FrozenLayers, data: Dataset, config: Config, checkpoint: Checkpoint
) -> Config:  # fmt: skip
    """Return `config` with its head decided, and give the network that head, see `decide_head`.

    The choice is in the run's `head.json`; an interrupted run goes on with it.
    """
    known = run.head
    config, found = decide_head(network, frozen, data, config, checkpoint, known, run.audit.get("strength"))
    if found and known.get("chosen") != DENSE:
        write_json(run.path / "head.json", found)
        logger.info("%s", head_in_words(found))
    return config


def decide_head(
    network: Network, frozen: FrozenLayers, data: Dataset, config: Config, checkpoint: Checkpoint,
    known: dict[str, Any], strength: float | None,
) -> tuple[Config, dict[str, Any]]:  # fmt: skip
    """Return `config` with its head decided, and give the network that head, fitted if it is linear.

    With `head` as "auto" both heads learn from the cached features. The validation split decides, by the accuracy or, where
    classes are weighted, by the macro recall, if their difference there is larger than its standard error; if not, the number of
    images does.

    Args:
        known: what was decided before an interruption; empty: nothing.
        strength: of the logistic regression, as cross-validation found it; None: the usual one.

    Returns:
        The configuration, and the content of `head.json`; empty if there is nothing to decide.
    """
    if config.head == DENSE or not config.keeps_features:
        return replace(config, head=DENSE), {}
    found = known
    if not found and config.head == AUTO and len(data.train) > MOST_LINEAR:
        found = {"chosen": DENSE, "why": f"logistic regression is not tried with more than {MOST_LINEAR:,} training images"}
    if found.get("chosen") == DENSE:
        return replace(config, head=DENSE), found
    checkpoint.start_clock()
    splits = feature_batches(frozen, data, config)
    checkpoint.stop_clock("features")
    strength = found.get("strength") or strength or usual_strength(len(data.train))
    begin = time.monotonic()
    head = linear_head(network, splits, data, config, strength)
    took = {LINEAR: time.monotonic() - begin}
    if not found and config.head == LINEAR:
        found = {"chosen": LINEAR, "why": "it was asked for", "strength": strength}
    elif not found:
        begin = time.monotonic()
        dense = dense_head(network, splits, data, config)
        took[DENSE] = time.monotonic() - begin
        labels = data.labels(data.validation)
        logits = {name: validation_logits(one, splits) for name, one in ((LINEAR, head), (DENSE, dense))}
        correct = {name: rows.argmax(axis=1) == labels for name, rows in logits.items()}
        # Where classes are weighted, the epochs of all stages are judged by the macro recall, and so are the heads.
        weighted = class_weights(data, config) is not None
        shares = even_shares(labels) if weighted else np.ones(len(labels))
        groups = data.groups(data.validation)
        found = decide(correct, len(data.train), len(data.class_names), shares, groups) | {"strength": strength}
        found["candidates"] = {
            name: {"accuracy": float(correct[name].mean()), "loss": loss(rows, labels), "seconds": round(took[name], 2)}
            | ({"macro_recall": float((shares * correct[name]).mean())} if weighted else {})
            for name, rows in logits.items()
        }
    checkpoint.stop_clock(FROZEN.key)
    if found["chosen"] == LINEAR:
        network.head = head
    return replace(config, head=found["chosen"]), found


def linear_head(network: Network, splits: BatchesOfSplits, data: Dataset, config: Config, strength: float) -> keras.Model:
    """Return a linear head, fitted by logistic regression to all views of the training images."""
    batches = splits[0]
    rows = batches.indices
    features, labels = batches.inputs[rows].astype(np.float32), batches.labels[rows]
    head = build_head(features.shape[1], len(data.class_names), replace(config, head=LINEAR))
    standardise(head, np.array_split(features, math.ceil(len(features) / 4096)))
    set_logits(head, *fit_linear(standardised(head, features), labels, strength, class_weights(data, config)))
    return head


def dense_head(network: Network, splits: BatchesOfSplits, data: Dataset, config: Config) -> keras.Model:
    """Return a new dense head that has learned as in the frozen stage."""
    other, batches = copy.copy(network), splits[0]
    other.head = build_head(network.head.input_shape[-1], len(data.class_names), replace(config, head=DENSE))
    standardise(other.head, (batches[step][0] for step in range(batches.num_batches)))
    learner = head_learner(other, config, config.head_epochs * batches.num_batches)
    for epoch in range(config.head_epochs):
        batches.start_at(epoch)
        learner.fit(without_autotuning(batches), class_weight=class_weights(data, config), verbose=0, shuffle=False)
    return learner


def loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean log loss of logits, float (N, classes), for labels, int (N,)."""
    return float(log_loss(labels, probabilities(logits), labels=np.arange(logits.shape[1])))


def validation_logits(head: keras.Model, splits: BatchesOfSplits) -> np.ndarray:
    """Return a head's logits for the validation split, float32 (N, classes)."""
    validation = splits[1]
    return np.concatenate([
        keras.ops.convert_to_numpy(head(validation[step][0], training=False)) for step in range(validation.num_batches)
    ])  # fmt: skip
