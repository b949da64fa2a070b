import numpy as np
import pytest
from PIL import Image, ImageEnhance

from headstart.audit.duplicates import CANDIDATES, candidates, near_duplicates, redundant, whitened
from headstart.data.grey import shades_of_grey

OTHERS = 60


def scene(seed: int, side: int = 48) -> Image.Image:
    """An image with detail of every size, unlike any of another seed."""
    random = np.random.default_rng(seed)
    layers = [Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).resize((side, side), 3) for size in (3, 5, 9)]
    return Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.3)


def found(copy: Image.Image, side: int = 48, mirrored: bool = True) -> list[list[int]]:
    """Compare an image's copy with it and with others, by features that see nothing but the colours' places roughly."""
    images = [scene(seed).resize((side, side)) for seed in range(OTHERS)] + [copy.resize((side, side))]
    images = np.stack([np.asarray(image) for image in images])
    features = np.random.default_rng(0).normal(size=(OTHERS + 1, 16))
    features[-1] = features[0] + 0.1
    pairs, similarity = near_duplicates(images, np.arange(len(images)), features, mirrored)
    assert ((similarity > 0.84) & (similarity <= 1.001)).all()  # whatever was done to a copy has been undone
    assert (np.diff(similarity) <= 0).all()
    return pairs.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.crop((1, 1, 47, 47)),
        lambda image: image.crop((5, 0, 43, 48)).resize((48, 48)),
        lambda image: image.crop((0, 5, 48, 43)).resize((48, 48)),
        lambda image: image.transform((48, 48), Image.Transform.AFFINE, (1, 0, 2, 0, 1, -2)),
        lambda image: ImageEnhance.Brightness(ImageEnhance.Color(image).enhance(0.2)).enhance(0.7),
    ],
    ids=["the same", "mirrored", "cropped", "wider", "higher", "shifted", "darker and greyer"],
)
def test_a_near_duplicate_is_found_and_nothing_else(change):
    assert found(change(scene(0))) == [[0, OTHERS]]


def test_a_mirror_image_is_no_near_duplicate_where_mirroring_means_something():
    copy = scene(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert found(copy, mirrored=True) == [[0, OTHERS]]
    assert found(copy, mirrored=False) == []
    assert found(scene(0), mirrored=False) == [[0, OTHERS]]


def test_candidates_are_alike_in_every_component_not_in_the_strongest_alone():
    random = np.random.default_rng(0)
    features = random.normal(size=(2000, 24)) * np.repeat([10.0, 0.1], [4, 20])  # four components that tell little apart
    features[1000:] = features[:1000] + random.normal(size=(1000, 24)) * np.repeat([10.0, 0.01], [4, 20])
    pairs = np.concatenate(list(candidates(whitened(features))))
    assert len(pairs) < 1.5 * CANDIDATES * len(features)
    assert (pairs[:, 1] - pairs[:, 0] == 1000).sum() > 950


def test_another_image_with_the_same_features_is_no_near_duplicate():
    assert found(scene(1000)) == []


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (20, 17)])
def test_shades_of_grey_are_pillows(size):
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    rows = np.array([2, 0])
    expected = [Image.fromarray(images[row]).convert("L").resize((32, 32), Image.Resampling.BOX) for row in rows]
    np.testing.assert_allclose(
        shades_of_grey(images, rows), np.stack([np.asarray(one) for one in expected]), atol=1.6
    )  # Pillow rounds three times


def test_tiny_images_and_single_ones_have_no_near_duplicates():
    assert found(scene(0), side=8) == []
    assert len(near_duplicates(np.zeros((1, 32, 32, 3), np.uint8), np.arange(1), np.ones((1, 4)))[0]) == 0


def test_flat_images_with_the_same_faint_noise_are_no_near_duplicates():
    images = np.full((5, 32, 32, 3), 200, np.uint8) + 10 * np.arange(5, dtype=np.uint8)[:, None, None, None]
    images[:, ::5, ::7] += 1
    assert len(near_duplicates(images, np.arange(5), np.ones((5, 3)))[0]) == 0


def test_what_is_left_out_breaks_every_pair_and_tests_nothing_less():
    training, labels = np.array([True, True, True, True, False, False]), np.zeros(6, int)
    pairs = np.array([[0, 1], [1, 2], [3, 4], [4, 5]])
    assert redundant(pairs, training, labels).tolist() == [1, 3]
    assert redundant(np.empty((0, 2), np.int64), training, labels).tolist() == []


def test_pairs_with_different_labels_leave_nothing_out():
    training, labels = np.array([True, True, True, False]), np.array([0, 1, 0, 1])
    assert redundant(np.array([[0, 1], [2, 3]]), training, labels).tolist() == []
    assert redundant(np.array([[0, 1], [0, 2]]), training, labels).tolist() == [2]
