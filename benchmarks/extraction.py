"""Features of a frozen backbone: `headstart.inference.engine.Engine` against Keras' `predict`.

python -m benchmarks.extraction --size 64 96 224
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from benchmarks import common
from headstart.config import Config

TEXT = """Pooled features of the frozen network from raw images, enlarging included, in images a second: the engine of
`headstart train` after its first batch, against `model.predict` of the same network in plain Keras, compiled and warm.
Start-up is what the engine takes until its first batch is there, converting and compiling the network; it comes once
for a part of the data and is not in the ratio. The difference is that of all features, relative, in the L2 norm."""
AIM = 2.5
# How many images the engine is told of: those of a real job, of which the measured ones are a sample.
JOB = 60_000


@dataclass(frozen=True)
class Options(common.Options):
    """Measure feature extraction."""

    size: tuple[int, ...] = (64, 96, 224)  # sides in pixels
    images: int = 1024  # images a measurement at 96 px; at other sizes as many as take about as long


def main(options: Options) -> None:
    table = common.Table("extraction", "Extraction of features", TEXT, options)
    for size in options.size:
        config = common.configuration(options, size)
        count = common.whole_batches(options.images * (96 / size) ** 2, options.batch_size)
        images, _ = common.training_images(config, count)
        with (common.contender(prepare_engine, config, images) as engine,
              common.contender(prepare_keras, config, images) as keras):  # fmt: skip
            found = common.alternate({"engine": engine, "keras": keras}, options.repeats)
        add_row(table, size, count, found)
        table.write()


def prepare_engine(config: Config, images: np.ndarray) -> Callable[[], dict[str, Any]]:
    from headstart.system.backend import load_keras, resolve_precision

    load_keras()
    from headstart.inference.engine import Engine
    from headstart.model.backbones import load_backbone
    from headstart.model.network import build_network

    precision = resolve_precision(config.precision)
    network = build_network(*load_backbone(config), images.shape[1:], 2, config, precision)
    extractor = network.feature_extractor()
    batches = [images[start : start + config.batch_size] for start in range(0, len(images), config.batch_size)]

    def measure() -> dict[str, Any]:
        begin = time.perf_counter()
        outputs = Engine(extractor).outputs(batches, JOB)
        features = [next(outputs)[0]]
        first = time.perf_counter()
        features += [values for (values,) in outputs]
        end = time.perf_counter()
        rest = len(images) - len(features[0])
        return {"seconds": end - begin, "start_up": first - begin, "rate": rest / (end - first),
                "features": np.concatenate(features), "precision": precision}  # fmt: skip

    return measure


def prepare_keras(config: Config, images: np.ndarray) -> Callable[[], dict[str, Any]]:
    from benchmarks.keras_guide import prepare_predict

    return prepare_predict(config, images)


def add_row(table: common.Table, size: int, count: int, found: dict[str, list[dict[str, Any]]]) -> None:
    from headstart.inference.engine import relative_difference

    ours = [sample["rate"] for sample in found["engine"]]
    theirs = [count / sample["seconds"] for sample in found["keras"]]
    start_up = [sample["start_up"] for sample in found["engine"]]
    table.rows.append({
        "side, px": size,
        "Headstart, images/s": common.median(ours),
        "Keras `predict`, images/s": common.median(theirs),
        "times as fast": common.ratio(ours, theirs),
        "aim": AIM,
        "start-up, s": common.median(start_up),
        "features differ by": relative_difference(found["engine"][0]["features"], found["keras"][0]["features"]),
        "precision": found["engine"][0]["precision"],
    })  # fmt: skip
    table.samples[str(size)] = {"images": count, "headstart": ours, "keras": theirs, "start_up": start_up}


if __name__ == "__main__":
    main(tyro.cli(Options))
