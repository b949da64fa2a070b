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
    network = Network.of_saved(keras.models.clone_model(float32, clone_function=convertible, recursive=True))
    height, width, channels = network.image_shape
    shape = (None, None, channels) if fit else network.image_shape
    images = keras.Input(shape, dtype="uint8", name="images")
    fitted = [FitLikePillow(height, width, fit, name="fit")] if fit else []
    features = chain(images, [*fitted, *network.prepare, network.backbone, network.pool])
    scaled = [keras.layers.Rescaling(1 / temperature, name="temperature"), keras.layers.Softmax(name="probabilities")]
    probabilities = chain(features, [*network.head.layers[1:], *scaled])
    return keras.Model(images, {"probabilities": probabilities, "features": features}, name="exported")


def convertible(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return the layer itself, or a layer that does the same, if converters cannot take it.

    A normalisation keeps its mean as a constant outside the graph, which the ONNX converter takes for another input. A
    convolution with a group for each channel is a call of a compiled function on TensorFlow, which it does not know.
    """
    options = {"dtype": "float32", "name": layer.name}
    if isinstance(layer, keras.layers.Normalization):
        mean, variance = (np.asarray(keras.ops.convert_to_numpy(one), np.float64) for one in (layer.mean, layer.variance))
        deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
        scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
        return keras.layers.Rescaling(scale.ravel().tolist(), offset.ravel().tolist(), **options)
    if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1 and layer.kernel.shape[2] == 1:
        kernel, *bias = layer.get_weights()
        same = ("kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias")
        depthwise = keras.layers.DepthwiseConv2D(
            depth_multiplier=layer.filters // layer.groups, **{name: getattr(layer, name) for name in same}, **options
        )
        depthwise.build((None, None, None, layer.groups))
        depthwise.set_weights([kernel.reshape(*kernel.shape[:2], layer.groups, -1), *bias])
        return depthwise
    return layer
