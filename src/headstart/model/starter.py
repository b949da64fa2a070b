"""The starter backbone: a small residual network whose weights come with the package."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from headstart.errors import HeadstartError
from headstart.system.backend import keras
from headstart.system.files import checksum

WEIGHTS = Path(__file__).with_name("starter.safetensors")
CHECKSUM = WEIGHTS.with_suffix(".sha256")

# Mean and variance of natural photographs' pixels on 0..255, over all three channels of CIFAR-100.
PIXEL_MEAN, PIXEL_VARIANCE = 121.9, 68.2**2


def build() -> keras.Model:
    """Build the network: float (B, h, w, 3) in 0..255 to (B, h / 8, w / 8, 896), for small images.

    It has a convolution at full size, three residual stages (He et al. 2016) that each halve the size and double the
    channels, and a 1 x 1 convolution. The output is that convolution's 512 channels together with those of the last two
    stages: a new head may need features that the pretraining's classes did not use. The normalisation is inside. Layers are
    named by stage, for `--fine-tune-from stage3`.
    """
    images = keras.Input((None, None, 3), name="starter_input")
    x = keras.layers.Normalization(mean=PIXEL_MEAN, variance=PIXEL_VARIANCE, name="normalization")(images)
    x = convolve(x, 32, 3, 1, "stem")
    x = residual_block(x, 64, "stage1")
    middle = residual_block(x, 128, "stage2")
    last = residual_block(middle, 256, "stage3")
    middle = keras.layers.AveragePooling2D(2, padding="same", name="top_pool")(middle)
    x = keras.layers.Concatenate(name="top_channels")([middle, last, convolve(last, 512, 1, 1, "top")])
    return keras.Model(images, x, name="starter")


def convolve(x: Any, channels: int, size: int, stride: int, name: str, activation: str | None = "relu") -> Any:
    """Apply a convolution, batch norm and, unless `activation` is None, an activation."""
    x = keras.layers.Conv2D(
        channels, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    # Keras' default momentum of 0.99 needs more steps to settle than a short training has.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def residual_block(x: Any, channels: int, name: str) -> Any:
    """Apply two convolutions that halve height and width, beside a pooled and projected shortcut (He et al. 2019)."""
    shortcut = convolve(
        keras.layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(x), channels, 1, 1, f"{name}_shortcut", None
    )
    x = convolve(x, channels, 3, 2, f"{name}_1")
    x = convolve(x, channels, 3, 1, f"{name}_2", None)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def load_weights(model: keras.Model) -> None:
    """Load the packaged weights into a model from `build`.

    Raises:
        HeadstartError: the file is missing or damaged.
    """
    if not WEIGHTS.is_file() or checksum(WEIGHTS) != CHECKSUM.read_text().split()[0]:
        raise HeadstartError(f"{WEIGHTS} is missing or damaged: install headstart again")
    arrays = load_file(WEIGHTS)
    model.set_weights([np.float32(arrays[weight.path]) for weight in model.weights])


def save_weights(model: keras.Model, path: Path = WEIGHTS) -> None:
    """Write the weights of a model from `build` as float16, at half the size, and their checksum beside them."""
    save_file({weight.path: keras.ops.convert_to_numpy(weight).astype(np.float16) for weight in model.weights}, path)
    path.with_suffix(".sha256").write_text(f"{checksum(path)}  {path.name}\n")
