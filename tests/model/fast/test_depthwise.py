import keras
import numpy as np
import pytest

from headstart.model.fast.depthwise import BlockedDepthwiseConv2D

SHAPE = (2, 9, 8, 6)


def gradients(layer: keras.layers.Layer, images: np.ndarray) -> list[np.ndarray]:
    """Return the outputs, and the gradients of their weighted sum with respect to the images and the kernel."""
    tensorflow = pytest.importorskip("tensorflow")
    inputs = tensorflow.constant(images)
    with tensorflow.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tensorflow.cast(layer(inputs), "float32")
        total = tensorflow.reduce_sum(outputs * np.random.default_rng(1).normal(size=outputs.shape).astype("float32"))
    return [np.asarray(values) for values in (outputs, *tape.gradient(total, [inputs, layer.kernel.value]))]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends compute it as Keras does")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [3, 5, 7])
def test_it_is_the_same_convolution_forward_and_backward(taps, stride, padding):
    images = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    plain = keras.layers.DepthwiseConv2D(taps, stride, padding)
    fast = BlockedDepthwiseConv2D(taps, stride, padding, dtype="mixed_bfloat16")
    for layer in (plain, fast):
        layer.build(SHAPE)
    fast.set_weights([plain.get_weights()[0], np.full(SHAPE[-1], 0.1)])
    plain.set_weights(fast.get_weights())
    for expected, computed in zip(gradients(plain, images), gradients(fast, images), strict=True):
        assert np.linalg.norm(computed - expected) < 0.02 * np.linalg.norm(expected)


def test_in_float32_it_is_the_layer_of_keras():
    images = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    plain, fast = (kind(5, padding="same") for kind in (keras.layers.DepthwiseConv2D, BlockedDepthwiseConv2D))
    for layer in (plain, fast):
        layer.build(SHAPE)
    fast.set_weights(plain.get_weights())
    np.testing.assert_array_equal(fast(images), plain(images))
