import keras
import numpy as np
import pytest

import headstart as hs
from headstart.model import build_model, load_backbone
from headstart.training.features import cached_features, prune


@pytest.fixture
def network(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    config = hs.recipe("starter", image_size=16)
    keras.utils.set_random_seed(0)
    return build_model(*load_backbone(config), digits.image_shape, 10, config, "float32"), config


def features(network, digits, count=20, view=0):
    return cached_features(*network[:1], digits, digits.train[:count], network[1], view, "test pictures")


def test_features_are_those_of_the_whole_network(network, digits):
    expected = keras.Model(network[0].input, network[0].get_layer("features").output).predict(
        digits.images(digits.train[:20]), verbose=0
    )
    np.testing.assert_allclose(features(network, digits), expected, rtol=2e-3, atol=1e-3)


def test_the_mirror_view_is_the_features_of_mirrored_pictures(network, digits):
    mirrored = digits.images(digits.train[:20])[:, :, ::-1]
    expected = keras.Model(network[0].input, network[0].get_layer("features").output).predict(mirrored, verbose=0)
    np.testing.assert_allclose(features(network, digits, view=1), expected, rtol=2e-3, atol=1e-3)


def test_random_views_differ_from_each_other_and_are_the_same_again(network, digits, tmp_path):
    second, third = features(network, digits, view=2), features(network, digits, view=3)
    assert not np.allclose(second, third)
    for file in tmp_path.glob("features/*.npy"):
        file.unlink()
    np.testing.assert_allclose(features(network, digits, view=2), second, rtol=2e-3, atol=1e-3)


def test_the_cache_serves_the_same_pictures_and_no_others(network, digits, tmp_path):
    first = features(network, digits)
    np.testing.assert_array_equal(features(network, digits), first)
    assert len(list(tmp_path.glob("features/*.npy"))) == 1
    features(network, digits, count=21)
    assert len(list(tmp_path.glob("features/*.npy"))) == 2


def test_another_weight_is_another_entry(network, digits, tmp_path):
    features(network, digits)
    weight = network[0].get_layer("backbone").weights[0]
    weight.assign(weight + 1)
    features(network, digits)
    assert len(list(tmp_path.glob("features/*.npy"))) == 2


def test_a_damaged_cache_file_is_made_again(network, digits, tmp_path):
    first = features(network, digits)
    file = next(tmp_path.glob("features/*.npy"))
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(features(network, digits), first)


def test_pruning_keeps_what_was_used_last(tmp_path):
    import os

    for age, name in enumerate(["new.npy", "older.npy", "oldest.npy"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    prune(tmp_path, 250)
    assert {file.name for file in tmp_path.iterdir()} == {"new.npy", "older.npy"}
