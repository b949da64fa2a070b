"""Batch norm that passes over its feature maps once, for training."""

from typing import Any

from headstart.system.backend import keras
from headstart.system.kernels import batch_norm_in_one_pass


class OnePassBatchNormalization(keras.layers.BatchNormalization):
    """Batch norm as one operation in training mode, and one for its gradient, if the backend has them.

    Keras uses a dozen operations. Each reads and writes the whole map, in float32 at any precision.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Map float (B, h, w, C) to the same shape, as `BatchNormalization` does."""
        fits = len(inputs.shape) == 4 and self.axis in (-1, 3) and self.scale and self.center and mask is None
        learns = training and self.trainable
        result = batch_norm_in_one_pass(inputs, self.gamma, self.beta, self.epsilon) if learns and fits else None
        if result is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, *moments = result
        for moving, moment in zip((self.moving_mean, self.moving_variance), moments, strict=True):
            moving.assign(moving * self.momentum + moment * (1 - self.momentum))
        return outputs
