"""Fine-tuning steps: ours against Keras' guide and PyTorch's tutorial.

python -m benchmarks.steps --size 64 96
"""

import contextlib
import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common
from headstart.config import ALL, LAST_STAGE, Config

TEXT = """One epoch of fine-tuning on as many images, in images a second, without validation and after an epoch to
warm up. Keras is `fit` as its guide has it, with everything unfrozen and `jit_compile="auto"`; "batch norm frozen" is
the same with the batch norms left untrainable, which the guide's `training=False` does not bring about in Keras 3.
PyTorch is its tutorial's loop. The last stage trains on maps that the layers before it gave once, while the head's
features were computed. The difference is that of the pooled features before training from plain Keras', relative: all
train the same network. The share is that of the rate at which the same backend multiplies large matrices in the same
precision, counting convolutions and dense layers alone, forward and twice as much backward. Aims: 2 times Keras, 2
times PyTorch in float32, 1.4 times PyTorch in bfloat16."""
OURS = {"Headstart, everything (`--fine-tune-from all`)": ALL, "Headstart, last stage on cached maps (`quick`)": LAST_STAGE}
GUIDE = "Keras `fit`, the guide"
GUIDES = {GUIDE: False, "Keras `fit`, the guide, batch norm frozen": True}
PYTORCH = {"PyTorch, the tutorial, float32": (False, False), "PyTorch, channels last, bfloat16": (True, False)}
COMPILED = {"PyTorch, channels last, bfloat16, compiled": (True, True)}


@dataclass(frozen=True)
class Options(common.Options):
    """Measure steps of fine-tuning."""

    size: tuple[int, ...] = (64, 96)  # sides in pixels
    images: int = 384  # images a measurement at 96 px; at other sizes as many as take about as long
    table: str = "steps"  # name of the results; another one for another backbone
    compiled: bool = False  # PyTorch with torch.compile too, which needs a C++ compiler and minutes


def main(options: Options) -> None:
    title = "Fine-tuning" if options.table == "steps" else f"Fine-tuning, {Path(options.backbone).stem}"
    table = common.Table(options.table, title, TEXT, options)
    for size in options.size:
        config = common.configuration(options, size)
        images, labels = common.training_images(
            config, common.whole_batches(options.images * (96 / size) ** 2, options.batch_size)
        )
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            contenders = {
                name: stack.enter_context(common.contender(*prepared))
                for name, prepared in preparations(options, config, images, labels, folder).items()
            }
            found = common.alternate(contenders, options.repeats)
            for name, precision in {name: found[name][0]["precision"] for name in OURS}.items():
                found[name][0]["peak"] = common.in_own_process(matrix_product_rate, precision)
        add_rows(table, size, len(images), found)
        table.write()


def preparations(options: Options, config: Config, images: np.ndarray, labels: np.ndarray, folder: str) -> dict[str, tuple]:
    """Return what prepares each contender, with its arguments; `folder` is for cached maps."""
    found: dict[str, tuple] = {
        name: (prepare_headstart, common.configuration(options, config.image_size, fine_tune_from=start), images, labels, folder)
        for name, start in OURS.items()
    }
    found |= {name: (prepare_guide, config, images, labels, held) for name, held in GUIDES.items()}
    if not importlib.util.find_spec("torch"):
        print("PyTorch is not installed (pip install 'headstart[torch]'): its rows are left out")
        return found
    backbone = common.in_own_process(exported, config)
    if "conv5_block3_3_conv" not in backbone["layers"] or "conv5_block4_1_conv" in backbone["layers"]:
        print("PyTorch's network is written out as a ResNet-50 only: its rows are left out")
        return found
    peers = PYTORCH | (COMPILED if options.compiled else {})
    return found | {name: (prepare_pytorch, config, backbone, images, labels, *how) for name, how in peers.items()}


def prepare_headstart(config: Config, images: np.ndarray, labels: np.ndarray, folder: str) -> Callable[[], dict[str, Any]]:
    """Return what measures an epoch of our own fine-tuning, by the learner of `headstart.training.stages`."""
    from headstart.model.unfreeze import frozen_cut
    from headstart.system.entries import read_stored, seal
    from headstart.system.kernels import without_autotuning
    from headstart.system.rows import StoredRows
    from headstart.training.batches import Batches
    from headstart.training.stages import tuning_learner

    classes = int(labels.max()) + 1
    network, precision = common.built_network(config, images.shape[1:], classes)
    features = network.feature_extractor().predict(images[: config.batch_size], config.batch_size, verbose=0)
    network.cut, rows = frozen_cut(network.backbone, config), images
    if network.cut:
        maps = network.feature_extractor().predict(images, config.batch_size, verbose=0)[1]
        file = Path(folder) / "maps.npy"
        np.save(file, maps.astype(np.float16))
        seal(file, file.name)
        stored = read_stored(file, ("float16",), maps.shape)
        assert stored
        rows = StoredRows([stored])
    batches = Batches(rows, labels, np.arange(len(labels)), config.batch_size, 0, classes)
    learner = tuning_learner(network, config, 100 * batches.num_batches)
    end, side = learner.get_layer(network.backbone_end().name), config.image_size
    if network.cut:
        features = np.asarray(end(maps[: config.batch_size]), np.float32).mean((1, 2))
    operations = 3 * forward_operations(end, (1, *learner.input_shape[1:]) if network.cut else (1, side, side, 3))
    learner.fit(without_autotuning(batches), shuffle=False, verbose=0)

    def measure() -> dict[str, Any]:
        begin = time.perf_counter()
        learner.fit(without_autotuning(batches), shuffle=False, verbose=0)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "features": features, "operations": operations, "precision": precision}

    return measure


def forward_operations(network: Any, shape: tuple[int, ...]) -> float:
    """Return the multiplications and additions of a network's convolutions and dense layers, for inputs of a shape."""
    import keras

    layers = [layer for layer in network.layers if hasattr(layer, "kernel")]
    shapes = keras.Model(network.input, [layer.output for layer in layers]).compute_output_shape(shape)
    return 2.0 * sum(math.prod(output[:-1]) * math.prod(layer.kernel.shape) for layer, output in zip(layers, shapes, strict=True))


def matrix_product_rate(precision: str, side: int = 4096, products: int = 1) -> float:
    """Return how many multiplications and additions a second the backend does in products of large matrices.

    Args:
        products: so many in a row before the clock is read, which a GPU waits for longer than for a product.
    """
    from headstart.system.backend import load_keras

    keras = load_keras()
    ops = keras.ops
    # Random numbers: a GPU multiplies equal ones faster. Scaled so that a product's entries are of the same size.
    matrix = ops.cast(keras.random.normal((side, side), stddev=side**-0.5, seed=0), precision)
    seconds = []
    for _ in range(6):
        begin, product = time.perf_counter(), matrix
        for _ in range(products):
            product = ops.matmul(product, matrix)
        float(ops.cast(product[0, 0], "float32"))
        seconds.append(time.perf_counter() - begin)
    return 2 * products * side**3 / min(seconds)


def prepare_guide(config: Config, images: np.ndarray, labels: np.ndarray, held: bool) -> Callable[[], dict[str, Any]]:
    from benchmarks.keras_guide import prepare_fine_tuning

    return prepare_fine_tuning(config, images, labels, held)


def exported(config: Config) -> dict[str, Any]:
    from benchmarks import keras_guide

    return keras_guide.exported(config)


def prepare_pytorch(*arguments: Any) -> Callable[[], dict[str, Any]]:
    os.environ["KERAS_BACKEND"] = "torch"  # TensorFlow and Triton, which PyTorch brings along, crash in one process.
    from benchmarks.pytorch_tutorial import prepare_fine_tuning

    return prepare_fine_tuning(*arguments)


def add_rows(table: common.Table, size: int, images: int, found: dict[str, list[dict[str, Any]]]) -> None:
    from headstart.inference.engine import relative_difference

    rates = {name: [images / sample["seconds"] for sample in samples] for name, samples in found.items()}
    everything, last_stage = OURS
    for name, values in rates.items():
        peer, sample = name not in OURS, found[name][0]
        table.rows.append({
            "side, px": size,
            "": name,
            "images/s": common.median(values),
            "share of a matrix product's rate": None if peer else common.median(values) * sample["operations"] / sample["peak"],
            "everything is ... times as fast": common.ratio(rates[everything], values) if peer else None,
            "the last stage is ... times as fast": common.ratio(rates[last_stage], values) if peer else None,
            "features differ by": relative_difference(sample["features"], found[GUIDE][0]["features"]),
        })  # fmt: skip
    table.samples[str(size)] = {"images": images, **rates}


if __name__ == "__main__":
    main(tyro.cli(Options))
