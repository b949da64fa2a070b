"""The head: the layers from pooled features to logits, and their gradient."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
from keras import layers
from sklearn.preprocessing import StandardScaler

from headstart.config import Config
from headstart.errors import HeadstartError


def head(classes: int, config: Config) -> list[layers.Layer]:
    """Return the head's layers: standardised features, dropout, a hidden layer, dropout, and the classes' logits.

    The features are standardised where the frozen stage has them all, and so knows their mean and
    variance (`standardise`): channels of every size then learn at one rate. `logit_gradients` must
    know each kind of layer that is used here.
    """
    standard = []
    if config.cache_features and not config.from_scratch:
        standard = [layers.BatchNormalization(center=False, scale=False, trainable=False, name="standardise")]
    hidden = []
    if config.hidden_units:
        hidden = [
            layers.Dropout(config.dropout, name="dropout_features"),
            layers.Dense(config.hidden_units, "relu", name="hidden"),
        ]
    return [*standard, *hidden, layers.Dropout(config.dropout, name="dropout"), layers.Dense(classes, name="logits")]


def head_layers(model: keras.Model) -> list[layers.Layer]:
    """Return the layers of the head in a network of `headstart.model.network.build_model`, or in one that a run saved."""
    return model.layers[model.layers.index(model.get_layer("features")) + 1 :]


def head_model(model: keras.Model) -> keras.Model:
    """Return the head alone, from pooled features, float32 (B, channels), to logits; it shares its weights with `model`."""
    inputs = x = keras.Input(model.get_layer("features").output.shape[1:], name="features_in")
    for layer in head_layers(model):
        x = layer(x)
    return keras.Model(inputs, x, name="head")


def standardise(model: keras.Model, features: Iterable[np.ndarray]) -> None:
    """Give the head the mean and variance of the training images' features.

    Args:
        features: batches of pooled features, float (B, channels).
    """
    scaler = StandardScaler()
    for batch in features:
        scaler.partial_fit(np.float32(batch))
    model.get_layer("standardise").set_weights([scaler.mean_, scaler.var_])


def logit_gradients(model: keras.Model, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the gradient of a class's logit, minus the mean of all logits, with respect to the pooled features.

    It goes through the head's layers forward and back in NumPy, in float64, and so needs no backend's differentiation.

    Args:
        model: see `head_layers`.
        features: float (N, channels), pooled.
        classes: int (N,), a class for each row.

    Returns:
        float32 (N, channels).

    Raises:
        HeadstartError: the head has a layer whose gradient is not known.
    """
    outputs, gradients = np.asarray(features, np.float64), []
    for layer in head_layers(model):
        outputs, gradient = forward(layer, outputs)
        gradients.append(gradient)
    result = np.eye(outputs.shape[1])[classes] - 1 / outputs.shape[1]
    for gradient in reversed(gradients):
        result = gradient(result)
    return result.astype(np.float32)


def forward(layer: layers.Layer, inputs: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return what a layer of the head gives in inference, and a function from the gradient of its outputs to that of its inputs.

    Args:
        inputs: float64 (N, features).

    Raises:
        HeadstartError: the layer's gradient is not known. Subclasses are not known either, since they may compute anything.
    """
    kind = type(layer)
    if kind is layers.Dropout:
        return inputs, lambda gradient: gradient
    if kind is layers.BatchNormalization:
        scale = array(layer.gamma, 1.0) / np.sqrt(array(layer.moving_variance) + layer.epsilon)
        return (inputs - array(layer.moving_mean)) * scale + array(layer.beta, 0.0), lambda gradient: gradient * scale
    activations = keras.activations.linear, keras.activations.relu
    if kind is layers.Dense and layer.activation in activations and layer.quantization_mode is None:
        kernel = array(layer.kernel)
        outputs = inputs @ kernel + array(layer.bias, 0.0)
        slopes = outputs > 0 if layer.activation is keras.activations.relu else np.ones_like(outputs)
        return outputs * slopes, lambda gradient: (gradient * slopes) @ kernel.T
    raise HeadstartError(
        f"the head's layer {layer.name!r} is of a kind whose gradient is not known ({kind.__name__}): heat maps know Dense "
        "(linear or ReLU), BatchNormalization and Dropout"
    )


def array(values: keras.Variable | None, default: float = 0.0) -> np.ndarray:
    """Return a layer's weights as float64, and a default for those that it does without."""
    return np.asarray(default if values is None else keras.ops.convert_to_numpy(values), np.float64)
