"""Preprocessing from RGB in [0, 1] to what a backbone was trained with, by plain layers that a saved model keeps."""

from typing import Any

import numpy as np

from headstart.errors import HeadstartError
from headstart.system.backend import keras

# ImageNet's channel means and deviations (R, G, B) on [0, 1]; caffe's means are B, G, R on 0..255.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)
# The factor, and what is added, of modes that treat each channel of [0, 1] by itself.
MODES: dict[str, tuple[Any, Any]] = {
    "torch": (1 / np.array(IMAGENET_STD), -np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)),
    "tf": (2.0, -1.0),
    "unit": (1.0, 0.0),
    "none": (255.0, 0.0),
}


def preprocessing(preprocess: str, image_shape: tuple[int, int, int], image_size: int) -> list[keras.layers.Layer]:
    """Return the layers from images in [0, 1], float (B, H, W, 3), to a backbone's input, (B, image_size, image_size, 3).

    Args:
        preprocess: the mode, see `normalisation`.
    """
    enlarge = []
    if image_shape[:2] != (image_size, image_size):
        enlarge = [keras.layers.Resizing(image_size, image_size, name="enlarge")]
    return [*enlarge, *normalisation(preprocess)]


def normalisation(preprocess: str) -> list[keras.layers.Layer]:
    """Return the layers that turn RGB in [0, 1] into what a backbone was trained with.

    Args:
        preprocess: `caffe`, `torch` and `tf` are the modes of `keras.applications.imagenet_utils.preprocess_input`; `none`
            gives 0..255, for backbones that normalise inside; `unit` leaves [0, 1]. Or six numbers, parted by blanks: the
            factor of each channel, and what is added to each.
    """
    if preprocess == "caffe":
        # No plain layer reverses channels. A frozen 1 x 1 convolution with a permutation as its kernel does so exactly.
        reverse = keras.layers.Conv2D(3, 1, use_bias=False, trainable=False, name="rgb_to_bgr", dtype="float32")
        reverse.build((None, None, None, 3))
        reverse.set_weights([np.eye(3)[[2, 1, 0]].reshape(1, 1, 3, 3)])
        return [reverse, keras.layers.Rescaling(255.0, [-mean for mean in CAFFE_MEAN], name="normalise")]
    if preprocess == "torch":
        offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        return [keras.layers.Rescaling([1 / std for std in IMAGENET_STD], offset, name="normalise")]
    if preprocess == "tf":
        return [keras.layers.Rescaling(2.0, -1.0, name="normalise")]
    if preprocess not in ("none", "unit"):
        numbers = [float(number) for number in preprocess.split()]
        return [keras.layers.Rescaling(numbers[:3], numbers[3:], name="normalise")]
    return [keras.layers.Rescaling(255.0, name="to_byte_range")] if preprocess == "none" else []


def mode_of(converter: dict[str, Any]) -> str:
    """Return the mode, see `normalisation`, of the options of an `ImageConverter` of KerasHub, which takes pixels in 0..255.

    Raises:
        HeadstartError: they are no numbers.
    """
    try:
        scale, offset = converter.get("scale"), converter.get("offset")
        if "variance" in converter:  # as early presets have it
            deviation = np.sqrt(np.float64(converter["variance"]))
            scale, offset = np.float64(scale) / deviation, -np.float64(converter["mean"]) / deviation
        factors = 255 * np.broadcast_to(np.float64(1 if scale is None else scale), 3)
        added = np.broadcast_to(np.float64(0 if offset is None else offset), 3)
    except (KeyError, TypeError, ValueError):
        raise HeadstartError("the preset's image_converter.json holds no numbers that scale pixels: give --preprocess") from None
    if not np.isfinite([*factors, *added]).all():
        raise HeadstartError("the preset's image_converter.json scales pixels by what is no number: give --preprocess")
    for mode, (factor, plus) in MODES.items():
        if np.allclose(factors, factor, 1e-6, 0) and np.allclose(added, plus, 1e-6, 1e-9):
            return mode
    return " ".join(f"{number:.9g}" for number in (*factors, *added))
