"""For `headstart plan`: what each recipe and image size would take on this machine."""

import contextlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from headstart.config import Config, option_name, replace
from headstart.data.dataset import Dataset
from headstart.data.load import configured_data, one_fold, resolved
from headstart.data.store import held_in_words
from headstart.errors import HeadstartError
from headstart.plan.budget import CHOSEN, REFERENCE_SIZES, WHY_ON_GPU, own_way, prepare, sizes_for
from headstart.plan.costs import Costs, costs_at, costs_file, load_costs, measured
from headstart.plan.estimate import duration, fit_memory, gigabytes, predict, way_of_training
from headstart.recipes import recipe
from headstart.record.history import TIMES, shown
from headstart.system.cluster import CLUSTER

TABLE_SIZES, TABLE_RECIPES = (32, 64, 96, 128, 224), ("quick", "standard", "best", "starter", "laptop")
SPENT_ON = (*TIMES, "results")
COLUMNS = ["recipe", "size", *map(shown, SPENT_ON), "total", "batch", "memory", "disk"]


class PlanTable(NamedTuple):
    """What trainings would take, as text.

    Attributes:
        columns: the names of the columns.
        rows: a row of cells for each training.
        notes: why a training has no row, and what a budget would choose.
    """

    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def plan_table(config: Config, explicit: Collection[str] = ()) -> PlanTable:
    """Return what trainings would take on this machine, measured now and without cached features.

    Args:
        config: the training in question. Other recipes get rows too, unless `recipe` is explicit.
        explicit: names of the options that were given explicitly.

    Raises:
        HeadstartError: bad input, with the message of the training.
    """
    begin = time.monotonic()
    if config.devices == CLUSTER:
        raise HeadstartError("a plan is measured in one process: leave out --devices cluster")
    if config.ray:
        raise HeadstartError("a plan is measured on this machine: leave out --ray")
    requested = resolved(config)
    config = own_way(requested, explicit)
    data = configured_data(config)
    if config.divided:
        data = one_fold(data, config, 0)  # about as large as the others
    loading = time.monotonic() - begin
    costs: dict[Path, dict[int, Costs]] = {}
    rows: list[list[str]] = []
    changed = [name for name in CHOSEN if getattr(config, name) != getattr(requested, name)]
    values = " ".join(f"{option_name(name)} {getattr(config, name)}" for name in changed)
    notes = [f"{config.recipe}: {values}, {WHY_ON_GPU}"] if changed else []
    trainings = planned(config, data, explicit)
    sizes_of: dict[Path, set[int]] = {}
    held: dict[str, list[str]] = {}
    for training in trainings:
        sizes_of.setdefault(costs_file(training, data), set()).add(training.image_size)
    for training in trainings:
        name = f"{training.recipe}, {training.image_size} px"
        try:
            file = costs_file(training, data)
            if file not in costs:
                sizes = REFERENCE_SIZES if sizes_of[file] - {training.image_size} else [training.image_size]
                costs[file] = measured(training, data, sizes, anew=True)
            cost = costs_at(costs[file], training.image_size)
            fitted = fit_memory(training, data, cost)
            prediction = predict(fitted, data, cost, loading + cost["build"])
        except HeadstartError as error:
            notes.append(f"{name}: {error}")
            continue
        times = [duration(prediction.seconds[stage]) if stage in prediction.seconds else "" for stage in SPENT_ON]
        total, memory, disk = duration(prediction.total), gigabytes(prediction.memory), gigabytes(prediction.disk)
        way = way_of_training(training, data)
        held.setdefault(held_in_words(way, len(data.source.labels), training.image_size), []).append(name)
        rows.append([training.recipe, str(training.image_size), *times, total, str(fitted.batch_size), memory, disk])
    notes += [f"{'; '.join(names)}: {words}" for words, names in held.items() if words]
    if config.budget:
        notes.append(f"--budget {config.budget}: {choice_of_budget(config, data, explicit, loading)}")
    filled = [place for place, column in enumerate(zip(*rows, strict=True)) if any(column)]
    return PlanTable([COLUMNS[place] for place in filled], [[row[place] for place in filled] for row in rows], notes)


def choice_of_budget(config: Config, data: Dataset, explicit: Collection[str], loading: float) -> str:
    """Return which options a budget would choose, or why none fit it."""
    try:
        chosen = prepare(config, data, explicit, loading)
        prediction = predict(chosen, data, costs_at(load_costs(chosen, data), chosen.image_size), loading)
    except HeadstartError as error:
        return str(error)
    return " ".join(f"{option_name(name)} {getattr(chosen, name)}" for name in CHOSEN) + f": {duration(prediction.total)}"


def planned(config: Config, data: Dataset, explicit: Collection[str]) -> list[Config]:
    """Return the trainings that get a row: `config`, other recipes unless one is explicit, and `config` at other image sizes."""
    rows = [config]
    for name in () if "recipe" in explicit else TABLE_RECIPES:
        with contextlib.suppress(HeadstartError):  # the explicit options cannot be combined with this recipe
            rows.append(own_way(recipe(name, **{option: getattr(config, option) for option in explicit}), explicit))
    rows += [replace(config, image_size=size) for size in TABLE_SIZES if size in sizes_for(config, data, explicit)]
    # Rows may be equal: recipes that differ only in explicit options, and a recipe's size among the other sizes.
    different: dict[Config, Config] = {}
    for row in rows:
        different.setdefault(replace(row, recipe=config.recipe), row)
    return list(different.values())
