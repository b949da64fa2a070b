import errno

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from headstart.audit import duplicates
from headstart.audit.duplicates import CANDIDATES, candidates, near_duplicates, redundant, searched_among, whitened
from headstart.data.grey import shades_of_grey
from headstart.errors import HeadstartError

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


def test_without_an_index_the_most_protected_of_many_images_are_compared(monkeypatch):
    splits = np.repeat(["training", "validation", "test"], [50, 6, 4])
    assert searched_among(splits)[0].tolist() == list(range(60))
    monkeypatch.setattr("headstart.audit.duplicates.MOST_COMPARED", 20)
    monkeypatch.setattr("headstart.audit.duplicates.has_index", lambda: False)
    chosen, note = searched_among(splits)
    assert np.bincount(chosen >= 50).tolist() == [10, 10]
    assert note == (
        "near-duplicates were looked for among 20 of 60 images only (4 of 4 test images, 6 of 6 validation images, 10 of 50 "
        "training images): pip install 'headstart[index]' for all"
    )
    monkeypatch.setattr("headstart.audit.duplicates.has_index", lambda: True)
    assert searched_among(splits) == (pytest.approx(np.arange(60)), "")


def test_an_index_finds_the_pairs_that_a_comparison_of_all_finds(monkeypatch):
    pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    rows = random.normal(size=(3000, 32)).astype(np.float32)
    rows[1500:] = rows[:1500] + 0.05 * random.normal(size=(1500, 32))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    monkeypatch.setattr("headstart.audit.duplicates.CANDIDATES", 0.5)  # about as many as are near
    expected = {tuple(pair) for pair in np.concatenate(list(candidates(rows))).tolist()}
    monkeypatch.setattr("headstart.audit.duplicates.MOST_COMPARED", 0)
    found = np.concatenate(list(candidates(rows)))
    assert (found[:, 0] < found[:, 1]).all()
    found = {tuple(pair) for pair in found.tolist()}
    assert found <= expected
    assert len(found) > 0.99 * len(expected) > 1000


def test_many_images_are_compared_on_disk_a_few_at_a_time(monkeypatch, tmp_path):
    images = np.stack([np.asarray(scene(seed % 500).crop((seed // 500, 0, 44, 44)).resize((32, 32))) for seed in range(700)])
    features = np.random.default_rng(0).normal(size=(700, 8))
    features[500:] = features[:200] + 0.1
    rows, asked = np.arange(700), []
    expected = near_duplicates(images, rows, features)
    assert len(expected[0]) >= 150

    def grey_of(places):
        asked.append(len(places))
        return shades_of_grey(images, rows[places])

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(duplicates, "MOST_IN_MEMORY", 0)
    found = duplicates.near_duplicates_of_grey(grey_of, images.shape, features)
    assert all(map(np.array_equal, found, expected))
    assert max(asked) <= 256
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_is_said_before_images_are_compared(monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(duplicates, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(HeadstartError, match="the disk is full"):
        near_duplicates(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2), np.ones((2, 4)))
