"""The network that is exported computes what the classifier computes."""

import numpy as np
import pytest

from headstart.export import onnx
from headstart.export.graph import exported_network
from headstart.inference.engine import keras_outputs
from headstart.system.backend import keras
from helpers import random_images


@pytest.mark.parametrize("multiplier", [1, 2])
def test_layers_that_converters_do_not_know_are_replaced_by_others_that_do_the_same(multiplier, tmp_path):
    images = inputs = keras.Input((32, 32, 3), dtype="uint8", name="images")
    x = keras.layers.Rescaling(1 / 255, name="to_unit_range")(images)
    features = keras.Input((None, None, 3))
    normalised = keras.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 0.6, 0.7])(features)
    grouped = keras.layers.Conv2D(3 * multiplier, 3, 2, "same", groups=3, activation="relu", name="grouped")
    grouped.build((None, None, None, 3))
    grouped.bias.assign(np.linspace(-0.5, 0.5, 3 * multiplier))
    x = keras.Model(features, grouped(normalised), name="backbone")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="logits")(keras.layers.Activation("gelu", name="gelu")(x)))
    exported = exported_network(model, temperature=2.0)
    kinds = {type(layer).__name__ for layer in exported.get_layer("backbone").layers}
    assert kinds == {"InputLayer", "Rescaling", "DepthwiseConv2D"}
    batch = random_images(5)
    wanted = keras.ops.convert_to_numpy(keras.ops.softmax(keras_outputs(model, batch)[0] / 2.0))
    assert np.allclose(exported.predict_on_batch(batch)["probabilities"], wanted, atol=1e-6)
    if keras.backend.backend() == "tensorflow":  # which exports
        onnx.write(exported, tmp_path / "model.onnx", {"classes": list("abcd")}, "float32", None)
        assert np.allclose(onnx.Runtime(tmp_path / "model.onnx").outputs(batch)[0], wanted, atol=1e-5)
