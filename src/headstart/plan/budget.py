"""A plan before the wait: what a training will take on this machine, and which one ends within a given time.

`prepare` comes before a run, `announce` at its beginning and `compare` at its end.
"""

import logging
import math
import shutil
import time
from collections.abc import Collection
from itertools import product
from typing import Any

from headstart.config import Config, budget_seconds, option_name, replace
from headstart.data.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.plan.costs import Costs, NotMeasured, costs_at, load_costs, measured, save_costs
from headstart.plan.estimate import MARGIN, duration, fit_memory, predict
from headstart.record.folder import RunFolder
from headstart.system.cache import cache_folder
from headstart.system.files import write_json
from headstart.system.memory import available_memory
from headstart.training.features import FrozenLayers

logger = logging.getLogger("headstart")

# What a budget chooses from: 32 px are the smallest that ImageNet's networks take, 224 px what they were trained with.
# Most images gain from each step up to there, even those that are smaller themselves: so size comes first.
SIZES, MOST_EPOCHS, MOST_VIEWS = (32, 48, 64, 96, 128, 160, 224), 3, 2
# Sizes that others follow from: a layer's work is in proportion to its pixels, and beside it is what each image costs.
REFERENCE_SIZES = (64, 128)
# Pixels through the backbone from which a training waits for a measurement: a ResNet-50 takes a minute for them on two
# cores. Fewer are done sooner than measured.
LEAST_PIXELS = 2e8
# Options that a budget or the memory may change.
CHOSEN = ("image_size", "epochs", "views", "batch_size", "learning_rate")


def prepare(config: Config, data: Dataset, explicit: Collection[str] = (), spent: float = 0.0) -> Config:
    """Return `config` with what its budget and this machine's memory leave of it, measuring the machine where that pays.

    Args:
        explicit: names of options that a budget must leave as they are.
        spent: seconds of the budget that have gone already.

    Raises:
        HeadstartError: nothing fits the budget; the message says how long the least takes.
    """
    if not config.budget and not worth_measuring(config, data):
        return config
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
        save_costs(chosen, data, costs)  # its batch size is another one
    return chosen


def worth_measuring(config: Config, data: Dataset) -> bool:
    """Whether a training goes on for longer than measuring it would."""
    train = len(data.train)
    passes = (config.head_epochs if not config.cache_features else config.views) * train + len(data.validation) + len(data.test)
    # The backward pass is twice the work of the forward one.
    passes += 3 * max(config.epochs * train, config.fewest_steps * config.batch_size if config.epochs else 0)
    return config.seeds * passes * config.image_size**2 >= LEAST_PIXELS


def sizes_for(config: Config, data: Dataset, explicit: Collection[str]) -> list[int]:
    """Return the image sizes that a budget may choose from.

    The starter was trained at 32 px and a network from scratch at no size yet: for both it stays. Source are not
    enlarged more than 8 times: nothing is known beyond the 7 from CIFAR's 32 px to ImageNet's 224.
    """
    if "image_size" in explicit or config.from_scratch or config.backbone == "starter":
        return [config.image_size]
    side = SIZES[-1] if data.source.files else max(data.image_shape[:2])
    return [size for size in SIZES if size <= 8 * side] or [config.image_size]


def choose(config: Config, data: Dataset, costs: dict[int, Costs], explicit: Collection[str], left: float) -> Config:
    """Return `config` with the image size, the epochs and the views whose training ends within the seconds that are left.

    Size counts most, then epochs of fine-tuning, then views: with the recipe quick on CIFAR-10, 32, 64, 96 and 128 px
    gave 76, 87, 90 and 92 %.
    """
    epochs = [config.epochs] if "epochs" in explicit or not config.epochs else range(1, max(MOST_EPOCHS, config.epochs) + 1)
    views = [config.views] if "views" in explicit or not config.keeps_features else range(1, max(MOST_VIEWS, config.views) + 1)
    least, free = math.inf, shutil.disk_usage(cache_folder("features")).free
    for size, many, some in sorted(product(sizes_for(config, data, explicit), epochs, views), reverse=True):
        candidate = replace(config, image_size=size, epochs=many, views=some)
        candidate = fit_memory(candidate, data, costs_at(costs, size))
        try:
            prediction = predict(candidate, data, costs_at(costs, size))
        except NotMeasured:
            continue
        if prediction.memory > available_memory() or prediction.disk > free:
            continue
        if prediction.total <= MARGIN * left:
            return replace(config, image_size=size, epochs=many, views=some)
        least = min(least, prediction.total)
    if math.isinf(least):
        raise HeadstartError(f"--budget {config.budget}: nothing that it could choose fits this machine's memory and disk")
    raise HeadstartError(
        f"--budget {config.budget} is too short: the least that it could choose takes about {duration(least)} here; "
        f"give --budget {math.ceil(least / MARGIN / 60)}m, a smaller backbone, or --limit"
    )


def record_choice(run: RunFolder, asked: Config) -> None:
    """Log and write to `plan.json` which options of a new run differ from those that were asked for."""
    changed = [name for name in CHOSEN if getattr(run.config, name) != getattr(asked, name)]
    chosen, before = ({name: getattr(config, name) for name in changed} for config in (run.config, asked))
    if asked.budget or changed:
        write_json(run.path / "plan.json", {"budget": asked.budget, "asked": before, "chosen": chosen})
    reasons = {"batch_size": "which does not fit the memory", "learning_rate": "in proportion to the batch"}
    with run.log():
        for name in changed:
            why = reasons.get(name, f"to end within {asked.budget}")
            logger.info("plan: %s %g instead of %g, %s", option_name(name), chosen[name], before[name], why)


def announce(run: RunFolder, frozen: FrozenLayers, data: Dataset, preparation: float) -> None:
    """Log what a run will take and write it to its `plan.json`, once, if this machine has been measured.

    Args:
        frozen: what gives the run its features.
        preparation: seconds that it has taken already.
    """
    costs, config = load_costs(run.config, data), run.config
    if "predicted" in (content := read_plan(run)) or (config.image_size not in costs and len(costs) < 2):
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
    """Return the lengths of the files of features that are not cached yet."""
    if not config.keeps_features:
        return []
    parts = [(data.training_candidates, view) for view in range(config.views)] + [(data.validation, 0), (data.test, 0)]
    return [len(rows) for rows, view in parts if not all(file.exists() for file in frozen.places(rows, view))]


def compare(run: RunFolder, data: Dataset, results: float) -> None:
    """Write what a run took beside what was predicted, and log it; learn how long the report takes on this machine.

    Args:
        results: seconds of what `metrics.json` does not count: the last look at validation and test, and the report.
    """
    content = read_plan(run)
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


def read_plan(run: RunFolder) -> dict[str, Any]:
    return run.read_json("plan.json") if (run.path / "plan.json").exists() else {}
