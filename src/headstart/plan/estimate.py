"""Predict time, memory and disk of a training: the cost of each part times how often it is done."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headstart.audit.data import LABEL_COMPONENTS
from headstart.audit.duplicates import MOST_IN_MEMORY
from headstart.config import Config, replace
from headstart.data.dataset import Dataset
from headstart.data.grey import SIDE
from headstart.data.store import IN_MEMORY, ON_DEMAND, bytes_of, bytes_on_disk, way_of, way_to_hold
from headstart.plan.costs import Costs, NotMeasured
from headstart.system.memory import available_memory
from headstart.training.batches import head_batch_size
from headstart.training.blocks import MOST_CACHE_BYTES
from headstart.training.features import MOST_BYTES_IN_MEMORY

# The share of the free memory, and of the time left, that is planned with, since predictions err.
MARGIN = 0.9


@dataclass(frozen=True)
class Prediction:
    """What a training will take.

    Attributes:
        seconds: by part of the run, named as in `metrics.json`, and `results`: predictions on validation and test, and the
            report.
        memory: peak memory of its process in bytes.
        disk: bytes of features and feature maps in the cache, and of images that the memory does not hold.
    """

    seconds: dict[str, float]
    memory: float
    disk: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name.replace('_', '-')} {duration(seconds)}" for name, seconds in self.seconds.items())
        return f"{duration(self.total)} ({parts}); {gigabytes(self.memory)} of memory, {gigabytes(self.disk)} of disk"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def predict(
    config: Config, data: Dataset, cost: Costs, preparation: float | None = None, missing: Sequence[int] | None = None
) -> Prediction:
    """Return what a training with `config`, all its seeds or folds together, will take.

    Args:
        data: with the splits of a run; of any fold, if there are folds.
        cost: at the image size, from `headstart.plan.costs.costs_at`.
        preparation: its seconds, if they are known.
        missing: the number of images in each file of features that is not cached; None if nothing is cached.

    Raises:
        NotMeasured: the feature maps do not fit the cache. Fine-tuning would start from the images, which was not measured.
    """
    train, validation, test = map(len, (data.train, data.validation, data.test))
    everything = train + validation + test
    audited = config.keeps_features
    cut = audited and cost["disk_image"] > cost["feature_bytes"]  # fine-tuning starts from feature maps
    stored = [everything] * config.views if config.folds else [train] * config.views + [validation, test]
    missing = stored if missing is None else missing
    disk = cost["disk_image"] * sum(stored) if audited else 0.0
    if cut and disk > MOST_CACHE_BYTES:
        raise NotMeasured(
            f"the feature maps would take {gigabytes(disk)}: fine-tuning would start from the images, which was not measured"
        )

    seconds = {"preparation": cost["build"] if preparation is None else preparation}
    if audited:
        seconds["features"] = (cost["start"] if missing else 0.0) + sum(missing) * cost["image"]
        pairs = everything**2 / 2 * cost["audit_pair"]
        seconds["audit"] = cost["audit_start"] + everything * cost["audit_image"] + pairs
    if not config.from_scratch:
        rows = config.views * train if audited else train
        steps = rows // (head_batch_size(rows) if audited else min(rows, config.batch_size))
        epoch = steps * cost["head_step"] + validation * cost["head_score"] + cost["head_save"]
        seconds["head"] = cost["head_start"] + config.head_epochs * epoch
    results = 0.0 if audited else (validation + test) * cost.get("head_score", 0.0)
    if config.epochs:
        rows = config.views * train if cut else train
        batch = min(rows, config.batch_size)
        epochs = max(config.epochs, math.ceil(config.fewest_steps / (rows // batch)))
        epoch = rows // batch * batch * cost["tune_image"] + validation * cost["tune_score"] + cost["tune_save"]
        seconds["training" if config.from_scratch else "fine_tuning"] = cost["tune_start"] + epochs * epoch
        results += (validation + test) * cost["tune_score"]
    seconds["results"] = results + cost.get("report", 0.0)
    if config.runs > 1:  # they share the features
        seconds = {name: value * (1 if name == "features" else config.runs) for name, value in seconds.items()}
    return Prediction(seconds, peak_memory(config, data, cost), disk + images_on_disk(config, data))


def way_of_training(config: Config, data: Dataset) -> str:
    """Return how a training holds its images, see `headstart.data.store`."""
    source = data.source
    way, same_size = way_of(source.images), config.image_size == data.image_shape[0]
    if not source.files or (same_size and way != ON_DEMAND):
        return way
    return way_to_hold(len(source.labels), config.image_size, config.learns_on_images)


def images_on_disk(config: Config, data: Dataset) -> int:
    """Return how many bytes of the cache the images of a training take."""
    return bytes_on_disk(way_of_training(config, data), len(data.source.labels), config.image_size)


def peak_memory(config: Config, data: Dataset, cost: Costs) -> float:
    """Return a training's peak memory in bytes: what was measured on a sample, and what grows with the number of images."""
    working = cost["memory"]
    if config.epochs:
        working = max(working, cost["tune_memory"] + config.batch_size * cost["memory_image"])
    images = 0
    if way_of_training(config, data) == IN_MEMORY:
        images = bytes_of(len(data.source.labels), config.image_size) if data.source.files else data.source.images.nbytes
    if config.keeps_features:
        # The audit holds components in float32, and 32 x 32 shades of grey if they are not too many.
        everything = len(data.train) + len(data.validation) + len(data.test)
        features = config.views * everything * int(cost["feature_bytes"])
        images += features if features <= MOST_BYTES_IN_MEMORY else 0
        audited = 4 * everything * LABEL_COMPONENTS + min(4 * everything * SIDE**2, MOST_IN_MEMORY)
        working = max(working, cost["memory"] + audited)
    return working + images


def fit_memory(config: Config, data: Dataset, cost: Costs) -> Config:
    """Return `config` with its batch size halved until it fits the memory. The learning rate shrinks in proportion.

    The rule of proportion is that of Goyal et al. 2017, "Accurate, large minibatch SGD".
    """
    fitting, free = config, available_memory()
    if not config.epochs:
        return config
    while fitting.batch_size > 1 and (
        0 < cost["largest_batch"] < fitting.batch_size or peak_memory(fitting, data, cost) > MARGIN * free
    ):  # fmt: skip
        fitting = replace(fitting, batch_size=fitting.batch_size // 2)
    if fitting.batch_size == config.batch_size:
        return config
    rate = config.learning_rate * fitting.batch_size / config.batch_size
    return replace(fitting, learning_rate=max(1e-8, rate))
