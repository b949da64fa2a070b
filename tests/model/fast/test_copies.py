import keras
import numpy as np

from headstart.model.fast.copies import for_training, recast
from headstart.model.network import all_layers


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
