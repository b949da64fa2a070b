"""The frozen stage from nothing to a test accuracy: `headstart train` against ten epochs of Keras' `fit`.

python -m benchmarks.frozen --size 96                                     # on part of the images: about ten minutes
python -m benchmarks.frozen --size 96 --images 0 --keras-epochs 1       # on all: twenty minutes
python -m benchmarks.frozen --size 96 --images 0                        # on all: two hours
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tyro

from benchmarks import common
from headstart.config import Config

TEXT = """Wall time from the start of Python to the test accuracy of a head on a frozen backbone, loading included, and that
accuracy with its 95 % interval. Headstart begins with an empty cache, and its time includes the audit and the report;
`headstart train --epochs 0` is what it runs. Keras is `fit` as its guide has it, through the backbone at every epoch,
with validation. Both see the same training, validation and test images. Each epoch of Keras' does the same work: where
fewer are run than Headstart's head learns for, its time is that of as many epochs as the last one that was run, and its
accuracy is what it had by then. With all of CIFAR-10, Keras passes 510,000 images through the backbone and Headstart
60,000, that is 8.5 times fewer: times the ratio of the table of extraction, it is the most that there is to gain."""
AIM = 25


@dataclass(frozen=True)
class Options(common.Options):
    """Measure the frozen stage as a whole."""

    repeats: int = 1  # measurements of each contender, each from the start
    size: tuple[int, ...] = (96,)  # sides in pixels
    images: int = 6000  # images in all, of training, validation and test in proportion; 0: all there are
    epochs: int = 10  # epochs of the head, on either side
    keras_epochs: int = 0  # how many of Keras' are run; 0: all


def main(options: Options) -> None:
    table = common.Table("frozen", "The frozen stage, end to end", TEXT, options)
    for size in options.size:
        config = common.configuration(options, size, epochs=0, head_epochs=options.epochs)

        def headstart(config: Config = config) -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                return timed(run_headstart, config, options.images, folder, HEADSTART_CACHE=folder)

        def keras(config: Config = config) -> dict[str, Any]:
            run = options.keras_epochs or options.epochs
            found = timed(run_keras, dataclasses.replace(config, head_epochs=run), options.images)
            return found | {"seconds": found["seconds"] + (options.epochs - run) * found["epochs"][-1], "epochs run": run}

        add_row(table, size, common.alternate({"headstart": headstart, "keras": keras}, options.repeats))
        table.write()


def timed(run: Callable[..., dict[str, Any]], *arguments: Any, **environment: str) -> dict[str, Any]:
    """Return what a contender found, with the seconds that it took in a new process."""
    begin = time.perf_counter()
    found = common.in_own_process(run, *arguments, **environment)
    return found | {"seconds": time.perf_counter() - begin}


def run_headstart(config: Config, images: int, folder: str) -> dict[str, Any]:
    import headstart as hs

    run = hs.train(dataclasses.replace(config, out=f"{folder}/run"), common.load(config, images))
    return {
        "test": common.accuracy(run.metrics["test"]["frozen"]),
        "parts": run.metrics["seconds"],
        "images": sum(run.read_json("data.json")["images"].values()),
    }


def run_keras(config: Config, images: int) -> dict[str, Any]:
    from benchmarks.keras_guide import run_frozen

    return run_frozen(config, images)


def add_row(table: common.Table, size: int, found: dict[str, list[dict[str, Any]]]) -> None:
    ours, theirs = ([sample["seconds"] for sample in found[name]] for name in ("headstart", "keras"))
    table.rows.append({
        "side, px": size,
        "images": found["headstart"][0]["images"],
        "Headstart, s": common.median(ours),
        "Keras `fit`, s": common.median(theirs),
        "times as fast": common.ratio(theirs, ours),
        "aim": AIM,
        "Headstart, test accuracy": found["headstart"][0]["test"],
        "Keras `fit`, test accuracy": found["keras"][0]["test"],
        "after epochs": found["keras"][0]["epochs run"],
    })  # fmt: skip
    table.samples[str(size)] = found


if __name__ == "__main__":
    main(tyro.cli(Options))
