import keras
import numpy as np
import pytest

from headstart.model.fast.small_convolutions import SmallMapConv2D


def outputs_and_gradients(layer, maps, weights):
    """Return a layer's outputs, and the gradients of the sum of their squares by maps and weights."""
    tensorflow = pytest.importorskip("tensorflow")
    layer.build(maps.shape)
    layer.set_weights(weights)
    maps = tensorflow.constant(maps)
    with tensorflow.GradientTape() as tape:
        tape.watch(maps)
        outputs = layer(maps)
        loss = tensorflow.reduce_sum(outputs**2)
    return [np.array(array) for array in (outputs, *tape.gradient(loss, [maps, *(w.value for w in layer.trainable_weights)]))]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "sides"), [(1, (4, 4)), (1, (7, 5)), (3, (3, 3)), (3, (4, 7)), (3, (8, 8)), (3, (12, 12)), (5, (6, 5))]
)
def test_products_compute_what_a_convolution_does_and_so_do_their_gradients(size, sides, stride, padding):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, *sides, 3)).astype(np.float32)
    weights = [rng.normal(size=(size, size, 3, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)]
    options = {"filters": 4, "kernel_size": size, "strides": stride, "padding": padding, "activation": "relu"}
    expected = outputs_and_gradients(keras.layers.Conv2D(**options), maps, weights)
    found = outputs_and_gradients(SmallMapConv2D(**options), maps, weights)
    for array, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation_rate": 2}, {"data_format": "channels_first"}])
def test_other_convolutions_stay_as_they_are(options):
    maps = keras.random.normal((2, 4, 4, 4))
    plain, small = (kind(4, 3, padding="same", **options) for kind in (keras.layers.Conv2D, SmallMapConv2D))
    small.build(maps.shape)
    plain.build(maps.shape)
    small.set_weights(plain.get_weights())
    if options.get("data_format") == "channels_first":
        assert small.compute_output_shape(maps.shape) == plain.compute_output_shape(maps.shape)
        return  # which oneDNN does not compute
    np.testing.assert_array_equal(small(maps), plain(maps))
