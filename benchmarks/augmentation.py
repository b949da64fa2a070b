"""Augmentation: one affine map against Keras' four layers in a row, alone and as a part of the training step.

python -m benchmarks.augmentation --backend tensorflow torch jax
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from benchmarks import common
from headstart.config import ALL, Config

TEXT = """A batch of 128 images through flip, rotation, zoom and translation: ours, one affine map with one interpolation,
against Keras' `RandomFlip`, `RandomRotation`, `RandomZoom` and `RandomTranslation` one after the other, as each backend
runs them in training (TensorFlow and JAX compiled, PyTorch not). Compiling is the first call. Then a step of
fine-tuning, everything unfrozen, with the default augmentation against without any."""
NAMES = {"ours": "one affine map", "keras": "Keras' four layers"}
PLAIN = {"flip": False, "rotation": 0.0, "zoom": 0.0, "translation": 0.0}


@dataclass(frozen=True)
class Options(common.Options):
    """Measure augmentation."""

    backend: tuple[str, ...] = ("tensorflow",)  # of those that are installed here
    size: tuple[int, ...] = (32, 224)  # sides in pixels of the images alone
    step_size: int = 64  # side in pixels of the training step's images
    steps: int = 12  # steps a measurement
    batch_size: int = 128


def main(options: Options) -> None:
    table = common.Table("augmentation", "Augmentation", TEXT, options)
    for backend in options.backend:
        for size in options.size:
            with contextlib.ExitStack() as stack:
                contenders = {
                    name: stack.enter_context(common.contender(prepare_alone, backend, name, size, options.batch_size))
                    for name in NAMES
                }
                found = common.alternate(contenders, options.repeats)
            times = {name: [sample["seconds"] for sample in samples] for name, samples in found.items()}
            add(table, backend, f"{size} px, alone", found, times)
        config = common.configuration(options, options.step_size, fine_tune_from=ALL)
        with contextlib.ExitStack() as stack:
            contenders = {
                name: stack.enter_context(common.contender(prepare_step, backend, config, changes, options.steps))
                for name, changes in {"ours": {}, "without": PLAIN}.items()
            }
            found = common.alternate(contenders, options.repeats)
        times = {name: [sample["seconds"] for sample in samples] for name, samples in found.items()}
        add(table, backend, f"{options.step_size} px, training step", found, times)


def add(
    table: common.Table, backend: str, what: str, found: dict[str, list[dict[str, Any]]], times: dict[str, list[float]]
) -> None:  # fmt: skip
    """Add a row: ours beside the other contender."""
    other = "keras" if "keras" in times else "without"
    table.rows.append({
        "": what, "backend": backend, "ours, ms": 1000 * common.median(times["ours"]),
        f"{NAMES['keras']}, ms": 1000 * common.median(times["keras"]) if "keras" in times else None,
        "without, ms": 1000 * common.median(times["without"]) if "without" in times else None,
        "ours is ... times as fast": common.ratio(times[other], times["ours"]),
        "ours compiles in, s": found["ours"][0]["first"], "the other in, s": found[other][0]["first"],
    })  # fmt: skip
    table.samples[f"{backend}, {what}"] = times
    table.write()


def prepare_alone(backend: str, name: str, size: int, batch_size: int) -> Callable[[], dict[str, float]]:
    """Return what measures a batch through the augmentation."""
    os.environ["KERAS_BACKEND"] = backend
    from headstart.model.augmentation import augmentation
    from headstart.system.backend import load_keras

    keras, config = load_keras(), Config()
    layers, edge = keras.layers, {"fill_mode": "reflect"}
    layer = augmentation(config) if name == "ours" else keras.Sequential([
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(config.rotation, **edge),
        layers.RandomZoom(config.zoom, **edge),
        layers.RandomTranslation(config.translation, config.translation, interpolation="nearest", **edge),
    ])  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), np.uint8)
    images = keras.ops.convert_to_tensor(images if name == "ours" else np.float32(images))
    augment = compiled(backend, layer, images)

    def seconds() -> float:
        begin = time.perf_counter()
        keras.ops.convert_to_numpy(augment(images))
        return time.perf_counter() - begin

    first = seconds()
    return lambda: {"seconds": seconds(), "first": first}


def compiled(backend: str, layer: Any, images: Any) -> Callable[[Any], Any]:
    """Return the layer's call in training, compiled as the backend's `fit` compiles it."""
    if backend == "tensorflow":
        import tensorflow

        return tensorflow.function(lambda inputs: layer(inputs, training=True))
    if backend == "jax":
        import jax

        layer.build(images.shape)
        call = jax.jit(lambda state, inputs: layer.stateless_call([], state, inputs, training=True)[0])
        return lambda inputs: call([variable.value for variable in layer.non_trainable_variables], inputs)
    return lambda inputs: layer(inputs, training=True)


def prepare_step(backend: str, config: Config, changes: dict[str, Any], steps: int) -> Callable[[], dict[str, float]]:
    """Return what measures steps of fine-tuning, in seconds a step."""
    os.environ["KERAS_BACKEND"] = backend
    from headstart.config import replace
    from headstart.system.kernels import without_autotuning
    from headstart.training.batches import Batches
    from headstart.training.stages import tuning_learner

    config = replace(config, **changes)
    images, labels = common.training_images(config, config.batch_size * steps)
    classes = int(labels.max()) + 1
    network, _ = common.built_network(config, images.shape[1:], classes)
    batches = Batches(images, labels, np.arange(len(labels)), config.batch_size, 0, classes)
    learner = tuning_learner(network, config, 100 * steps)

    def fit(number: int) -> float:
        begin = time.perf_counter()
        learner.fit(without_autotuning(batches), shuffle=False, verbose=0)
        return (time.perf_counter() - begin) / number

    first = fit(1) - fit(1)  # the second is without compiling

    return lambda: {"seconds": fit(steps), "first": first}


if __name__ == "__main__":
    main(tyro.cli(Options))
