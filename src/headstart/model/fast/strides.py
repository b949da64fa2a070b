"""Skip the positions of feature maps that no later layer reads; the network's function stays the same.

A 1 x 1 convolution with a stride of two reads every second row and column. Keras' ResNet50 begins each stage with two of
these, and nothing else reads the output of the stage before: its last block computes four positions where one is read.
"""

import math
from typing import Any

from headstart.system.backend import keras
from headstart.system.keras_internals import calls, maker

# In these layers, each position of the output depends on the same position of the inputs only.
ELEMENTWISE = (keras.layers.Activation, keras.layers.ReLU, keras.layers.Add, keras.layers.Identity)


def read_strides(network: keras.Model) -> dict[str, int]:
    """Return, per layer name, the stride at which later layers read its output; 1 means every position.

    Args:
        network: a functional model. Every position of its own outputs is read.
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
    """Return the stride at which a layer reads its input, if its own output is read at `stride`."""
    if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1) and can_stride_further(layer):
        return layer.strides[0] * stride
    return stride if isinstance(layer, ELEMENTWISE) else 1


def can_stride_further(layer: keras.layers.Conv2D) -> bool:
    """Whether a convolution can get a longer stride and still see the same inputs at the positions that are left."""
    padding_is_known = layer.padding == "valid" or layer.strides == (1, 1) or layer.kernel_size == (1, 1)
    plain = layer.data_format == "channels_last" and layer.dilation_rate == (1, 1)
    return plain and padding_is_known and layer.strides[0] == layer.strides[1]


class StridedCalls:
    """Calls the layers of a network's copy so that they compute only what is read: a `call_function` for `clone_model`.

    Args:
        network: the original.
        stride: the copy is fed only every `stride`-th row and column of the input.
    """

    def __init__(self, network: keras.Model, stride: int) -> None:
        self.strides = read_strides(network)
        self.made = {maker(network.inputs[0]).name: stride}
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
        """Set a copied convolution's stride so that its output has the stride `wanted`, and return its (padded) inputs."""
        stride = layer.strides[0] * wanted // self.stride_of(inputs)
        if stride > 1 and layer.padding == "same" and layer.kernel_size != (1, 1):
            # With a longer stride, "same" padding would be placed differently.
            sides = [((taps - 1) // 2, taps // 2) for taps in layer.kernel_size]
            name, layer.padding = f"{layer.name}_padding", "valid"
            inputs = keras.layers.ZeroPadding2D(sides, "channels_last", name=name, dtype=layer.dtype_policy)(inputs)
        layer.strides = (stride, stride)
        return inputs

    def at_stride(self, tensor: Any, stride: int) -> Any:
        """Return a tensor of the copy at a stride, which is a multiple of the stride it has."""
        name = maker(tensor).name
        if (name, stride) not in self.thinned:
            self.thinned[name, stride] = strided(tensor, stride // self.stride_of(tensor), f"{name}_every_{stride}")
        return self.thinned[name, stride]

    def stride_of(self, tensor: Any) -> int:
        return self.made.get(maker(tensor).name, 1)


def strided(tensor: Any, stride: int, name: str) -> Any:
    """Return every `stride`-th row and column of feature maps (B, h, w, C), by a plain layer; other tensors unchanged."""
    if stride == 1 or len(tensor.shape) != 4:
        return tensor
    return keras.layers.MaxPooling2D(1, stride, data_format="channels_last", name=name, dtype=tensor.dtype)(tensor)
