"""Plan a training: predict its time, memory and disk on this machine, and choose options that fit a given time.

`prepare` is called before a run, `announce` at its beginning and `compare` at its end.
"""

import logging
import math
import shutil
import time
from collections.abc import Collection
from itertools import product

from headstart.config import Config, budget_seconds, option_name, replace
from headstart.data.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.plan.costs import Costs, NotMeasured, costs_at, load_costs, measured, save_costs
from headstart.plan.estimate import MARGIN, duration, fit_memory, predict
from headstart.recipes import on_gpu
from headstart.record.folder import RunFolder
from headstart.system.backend import has_gpu
from headstart.system.cache import cache_folder
from headstart.system.cluster import CLUSTER
from headstart.system.files import write_json
from headstart.system.memory import available_memory
from headstart.training.features import FrozenLayers

logger = logging.getLogger("headstart")

# A budget chooses from these. 32 px is the smallest size of ImageNet's networks, 224 px the size they were trained at. Most
# data gain from each larger size, even if the images themselves are smaller: so size comes first.
SIZES, MOST_EPOCHS, MOST_VIEWS = (32, 48, 64, 96, 128, 160, 224), 3, 2
# Costs at other sizes follow from these two: an image has a fixed cost, and one in proportion to its pixels.
REFERENCE_SIZES = (64, 128)
# The machine is measured if more pixels than these pass through the backbone: a ResNet-50 takes a minute for them on two
# cores. A GPU needs as long to compile the steps that are measured, and an H200 trains with the second number meanwhile.
LEAST_PIXELS, LEAST_PIXELS_ON_GPU = 2e8, 2e11
WHY_ON_GPU = "since a GPU trains every layer sooner than it stores feature maps"
# Options that the device, a budget or too little memory may change.
CHOSEN = ("image_size", "fine_tune_from", "epochs", "views", "batch_size", "learning_rate")


def own_way(config: Config, explicit: Collection[str]) -> Config:
    """Return the configuration as this machine's device has it, see `headstart.recipes.on_gpu`."""
    return on_gpu(config, explicit) if has_gpu() else config


def prepare(config: Config, data: Dataset, explicit: Collection[str] = (), spent: float = 0.0) -> Config:
    """Return `config` as this machine's device has it, and changed so that it fits its budget and the memory.

    The machine is measured if that pays.

    Args:
        explicit: names of options that a budget must not change.
        spent: seconds of the budget that are spent already.

    Raises:
        HeadstartError: nothing fits the budget, and the message says how long the shortest training takes; or the machine
            must be measured for the budget and cannot be.
    """
    config = own_way(config, explicit)
    if config.ray or config.devices == CLUSTER or (not config.budget and not worth_measuring(config, data)):
        return config  # the others of a cluster would have to take part in a measurement
    begin = time.monotonic() - spent
    several = config.budget and len(sizes_for(config, data, explicit)) > 1
    try:
        costs = measured(config, data, REFERENCE_SIZES if several else [config.image_size])
        left = budget_seconds(config.budget) - (time.monotonic() - begin)
        chosen = choose(config, data, costs, explicit, left) if config.budget else config
        chosen = fit_memory(chosen, data, costs_at(costs, chosen.image_size))
    except NotMeasured as error:
        if config.budget:
            raise
        logger.warning("no prediction: %s", error)
        return config
    if chosen != config:
        save_costs(chosen, data, costs)  # the costs of another batch size have another file
    return chosen


def worth_measuring(config: Config, data: Dataset) -> bool:
    """Whether a training takes longer than its measurement."""
    train = len(data.train)
    passes = (config.head_epochs if not config.cache_features else config.views) * train + len(data.validation) + len(data.test)
    # A training step costs three forward passes: the backward pass is twice the work of the forward pass.
    passes += 3 * max(config.epochs * train, config.fewest_steps * config.batch_size if config.epochs else 0)
    least = LEAST_PIXELS_ON_GPU if has_gpu() else LEAST_PIXELS
    return config.runs * passes * config.image_size**2 >= least


def sizes_for(config: Config, data: Dataset, explicit: Collection[str]) -> list[int]:
    """Return the image sizes that a budget may choose from.

    The size stays for the starter, which was trained at 32 px, and for training from scratch. Images are enlarged at most 8
    times: nothing is known beyond factor 7, from CIFAR's 32 px to ImageNet's 224.
    """
    if "image_size" in explicit or config.from_scratch or config.backbone == "starter":
        return [config.image_size]
    side = SIZES[-1] if data.source.files else max(data.image_shape[:2])
    return [size for size in SIZES if size <= 8 * side] or [config.image_size]


def choose(config: Config, data: Dataset, costs: dict[int, Costs], explicit: Collection[str], left: float) -> Config:
    """Return `config` with the largest image size, then epochs, then views with which training ends within `left` seconds.

    Size counts most: with the recipe quick on CIFAR-10, 32, 64, 96 and 128 px gave 76, 87, 90 and 92 %.

    Args:
        costs: by image size.
        explicit: names of options that stay as they are.
        left: seconds of the budget that are left.

    Raises:
        HeadstartError: nothing fits.
    """
    epochs = [config.epochs] if "epochs" in explicit or not config.epochs else range(1, max(MOST_EPOCHS, config.epochs) + 1)
    views = [config.views] if "views" in explicit or not config.keeps_features else range(1, max(MOST_VIEWS, config.views) + 1)
    least, free = math.inf, shutil.disk_usage(cache_folder("features")).free
    for size, epoch_count, view_count in sorted(product(sizes_for(config, data, explicit), epochs, views), reverse=True):
        candidate = replace(config, image_size=size, epochs=epoch_count, views=view_count)
        fitting = fit_memory(candidate, data, costs_at(costs, size))
        try:
            prediction = predict(fitting, data, costs_at(costs, size))
        except NotMeasured:
            continue
        if prediction.memory > available_memory() or prediction.disk > free:
            continue
        if prediction.total <= MARGIN * left:
            return candidate
        least = min(least, prediction.total)
    if math.isinf(least):
        raise HeadstartError(f"--budget {config.budget}: nothing that it could choose fits this machine's memory and disk")
    raise HeadstartError(
        f"--budget {config.budget} is too short: the least that it could choose takes about {duration(least)} here; "
        f"give --budget {math.ceil(least / MARGIN / 60)}m, a smaller backbone, or --limit"
    )


def record_choice(run: RunFolder, requested: Config, explicit: Collection[str]) -> None:
    """Log, and write to `plan.json`, which options of a new run differ from the requested ones, and why.

    Args:
        explicit: names of options that somebody gave.
    """
    usual = own_way(requested, explicit)
    changed = [name for name in CHOSEN if getattr(run.config, name) != getattr(requested, name)]
    chosen, before = ({name: getattr(config, name) for name in changed} for config in (run.config, requested))
    memory = {"batch_size": "which does not fit the memory", "learning_rate": "in proportion to the batch size"}
    why = {
        name: WHY_ON_GPU if getattr(usual, name) == chosen[name] else memory.get(name, f"to end within {requested.budget}")
        for name in changed
    }
    if requested.budget or changed:
        content = {"budget": requested.budget, "asked": before, "chosen": chosen, "why": why}
        write_json(run.path / "plan.json", content)
    with run.log():
        for name in changed:
            logger.info("plan: %s %s instead of %s, %s", option_name(name), chosen[name], before[name], why[name])


def announce(run: RunFolder, frozen: FrozenLayers, data: Dataset, preparation: float) -> None:
    """Log what a run will take and write it to its `plan.json`, once, if this machine has been measured.

    Args:
        frozen: the run's frozen layers.
        preparation: the seconds that the preparation took.
    """
    costs, config = {} if run.config.ray else load_costs(run.config, data), run.config
    if "predicted" in (content := run.read_json("plan.json", {})) or (config.image_size not in costs and len(costs) < 2):
        return
    cost = costs_at(costs, config.image_size)
    try:
        prediction = predict(config, data, cost, preparation, missing_features(frozen, data, config))
    except NotMeasured as error:
        return logger.warning("no prediction: %s", error)
    logger.info("plan: about %s", prediction)
    predicted = {name: round(value, 2) for name, value in prediction.seconds.items()}
    write_json(run.path / "plan.json", content | {
        "predicted": {
            "seconds": predicted | {"total": round(prediction.total, 2)},
            "memory_mb": round(prediction.memory / 1e6), "disk_mb": round(prediction.disk / 1e6),
        },
        "costs": cost,
    })  # fmt: skip


def missing_features(frozen: FrozenLayers, data: Dataset, config: Config) -> list[int]:
    """Return how many images each view of a split has whose features are not cached yet, without those that have none."""
    if not config.keeps_features:
        return []
    needed = [(data.training_candidates, view) for view in range(config.views)] + [(data.validation, 0), (data.test, 0)]
    if config.folds:
        needed = [(data.used, view) for view in range(config.views)]
    missing = [frozen.blocks(rows, view).missing_rows() for rows, view in needed]
    return [rows for rows in missing if rows]


def compare(run: RunFolder, data: Dataset, results: float) -> None:
    """Log what was predicted and what a run took, and write the latter to `plan.json`. Learn how long the report takes here.

    Args:
        results: seconds that `metrics.json` does not count: the predictions on validation and test, and the report.
    """
    content = run.read_json("plan.json", {})
    if "predicted" not in content:
        return
    predicted, seconds = content["predicted"]["seconds"], run.metrics["seconds"]
    total = seconds["total"] + results
    took = seconds | {"results": round(results, 2), "total": round(total, 2)}
    write_json(run.path / "plan.json", content | {"took": {"seconds": took, "memory_mb": run.metrics["peak_memory_mb"]}})
    costs = load_costs(run.config, data)
    for cost in costs.values():
        cost["report"] = max(0.0, cost.get("report", 0.0) + results - predicted["results"])
    save_costs(run.config, data, costs)
    more = 100 * (total / predicted["total"] - 1)
    logger.info("plan: %s predicted, %s taken (%+.0f %%)", duration(predicted["total"]), duration(total), more)
