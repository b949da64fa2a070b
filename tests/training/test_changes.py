import numpy as np
import pytest
from PIL import Image

from headstart.recipes import recipe
from headstart.training.changes import RAND_AUGMENT, changes, cutmix, mixup, rand_augmented
from helpers import random_images

LABELS = np.eye(4, dtype=np.float32)[np.arange(12) % 4]


def brightness(count: int = 12) -> np.ndarray:
    """Return images of one brightness each, uint8 (count, 8, 8, 3)."""
    return np.uint8(np.arange(count) * 20)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_images_are_mixed_in_the_shares_of_their_labels(change):
    labels = np.eye(12, dtype=np.float32)
    images, mixed = change(brightness(), labels, np.random.default_rng(0))
    assert images.dtype == np.uint8
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-5)
    # The mean brightness is the labels' mean brightness, up to the rounding of pixels.
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), mixed @ (np.arange(12) * 20), atol=0.6)
    assert (mixed.max(axis=1) < 1).any()


def test_cutmix_leaves_pixels_whole():
    images, _ = cutmix(brightness(), LABELS, np.random.default_rng(1))
    assert set(np.unique(images)) <= set(range(0, 240, 20))


@pytest.mark.parametrize("strength", [-0.3, 0.3])
@pytest.mark.parametrize("operation", RAND_AUGMENT)
def test_each_operation_gives_an_image_of_the_same_kind(operation, strength):
    changed = operation(Image.fromarray(random_images(1)[0]), strength)
    assert (changed.mode, changed.size) == ("RGB", (32, 32))


def test_rand_augment_changes_images_and_leaves_labels():
    before = random_images(12)
    images, labels = rand_augmented(before, LABELS, np.random.default_rng(0))
    again, _ = rand_augmented(before, LABELS, np.random.default_rng(0))
    assert (images.shape, images.dtype) == (before.shape, np.uint8)
    assert not np.array_equal(images, before)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, LABELS)


def test_labels_that_are_not_one_hot_are_not_mixed():
    config = recipe("quick", rand_augment=True, mix="mixup", fine_tune_from="all")
    assert changes(config) == [rand_augmented, mixup]
    assert changes(config, one_hot=False) == [rand_augmented]
