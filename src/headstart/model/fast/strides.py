"""Cells that nothing reads: a network of the same function that does not compute them.

A convolution with kernels of one cell and a stride of two reads every second row and column. Keras' ResNet50 begins each
stage with two of these, and nothing else reads what the stage before it ends with: that stage's last block computes four
cells where one is read.
"""

import math
from typing import Any

import keras
from keras import layers

# Each cell of their outputs is made of the same cell of their inputs.
CELLWISE = (layers.Activation, layers.ReLU, layers.Add, layers.Identity)


def read_steps(network: keras.Model) -> dict[str, int]:
    """Return how far apart the rows and columns of each layer's output are that are read, by its name; 1: all are read.

    Args:
        network: its own outputs are read whole.
    """
    nodes = [node for _, level in sorted(network._nodes_by_depth.items()) for node in level]  # a reader before what it reads
    steps = {tensor._keras_history.operation.name: 1 for tensor in network.outputs}
    for node in nodes:
        wanted = step_within(node.operation, steps[node.operation.name])
        for tensor in node.input_tensors:
            name = tensor._keras_history.operation.name
            steps[name] = math.gcd(steps.get(name, 0), wanted)
    shared_or_nested = len({node.operation.name for node in nodes}) < len(nodes) or any(
        isinstance(node.operation, keras.Model) for node in nodes
    )
    return dict.fromkeys(steps, 1) if shared_or_nested else steps


def input_step(network: keras.Model) -> int:
    """Return how far apart the rows and columns of its input are that a network reads."""
    return read_steps(network)[network.inputs[0]._keras_history.operation.name]


def step_within(layer: Any, step: int) -> int:
    """Return how far apart the rows and columns are that a layer reads where its own output is read at a step."""
    if isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1) and strides_evenly(layer):
        return layer.strides[0] * step
    return step if isinstance(layer, CELLWISE) else 1


def strides_evenly(layer: layers.Conv2D) -> bool:
    """Whether the stride of a convolution can be made longer with the cells that it sees staying as they are."""
    padding_is_known = layer.padding == "valid" or layer.strides == (1, 1) or layer.kernel_size == (1, 1)
    plain = layer.data_format == "channels_last" and layer.dilation_rate == (1, 1)
    return plain and padding_is_known and layer.strides[0] == layer.strides[1]


class Skipping:
    """Calls the layers of a network's copy so that they leave out what is not read, as `keras.models.clone_model` asks.

    Args:
        network: the original.
        given: how far apart the rows and columns of its input are that the copy is given.
    """

    def __init__(self, network: keras.Model, given: int) -> None:
        self.steps = read_steps(network)
        self.made = {network.inputs[0]._keras_history.operation.name: given}
        self.thinned: dict[tuple[str, int], Any] = {}

    def __call__(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        step = self.steps.get(layer.name, 1)
        if isinstance(layer, CELLWISE):
            args = keras.tree.map_structure(lambda tensor: self.at_step(tensor, step), args)
        elif isinstance(layer, layers.Conv2D) and strides_evenly(layer):
            args = (self.lengthen(layer, args[0], step),)
        else:
            step = 1
        self.made[layer.name] = step
        return layer(*args, **kwargs)

    def lengthen(self, layer: layers.Conv2D, inputs: Any, step: int) -> Any:
        """Let a new convolution compute its output at a step, and return what it is to be called with."""
        stride = layer.strides[0] * step // self.step_of(inputs)
        if stride > 1 and layer.padding == "same" and layer.kernel_size != (1, 1):
            # Longer strides would put "same" padding elsewhere.
            sides = [((taps - 1) // 2, taps // 2) for taps in layer.kernel_size]
            name, layer.padding = f"{layer.name}_padding", "valid"
            inputs = layers.ZeroPadding2D(sides, "channels_last", name=name, dtype=layer.dtype_policy)(inputs)
        layer.strides = (stride, stride)
        return inputs

    def at_step(self, tensor: Any, step: int) -> Any:
        """Return a tensor of the copy at a step that is a multiple of its own."""
        name = tensor._keras_history.operation.name
        if (name, step) not in self.thinned:
            self.thinned[name, step] = every(tensor, step // self.step_of(tensor), f"{name}_every_{step}")
        return self.thinned[name, step]

    def step_of(self, tensor: Any) -> int:
        return self.made.get(tensor._keras_history.operation.name, 1)


def every(tensor: Any, step: int, name: str) -> Any:
    """Return every `step`-th row and column of maps (B, h, w, C), by a plain layer; vectors as they are."""
    if step == 1 or len(tensor.shape) != 4:
        return tensor
    return layers.MaxPooling2D(1, step, data_format="channels_last", name=name, dtype=tensor.dtype)(tensor)
