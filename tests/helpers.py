"""What many tests use: small options, small networks, images, and costs of a machine that does not exist."""

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import headstart as hs
from headstart import trainer
from headstart.data.source import Source
from headstart.model.network import Network, build_network
from headstart.system.backend import keras
from headstart.system.files import checksum
from headstart.system.reading import seal
from headstart.training.blocks import Blocks

# A run of both stages in a few seconds, on a part of the digits.
SMALL = {
    "data": "digits", "limit": 300, "flip": False, "image_size": 16, "head": "dense", "head_epochs": 3, "epochs": 4,
    "hidden_units": 32, "warmup_steps": 5, "batch_size": 32, "head_learning_rate": 2e-4, "precision": "float32",
}  # fmt: skip

# A run where what it has learned does not matter: the frozen stage alone, one epoch.
SMALLEST = SMALL | {"image_size": 8, "hidden_units": 0, "head_epochs": 1, "epochs": 0, "limit": 100}

# The same with `tiny_backbone`, which takes a second where the starter takes ten; see the fixture `tiny`.
TINY = SMALLEST | {"image_size": 32, "preprocess": "unit"}

# What parts of a training cost on a machine that does not exist, at 64 px.
COSTS = {
    "build": 3.0, "start": 5.0, "image": 0.01, "feature_bytes": 200.0, "disk_image": 1000.0, "audit_start": 1.0,
    "audit_image": 0.001, "audit_pair": 1e-8, "head_start": 2.0, "head_step": 0.01, "head_score": 1e-5, "head_save": 0.1,
    "tune_start": 4.0, "tune_image": 0.02, "tune_score": 0.01, "tune_save": 1.0, "memory": 1e9, "tune_memory": 1e9,
    "memory_image": 1e6, "largest_batch": 0.0,
}  # fmt: skip

# How matplotlib saves charts, whatever the tests do.
DRAWN = Figure.savefig

# No augmentation at all.
PLAIN = {"flip": False, "rotation": 0.0, "zoom": 0.0, "translation": 0.0}


def random_images(count: int, side: int = 32) -> np.ndarray:
    """Return uint8 (count, side, side, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def save_images(images: Iterable[np.ndarray], labels: Sequence[int], root: Path, names: Sequence[str]) -> None:
    """Write images as PNG files into a folder for each class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03d}.png")


def dataset(images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> hs.Dataset:
    """Return a data set of which four fifths are for training and the others for the test."""
    source = Source(images, np.int32(labels), tuple(names), np.zeros(len(images), np.int8), "made up")
    edge = len(images) * 4 // 5
    return hs.Dataset(source, np.arange(edge), np.arange(0), np.arange(edge, len(images)))


def uneven(counts: tuple[int, ...]) -> hs.Dataset:
    """So many training images of the first digits, of which validation is drawn, and 5 test images of each."""
    digits = hs.load_data("digits")
    images, labels = digits.source.images, digits.source.labels
    of_class = [np.flatnonzero(labels == label)[: count + 5] for label, count in enumerate(counts)]
    train, test = (np.concatenate(rows) for rows in ([rows[5:] for rows in of_class], [rows[:5] for rows in of_class]))
    return hs.Dataset.from_arrays(images[train], labels[train], x_test=images[test], y_test=labels[test])


def scene(seed: int) -> Image.Image:
    """Return an image with soft shapes of its own, red for even seeds and blue for odd ones."""
    random = np.random.default_rng(seed)
    sides = [Image.fromarray(random.integers(0, 200, (size, size), np.uint8)).resize((40, 40), 3) for size in (3, 5, 9)]
    grey = np.mean([np.asarray(side, np.float32) for side in sides], axis=0)
    colours = np.stack([grey, grey, grey], axis=-1)
    colours[..., 0 if seed % 2 == 0 else 2] += 80
    return Image.fromarray(np.uint8(np.clip(colours, 0, 255)))


def save(image: Image.Image, path: Path) -> None:
    """Write an image, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def photo_options(data: Path, out: Path, **changes: object) -> hs.Config:
    """Return the configuration of a short training or an audit of scenes."""
    options = {"image_size": 32, "hidden_units": 0, "head_epochs": 2, "epochs": 1, "precision": "float32"}
    return hs.recipe("starter", data=str(data), out=str(out), **options | changes)


def tiny_backbone() -> keras.Model:
    """Return two convolutions with batch norms whose statistics fit no batch, so that a wrong mode shows.

    It is always the same: with some weights, the logits are so small that rounding alone makes OpenVINO's differ from Keras'.
    """
    inputs = keras.Input((None, None, 3))
    x = inputs
    for number in range(2):
        x = keras.layers.Conv2D(8, 3, padding="same", name=f"stage{number}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"stage{number}_bn")(keras.layers.Conv2D(8, 1, name=f"stage{number}_mix")(x))
        x = keras.layers.Activation("relu", name=f"stage{number}_relu")(x)
    # Read twice: this batch norm cannot be folded away.
    x = keras.layers.Add()([keras.layers.BatchNormalization(name="last_bn")(x), x])
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
        elif isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([rng.normal(0, np.prod(kernel.shape[:3]) ** -0.5, kernel.shape), bias])
    return model


def tiny_network(**options: object) -> tuple[Network, hs.Config]:
    """Return a network around `tiny_backbone`, for 32 x 32 images of 5 classes, and its configuration."""
    config = hs.recipe("quick", **{"image_size": 32, "fine_tune_from": "all"} | options)
    return build_network(tiny_backbone(), "torch", (32, 32, 3), 5, config, "float32"), config


def called(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Return what a model gives when it is called once: `predict` would first trace all its layers."""
    return keras.ops.convert_to_numpy(model(inputs, training=False))


@contextlib.contextmanager
def real_charts() -> Iterator[None]:
    """Draw the charts of what is made within; in other tests they are blank, see `conftest.blank_charts`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", DRAWN)
        yield


def free_port() -> int:
    """Return the number of a port that nobody uses."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def change_manifest(folder: Path, **changes: object) -> None:
    """Change entries of a model's manifest as somebody would who makes its seal fit; None removes one."""
    content = {**json.loads((folder / "manifest.json").read_text()), **changes}
    content = {name: value for name, value in content.items() if value is not None}
    if "seal" in content:
        content["seal"] = seal(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def mend_checksum(folder: Path, name: str) -> None:
    """Let a run's manifest have the checksum of a file that was changed."""
    checksums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
    change_manifest(folder, sha256=checksums | {name: checksum(folder / name)})


def stopped_and_gone_on_with(member: str, **options: object) -> tuple[hs.Run, list[tuple[int, str]]]:
    """Train several runs in one folder, stop before one of them, and go on.

    Args:
        member: the name of the run before which it is stopped.
        options: of the recipe `starter`.

    Returns:
        The finished folder, and of each extraction of features how many images, and their name.
    """
    extracted = []
    compute, carry_out = Blocks.compute, trainer.carry_out

    def counted(blocks, missing, inputs, engine, name):
        extracted.append((blocks.rows, name))
        return compute(blocks, missing, inputs, engine, name)

    def stopped(run, data, loading):
        if run.path.name == member:
            raise KeyboardInterrupt
        return carry_out(run, data, loading)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "compute", counted)
        patch.setattr(trainer, "carry_out", stopped)
        with pytest.raises(KeyboardInterrupt):
            hs.train(hs.recipe("starter", **options))
        patch.setattr(trainer, "carry_out", carry_out)
        assert not hs.Run(options["out"]).finished
        return trainer.resume(options["out"]), extracted
