import numpy as np
import pytest
from scipy.ndimage import affine_transform

from headstart.model.augmentation import RandomAffine, affine, affine_by_one_gather, augmentation
from headstart.recipes import recipe
from headstart.system.backend import keras
from helpers import PLAIN, random_images

ops = keras.ops
HEIGHT, WIDTH = 17, 23


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("function", [affine, affine_by_one_gather])
def test_an_image_is_mapped_as_scipy_does(function, dtype):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, HEIGHT, WIDTH, 3)).astype(dtype)
    # Far outside too: several widths away.
    matrices, offsets = np.float32(random.normal(size=(6, 2, 2))), np.float32(20 * random.normal(size=(6, 2)))
    found = ops.convert_to_numpy(function(*map(ops.convert_to_tensor, (images, matrices, offsets))))
    centre = np.array([(HEIGHT - 1) / 2, (WIDTH - 1) / 2])
    for number, (matrix, offset) in enumerate(zip(matrices, offsets, strict=True)):
        start = centre + offset - matrix @ centre
        expected = [
            affine_transform(np.float32(images[number, ..., c]), matrix, start, order=1, mode="reflect") for c in range(3)
        ]
        np.testing.assert_allclose(found[number], np.stack(expected, -1), atol=5e-3)  # of 255


def test_the_map_is_that_of_keras_layers_one_after_the_other():
    """What Keras' flip, rotation, zoom and translation do to a slope in both directions, at equal parameters."""
    layer = RandomAffine(True, 0.05, 0.2, 0.1, seed=3)
    count, side = 16, 40
    matrices, offsets = map(ops.convert_to_numpy, layer.maps(count, side, side))
    layer = RandomAffine(True, 0.05, 0.2, 0.1, seed=3)  # the same draws again
    draws = ops.convert_to_numpy(keras.random.uniform((5, count), -1, 1, seed=layer.seed_generator))
    for matrix, offset, (mirrored, angle, zoom, down, right) in zip(matrices, offsets, draws.T, strict=True):
        place = np.array([3.0, -5.0])  # row and column, from the centre
        expected = place - np.rint([0.1 * side * down, 0.1 * side * right])  # translation
        expected = expected * (1 + 0.2 * zoom)
        turn = 2 * np.pi * 0.05 * angle
        expected = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ expected
        expected *= (1, -1 if mirrored < 0 else 1)
        np.testing.assert_allclose(matrix @ place + offset, expected, atol=1e-4)


def test_parameters_have_the_distribution_of_keras_layers():
    count, side = 20_000, 100
    matrices, offsets = map(ops.convert_to_numpy, RandomAffine(True, 0.02, 0.1, 0.1, seed=0).maps(count, side, side))
    scales, mirrored = np.hypot(matrices[:, 0, 0], matrices[:, 0, 1]), np.linalg.det(matrices) < 0
    turns = np.arctan2(-matrices[:, 0, 1], matrices[:, 0, 0]) / (2 * np.pi)
    shifts = -np.linalg.solve(matrices, offsets[..., None])[..., 0]
    assert abs(mirrored.mean() - 0.5) < 0.02
    for values, low, high in ((scales, 0.9, 1.1), (turns, -0.02, 0.02), (shifts[:, 0], -10, 10), (shifts[:, 1], -10, 10)):
        assert values.min() >= low - 1e-3
        assert values.max() <= high + 1e-3
        expected = (high - low) / np.sqrt(12)  # of a uniform distribution
        assert abs(values.std() - expected) < 0.03 * expected
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)


def test_an_image_that_is_only_mirrored_and_shifted_stays_sharp():
    images = np.float32(random_images(20, side=10))
    found = ops.convert_to_numpy(RandomAffine(True, 0.0, 0.0, 0.2, seed=0)(images, training=True))
    np.testing.assert_allclose(found, np.rint(found), atol=2e-4)  # PyTorch's operation counts in halves of a side
    assert not np.array_equal(np.rint(found), images)


def test_nothing_happens_outside_training():
    images = np.float32(random_images(3))
    layer = RandomAffine(True, 0.1, 0.1, 0.1)
    np.testing.assert_array_equal(layer(images), images)
    np.testing.assert_array_equal(layer(images), images)
    np.testing.assert_array_equal(layer(np.uint8(images), training=False), images)


def test_without_options_there_is_no_layer():
    assert augmentation(recipe("quick", **PLAIN)) is None


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the others have an operation of their own")
def test_on_jax_the_pixels_are_fetched_by_one_gather():
    import jax

    layer = RandomAffine(True, 0.1, 0.1, 0.1)
    images = np.float32(random_images(2))
    layer.build(images.shape)
    state = [variable.value for variable in layer.variables]
    traced = jax.make_jaxpr(lambda *inputs: layer.stateless_call([], *inputs, training=True))(state, images)
    assert str(traced).count("gather[") == 1
    assert "while[" not in str(traced)  # no loop over images
