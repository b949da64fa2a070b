"""Class weights where one class is rare: each rule of `--class-weights`, on a few images of CIFAR-10.

python -m benchmarks.uneven                                     # three seeds of each, a quarter of an hour
"""

import dataclasses
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

import headstart as hs
from benchmarks import common
from headstart.data.load import configured_data

TEXT = """Two classes of CIFAR-10 with 400 training images and one with 20, of which a tenth is for validation; all 3,000 test
images of the three classes. Recipe `starter` at 32 px, each rule of `--class-weights`. Macro recall is the mean of the classes'
recalls; the test has as many images of each class, so it is the accuracy too. Figures are means over the seeds, each with its
standard deviation; a seed draws the images as well. `as drawn` is the accuracy if new images came as the training images do, 20
to 1. Calibration error: of the final probabilities, on the test. Chosen: what `auto` chose."""
RULES = ("none", "root", "balanced", "auto")
SETS = ("automobile,truck,frog", "cat,dog,frog", "dog,frog,cat")


@dataclass(frozen=True)
class Options(common.Options):
    """Measure class weights on uneven classes."""

    backbone: str = "starter"
    sets: tuple[str, ...] = SETS  # three classes each, the last of which is rare
    rules: tuple[str, ...] = RULES  # of --class-weights
    seeds: int = 3  # trainings of each, on other images
    images: int = 400  # training images of a common class
    rare: int = 20  # training images of the rare class


def main(options: Options) -> None:
    table = common.Table("uneven", "Uneven classes", TEXT, options)
    config = hs.recipe("starter", data=options.data, backbone=options.backbone, image_size=32)
    whole = configured_data(config)
    for names in options.sets:
        for rule in options.rules:
            found = [measured(config, whole, names.split(","), rule, seed, options) for seed in range(options.seeds)]
            table.samples[f"{names} {rule}"] = found
            table.rows.append({"classes, the last is rare": names, "--class-weights": rule} | row(found))
            table.write()


def measured(config: hs.Config, whole: hs.Dataset, names: list[str], rule: str, seed: int, options: Options) -> dict[str, Any]:
    """Train once, and return the figures of the test and what was chosen."""
    data = few(whole, names, [options.images] * (len(names) - 1) + [options.rare], seed)
    with tempfile.TemporaryDirectory() as folder:
        run = hs.train(dataclasses.replace(config, out=f"{folder}/run", class_weights=rule, seed=seed), data)
        figures = list(run.metrics["test"].values())[-1]
        recalls = [one["recall"] for one in figures["per_class"].values()]
        counts = [options.images] * (len(names) - 1) + [options.rare]
        return {
            "macro recall": figures["macro"]["recall"], "rare": recalls[-1],
            "as drawn": float(np.average(recalls, weights=counts)), "ece": figures["calibrated"]["ece"],
            "seconds": run.metrics["seconds"]["total"], "chosen": run.read_json("weighting.json", {}).get("chosen", ""),
        }  # fmt: skip


def few(whole: hs.Dataset, names: list[str], counts: list[int], seed: int) -> hs.Dataset:
    """Return a data set of so many training images of each of some classes, drawn by the seed, and of all their test images."""
    random, numbers = np.random.default_rng(seed), [whole.class_names.index(name) for name in names]
    train, test = [], []
    for number, images in zip(numbers, counts, strict=True):
        train.append(random.choice(whole.train[whole.labels(whole.train) == number], images, replace=False))
        test.append(whole.test[whole.labels(whole.test) == number])
    labels = [np.repeat(np.arange(len(names)), [len(rows) for rows in split]) for split in (train, test)]
    x_train, x_test = (whole.images(np.concatenate(split)) for split in (train, test))
    return hs.Dataset.from_arrays(x_train, labels[0], x_test=x_test, y_test=labels[1], class_names=names, seed=seed)


def row(found: list[dict[str, Any]]) -> dict[str, Any]:
    def spread(name: str) -> str:
        values = 100 * np.array([one[name] for one in found])
        return f"{values.mean():.1f} ± {values.std(ddof=1) if len(values) > 1 else 0:.1f} %"

    return {
        "macro recall": spread("macro recall"),
        "recall of the rare class": spread("rare"),
        "accuracy as drawn": spread("as drawn"),
        "calibration error": spread("ece"),
        "chosen": ", ".join(one["chosen"] for one in found),
        "seconds": common.median([one["seconds"] for one in found]),
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
