"""All uses of private names of Keras. The tests of this module say what breaks if Keras moves one of them."""

from typing import Any, NamedTuple

from headstart.system.backend import keras


class Call(NamedTuple):
    """One call of a layer in a network.

    Attributes:
        layer: the layer, or a bare operation such as `x + 3.0`.
        inputs: the symbolic tensors that it was called with.
    """

    layer: Any
    inputs: list[Any]


def maker(tensor: Any) -> Any:
    """Return the layer (or bare operation) that made a symbolic tensor."""
    return tensor._keras_history.operation


def readers(layer: Any) -> list[Any]:
    """Return the layers that read a layer's outputs, in all networks that contain it; a layer appears once per call."""
    return [node.operation for node in layer._outbound_nodes]


def times_called(layer: Any) -> int:
    """Return how often a layer was called."""
    return len(layer._inbound_nodes)


def calls(network: keras.Model) -> list[Call]:
    """Return the calls of a functional network's layers, each reader before what it reads."""
    nodes = [node for _, level in sorted(network._nodes_by_depth.items()) for node in level]
    return [Call(node.operation, list(node.input_tensors)) for node in nodes]


class Slots(NamedTuple):
    """Adam's state for one variable.

    Attributes:
        place: the variable's place among the trained ones: 0 for the first, 1 for the last.
        momentum, velocity: its two moments.
    """

    place: float
    momentum: Any
    velocity: Any


def adam_slots(optimizer: keras.optimizers.Adam, variable: Any) -> Slots:
    """Return a built Adam optimizer's state for a variable."""
    index = optimizer._get_variable_index(variable)
    last = max(1, len(optimizer._trainable_variables) - 1)
    return Slots(index / last, optimizer._momentums[index], optimizer._velocities[index])
