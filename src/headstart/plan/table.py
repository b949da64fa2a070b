"""`headstart plan`: what each recipe and image size would take on this machine."""

import contextlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from headstart.config import Config, option_name, replace
from headstart.data.dataset import Dataset
from headstart.data.load import configured_data, resolved
from headstart.errors import HeadstartError
from headstart.plan.budget import CHOSEN, REFERENCE_SIZES, prepare, sizes_for
from headstart.plan.costs import Costs, costs_at, costs_file, load_costs, measured
from headstart.plan.estimate import duration, fit_memory, gigabytes, predict
from headstart.recipes import recipe
from headstart.record.history import TIMES, shown

TABLE_SIZES, TABLE_RECIPES = (32, 64, 96, 128, 224), ("quick", "standard", "best", "starter", "laptop")
SPENT_ON = (*TIMES, "results")
COLUMNS = ["recipe", "size", *map(shown, SPENT_ON), "total", "batch", "memory", "disk"]


class PlanTable(NamedTuple):
    """What trainings would take, as text.

    Attributes:
        columns: what each cell of a row is.
        rows: a training each.
        notes: why a training has no row, and what a budget would choose.
    """

    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def plan_table(config: Config, explicit: Collection[str] = ()) -> PlanTable:
    """Return what trainings would take on this machine, measured now and with nothing cached.

    Args:
        config: the training in question; unless its recipe is explicit, other recipes get a row too.
        explicit: names of the options that were given.

    Raises:
        HeadstartError: bad input, as a training would say it.
    """
    begin = time.monotonic()
    config = resolved(config)
    data = configured_data(config)
    loading = time.monotonic() - begin
    costs: dict[Path, dict[int, Costs]] = {}
    rows: list[list[str]] = []
    notes: list[str] = []
    trainings = planned(config, data, explicit)
    sizes_of: dict[Path, set[int]] = {}
    for asked in trainings:
        sizes_of.setdefault(costs_file(asked, data), set()).add(asked.image_size)
    for asked in trainings:
        name = f"{asked.recipe}, {asked.image_size} px"
        try:
            file = costs_file(asked, data)
            if file not in costs:
                sizes = REFERENCE_SIZES if sizes_of[file] - {asked.image_size} else [asked.image_size]
                costs[file] = measured(asked, data, sizes, anew=True)
            cost = costs_at(costs[file], asked.image_size)
            fitted = fit_memory(asked, data, cost)
            prediction = predict(fitted, data, cost, loading + cost["build"])
        except HeadstartError as error:
            notes.append(f"{name}: {error}")
            continue
        times = [duration(prediction.seconds[stage]) if stage in prediction.seconds else "" for stage in SPENT_ON]
        total, memory, disk = duration(prediction.total), gigabytes(prediction.memory), gigabytes(prediction.disk)
        rows.append([asked.recipe, str(asked.image_size), *times, total, str(fitted.batch_size), memory, disk])
    if config.budget:
        notes.append(f"--budget {config.budget}: {spent_on(config, data, explicit, loading)}")
    filled = [place for place, column in enumerate(zip(*rows, strict=True)) if any(column)]
    return PlanTable([COLUMNS[place] for place in filled], [[row[place] for place in filled] for row in rows], notes)


def spent_on(config: Config, data: Dataset, explicit: Collection[str], loading: float) -> str:
    """Return what a budget would choose, or why it cannot."""
    try:
        chosen = prepare(config, data, explicit, loading)
        prediction = predict(chosen, data, costs_at(load_costs(chosen, data), chosen.image_size), loading)
    except HeadstartError as error:
        return str(error)
    return " ".join(f"{option_name(name)} {getattr(chosen, name):g}" for name in CHOSEN) + f": {duration(prediction.total)}"


def planned(config: Config, data: Dataset, explicit: Collection[str]) -> list[Config]:
    """Return the trainings that get a row: `config`, other recipes unless one is explicit, and `config` at other image sizes."""
    rows = [config]
    for name in () if "recipe" in explicit else TABLE_RECIPES:
        with contextlib.suppress(HeadstartError):  # what is explicit cannot be combined with it
            rows.append(recipe(name, **{option: getattr(config, option) for option in explicit}))
    rows += [replace(config, image_size=size) for size in TABLE_SIZES if size in sizes_for(config, data, explicit)]
    # Recipes may differ only in options that are explicit here, and a size may be that of a recipe.
    different: dict[Config, Config] = {}
    for row in rows:
        different.setdefault(replace(row, recipe=config.recipe), row)
    return list(different.values())
