"""The head that a run chooses beside the dense head, from 10 images of each class to all.

python -m benchmarks.heads                                        # CIFAR-10, EfficientNet-Lite0 at 128 px: about an hour
python -m benchmarks.heads --backbone starter --size 32           # the other backbone that comes with the package
"""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import common

TEXT = """Test accuracy of the frozen stage in percent, mean and range over seeds that draw the training images anew, with so many
images of each class for training and validation together (a tenth validates). `--head auto` chooses between logistic regression
and the dense head; `--head dense` is ten epochs of Adam."""


@dataclass(frozen=True)
class Options(common.Options):
    """Measure heads on cached features."""

    backbone: str = "efficientnetlite0"
    size: int = 128  # side in pixels
    of_each: tuple[int, ...] = (10, 100, 1000, 0)  # images of each class; 0: all
    seeds: int = 3  # draws of the training images; one, where all are taken
    repeats: int = 1


def main(options: Options) -> None:
    name = Path(options.backbone).stem
    table = common.Table(f"heads-{name}", f"The head: chosen and dense, {name} at {options.size} px", TEXT, options)
    for of_each in options.of_each:
        found = common.in_own_process(measured, options, of_each)
        row: dict[str, Any] = {"images of each class": of_each or "all"}
        for head, accuracies in found["accuracy"].items():
            row[head] = common.over_seeds(accuracies)
        table.rows.append(row | {"chosen": ", ".join(sorted(set(found["chosen"])))})
        table.samples[str(of_each)] = found
        table.write()


def measured(options: Options, of_each: int) -> dict[str, Any]:
    """Return the test accuracies of both heads by seed, and what was chosen."""
    import headstart as hs
    from headstart.data.load import configured_data

    found: dict[str, Any] = {"accuracy": {"auto": [], "dense": []}, "chosen": []}
    for seed in range(options.seeds if of_each else 1):
        config = common.configuration(options, options.size, epochs=0, seed=seed, batch_size=128)
        data = common.of_each_class(configured_data(config), of_each, seed)
        for head, accuracies in found["accuracy"].items():
            with tempfile.TemporaryDirectory() as folder:
                run = hs.train(dataclasses.replace(config, head=head, out=f"{folder}/run"), data)
                accuracies.append(run.metrics["test"]["frozen"]["accuracy"])
                if head == "auto":
                    found["chosen"].append(run.read_json("head.json")["chosen"])
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
