"""Recipes: named sets of defaults, each with what it measured."""

from collections.abc import Callable
from typing import Any

from headstart.config import LAST_STAGE, Config, replace, suggestion
from headstart.errors import HeadstartError


def notebook() -> Config:
    """The founding notebook to the letter, to be compared with.

    32 px leave a ResNet-50 one pixel to look at, [0, 1] is not what its weights were trained with, and
    batch norm in training mode overwrites their statistics as soon as they are unfrozen. CIFAR-10, as in `quick`:
    25.69 % frozen, 55.48 % fine-tuned (one run), on two Zen 4 cores 82 minutes beside other work.
    """
    return Config(
        recipe="notebook", image_size=32, preprocess="unit", cache_features=False, views=1, head_epochs=10,
        epochs=3, learning_rate=1e-4, warmup_steps=0, weight_decay=0.0, batch_norm="training", precision="float32",
        rotation=0.1, zoom=0.1, translation=0.0,
    )  # fmt: skip


def quick() -> Config:
    """Two cores, minutes: small images, and the last stage fine-tuned on maps that the others computed once.

    CIFAR-10, compressed ImageNet ResNet-50: 80.96 % frozen, 88.61 % fine-tuned, 2.8 minutes, 2.5 GB. At 96 px
    (`--image-size 96`): 87.11 % and 91.64 %, 4.8 minutes, 2.8 GB; at 32 px 67.65 % and 77.76 %, 2.2 minutes. Seed 0,
    two cores of an Intel Xeon with AMX, bfloat16, TensorFlow 2.21, OpenVINO 2026.4, Keras 3.15.1, 2026-11-26. On two
    Zen 4 cores it took 5.5 minutes, on two Zen 3 cores, in float32, 13.2.
    """
    return Config(
        recipe="quick", image_size=64, views=1, fine_tune_from=LAST_STAGE, epochs=2, fewest_steps=300, learning_rate=1e-3,
        batch_size=128,
    )  # fmt: skip


def standard() -> Config:
    """Two cores over a coffee, or a GPU in a minute: as `quick`, with images of twice the side.

    CIFAR-10, as in `quick`: 89.74 % frozen, 93.00 % fine-tuned, 7.5 minutes, 3.0 GB.
    """
    return replace(quick(), recipe="standard", image_size=128)


def best() -> Config:
    """A GPU. Not measured yet."""
    return Config(recipe="best", image_size=224, epochs=20, batch_size=128, label_smoothing=0.1, mix="cutmix", ema=0.999)


def starter() -> Config:
    """The packaged backbone: no download, any laptop.

    CIFAR-10: 83.88 % frozen, 89.74 % fine-tuned, 11.2 minutes; from random weights, with `--weights none
    --epochs 7` in no less time, 81.58 % (2026-11-24). A linear head (`--hidden-units 0 --dropout 0
    --head-learning-rate 3e-3 --epochs 0`) reaches 82.08 % in 53 seconds. Digits at 8 px, by
    `make demo`: 94.99 % frozen, 98.61 % fine-tuned of 359 test images. Two Zen 4 cores, 2026-11-25;
    for the digits an Intel Xeon's, 2026-11-26.
    """
    return Config(
        recipe="starter", backbone="starter", image_size=32, batch_size=128, epochs=12, learning_rate=1e-3,
        weight_decay=0.05, rotation=0.0, zoom=0.0, translation=0.125,
    )  # fmt: skip


def laptop() -> Config:
    """The packaged backbone on some ten thousand images or more: no download, no GPU, twenty minutes.

    Batch norm learns too, and starts from the statistics of the images. CIFAR-10, two cores as in `quick`: 83.87 %
    frozen, 91.85 % fine-tuned, 92.64 % with mirror images (`headstart evaluate RUN --mirror`), 13.3 minutes, 1.7 GB.
    """
    return replace(
        starter(), recipe="laptop", epochs=20, learning_rate=1e-3, weight_decay=0.8, label_smoothing=0.1,
        batch_norm="training", validation_fraction=0.02,
    )  # fmt: skip


def scratch() -> Config:
    """From random weights: how the starter backbone itself is made.

    CIFAR-100: 70.5 % on 1,187 validation images, 46 minutes on one Zen 4 core, by
    scripts/pretrain_starter.py.
    """
    return Config(
        recipe="scratch", backbone="starter", weights="none", image_size=32, batch_size=128, epochs=24,
        learning_rate=2e-3, warmup_steps=900, weight_decay=0.2, hidden_units=0, dropout=0.0,
        rotation=0.0, zoom=0.0, translation=0.125,
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Config]] = {
    make.__name__: make for make in (notebook, quick, standard, best, starter, laptop, scratch)
}


def recipe(name: str, **changes: Any) -> Config:
    """Return the configuration of a recipe, with some options changed.

    Raises:
        HeadstartError: there is no such recipe or option, or a value is out of range.
    """
    if name not in RECIPES:
        raise HeadstartError(f"there is no recipe {name!r}{suggestion(name, RECIPES)}")
    return replace(RECIPES[name](), **changes)
