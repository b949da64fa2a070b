import keras
import numpy as np
import pytest

from headstart.model.fast.one_pass import OnePassBatchNormalization


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.02)])
def test_it_learns_what_keras_batch_norm_learns(dtype, tolerance):
    rng = np.random.default_rng(0)
    batch, targets = rng.normal(3, 2, (16, 6, 6, 5)).astype(np.float32), rng.normal(size=(16, 6, 6, 5)).astype(np.float32)
    learned = []
    for kind in (keras.layers.BatchNormalization, OnePassBatchNormalization):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6, 6, 5))
        x = kind(momentum=0.9, dtype=dtype)(keras.layers.Conv2D(5, 1)(inputs))
        model = keras.Model(inputs, keras.layers.Activation("relu", dtype="float32")(x))
        model.compile(keras.optimizers.SGD(0.5), "mse")
        for _ in range(3):
            model.train_on_batch(batch, targets)
        learned.append([*model.get_weights(), model.predict_on_batch(batch)])
    for plain, fast in zip(*learned, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=tolerance, atol=tolerance)


def test_it_stays_as_it_is_where_it_is_held():
    layer = OnePassBatchNormalization(trainable=False)
    batch = np.random.default_rng(0).normal(3, 2, (4, 2, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(batch, training=True), batch / np.sqrt(1 + layer.epsilon), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, 0)
