"""All uses of private names of Keras. The tests of this module say what breaks if Keras moves one of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from headstart.system.backend import keras
from headstart.system.devices import replicated


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


@contextmanager
def spread(model: keras.Model, distribution: Any) -> Iterator[None]:
    """Move a compiled model to several devices for as long as the block lasts, and its state back to the first one after it.

    Keras would have models built under a distribution. But this one shares layers with others, which stay on one device.

    Args:
        model: with an optimizer that is built.
        distribution: of `keras.distribution`; None leaves the model where it is.
    """
    if distribution is None:
        yield
        return

    # Keras counts metrics that `compile` was given among the model's own only once they have been used.
    given = keras.tree.flatten([model._compile_metrics._user_metrics, model._compile_metrics._user_weighted_metrics])
    own = [variable for metric in given if isinstance(metric, keras.metrics.Metric) for variable in metric.variables]

    def move(layout: Any) -> None:
        for variable in {
            id(one): one for one in (*model.variables, *model.optimizer.variables, *model.metrics_variables, *own)
        }.values():
            variable._layout = layout(variable)
            variable._value = replicated(variable._value, variable._layout)

    with distribution.scope():
        move(distribution.get_variable_layout)
        yield
    move(lambda variable: None)
    # What was compiled expects its inputs on several devices.
    model.train_function = model.test_function = model.predict_function = None


@contextmanager
def without_memory() -> Iterator[keras.StatelessScope]:
    """Let layers that are built inside the block have weights with shapes, but without memory; `give_memory` gives it.

    Each layer still draws its seeds. No initial value is computed, which on JAX would compile a program for each shape.
    """
    state, waiting = keras.src.backend.common.global_state, "uninitialized_variables"
    before = list(state.get_global_attribute(waiting, []))
    try:
        with keras.StatelessScope(initialize_variables=False) as scope:
            yield scope
    finally:
        state.set_global_attribute(waiting, before)  # or Keras would give all of them memory soon


def give_memory(network: keras.layers.Layer, arrays: Sequence[Any] | None = None) -> None:
    """Give values to the variables of a layer or network that was built `without_memory`.

    Variables that are no weights, such as the state of a seed, get the value that they would have started with.

    Args:
        arrays: the values of all weights, in the order of `network.weights`; None stands for the value that a weight has, or
            would have started with. By default, weights without a value become zero.
    """
    if arrays is None:
        arrays = [np.zeros(weight.shape, weight.dtype) if weight._value is None else None for weight in network.weights]
    values = dict(zip(map(id, network.weights), arrays, strict=True))
    for variable in network.variables:
        value = values.get(id(variable))
        if variable._value is None:
            if value is not None:
                variable._initializer = lambda shape, dtype, value=value: keras.ops.convert_to_tensor(value, dtype)
            variable._deferred_initialize()
        elif value is not None:
            variable.assign(value)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def traced_shape(network: keras.Model, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return a network's output shape for an input of a shape, as the backend finds it by tracing all operations.

    Raises:
        Exception: the backend cannot run an operation.
    """
    found = keras.src.backend.compute_output_spec(network.call, keras.KerasTensor(shape, network.inputs[0].dtype))
    return tuple(keras.tree.flatten(found)[0].shape)


def output_shapes(network: Any, shape: tuple[int, ...]) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return the name and the output shape of each operation of a network, nested ones included, for an input of a shape."""
    found: list[tuple[str, tuple[int | None, ...]]] = []

    def run(function: Any, inputs: Any) -> Any:
        return function._run_through_graph(inputs, operation_fn=recorded)

    def recorded(operation: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner = getattr(operation, "_functional", operation)  # of a Sequential
            spec = run(inner, args[0]) if hasattr(inner, "_run_through_graph") else inner.compute_output_spec(*args, **kwargs)
            found.extend((operation.name, tuple(output.shape)) for output in keras.tree.flatten(spec))
            return spec

        return call

    run(getattr(network, "_functional", network), keras.KerasTensor(shape, network.inputs[0].dtype))
    return found


def layer_scale(channels: int, name: str) -> keras.layers.Layer:
    """Return ConvNeXt's layer that multiplies each channel by a learned number, which starts at 1."""
    return keras.src.applications.convnext.LayerScale(1.0, channels, name=name)


def inlined(network: keras.Model, inputs: Any, composite: Callable[[Any], bool]) -> Any:
    """Return a functional network's outputs for symbolic inputs, in a graph of the layers that its own layers consist of.

    Args:
        composite: whether a layer only calls others; then these are in the graph, and it is not. `Identity` is not either.
    """
    usual = keras.layers.Layer.__call__

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.layers.Identity):
            return args[0]
        return layer.call(*args, **kwargs) if composite(layer) else usual(layer, *args, **kwargs)

    keras.layers.Layer.__call__ = call
    try:
        return network._run_through_graph(inputs, operation_fn=lambda operation: operation)
    finally:
        keras.layers.Layer.__call__ = usual


def with_named_operations(network: keras.Model) -> keras.Model:
    """Name the bare operations of a network by their place in it. Keras numbers them through the life of a process."""
    for number, (operation, _) in enumerate(reversed(calls(network))):
        if not isinstance(operation, keras.layers.Layer):
            operation.name = f"operation_{number}"
    return keras.Model(network.input, network.output, name=network.name)
