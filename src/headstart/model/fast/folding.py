"""Fold batch norms in inference mode into their convolutions, and scale kernels so that Adam's steps fit them."""

from typing import Any

import numpy as np

from headstart.system.backend import keras
from headstart.system.keras_internals import give_memory, maker, readers, times_called, without_memory


def fold_batch_norm(backbone: keras.Model, policy: str, fold: bool = True) -> keras.Model:
    """Return a copy of a backbone under a dtype policy, with batch norms folded where that is exact.

    In inference mode, a batch norm is an affine map of each channel. If it is the only reader of a convolution without
    activation, it becomes part of that convolution's kernel and bias: the same function up to rounding, at less cost in every
    training step. Other batch norms stay, and `headstart.model.unfreeze.unfreeze` keeps them in inference mode.

    Args:
        policy: the Keras dtype policy of the copy's layers.
        fold: False copies without folding.
    """
    backbone = keras.Model(backbone.input, backbone.output, name="backbone")
    norms = {before.name: norm for norm in backbone.layers if fold and (before := foldable_into(norm))}
    folded = {norm.name for norm in norms.values()}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in folded:
            return keras.layers.Identity(name=layer.name, dtype=policy)
        if not isinstance(layer, keras.layers.Layer):
            return layer  # a bare operation, such as `x + 3.0`, has no weights and no policy
        config = layer.get_config() | {"dtype": policy}
        if layer.name in norms:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        # A folded batch norm leaves no trace in the copied graph.
        return args[0] if layer.name in folded else layer(*args, **kwargs)

    with without_memory():
        copied = keras.models.clone_model(backbone, clone_function=copy, call_function=call)
    for layer in copied.layers:
        if layer.variables:
            original = backbone.get_layer(layer.name)
            norm = norms.get(layer.name)
            give_memory(layer, folded_weights(original, norm) if norm else original.get_weights())
    return copied


def foldable_into(norm: keras.layers.Layer) -> keras.layers.Layer | None:
    """Return the convolution that a batch norm can be folded into, or None."""
    if not isinstance(norm, keras.layers.BatchNormalization) or norm.axis not in (-1, 3):
        return None
    before = maker(norm.input)
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    linear = type(before) in kinds and before.activation is keras.activations.linear
    return before if linear and len(readers(before)) == 1 and times_called(norm) == 1 else None


def folded_weights(conv: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """Return the kernel and bias of the convolution that equals `norm(conv(x))`, in float64."""
    values = {variable.name: np.float64(keras.ops.convert_to_numpy(variable)) for variable in norm.variables}
    scale = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + norm.epsilon)
    kernel, *bias = [np.float64(weight) for weight in conv.get_weights()]
    shift = (bias[0] if bias else 0.0) - values["moving_mean"]
    # A depthwise kernel is (h, w, channels, multiplier); its output channels are the last two axes together.
    return [kernel * np.reshape(scale, kernel.shape[2:] if isinstance(conv, keras.layers.DepthwiseConv2D) else (-1,)),
            shift * scale + values.get("beta", 0.0)]  # fmt: skip


def enlarge_first_kernels(backbone: keras.Model, factor: float) -> bool:
    """Multiply the first kernels by a factor, so that the backbone computes the same from inputs divided by the factor.

    Returns:
        Whether it was done. It is not done if anything but convolutions, possibly after zero padding, reads the input.
    """
    before: list[keras.layers.Layer] = [maker(backbone.input)]
    first: list[keras.layers.Conv2D] = []
    for layer in before:  # the list grows inside the loop
        for reader in readers(layer):
            if not isinstance(reader, (keras.layers.Conv2D, keras.layers.ZeroPadding2D)):
                return False
            (first if isinstance(reader, keras.layers.Conv2D) else before).append(reader)
    for layer in first:
        layer.set_weights([layer.get_weights()[0] * np.float32(factor), *layer.get_weights()[1:]])
    return bool(first)
