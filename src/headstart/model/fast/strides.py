"""Positions that nothing reads: a network of the same function that does not compute them.

A 1 x 1 convolution with a stride of two reads every second row and column. Keras' ResNet50 begins each stage with two of
these, and nothing else reads what the stage before it ends with: that stage's last block computes four positions where one
is read.
"""

import math
from typing import Any

from headstart.system.backend import keras
from headstart.system.keras_internals import calls, maker

# Each position of their outputs is made of the same position of their inputs.
ELEMENTWISE = (keras.layers.Activation, keras.layers.ReLU, keras.layers.Add, keras.layers.Identity)


def read_strides(network: keras.Model) -> dict[str, int]:
    """Return, per layer name, the stride at which later layers read its output; 1 means every position.

    Args:
        network: its own outputs are read whole.
    """
    all_calls = calls(network)
    strides = {maker(tensor).name: 1 for tensor in network.outputs}
    for layer, inputs in all_calls:
        wanted = stride_within(layer, strides[layer.name])
        for tensor in inputs:
            name = maker(tensor).name
            strides[name] = math.gcd(strides.get(name, 0), wanted)
    layers = {layer.name: layer for layer, _ in all_calls}
    shared_or_nested = len(layers) < len(all_calls) or any(isinstance(layer, keras.Model) for layer in layers.values())
    return dict.fromkeys(strides, 1) if shared_or_nested else strides


def input_stride(network: keras.Model) -> int:
    """Return the stride at which a network reads the rows and columns of its input."""
    return read_strides(network)[maker(network.inputs[0]).name]


def stride_within(layer: Any, stride: int) -> int:
    """Return the stride at which a layer reads its input where its own output is read at a stride."""
    if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1) and can_stride_further(layer):
        return layer.strides[0] * stride
    return stride if isinstance(layer, ELEMENTWISE) else 1


def can_stride_further(layer: keras.layers.Conv2D) -> bool:
    """Whether a convolution can take a longer stride and still see the same inputs at the positions that it computes."""
    padding_is_known = layer.padding == "valid" or layer.strides == (1, 1) or layer.kernel_size == (1, 1)
    plain = layer.data_format == "channels_last" and layer.dilation_rate == (1, 1)
    return plain and padding_is_known and layer.strides[0] == layer.strides[1]


class StridedCalls:
    """Calls the layers of a network's copy so that they compute only what is read; a `call_function` of `clone_model`.

    Args:
        network: the original.
        given: the stride at which the copy is given the rows and columns of the input.
    """

    def __init__(self, network: keras.Model, given: int) -> None:
        self.strides = read_strides(network)
        self.made = {maker(network.inputs[0]).name: given}
        self.thinned: dict[tuple[str, int], Any] = {}

    def __call__(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        stride = self.strides.get(layer.name, 1)
        if isinstance(layer, ELEMENTWISE):
            args = keras.tree.map_structure(lambda tensor: self.at_stride(tensor, stride), args)
        elif isinstance(layer, keras.layers.Conv2D) and can_stride_further(layer):
            args = (self.lengthen(layer, args[0], stride),)
        else:
            stride = 1
        self.made[layer.name] = stride
        return layer(*args, **kwargs)

    def lengthen(self, layer: keras.layers.Conv2D, inputs: Any, wanted: int) -> Any:
        """Let a new convolution compute its output at a stride, and return what it is to be called with."""
        stride = layer.strides[0] * wanted // self.stride_of(inputs)
        if stride > 1 and layer.padding == "same" and layer.kernel_size != (1, 1):
            # Longer strides would put "same" padding elsewhere.
            sides = [((taps - 1) // 2, taps // 2) for taps in layer.kernel_size]
            name, layer.padding = f"{layer.name}_padding", "valid"
            inputs = keras.layers.ZeroPadding2D(sides, "channels_last", name=name, dtype=layer.dtype_policy)(inputs)
        layer.strides = (stride, stride)
        return inputs

    def at_stride(self, tensor: Any, stride: int) -> Any:
        """Return a tensor of the copy at a stride that is a multiple of its own."""
        name = maker(tensor).name
        if (name, stride) not in self.thinned:
            self.thinned[name, stride] = strided(tensor, stride // self.stride_of(tensor), f"{name}_every_{stride}")
        return self.thinned[name, stride]

    def stride_of(self, tensor: Any) -> int:
        return self.made.get(maker(tensor).name, 1)


def strided(tensor: Any, stride: int, name: str) -> Any:
    """Return every `stride`-th row and column of feature maps (B, h, w, C), by a plain layer; vectors as they are."""
    if stride == 1 or len(tensor.shape) != 4:
        return tensor
    return keras.layers.MaxPooling2D(1, stride, data_format="channels_last", name=name, dtype=tensor.dtype)(tensor)
