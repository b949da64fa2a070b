"""The network that an exported file holds: from raw pixels to probabilities and features."""

import numpy as np

from headstart.export.fit import FitLikePillow
from headstart.model.fast.copies import recast
from headstart.model.network import Network, chain
from headstart.system.backend import keras


def exported_network(model: keras.Model, temperature: float, fit: str = "") -> keras.Model:
    """Return a float32 copy of a classifier's network, without augmentation.

    Args:
        model: from images, uint8 (B, height, width, 3), to logits, see `headstart.model.network.Network.classifier`.
        temperature: the number that logits are divided by.
        fit: how images of any height and width are brought to the model's, see `headstart.data.decode.Decoding`; "" takes
            images of the model's size alone.

    Returns:
        A model from `images`, uint8 (B, H, W, 3), to `probabilities`, float32 (B, classes), and `features`, float32
        (B, channels).
    """
    float32 = recast(model, "float32")
    network = Network.of_saved(keras.models.clone_model(float32, clone_function=without_constants, recursive=True))
    height, width, channels = network.image_shape
    shape = (None, None, channels) if fit else network.image_shape
    images = keras.Input(shape, dtype="uint8", name="images")
    fitted = [FitLikePillow(height, width, fit, name="fit")] if fit else []
    features = chain(images, [*fitted, *network.prepare, network.backbone, network.pool])
    scaled = [keras.layers.Rescaling(1 / temperature, name="temperature"), keras.layers.Softmax(name="probabilities")]
    probabilities = chain(features, [*network.head.layers[1:], *scaled])
    return keras.Model(images, {"probabilities": probabilities, "features": features}, name="exported")


def without_constants(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return the layer itself or, for a normalisation, a layer that does the same.

    A normalisation keeps its mean as a constant outside the graph, which the ONNX converter takes for another input.
    """
    if not isinstance(layer, keras.layers.Normalization):
        return layer
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(one), np.float64) for one in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
    scale, offset = (1 / deviation, -mean / deviation) if not layer.invert else (deviation, mean)
    return keras.layers.Rescaling(scale.ravel().tolist(), offset.ravel().tolist(), dtype="float32", name=layer.name)
