"""Networks of the same function in other layers: batch norms folded, unread cells left out, convolutions as products, another
precision."""

import keras
import numpy as np
from keras import layers

from headstart.model.fast.one_pass import OnePassBatchNormalization
from headstart.model.fast.small_convolutions import SmallMapConv2D
from headstart.model.fast.strides import Skipping
from headstart.system.backend import has_gpu

FASTER: dict[type[layers.Layer], type[layers.Layer]] = {
    layers.Conv2D: SmallMapConv2D,
    layers.BatchNormalization: OnePassBatchNormalization,
}


def fold_batch_norm(backbone: keras.Model, policy: str, fold: bool = True) -> keras.Model:
    """Return a copy of a backbone under a dtype policy, with batch norms folded where that is exact.

    A batch norm in inference mode is an affine map of each channel. Where it is the only reader of
    a convolution without activation it becomes part of that convolution's kernel and bias: the
    same function, up to rounding, at less cost in every training step. Others stay, and
    `headstart.model.network.unfreeze` holds them in inference mode.

    Args:
        policy: Keras dtype policy of the copy's layers.
        fold: False copies without folding.
    """
    backbone = keras.Model(backbone.input, backbone.output, name="backbone")
    norms = {before.name: norm for norm in backbone.layers if fold and (before := foldable_into(norm))}
    folded = {norm.name for norm in norms.values()}

    def copy(layer: layers.Layer) -> layers.Layer:
        if layer.name in folded:
            return layers.Identity(name=layer.name, dtype=policy)
        if not isinstance(layer, layers.Layer):
            return layer  # a bare operation such as `x + 3.0`, which has neither weights nor a policy
        config = layer.get_config() | {"dtype": policy}
        if layer.name in norms:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: layers.Layer, *args, **kwargs):
        # Leaves no trace of a folded batch norm in the copied graph.
        return args[0] if layer.name in folded else layer(*args, **kwargs)

    copied = keras.models.clone_model(backbone, clone_function=copy, call_function=call)
    for layer in copied.layers:
        if layer.weights:
            original = backbone.get_layer(layer.name)
            layer.set_weights(folded_weights(original, norms[layer.name]) if layer.name in norms else original.get_weights())
    return copied


def foldable_into(norm: layers.Layer) -> layers.Layer | None:
    """Return the convolution that a batch norm can be folded into, or None."""
    if not isinstance(norm, layers.BatchNormalization) or norm.axis not in (-1, 3):
        return None
    before = norm.input._keras_history.operation
    readers = len(before._outbound_nodes)
    kinds = (layers.Conv2D, layers.DepthwiseConv2D)
    linear = type(before) in kinds and before.activation is keras.activations.linear
    return before if linear and readers == 1 and len(norm._inbound_nodes) == 1 else None


def folded_weights(conv: layers.Layer, norm: layers.BatchNormalization) -> list[np.ndarray]:
    """Return kernel and bias of `norm(conv(x))`, computed in float64."""
    values = {variable.name: np.float64(keras.ops.convert_to_numpy(variable)) for variable in norm.variables}
    scale = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + norm.epsilon)
    kernel, *bias = [np.float64(weight) for weight in conv.get_weights()]
    shift = (bias[0] if bias else 0.0) - values["moving_mean"]
    # A depthwise kernel is (h, w, channels, multiplier), and its output channels are the last two together.
    return [kernel * np.reshape(scale, kernel.shape[2:] if isinstance(conv, layers.DepthwiseConv2D) else (-1,)),
            shift * scale + values.get("beta", 0.0)]  # fmt: skip


def enlarge_first_kernels(backbone: keras.Model, factor: float) -> bool:
    """Enlarge the first kernels by a factor, so that the backbone gives for inputs divided by it what it gave before.

    Returns:
        Whether it was done: not where something else than convolutions, after zero padding, reads the input.
    """
    readers: list[layers.Layer] = [backbone.input._keras_history.operation]
    first: list[layers.Conv2D] = []
    for reader in readers:  # which grows
        for layer in (node.operation for node in reader._outbound_nodes):
            if not isinstance(layer, (layers.Conv2D, layers.ZeroPadding2D)):
                return False
            (first if isinstance(layer, layers.Conv2D) else readers).append(layer)
    for layer in first:
        layer.kernel.assign(layer.kernel * factor)
    return bool(first)


def for_training(network: keras.Model, given: int = 1) -> keras.Model:
    """Return a copy of a network that is trained faster: without cells that nothing reads, on CPUs of the layers in `FASTER`.

    Args:
        given: how far apart the rows and columns of its input are that the copy is given; see `headstart.model.fast.strides`.
    """
    return copied(network, {} if has_gpu() else FASTER, given)


def recast(model: keras.Model, policy: str) -> keras.Model:
    """Return a copy of a network, with those nested in it, of plain layers under another dtype policy."""
    return copied(model, {fast: plain for plain, fast in FASTER.items()}, dtype=policy)


def copied(
    model: keras.Model, kinds: dict[type[layers.Layer], type[layers.Layer]], given: int | None = None, **changes: str
) -> keras.Model:
    """Return a copy of a network, weights included, with other kinds of layers and changed options, nested ones too.

    Args:
        given: None for a copy that computes every cell, else see `for_training`.
    """

    def copy(layer: layers.Layer) -> layers.Layer:
        if not isinstance(layer, layers.Layer):
            return layer  # a bare operation, such as `x + 3.0`, has neither weights nor a policy
        return kinds.get(type(layer), type(layer)).from_config(layer.get_config() | changes)

    *sides, channels = model.input_shape[1:]
    shape = [side and -(-side // (given or 1)) for side in sides]
    # What a beginning in bfloat16 gave is fed as float32.
    dtype, name = "uint8" if model.input.dtype == "uint8" else "float32", model.inputs[0]._keras_history.operation.name
    inputs = keras.Input((*shape, channels), dtype=dtype, name=name)
    call = None if given is None else Skipping(model, given)
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
