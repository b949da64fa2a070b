"""What an image and a step cost on this machine: measured once, and kept in the cache folder.

There is a file for each machine, backbone and set of options that costs depend on, so later trainings need not measure.
"""

import dataclasses
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
from msgspec import Meta

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.data.store import bytes_of
from headstart.errors import HeadstartError
from headstart.inference.openvino import FEWEST_IMAGES
from headstart.system.backend import has_gpu, keras
from headstart.system.cache import cache_folder
from headstart.system.entries import discard, read_sealed, write_sealed
from headstart.system.environment import computing, installed
from headstart.system.files import temporary_folder, write_json
from headstart.system.processor import processor, usable_cores
from headstart.system.reading import read_json
from headstart.training.features import extraction_batch, images_in_use

logger = logging.getLogger("headstart")

Costs = dict[str, float]

# In seconds and bytes. Beyond the limit, what is computed from them would no longer be finite.
Known = dict[Annotated[str, Meta(pattern="^[1-9][0-9]{0,4}$")], dict[str, Annotated[float, Meta(ge=-1e15, le=1e15)]]]


class Answer(TypedDict, total=False):
    """What `headstart.plan.rehearse` answers: the costs by image size, or an error."""

    costs: Known
    error: str


# The options that costs depend on, without the data, the image size and how often each part is done.
COSTLY = (
    "backbone", "weights", "preprocess", "precision", "batch_size", "fine_tune_from", "batch_norm", "cache_features",
    "hidden_units", "flip", "rotation", "zoom", "translation", "rand_augment", "mix", "ema", "deterministic",
    "devices",
)  # fmt: skip
# Costs that depend on the image size. The others are taken from the nearest measured size.
SIZED = ("image", "disk_image", "head_step", "head_score", "tune_image", "tune_score", "memory_image")
# How many training images are used for the measurement; fewer if they take more bytes.
SAMPLE, MOST_BYTES_OF_SAMPLE = 2048, 128 << 20


class NotMeasured(HeadstartError):
    """Nothing can be predicted: the measurement failed, or training would do what was not measured. It may still work."""


def measured(config: Config, data: Dataset, sizes: Collection[int], *, anew: bool = False) -> dict[int, Costs]:
    """Return the costs on this machine by image size. Those of `sizes` that are not known are measured.

    Args:
        anew: measure all `sizes`, even if they are known.

    Raises:
        HeadstartError: bad input, with the message of the training.
        NotMeasured: the measurement failed.
    """
    known = {} if anew else load_costs(config, data)
    wanted = sorted(set(sizes) - known.keys())
    if wanted:
        logger.info("measuring this machine at %s px", " and ".join(map(str, wanted)))
        known |= measure_apart(config, data, wanted)
        save_costs(config, data, known)
    return known


def measure_apart(config: Config, data: Dataset, sizes: list[int]) -> dict[int, Costs]:
    """Run `headstart.plan.rehearse` on a sample of the training images, in a separate process; return its costs by size."""
    with temporary_folder(cache_folder("plan") / "request") as folder:
        rows = np.random.default_rng(0).choice(data.train, sample_size(data, max(sizes)), replace=False)
        np.savez(folder / "images.npz", images=data.images(rows), labels=data.labels(rows))
        write_json(folder / "request.json", {
            "config": dataclasses.asdict(config), "sizes": sizes, "images": images_in_use(data),
            "classes": len(data.class_names), "decoded_at_image_size": bool(data.source.files),
        })  # fmt: skip
        command = [sys.executable, "-m", "headstart.plan.rehearse", str(folder)]
        # The same backend and the same package as in this process.
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": path}
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a training that is not in the cache is what is planned
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        try:
            answer = read_json(folder / "answer.json", Answer)
        except OSError:
            reason = done.stderr.strip().splitlines()[-1:] or [f"its process ended with status {done.returncode}"]
            raise NotMeasured(f"this machine could not be measured: {reason[0]}") from None
    if "error" in answer:
        raise HeadstartError(answer["error"])
    return {int(size): costs for size, costs in answer["costs"].items()}


def sample_size(data: Dataset, size: int) -> int:
    """Return how many training images are used for a measurement at an image size.

    As many as are passed through the frozen layers together can always be held: a training holds them too.
    """
    height, width, _ = data.image_shape
    largest = max(bytes_of(1, size) if data.source.files else 0, 3 * height * width)
    return min(len(data.train), SAMPLE, max(extraction_batch(size, has_gpu()), MOST_BYTES_OF_SAMPLE // largest))


def costs_at(measured: dict[int, Costs], size: int) -> Costs:
    """Return the costs at an image size, measured or interpolated linearly in size² from the two nearest measured sizes.

    Below both of them, a cost falls at most in proportion to size².
    """
    if size in measured:
        return measured[size]
    near, other = sorted(measured, key=lambda known: abs(known**2 - size**2))[:2]
    costs = dict(measured[near])
    for name in SIZED:
        if name in costs:
            slope = (measured[other][name] - costs[name]) / (other**2 - near**2)
            lowest = costs[name] * min(1.0, size**2 / near**2)
            costs[name] = max(lowest, costs[name] + slope * (size**2 - near**2))
    return costs


def costs_file(config: Config, data: Dataset) -> Path:
    """Return the file of the costs. Its name depends on everything that costs depend on, except the image size."""
    versions = computing() | installed(("headstart", "numpy", "scikit-learn"))
    file = Path(config.backbone).expanduser()
    key = [
        [getattr(config, name) for name in COSTLY], bool(config.epochs), file.stat().st_mtime if file.is_file() else 0,
        None if data.source.files else data.image_shape, len(data.class_names), images_in_use(data) >= FEWEST_IMAGES,
        keras.backend.backend(), sorted(versions.items()), platform.node(), processor(), os.cpu_count(), usable_cores(),
        os.environ.get("CUDA_VISIBLE_DEVICES"), has_gpu(),
    ]  # fmt: skip
    return cache_folder("plan") / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]}.json"


def load_costs(config: Config, data: Dataset) -> dict[int, Costs]:
    """Return the costs that were measured before, by image size; none if the file is missing or damaged."""
    file = costs_file(config, data)
    known = read_sealed(file, Known) or {}
    if not all(fitting(config, costs) for costs in known.values()):
        logger.warning("%s is damaged: it holds other costs than these options have; it is made again", file)
        discard(file)
        return {}
    return {int(size): costs for size, costs in known.items()}


def fitting(config: Config, costs: Costs) -> bool:
    """Whether costs are those that `headstart.plan.rehearse.measure` returns for the options, and possible."""
    names = {"build", "memory"}
    if config.keeps_features:
        names |= {"start", "image", "feature_bytes", "disk_image", "audit_start", "audit_image", "audit_pair"}
    if config.keeps_features or not config.from_scratch:
        names |= {"head_start", "head_step", "head_score", "head_save"}
    if config.epochs:
        names |= {"tune_start", "tune_image", "tune_score", "tune_save", "tune_memory", "memory_image", "largest_batch"}
    # Memory is on a line through measured points, which may begin below 0.
    return costs.keys() - {"report"} == names and all(cost >= 0 for name, cost in costs.items() if name != "tune_memory")


def save_costs(config: Config, data: Dataset, costs: dict[int, Costs]) -> None:
    write_sealed(costs_file(config, data), {str(size): cost for size, cost in sorted(costs.items())})
