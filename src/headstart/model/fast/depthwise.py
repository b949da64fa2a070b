"""Depthwise convolutions whose gradients are fast in bfloat16."""

from typing import Any

from headstart.system.backend import keras
from headstart.system.kernels import depthwise_in_blocks


class BlockedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution; see `headstart.system.kernels.depthwise_in_blocks`."""

    def call(self, inputs: Any) -> Any:
        """Map float (B, h, w, C) to (B, h', w', C * m), as `DepthwiseConv2D` does."""
        taps, stride = set(self.kernel_size), set(self.strides)
        plain = self.data_format == "channels_last" and self.dilation_rate == (1, 1) and None not in inputs.shape[1:3]
        outputs = None
        if plain and self.depth_multiplier == len(taps) == len(stride) == 1 and max(taps) % 2 and max(taps) * max(stride) > 3:
            outputs = depthwise_in_blocks(inputs, self.kernel, max(stride), self.padding)
        if outputs is None:
            return super().call(inputs)
        if self.use_bias:
            outputs = keras.ops.add(outputs, self.bias)
        return self.activation(outputs)
