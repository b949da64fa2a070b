"""Preprocessing from RGB in [0, 1] to what a backbone was trained with, by plain layers that a saved model keeps."""

import numpy as np

from headstart.system.backend import keras

# ImageNet's channel means and deviations (R, G, B) on [0, 1]; caffe's means are B, G, R on 0..255.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)


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
            gives 0..255, for backbones that normalise inside; `unit` leaves [0, 1].
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
    return [keras.layers.Rescaling(255.0, name="to_byte_range")] if preprocess == "none" else []
