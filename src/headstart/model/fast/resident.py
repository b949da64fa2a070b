"""Images that stay on the device: a step is sent the numbers of its images, a few bytes each."""

from typing import Any

import numpy as np

from headstart.system.backend import keras


class ResidentImages(keras.layers.Layer):
    """Turns numbers of images, int32 (B,), into these images, uint8 (B, H, W, 3).

    Args:
        images: uint8 (N, H, W, 3).
    """

    def __init__(self, images: np.ndarray, **options: Any) -> None:
        super().__init__(**options)
        # A variable, and no constant: the backend would compile a constant into the step.
        self.images = self.add_weight(
            images.shape, lambda shape, dtype: keras.ops.convert_to_tensor(images), "uint8", trainable=False, name="images"
        )

    def call(self, numbers: Any) -> Any:
        return keras.ops.take(self.images, numbers, axis=0)

    def compute_output_spec(self, numbers: Any) -> Any:
        return keras.KerasTensor((*numbers.shape, *self.images.shape[1:]), "uint8")


def without_resident_images(model: keras.Model) -> list[keras.Variable]:
    """Return all variables of a model but the images that it holds: what training changes."""
    held = {id(layer.images) for layer in model.layers if isinstance(layer, ResidentImages)}
    return [variable for variable in model.variables if id(variable) not in held]
