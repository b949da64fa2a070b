"""Copies of a network with the same function and weights: faster to train, or in another precision."""

from headstart.model.fast.depthwise import BlockedDepthwiseConv2D
from headstart.model.fast.one_pass import OnePassBatchNormalization
from headstart.model.fast.small_convolutions import SmallMapConv2D
from headstart.model.fast.strides import StridedCalls
from headstart.system.backend import has_gpu, keras
from headstart.system.keras_internals import give_memory, maker, without_memory

FASTER: dict[type[keras.layers.Layer], type[keras.layers.Layer]] = {
    keras.layers.Conv2D: SmallMapConv2D,
    keras.layers.DepthwiseConv2D: BlockedDepthwiseConv2D,
    keras.layers.BatchNormalization: OnePassBatchNormalization,
}


def for_training(network: keras.Model, stride: int = 1) -> keras.Model:
    """Return a copy of a network that trains faster. It skips positions that nothing reads; on CPUs it has `FASTER` layers.

    Args:
        stride: the copy is fed only every `stride`-th row and column of the input; see `headstart.model.fast.strides`.
    """
    return copied(network, {} if has_gpu() else FASTER, stride)


def recast(model: keras.Model, policy: str) -> keras.Model:
    """Return a copy of a network, nested ones included, with plain layers and another dtype policy."""
    return copied(model, {fast: plain for plain, fast in FASTER.items()}, dtype=policy)


def copied(
    model: keras.Model, kinds: dict[type[keras.layers.Layer], type[keras.layers.Layer]], stride: int | None = None, **changes: str
) -> keras.Model:
    """Return a copy of a network, with its weights and its nested networks, with other classes of layers or other options.

    Args:
        kinds: the class that replaces a layer's class.
        stride: None for a copy that computes every position, else see `for_training`.
        changes: options of all layers that are changed.
    """

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, keras.layers.Layer):
            return layer  # a bare operation, such as `x + 3.0`, has no weights and no policy
        return kinds.get(type(layer), type(layer)).from_config(layer.get_config() | changes)

    *sides, channels = model.input_shape[1:]
    shape = [side and -(-side // (stride or 1)) for side in sides]
    # Outputs of a frozen part in bfloat16 are fed as float32.
    dtype, name = "uint8" if model.input.dtype == "uint8" else "float32", maker(model.inputs[0]).name
    inputs = keras.Input((*shape, channels), dtype=dtype, name=name)
    call = None if stride is None else StridedCalls(model, stride)
    with without_memory():
        result = keras.models.clone_model(model, input_tensors=inputs, clone_function=copy, call_function=call, recursive=True)
    copy_weights(model, result)
    return result


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy all weights from a network to another whose layers have the same names; their order may differ."""
    for layer in source.layers:
        if isinstance(layer, keras.Model):
            copy_weights(layer, target.get_layer(layer.name))
        elif layer.variables:
            give_memory(target.get_layer(layer.name), layer.get_weights())
