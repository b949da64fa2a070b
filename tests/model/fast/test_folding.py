import keras
import numpy as np
import pytest

from headstart.model.fast.folding import enlarge_first_kernels, fold_batch_norm, for_training, recast
from headstart.model.network import all_layers


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
    expected = backbone.predict(images, verbose=0)
    np.testing.assert_allclose(folded.predict(images, verbose=0), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers) == left


def test_a_convolution_with_an_activation_is_left_alone():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    assert any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in fold_batch_norm(keras.Model(inputs, x), "float32").layers
    )


def test_a_copy_keeps_names_weights_and_what_is_trainable():
    inputs = keras.Input((None, None, 3))
    inner = keras.Model(inputs, keras.layers.Conv2D(4, 1, name="b")(keras.layers.Conv2D(4, 3, name="a", trainable=False)(inputs)))
    outer_inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = inner(keras.layers.Rescaling(1 / 255)(outer_inputs))
    model = keras.Model(outer_inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    copied = for_training(model)
    assert [weight.shape for weight in copied.trainable_weights] == [weight.shape for weight in model.trainable_weights]
    assert copied.input.dtype == "uint8"
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(copied.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)
    plain = recast(copied, "float32")
    assert all(type(layer).__module__.startswith("keras.") for layer in all_layers(plain))
    np.testing.assert_allclose(plain.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("factory", "done"), [("ResNet50", True), ("VGG16", True), ("EfficientNetV2B0", False)])
def test_a_backbone_takes_smaller_input_where_only_convolutions_read_it(factory, done):
    backbone = getattr(keras.applications, factory)(include_top=False, weights=None, input_shape=(None, None, 3))
    copy = fold_batch_norm(backbone, "float32")
    assert enlarge_first_kernels(copy, 64.0) == done
    images = np.random.default_rng(0).uniform(-128, 128, (2, 32, 32, 3)).astype(np.float32)
    expected = fold_batch_norm(backbone, "float32").predict(images, verbose=0)
    np.testing.assert_array_equal(copy.predict(images / 64 if done else images, verbose=0), expected)
