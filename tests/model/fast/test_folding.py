import keras
import numpy as np
import pytest

from headstart.model.fast.folding import enlarge_first_kernels, fold_batch_norm
from helpers import called


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
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = called(backbone, images)
    np.testing.assert_allclose(called(folded, images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers) == left


def test_a_convolution_with_an_activation_is_left_alone():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    assert any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in fold_batch_norm(keras.Model(inputs, x), "float32").layers
    )


@pytest.mark.parametrize(("factory", "done"), [("ResNet50", True), ("VGG16", True), ("EfficientNetV2B0", False)])
def test_a_backbone_takes_smaller_input_where_only_convolutions_read_it(factory, done):
    backbone = getattr(keras.applications, factory)(include_top=False, weights=None, input_shape=(None, None, 3))
    copy = fold_batch_norm(backbone, "float32")
    assert enlarge_first_kernels(copy, 64.0) == done
    images = np.random.default_rng(0).uniform(-128, 128, (2, 32, 32, 3)).astype(np.float32)
    expected = called(fold_batch_norm(backbone, "float32"), images)
    np.testing.assert_array_equal(called(copy, images / 64 if done else images), expected)
