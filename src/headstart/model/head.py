"""The head: the layers from pooled features to logits, and their gradient."""

from collections.abc import Callable, Iterable

import numpy as np
from sklearn.preprocessing import StandardScaler

from headstart.config import LINEAR, Config
from headstart.errors import HeadstartError
from headstart.system.backend import keras


def build_head(channels: int, classes: int, config: Config) -> keras.Model:
    """Return the head, from pooled features, float32 (B, channels), to logits, float32 (B, classes).

    Its layers are standardisation, dropout and a hidden layer, dropout, and the logits. The hidden layer with its dropout is
    left out if `config.hidden_units` is 0. A linear head (`config.head`) has standardisation and the logits alone.
    Standardisation needs the features of all training images (`standardise`), so it is there if `config.keeps_features`; with
    it, channels of any scale learn at one rate. `logit_gradients` must know each kind of layer that is used here.
    """
    layers = keras.layers
    outputs = features = keras.Input((channels,), name="features_in")
    if config.keeps_features:
        outputs = layers.BatchNormalization(center=False, scale=False, trainable=False, name="standardise")(outputs)
    dense = config.head != LINEAR
    if dense and config.hidden_units:
        outputs = layers.Dropout(config.dropout, name="dropout_features")(outputs)
        outputs = layers.Dense(config.hidden_units, "relu", name="hidden")(outputs)
    if dense:
        outputs = layers.Dropout(config.dropout, name="dropout")(outputs)
    return keras.Model(features, layers.Dense(classes, name="logits")(outputs), name="head")


def standardise(head: keras.Model, features: Iterable[np.ndarray]) -> None:
    """Set the mean and variance of the head's `standardise` layer to those of the training images' features.

    Args:
        features: batches of pooled features, float (B, channels).
    """
    scaler = StandardScaler()
    for batch in features:
        scaler.partial_fit(np.float32(batch))
    head.get_layer("standardise").set_weights([scaler.mean_, scaler.var_])


def standardised(head: keras.Model, features: np.ndarray) -> np.ndarray:
    """Return features, float32 (N, C), as the head's `standardise` layer gives them on: float32 (N, C)."""
    layer = head.get_layer("standardise")
    scale = np.sqrt(array(layer.moving_variance) + layer.epsilon)
    return (features - array(layer.moving_mean).astype(np.float32)) / scale.astype(np.float32)


def set_logits(head: keras.Model, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Set the weights of the head's last layer: float32 (C, classes) and (classes,)."""
    head.get_layer("logits").set_weights([kernel, bias])


def logit_gradients(head: keras.Model, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the gradient of a class's logit, minus the mean of all logits, with respect to the pooled features.

    The head's layers are computed forward and back in NumPy, in float64, so no backend's differentiation is needed.

    Args:
        head: from `build_head` or `headstart.model.network.Network.of_saved`.
        features: float (N, channels), pooled.
        classes: int (N,), a class for each row.

    Returns:
        float32 (N, channels).

    Raises:
        HeadstartError: the head has a layer whose gradient is not known.
    """
    outputs, gradients = np.asarray(features, np.float64), []
    for layer in head.layers[1:]:
        outputs, gradient = forward(layer, outputs)
        gradients.append(gradient)
    result = np.eye(outputs.shape[1])[classes] - 1 / outputs.shape[1]
    for gradient in reversed(gradients):
        result = gradient(result)
    return result.astype(np.float32)


def forward(layer: keras.layers.Layer, inputs: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return a layer's outputs in inference, and the function from the gradient of the outputs to that of the inputs.

    Args:
        inputs: float64 (N, features).

    Raises:
        HeadstartError: the layer's gradient is not known. Subclasses of known layers are refused: they may compute anything.
    """
    kind = type(layer)
    if kind is keras.layers.Dropout:
        return inputs, lambda gradient: gradient
    if kind is keras.layers.BatchNormalization:
        scale = array(layer.gamma, 1.0) / np.sqrt(array(layer.moving_variance) + layer.epsilon)
        return (inputs - array(layer.moving_mean)) * scale + array(layer.beta, 0.0), lambda gradient: gradient * scale
    activations = keras.activations.linear, keras.activations.relu
    if kind is keras.layers.Dense and layer.activation in activations and layer.quantization_mode is None:
        kernel = array(layer.kernel)
        outputs = inputs @ kernel + array(layer.bias, 0.0)
        slopes = outputs > 0 if layer.activation is keras.activations.relu else np.ones_like(outputs)
        return outputs * slopes, lambda gradient: (gradient * slopes) @ kernel.T
    raise HeadstartError(
        f"the head's layer {layer.name!r} is of a kind whose gradient is not known ({kind.__name__}): heat maps know Dense "
        "(linear or ReLU), BatchNormalization and Dropout"
    )


def array(values: keras.Variable | None, default: float = 0.0) -> np.ndarray:
    """Return a layer's weights as float64, or `default` if it has none."""
    return np.asarray(default if values is None else keras.ops.convert_to_numpy(values), np.float64)
