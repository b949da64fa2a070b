"""Bring images of any size to the network's, inside an exported file, as `headstart.data.decode.fit` does with Pillow.

Exported graphs have no bicubic filter that widens when it shrinks an image, so it is a product with a matrix for each side.
"""

from typing import Any

from headstart.data.decode import PADDING
from headstart.system.backend import keras


class FitLikePillow(keras.layers.Layer):
    """Crops, squashes or pads images, uint8 (B, H, W, 3) of any H and W, to float32 (B, height, width, 3), whole, 0..255.

    Images of the wanted size stay as they are. In others, values differ from Pillow's by 1 where it rounds otherwise, and next
    to black and white edges by more if the height shrinks far more than the width: Pillow 13 then resizes the height first.

    Args:
        height, width: of the outputs.
        fit: see `headstart.data.decode.Decoding`.
    """

    def __init__(self, height: int, width: int, fit: str, **options: Any) -> None:
        super().__init__(**options)
        self.height, self.width, self.fit = height, width, fit

    def call(self, images: Any) -> Any:
        ops = keras.ops
        shape = ops.shape(images)
        size = [ops.cast(side, "float32") for side in (shape[1], shape[2])]
        rows, columns = (filter_weights(side, *one) for side, one in zip(size, self.placed(*size), strict=True))
        # Channels come first, so that both are plain products of matrices. Pillow begins with the width, and rounds.
        narrow = to_bytes(ops.matmul(ops.transpose(ops.cast(images, "float32"), (0, 3, 1, 2)), ops.transpose(columns)))
        fitted = to_bytes(ops.matmul(rows, narrow))
        if self.fit == "pad":
            covered = ops.matmul(ops.sum(rows, axis=1, keepdims=True), ops.sum(ops.transpose(columns), axis=0, keepdims=True))
            fitted += (1 - ops.round(covered)) * ops.reshape(ops.cast(PADDING, "float32"), (1, 3, 1, 1))
        return ops.transpose(fitted, (0, 2, 3, 1))

    def placed(self, height: Any, width: Any) -> list[tuple[Any, ...]]:
        """Return, for rows and for columns, where what is used begins, its length, where it comes to lie, and its new length."""
        ops, rows, columns = keras.ops, float(self.height), float(self.width)
        if self.fit == "crop":
            # The largest central part with the outputs' proportions; Pillow takes fractions of pixels too.
            taken = ops.minimum(height, width * (rows / columns)), ops.minimum(width, height * (columns / rows))
            return [
                ((side - used) / 2, used, 0.0, wanted, wanted)
                for side, used, wanted in zip((height, width), taken, (rows, columns), strict=True)
            ]
        if self.fit == "squash":
            return [(0.0, height, 0.0, rows, rows), (0.0, width, 0.0, columns, columns)]
        filled = ops.minimum(rows, ops.round(height / width * columns)), ops.minimum(columns, ops.round(width / height * rows))
        return [
            (0.0, side, ops.round((wanted - length) / 2), length, wanted)
            for side, length, wanted in zip((height, width), filled, (rows, columns), strict=True)
        ]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.height, self.width, 3)


def filter_weights(side: Any, start: Any, length: Any, place: Any, filled: Any, wanted: float) -> Any:
    """Return the weights of input positions for each output position, float32 (wanted, side), by Keys' cubic filter of 1981.

    The rows of outputs that are not filled have weights of zero.

    Args:
        side: the number of input positions.
        start, length: the part of them that is used.
        place, filled: the part of the outputs that it fills.
        wanted: the number of outputs.
    """
    ops = keras.ops
    scale = length / ops.maximum(filled, 1.0)  # Pillow lets the short side of a very long image vanish
    widened = ops.maximum(scale, 1.0)
    outputs = ops.arange(wanted, dtype="float32") - place
    centres = start + (outputs + 0.5) * scale
    positions = ops.cast(ops.arange(ops.cast(side, "int32")), "float32") + 0.5
    away = ops.abs(ops.expand_dims(positions, 0) - ops.expand_dims(centres, 1)) / widened
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = ops.where(away < 1, near, ops.where(away < 2, far, 0.0))
    within = ops.cast(ops.logical_and(outputs >= 0, outputs < filled), "float32")
    sums = ops.sum(weights, axis=1)
    return weights * ops.expand_dims(within / ops.where(ops.equal(sums, 0), 1.0, sums), 1)


def to_bytes(values: Any) -> Any:
    """Round to whole numbers in 0..255."""
    return keras.ops.clip(keras.ops.floor(values + 0.5), 0.0, 255.0)
