"""Batch norm that passes over its maps once, for training."""

from typing import Any

from headstart.system.backend import keras
from headstart.system.kernels import batch_norm_in_one_pass


class OnePassBatchNormalization(keras.layers.BatchNormalization):
    """Batch norm that is one operation in training mode, and one for its gradient, where the backend has them.

    Keras writes it as a dozen, each of which reads and writes the whole map, in float32 whatever the precision.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Map float (B, h, w, C) to the same shape, as `BatchNormalization` does."""
        fits = len(inputs.shape) == 4 and self.axis in (-1, 3) and self.scale and self.center and mask is None
        learns = training and self.trainable
        found = batch_norm_in_one_pass(inputs, self.gamma, self.beta, self.epsilon) if learns and fits else None
        if found is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, *moments = found
        for moving, moment in zip((self.moving_mean, self.moving_variance), moments, strict=True):
            moving.assign(moving * self.momentum + moment * (1 - self.momentum))
        return outputs
