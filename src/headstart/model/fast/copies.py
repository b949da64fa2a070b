"""Copies of a network with the same function and weights: for training in less time, or in another precision."""

from headstart.model.fast.one_pass import OnePassBatchNormalization
from headstart.model.fast.small_convolutions import SmallMapConv2D
from headstart.model.fast.strides import StridedCalls
from headstart.system.backend import has_gpu, keras
from headstart.system.keras_internals import maker

FASTER: dict[type[keras.layers.Layer], type[keras.layers.Layer]] = {
    keras.layers.Conv2D: SmallMapConv2D,
    keras.layers.BatchNormalization: OnePassBatchNormalization,
}


def for_training(network: keras.Model, given: int = 1) -> keras.Model:
    """Return a copy of a network that is trained faster: without positions that nothing reads, and on CPUs with `FASTER` layers.

    Args:
        given: the stride at which the copy is given the rows and columns of the input; see `headstart.model.fast.strides`.
    """
    return copied(network, {} if has_gpu() else FASTER, given)


def recast(model: keras.Model, policy: str) -> keras.Model:
    """Return a copy of a network, with those nested in it, of plain layers under another dtype policy."""
    return copied(model, {fast: plain for plain, fast in FASTER.items()}, dtype=policy)


def copied(
    model: keras.Model, kinds: dict[type[keras.layers.Layer], type[keras.layers.Layer]], given: int | None = None, **changes: str
) -> keras.Model:
    """Return a copy of a network, weights included, with other kinds of layers and changed options, nested ones too.

    Args:
        given: None for a copy that computes every position, else see `for_training`.
    """

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, keras.layers.Layer):
            return layer  # a bare operation, such as `x + 3.0`, has neither weights nor a policy
        return kinds.get(type(layer), type(layer)).from_config(layer.get_config() | changes)

    *sides, channels = model.input_shape[1:]
    shape = [side and -(-side // (given or 1)) for side in sides]
    # What a beginning in bfloat16 gave is fed as float32.
    dtype, name = "uint8" if model.input.dtype == "uint8" else "float32", maker(model.inputs[0]).name
    inputs = keras.Input((*shape, channels), dtype=dtype, name=name)
    call = None if given is None else StridedCalls(model, given)
    result = keras.models.clone_model(model, input_tensors=inputs, clone_function=copy, call_function=call, recursive=True)
    copy_weights(model, result)
    return result


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy all weights from a network to another with layers of the same names, maybe in another order."""
    for layer in source.layers:
        if isinstance(layer, keras.Model):
            copy_weights(layer, target.get_layer(layer.name))
        elif layer.weights:
            target.get_layer(layer.name).set_weights(layer.get_weights())
