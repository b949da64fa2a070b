"""Measure what an image and a step cost on this machine: run each stage of a training for a moment, in a separate process.

A separate process begins with nothing in memory. If it is killed for holding too much, the training goes on. And it leaves no
trace in the seeds and layer names of the training that follows.
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from headstart.audit.data import PAIR_COMPONENTS, principal_components
from headstart.audit.duplicates import candidates, near_duplicates
from headstart.config import Config
from headstart.errors import HeadstartError
from headstart.inference.engine import Engine
from headstart.model.backbones import load_backbone
from headstart.model.fast.resident import without_resident_images
from headstart.model.network import Network, build_network
from headstart.model.unfreeze import frozen_cut
from headstart.plan.estimate import MARGIN
from headstart.record.history import FINE_TUNED, FROZEN
from headstart.system.backend import has_gpu, is_out_of_memory, keras, resolve_precision, seed_everything, steps_per_call
from headstart.system.files import write_json
from headstart.system.keras_internals import spread
from headstart.system.kernels import without_autotuning
from headstart.system.memory import (
    available_memory,
    forget_peak_memory,
    give_back_freed_memory,
    keep_freed_memory,
    peak_memory_mb,
)
from headstart.system.reading import Count, read_json
from headstart.training.batches import LARGEST_HEAD_BATCH, Batches
from headstart.training.changes import changes
from headstart.training.checkpoint import Checkpoint, assign, values
from headstart.training.devices import distribution_for, shared_batches
from headstart.training.features import extraction_batch
from headstart.training.linear import cross_validate
from headstart.training.stages import head_learner, resident_images, tuning_learner

# A rate is measured for so many seconds, and on more than so many batches.
WINDOW, FEWEST_BATCHES = 2.0, 3
# The first steps, which build and compile, are not timed.
WARM_UP = 2
MOST_STEPS = 300
# On CPUs, the batch grows to the wanted size as long as memory allows and a measurement takes less than this, in seconds.
LONGEST = 10.0
# And as long as the measurement is not expected to take more bytes. Beside other work, a plan must not be what fills the memory.
MOST_MEMORY = 3 << 30
# The number of random rows that are searched for similar pairs, to measure what a pair costs.
PAIR_ROWS = 16_384


class Request(TypedDict):
    """What `headstart.plan.costs.measure_apart` asks for."""

    config: dict[str, Any]
    sizes: list[Count]
    images: Count
    classes: Count
    decoded_at_image_size: bool


def main() -> None:
    """Answer the request that lies in the folder named on the command line; see `headstart.plan.costs.measure_apart`."""
    folder = Path(sys.argv[1])
    request = read_json(folder / "request.json", Request)
    with np.load(folder / "images.npz") as sample:
        images, labels = sample["images"], sample["labels"]
    answer: dict[str, Any] = {}
    costs: dict[str, dict[str, float]] = {}
    try:
        config = Config(**request["config"])
        known: dict[str, float] = {}
        for size in request["sizes"]:
            shown = resized(images, size) if request["decoded_at_image_size"] else images
            sized = dataclasses.replace(config, image_size=size)
            cost = measure(sized, shown, labels, request["classes"], request["images"], folder, known)
            # The costs of what works on cached features do not depend on the image size.
            known = {
                name: value for name, value in cost.items() if name.startswith(("audit_", "head_")) and config.keeps_features
            }
            costs[str(size)] = cost
            keras.utils.clear_session()
            give_back_freed_memory()
        answer = {"costs": costs}
    except HeadstartError as error:
        answer = {"error": str(error)}
    write_json(folder / "answer.json", answer)


def measure(
    config: Config, images: np.ndarray, labels: np.ndarray, classes: int, total: int, folder: Path, known: dict[str, float]
) -> dict[str, float]:
    """Return what the parts of a training cost, in seconds and bytes.

    Args:
        images, labels: a sample of the training images, uint8 (N, H, W, 3), and their classes, int (N,).
        classes: the number of classes.
        total: the number of images in all splits, which chooses the engine of the frozen layers.
        folder: an existing folder on the disk where features are cached.
        known: costs that need not be measured again.

    Returns:
        In seconds: `build` for the network; `start` for the engine of the frozen layers, and `image` for each image that
        passes through them; `audit_start`, and `audit_image` and `audit_pair` for each image and pair; for the head and for
        fine-tuning, `head_start` and `tune_start`, `head_step` for a step and `tune_image` for a training image, `..._score`
        for a validation image and `..._save` for the checkpoint of an epoch.
        In bytes: `disk_image`, what is cached of an image, and `feature_bytes`, the part of it without feature maps;
        `memory`, the peak before fine-tuning; `tune_memory` and, for each image of a batch, `memory_image`, that of
        fine-tuning.
        And `largest_batch`, the batch size that fits a GPU; 0 on a CPU.
    """
    forget_peak_memory()
    begin = time.monotonic()
    keep_freed_memory()
    seed_everything(config.seed, config.deterministic)
    precision = resolve_precision(config.precision)
    network = build_network(*load_backbone(config), images.shape[1:], classes, config, precision)
    cost = {"build": time.monotonic() - begin} | known
    tuning: dict[str, float] = {}
    if config.keeps_features and config.epochs:
        network.cut = frozen_cut(network.backbone, config)
    if config.epochs and not network.cut:
        # First of all: memory that others have left behind would hide what a larger batch takes.
        tuning = tuning_costs(network, images, labels, classes, config, folder)
        give_back_freed_memory()
        forget_peak_memory()
    if config.keeps_features:
        extraction, features, maps = extract(network.feature_extractor(), images, config.image_size, total, folder)
        cost |= extraction
        if not known:
            cost |= audit_costs(images, features, np.resize(labels, len(features)))
            cost |= head_costs(network, features, labels, LARGEST_HEAD_BATCH, config, folder)
    elif not config.from_scratch:
        cost |= head_costs(network, images, labels, config.batch_size, config, folder)
    cost["memory"] = 1e6 * peak_memory_mb()
    if network.cut:
        tuning = tuning_costs(network, maps, labels, classes, config, folder)
    return cost | tuning


def extract(
    extractor: keras.Model, images: np.ndarray, image_size: int, total: int, folder: Path
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Pass images through the frozen layers for a moment, and write the outputs to disk as a training does.

    Returns:
        The costs; pooled features, float16 (M, C); and feature maps, float16 (M, h, w, c), or without a cut the features.
    """
    clock, size = Clock(warm_up=1), extraction_batch(image_size, has_gpu())  # the engine starts with the first batch

    def batches() -> Iterator[np.ndarray]:
        number = 0
        while not clock.done:
            rows = np.arange(number, number + size) % len(images)
            yield images[rows]
            number += size

    shapes, limit = [output.shape[1:] for output in extractor.outputs], np.finfo(np.float16).max
    files = [folder / f"output-{number}" for number in range(len(shapes))]
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(file.open("wb")) for file in files]
        clock.start()
        for outputs in Engine(extractor).outputs(batches(), total):
            for stream, rows in zip(streams, outputs, strict=True):
                stream.write(rows.clip(-limit, limit).astype(np.float16).tobytes())
            clock.tick()
        for stream in streams:
            stream.flush()
            os.fsync(stream.fileno())
        clock.ticks[-1] = time.monotonic()
    stored = [np.memmap(file, np.float16, "r").reshape(-1, *shape) for file, shape in zip(files, shapes, strict=True)]
    cost = {
        "start": clock.before, "image": clock.each / size,
        "feature_bytes": 2.0 * math.prod(shapes[0]), "disk_image": 2.0 * sum(map(math.prod, shapes)),
    }  # fmt: skip
    return cost, np.array(stored[0]), stored[-1]


class Clock(keras.callbacks.Callback):
    """Times batches: the seconds `before` the first one and the seconds for `each`. It ends a training after `WINDOW`.

    Args:
        warm_up: how many ticks are not timed.
        batches: in each tick.
    """

    def __init__(self, warm_up: int = WARM_UP, batches: int = 1) -> None:
        super().__init__()
        self.warm_up, self.batches = warm_up, batches

    def start(self) -> None:
        self.ticks = [time.monotonic()]

    def tick(self) -> None:
        self.ticks.append(time.monotonic())

    @property
    def timed(self) -> list[float]:
        return self.ticks[self.warm_up :]

    @property
    def done(self) -> bool:
        return len(self.timed) > FEWEST_BATCHES and self.timed[-1] - self.timed[0] > WINDOW

    @property
    def each(self) -> float:
        return (self.timed[-1] - self.timed[0]) / (len(self.timed) - 1) / self.batches

    @property
    def before(self) -> float:
        return max(0.0, self.timed[0] - self.ticks[0] - self.warm_up * self.batches * self.each)

    def on_train_begin(self, logs: Any = None) -> None:
        self.start()

    on_test_begin = on_train_begin

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for the device
        self.tick()
        self.model.stop_training = self.done

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])
        self.tick()


def audit_costs(images: np.ndarray, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return what the audit costs: `audit_start` for the principal components, `audit_image` and `audit_pair`."""
    count = min(len(images), len(features))  # beyond that the sample repeats itself, and equal images would be near-duplicates
    images, features, labels = images[:count], features[:count], labels[:count]
    # The folds need each class at least twice.
    kept = np.flatnonzero(np.bincount(labels)[labels] > 1)
    begin = time.monotonic()
    components = principal_components(features)
    started = time.monotonic()
    near_duplicates(images, np.arange(len(images)), components[:, :PAIR_COMPONENTS])
    if len(np.unique(labels[kept])) > 1:
        cross_validate(components[kept], np.unique(labels[kept], return_inverse=True)[1])
    examined = time.monotonic()
    deque(candidates(np.random.default_rng(0).normal(size=(PAIR_ROWS, PAIR_COMPONENTS))), maxlen=0)
    return {
        "audit_start": started - begin, "audit_image": (examined - started) / len(images),
        "audit_pair": (time.monotonic() - examined) / (PAIR_ROWS**2 / 2),
    }  # fmt: skip


def head_costs(
    network: Network, inputs: np.ndarray, labels: np.ndarray, batch_size: int, config: Config, folder: Path
) -> dict[str, float]:
    """Return what the frozen stage costs: its start, a step, a validation image, a checkpoint."""
    learner = head_learner(network, config, steps=1000)
    fitting, scoring = timed(learner, inputs, labels, batch_size, "1" if config.cache_features else config.devices)
    return {
        "head_start": fitting.before + scoring.before, "head_step": fitting.each, "head_score": scoring.each / batch_size,
        "head_save": save_seconds(learner, FROZEN.key, folder),
    }  # fmt: skip


def tuning_costs(
    network: Network, inputs: np.ndarray, labels: np.ndarray, classes: int, config: Config, folder: Path
) -> dict[str, float]:
    """Return what fine-tuning costs, and how its memory grows with the batch.

    On CPUs, the batch grows as long as time and memory allow, and the memory of a larger batch is extrapolated from two
    smaller ones. On a GPU, the batch is halved until it fits. Afterwards, the network is as before, with a frozen backbone.
    """
    resident = None if network.cut else resident_images(inputs, config)
    if resident is not None:
        inputs = np.arange(len(inputs), dtype=np.int32)
    options: dict[str, Any] = {"classes": classes, "changes": [] if network.cut else changes(config)}
    peaks: dict[int, float] = {}
    model, starts, gpu = tuning_learner(network, config, 1000, resident), [], has_gpu()
    kept, batch = values(without_resident_images(model)), config.batch_size
    growing, before = sorted({max(1, batch // 16), max(1, batch // 4), batch}), 1e6 * peak_memory_mb()
    while True:
        batch = batch if gpu else growing.pop(0)
        forget_peak_memory()
        try:
            fitting, scoring = timed(model, inputs, labels, batch, config.devices, **options)
        except Exception as error:
            if batch == 1 or not (gpu and is_out_of_memory(error)):
                raise
            batch //= 2
            assign(without_resident_images(model), kept)  # JAX has donated the variables' arrays to the failed step
            model = tuning_learner(network, config, 1000, resident)
            continue
        starts.append(fitting.before + scoring.before)
        peaks[batch] = 1e6 * peak_memory_mb()
        if gpu or not growing:
            break
        longer = fitting.each / batch * growing[0] * (WARM_UP + 2 * FEWEST_BATCHES)
        most = min(MOST_MEMORY, MARGIN * available_memory())
        if len(peaks) > 1 and (longer > LONGEST or line(peaks, growing[0]) > most):
            break
        if len(peaks) == 1 and line({0: before} | peaks, growing[0]) > most:
            growing[0] = 2 * batch  # two are needed for a line
    cost = {
        "tune_start": max(starts), "tune_image": fitting.each / batch, "tune_score": scoring.each / batch,
        "tune_save": save_seconds(model, FINE_TUNED.key, folder), "tune_memory": line(peaks, 0),
        "memory_image": line(peaks, 1) - line(peaks, 0), "largest_batch": float(batch if gpu else 0),
    }  # fmt: skip
    assign(without_resident_images(model), kept)
    network.backbone.trainable = False
    return cost


def line(values_at: dict[int, float], place: float) -> float:
    """Return the value at `place` on the line through the points of the two largest places.

    A falling line counts as level, and so does a single point.
    """
    (first, low), (last, high) = sorted(values_at.items())[-2:] if len(values_at) > 1 else 2 * list(values_at.items())
    slope = max(0.0, (high - low) / (last - first)) if last > first else 0.0
    return high + slope * (place - last)


def timed(
    learner: keras.Model, inputs: np.ndarray, labels: np.ndarray, batch_size: int, devices: str = "1", **options: Any
) -> tuple[Clock, Clock]:
    """Train a compiled model for a moment, on what `--devices` says, then evaluate it, and return the clocks of both."""
    together = steps_per_call()
    fitting, scoring = Clock(batches=together), Clock(batches=together)
    most, scored = MOST_STEPS // together * together, (WARM_UP + FEWEST_BATCHES) * together
    labels, rows = np.resize(labels, len(inputs)), np.resize(np.arange(len(inputs)), most * batch_size)
    training = Batches(inputs, labels, rows, batch_size, 0, **options)
    validation = Batches(inputs, labels, rows[: scored * batch_size], batch_size, None, options.get("classes", 0))
    distribution = distribution_for(devices, batch_size)
    learning, validating = shared_batches(training, validation, distribution)
    learner.optimizer.build(learner.trainable_variables)
    with spread(learner, distribution):
        learner.fit(without_autotuning(learning), callbacks=[fitting], shuffle=False, verbose=0)
        learner.evaluate(without_autotuning(validating), callbacks=[scoring], verbose=0)
    return fitting, scoring


def save_seconds(model: keras.Model, stage: str, folder: Path) -> float:
    """Return how many seconds the checkpoint of an epoch takes."""
    begin = time.monotonic()
    checkpoint, weights = Checkpoint(folder / "checkpoint"), values(without_resident_images(model))
    checkpoint.save(stage, model=weights, optimizer=values(model.optimizer.variables), kept=weights)
    seconds = time.monotonic() - begin
    checkpoint.remove()
    return seconds


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Return images resized, uint8 (N, size, size, 3): a folder's images are decoded at the image size."""
    if images.shape[1:3] == (size, size):
        return images
    smaller = np.empty((len(images), size, size, 3), np.uint8)
    for place, image in enumerate(images):
        smaller[place] = np.asarray(Image.fromarray(image).resize((size, size)))
    return smaller


if __name__ == "__main__":
    main()
