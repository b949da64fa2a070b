"""`headstart tune` against each recipe by itself, on the same images.

python -m benchmarks.tuning                                             # 5,000 CIFAR-10 images, three seeds: two hours
python -m benchmarks.tuning --data photos/ --of-each 0 --name photos    # a folder of images
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common

TEXT = """Accuracy in percent of what each way trains, on the validation images, by which it was chosen, and on all test images,
which no choice has seen; mean and range over seeds, each of which draws other training images. `tune` has the budget, and
searches backbone, image size, what is unfrozen, rates and augmentation; a recipe takes the time that it takes. Nothing is
cached before."""


@dataclass(frozen=True)
class Options(common.Options):
    """Measure what a search finds, beside the recipes."""

    backbone: str = ""  # of the recipes that have no packaged one, a .keras file; without it they are left out
    preprocess: str = "auto"  # what that backbone expects, see --preprocess
    recipes: tuple[str, ...] = ("starter", "laptop")
    with_backbone: tuple[str, ...] = ("quick", "standard")  # recipes that take --backbone
    of_each: int = 500  # images of each class for training and validation; 0: all
    budget: str = "30m"
    seeds: int = 3
    name: str = "cifar10"  # of the results


def main(options: Options) -> None:
    table = common.Table(f"tuning-{options.name}", f"A search beside the recipes: {options.name}", TEXT, options)
    ways = [*options.recipes, *(options.with_backbone if options.backbone else ()), "tune"]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for seed in range(options.seeds):
        for way in ways:
            with tempfile.TemporaryDirectory() as cache:
                found[way].append(common.in_own_process(trained, options, way, seed, HEADSTART_CACHE=cache))
            table.samples = found
            table.rows = [row(each, one) for each, one in found.items() if one]
            table.write()


def trained(options: Options, way: str, seed: int) -> dict[str, Any]:
    """Return the accuracies of one way with one seed, its minutes, and what it trained."""
    import headstart as hs
    from headstart.data.load import configured_data

    searches = way == "tune"
    chosen: dict[str, Any] = {"data": options.data, "seed": seed}
    if way in options.with_backbone:
        chosen |= {"backbone": options.backbone, "preprocess": options.preprocess}
    config = hs.recipe("quick" if searches else way, **chosen)
    with tempfile.TemporaryDirectory() as folder:
        # A folder's images are decoded to the size that a way asks for, so each loads them itself; arrays are drawn from.
        data = common.of_each_class(configured_data(config), options.of_each, seed) if options.of_each else None
        begin = time.perf_counter()
        if searches:
            run = hs.tune(config, data, explicit=(), out=f"{folder}/run", budget=options.budget)
        else:
            run = hs.train(config, data, out=f"{folder}/run")
        seconds = time.perf_counter() - begin
        stage, figures = list(run.metrics["test"].items())[-1]
        logits, labels = (np.load(Path(run.path) / f"{name}.npy") for name in (f"validation_{stage}", "labels_validation"))
        return {
            "test": figures["accuracy"], "validation": float((logits.argmax(1) == labels).mean()), "minutes": seconds / 60,
            "what": f"{Path(run.config.backbone).stem}, {run.config.image_size} px, {run.config.fine_tune_from}, {stage}",
        }  # fmt: skip


def row(way: str, found: list[dict[str, Any]]) -> dict[str, str]:
    return {
        "": way,
        "validation": common.over_seeds([one["validation"] for one in found]),
        "test": common.over_seeds([one["test"] for one in found]),
        "minutes": f"{common.median([one['minutes'] for one in found]):.1f}",
        "what was trained": "; ".join(dict.fromkeys(one["what"] for one in found)),
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
