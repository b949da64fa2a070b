"""Recipes: named sets of defaults, each with what it measured."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from headstart.config import ALL, LAST_STAGE, Config, replace, suggestion
from headstart.errors import HeadstartError


class Measured(NamedTuple):
    """What one run of a recipe measured.

    Attributes:
        data: the data set.
        accuracy: of the last stage, 0 to 1, on the test images unless `data` says otherwise.
        minutes: of the whole run, from loading the data to the report.
        machine: where it ran.
        note: what else one must know of the figures.
    """

    data: str
    accuracy: float
    minutes: float
    machine: str
    note: str = ""


XEON, ZEN4 = "2 cores of an Intel Xeon with AMX", "2 cores of an AMD Zen 4"
# Their accuracy on ImageNet is 72.2 % instead of 74.9 %.
COMPRESSED = "compressed ImageNet weights"

# What a recipe does otherwise on a GPU. On two cores, feature maps at the cut save most of the work. A GPU trains every layer on
# all of CIFAR-10 in seconds an epoch, and would wait minutes for the maps on their way to the disk and back. For the whole
# ResNet-50, the rates of its last stage are too high; EfficientNet-Lite0 keeps its own. Options that somebody gave stay.
EVERY_LAYER: dict[str, Any] = {"fine_tune_from": ALL, "epochs": 5, "learning_rate": 3e-4}
ON_GPU: dict[str, dict[str, Any]] = {
    "quick": EVERY_LAYER, "standard": EVERY_LAYER, "laptop": EVERY_LAYER | {"learning_rate": 1e-3},
}  # fmt: skip

RECIPES: dict[str, Callable[[], Config]] = {}
# Of the recipes that were measured to the end.
MEASURED: dict[str, Measured] = {}


def registered(measured: Measured | None) -> Callable[[Callable[[], Config]], Callable[[], Config]]:
    """Register a recipe under its function's name, with what it measured; the docstring's first line says what it is."""

    def register(make: Callable[[], Config]) -> Callable[[], Config]:
        RECIPES[make.__name__] = make
        if measured:
            MEASURED[make.__name__] = measured
        return make

    return register


@registered(Measured("CIFAR-10", 0.5548, 82, ZEN4, "beside other work"))
def notebook() -> Config:
    """The founding notebook to the letter, to compare with.

    32 px leave a ResNet-50 one position to look at, [0, 1] is not what its weights were trained with, and
    batch norm in training mode overwrites their statistics as soon as they are unfrozen. CIFAR-10, as in `quick`:
    25.69 % frozen, 55.48 % fine-tuned (one run), on two Zen 4 cores 82 minutes beside other work.
    """
    return Config(
        recipe="notebook", image_size=32, preprocess="unit", cache_features=False, views=1, head_epochs=10,
        epochs=3, learning_rate=1e-4, warmup_steps=0, weight_decay=0.0, batch_norm="training", precision="float32",
        rotation=0.1, zoom=0.1, translation=0.0,
    )  # fmt: skip


@registered(Measured("CIFAR-10", 0.8861, 2.8, XEON, COMPRESSED))
def quick() -> Config:
    """Minutes on two cores: small images, only the last stage fine-tuned.

    It is fine-tuned on feature maps that the other stages computed once. CIFAR-10, compressed ImageNet ResNet-50: 80.96 %
    frozen, 88.61 % fine-tuned, 2.8 minutes, 2.5 GB. At 96 px (`--image-size 96`): 87.11 % and 91.64 %, 4.8 minutes, 2.8 GB;
    at 32 px 67.65 % and 77.76 %, 2.2 minutes. Seed 0, two cores of an Intel Xeon with AMX, bfloat16, TensorFlow 2.21,
    OpenVINO 2026.4, Keras 3.15.1, 2026-11-26. On two Zen 4 cores it took 5.5 minutes, on two Zen 3 cores, in float32, 13.2.
    """
    return Config(
        recipe="quick", image_size=64, views=1, fine_tune_from=LAST_STAGE, epochs=2, fewest_steps=300, learning_rate=1e-3,
        batch_size=128,
    )  # fmt: skip


@registered(Measured("CIFAR-10", 0.93, 7.5, XEON, COMPRESSED))
def standard() -> Config:
    """As quick, with images of twice the side: two cores over a coffee.

    CIFAR-10, as in `quick`: 89.74 % frozen, 93.00 % fine-tuned, 7.5 minutes, 3.0 GB.
    """
    return replace(quick(), recipe="standard", image_size=128)


@registered(None)
def best() -> Config:
    """For a GPU: 224 px, every layer, 20 epochs.

    Not measured yet.
    """
    return Config(recipe="best", image_size=224, epochs=20, batch_size=128, label_smoothing=0.1, mix="cutmix", ema=0.999)


@registered(Measured("CIFAR-10", 0.8974, 11.2, ZEN4))
def starter() -> Config:
    """The packaged backbone, for small images: no download, any laptop.

    CIFAR-10: 83.88 % frozen, 89.74 % fine-tuned, 11.2 minutes; from random weights, with `--weights none
    --epochs 7` in no less time, 81.58 % (2026-11-24). A linear head (`--hidden-units 0 --dropout 0
    --head-learning-rate 3e-3 --epochs 0`) reaches 82.08 % in 53 seconds. Digits at 8 px, by
    `make demo`: 96.66 % frozen, 98.61 % fine-tuned of 359 test images. Two Zen 4 cores, 2026-11-25;
    the digits 2026-11-27.
    """
    return Config(
        recipe="starter", backbone="starter", image_size=32, batch_size=128, epochs=12, learning_rate=1e-3,
        weight_decay=0.05, rotation=0.0, zoom=0.0, translation=0.125,
    )  # fmt: skip


@registered(Measured("CIFAR-10", 0.9325, 6.2, ZEN4))
def laptop() -> Config:
    """A real ImageNet backbone that pip installs: no download, no GPU.

    EfficientNet-Lite0 at 128 px, its last stage fine-tuned on cached feature maps. CIFAR-10: 87.70 % frozen, 93.25 % fine-tuned,
    6.2 minutes, 2.0 GB; with `--image-size 224 --epochs 4` 91.03 % and 94.74 %, 26 minutes beside other work, 2.9 GB. Seed 0, two
    Zen 4 cores, bfloat16, TensorFlow 2.21, OpenVINO 2026.4, 2026-11-27.
    """
    return Config(
        recipe="laptop", backbone="efficientnetlite0", image_size=128, views=1, fine_tune_from=LAST_STAGE, epochs=3,
        fewest_steps=300, learning_rate=1e-3, batch_size=128,
    )  # fmt: skip


@registered(Measured("CIFAR-100", 0.705, 46, "1 core of an AMD Zen 4", "of 1,187 validation images"))
def scratch() -> Config:
    """From random weights, as the packaged backbone was made.

    CIFAR-100: 70.5 % on 1,187 validation images, 46 minutes on one Zen 4 core, by
    scripts/pretrain_starter.py.
    """
    return Config(
        recipe="scratch", backbone="starter", weights="none", image_size=32, batch_size=128, epochs=24,
        learning_rate=2e-3, warmup_steps=900, weight_decay=0.2, hidden_units=0, dropout=0.0,
        rotation=0.0, zoom=0.0, translation=0.125,
    )  # fmt: skip


def recipe(name: str, **changes: Any) -> Config:
    """Return the configuration of a recipe, with some options changed.

    Raises:
        HeadstartError: there is no such recipe or option, or a value is out of range.
    """
    if name not in RECIPES:
        raise HeadstartError(f"--recipe: there is no recipe {name!r}{suggestion(name, RECIPES)}")
    return replace(RECIPES[name](), **changes)


def on_gpu(config: Config, explicit: Collection[str] = ()) -> Config:
    """Return what the configuration's recipe does on a GPU: `config` with the options of `ON_GPU`.

    Args:
        explicit: names of options that somebody gave. If one of those in `ON_GPU` is among them, or has another value than the
            recipe's, nothing changes: they only make sense together.
    """
    changes = ON_GPU.get(config.recipe, {})
    if not changes:
        return config
    usual = RECIPES[config.recipe]()
    if any(name in explicit or getattr(config, name) != getattr(usual, name) for name in changes):
        return config
    return replace(config, **changes)
