"""What fine-tuning's settings are worth: rates, decay by layer, averages of the weights, mirrored and larger test images.

python -m benchmarks.fine_tuning --size 96 160                          # 5,000 images, the last stage: half an hour
python -m benchmarks.fine_tuning --size 96 --from-layer all --steps 100   # every layer
"""

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common

TEXT = """Test accuracy in percent after fine-tuning, on all test images; mean over seeds, each of which draws other training
images, and in brackets the difference from the first setting, mean and range over the same seeds. Every setting
starts from the same head on frozen features, and takes as many steps. `mirrored`: the mean of the first setting's
logits for the test images and for their mirror images; `larger`: its logits for test images whose side is about an
eighth longer than in training, a multiple of 8 px (FixRes, Touvron et al. 2019, without its second training). Both
cost another pass of the whole network over the test images. Seconds are fine-tuning's alone; for the last two, the
other pass."""
SETTINGS: dict[str, dict[str, Any]] = {
    "rate 1e-3": {"learning_rate": 1e-3},
    "rate 3e-4": {"learning_rate": 3e-4},
    "rate 3e-3": {"learning_rate": 3e-3},
    "rate 1e-3, first layer a tenth": {"learning_rate": 1e-3, "layer_decay": 0.1},
    "rate 1e-3, EMA 0.98": {"learning_rate": 1e-3, "ema": 0.98},
}


@dataclass(frozen=True)
class Options(common.Options):
    """Measure settings of fine-tuning."""

    backbone: str = "efficientnetlite0"
    batch_size: int = 128
    size: tuple[int, ...] = (96, 160)  # sides in pixels
    from_layer: str = "last-stage"  # what is unfrozen, see --fine-tune-from
    of_each: int = 500  # images of each class for training and validation
    steps: int = 150  # of fine-tuning
    seeds: int = 3


def main(options: Options) -> None:
    name, what = Path(options.backbone).stem, options.from_layer.replace("-", " ")
    title = f"Settings of fine-tuning: {name}, {what}"
    table = common.Table(f"fine-tuning-{name}-{options.from_layer}", title, TEXT, options)
    with tempfile.TemporaryDirectory() as cache:
        for size in options.size:
            found: dict[str, list[dict[str, float]]] = {}
            for seed in range(options.seeds):
                for setting, one in common.in_own_process(measured, options, size, seed, HEADSTART_CACHE=cache):
                    found.setdefault(setting, []).append(one)
            table.samples[str(size)] = found
            for setting, each in found.items():
                table.rows.append({"side, px": size, "setting": setting} | row(each, found["rate 1e-3"]))
            table.write()


def measured(options: Options, size: int, seed: int) -> list[tuple[str, dict[str, float]]]:
    """Return each setting's test accuracy and seconds, for one seed."""
    return list(each_setting(options, size, seed))


def each_setting(options: Options, size: int, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    from headstart.data.load import configured_data
    from headstart.model.network import without_augmentation
    from headstart.system.backend import keras, resolve_precision, seed_everything
    from headstart.system.memory import keep_freed_memory
    from headstart.trainer import networks
    from headstart.training.checkpoint import Checkpoint
    from headstart.training.fit import fit_stage
    from headstart.training.stages import fine_tuning_stage, frozen_stage

    keep_freed_memory()
    config = common.configuration(
        options, size, seed=seed, head="dense", fine_tune_from=options.from_layer, epochs=1, fewest_steps=options.steps
    )
    data = common.of_each_class(configured_data(config), options.of_each, seed)
    labels, precision, head = data.labels(data.test), resolve_precision(config.precision), []
    for setting, changes in SETTINGS.items():
        keras.utils.clear_session()
        seed_everything(seed, deterministic=False)
        used = dataclasses.replace(config, **changes)
        network, frozen, _ = networks(data, used, precision)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Checkpoint(Path(folder))
            if head:
                network.head.set_weights(head)
            else:
                training = frozen_stage(network, frozen, data, used, checkpoint)
                fit_stage(training, checkpoint)
                head = network.head.get_weights()
                yield "frozen", {"accuracy": accuracy(training.learner, training.test, labels), "seconds": 0.0}
            checkpoint = Checkpoint(Path(folder) / "fine-tuning")
            training = fine_tuning_stage(network, frozen, data, used, checkpoint)
            begin = time.perf_counter()
            fit_stage(training, checkpoint)
            seconds = time.perf_counter() - begin
            network.take(training.learner)
        learned = without_augmentation(training.learner)
        yield setting, {"accuracy": accuracy(learned, training.test, labels), "seconds": seconds}
        if setting == next(iter(SETTINGS)):
            images, model = data.images(data.test), network.classifier()
            for name, way in (("mirrored", mirrored), ("larger", larger)):
                begin = time.perf_counter()
                logits = way(model, images, data, used, precision)
                found = {"accuracy": float((logits.argmax(1) == labels).mean()), "seconds": time.perf_counter() - begin}
                yield f"{setting}, {name}", found


def accuracy(model: Any, batches: Any, labels: np.ndarray) -> float:
    logits = answers(model, (batches[number][0] for number in range(batches.num_batches)), len(labels))
    return float((logits.argmax(1) == labels).mean())


def answers(model: Any, batches: Iterable[np.ndarray], total: int) -> np.ndarray:
    from headstart.inference.engine import Engine

    return np.concatenate([logits for (logits,) in Engine(model).outputs(batches, total)])


def in_batches(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + 128] for start in range(0, len(images), 128))


def mirrored(model: Any, images: np.ndarray, *_: Any) -> np.ndarray:
    return sum(answers(model, in_batches(view), len(images)) for view in (images, images[:, :, ::-1]))


def larger(model: Any, images: np.ndarray, data: Any, config: Any, precision: str) -> np.ndarray:
    from headstart.trainer import networks

    size = round(config.image_size * 1.125 / 8) * 8
    network, _, _ = networks(data, dataclasses.replace(config, image_size=size), precision)
    wide = network.classifier()
    wide.set_weights(model.get_weights())
    return answers(wide, in_batches(images), len(images))


def row(found: list[dict[str, float]], first: list[dict[str, float]]) -> dict[str, str]:
    values = 100 * np.array([one["accuracy"] for one in found])
    apart = values - 100 * np.array([one["accuracy"] for one in first])
    difference = "" if found is first else f" ({apart.mean():+.2f}, {apart.min():+.2f} to {apart.max():+.2f})"
    seconds = common.median([one["seconds"] for one in found])
    return {"test accuracy": f"{values.mean():.2f}{difference}", "seconds": f"{seconds:.0f}" if seconds else ""}


if __name__ == "__main__":
    main(tyro.cli(Options))
