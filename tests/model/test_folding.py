import keras
import numpy as np
import pytest

from headstart.model.folding import fold_batch_norm


@pytest.mark.parametrize(
    ("factory", "left"), [("MobileNetV2", 0), ("MobileNetV3Small", 0), ("ResNet50V2", 17), ("DenseNet121", 62)]
)
def test_folding_changes_nothing_but_the_number_of_layers(factory, left):
    keras.utils.set_random_seed(0)
    backbone = getattr(keras.applications, factory)(include_top=False, weights=None, input_shape=(None, None, 3))
    rng = np.random.default_rng(0)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.8, 1.2, weight.shape) for weight in layer.get_weights()])
    folded = fold_batch_norm(backbone, "float32")
    pictures = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = backbone.predict(pictures, verbose=0)
    np.testing.assert_allclose(folded.predict(pictures, verbose=0), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers) == left


def test_a_convolution_with_an_activation_is_left_alone():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    assert any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in fold_batch_norm(keras.Model(inputs, x), "float32").layers
    )
