import keras
import numpy as np
import pytest

import headstart as hs
from headstart.config import replace
from headstart.inference import engine
from headstart.model.backbones import load_backbone
from headstart.model.network import build_network
from headstart.model.unfreeze import unfreeze
from headstart.system.entries import read_stored, seal
from headstart.system.rows import StoredRows
from headstart.training.features import FrozenLayers, cut_where_worthwhile


@pytest.fixture
def network(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    config = hs.recipe("starter", image_size=16)
    keras.utils.set_random_seed(0)
    return build_network(*load_backbone(config), digits.image_shape, 10, config, "float32"), config


def features(network, digits, count=20, view=0):
    frozen = FrozenLayers(network[0], digits, network[1])
    return np.asarray(frozen.features(digits.train[:count], view, "test images"))


def test_features_are_those_of_the_whole_network(network, digits):
    expected = network[0].feature_extractor().predict(digits.images(digits.train[:20]), verbose=0)
    np.testing.assert_allclose(features(network, digits), expected, rtol=2e-3, atol=1e-3)


def test_the_mirror_view_is_the_features_of_mirrored_images(network, digits):
    mirrored = digits.images(digits.train[:20])[:, :, ::-1]
    expected = network[0].feature_extractor().predict(mirrored, verbose=0)
    np.testing.assert_allclose(features(network, digits, view=1), expected, rtol=2e-3, atol=1e-3)


def test_random_views_differ_from_each_other_and_are_the_same_again(network, digits, tmp_path):
    second, third = features(network, digits, view=2), features(network, digits, view=3)
    assert not np.allclose(second, third)
    for file in tmp_path.glob("features/*.npy"):
        file.unlink()
    np.testing.assert_allclose(features(network, digits, view=2), second, rtol=2e-3, atol=1e-3)


def test_the_cache_serves_the_same_images_and_no_others(network, digits, tmp_path):
    first = features(network, digits)
    np.testing.assert_array_equal(features(network, digits), first)
    assert len(list(tmp_path.glob("features/*.npy"))) == 1
    features(network, digits, count=21)
    assert len(list(tmp_path.glob("features/*.npy"))) == 2


def test_another_weight_is_another_entry(network, digits, tmp_path):
    features(network, digits)
    weight = network[0].backbone.weights[0]
    weight.assign(weight + 1)
    features(network, digits)
    assert len(list(tmp_path.glob("features/*.npy"))) == 2


@pytest.mark.parametrize(
    ("what", "other"),
    [("computing", lambda: {"openvino": "1.0"}), ("processor", lambda: {"instructions": "avx2"}), ("has_gpu", lambda: True),
     ("FEWEST_IMAGES", 1)],
)  # fmt: skip
def test_what_computes_them_tells_features_apart(what, other, network, digits, monkeypatch):
    def place():
        return FrozenLayers(network[0], digits, network[1]).blocks(digits.train[:20], 0).names

    assert place() == (before := place())
    monkeypatch.setattr(f"headstart.training.features.{what}", other)
    assert place() != before


@pytest.mark.parametrize(("fewest", "used"), [(700, True), (800, False)])
def test_one_engine_computes_the_features_of_all_splits(fewest, used, network, digits, monkeypatch):
    """All splits together have 744 images, and none of them alone as many as 700."""
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 744
    started = []
    monkeypatch.setattr(engine, "FEWEST_IMAGES", fewest)
    monkeypatch.setattr(engine, "compiled_by_openvino", lambda *inputs: started.append(inputs))
    for rows in (digits.validation, digits.test):
        FrozenLayers(network[0], digits, network[1]).features(rows, 0, "test images")
    assert len(started) == 2 * used


@pytest.mark.parametrize("zeros", [False, True])
def test_a_damaged_cache_file_is_made_again(zeros, network, digits, tmp_path, monkeypatch, caplog):
    first = features(network, digits)
    file = next(tmp_path.glob("features/*.npy"))
    content = file.read_bytes()
    file.write_bytes(content[:1000] + bytes(len(content) - 1000) if zeros else content[:100])
    monkeypatch.setattr("headstart.system.entries.VERIFIED", set())
    np.testing.assert_array_equal(features(network, digits), first)
    assert len(caplog.messages) == 1
    assert file.read_bytes() == content


def test_maps_stay_readable_when_the_cache_is_cleared_meanwhile(network, digits, tmp_path):
    parts, config = network
    config = replace(config, fine_tune_from="last-stage")
    cut_where_worthwhile(parts, digits, config)
    maps = FrozenLayers(parts, digits, config).maps(digits.train[:20], 1, "test images")
    before = maps[np.arange(20)]
    for file in tmp_path.glob("features/*.npy"):
        file.unlink()
    np.testing.assert_array_equal(maps[np.arange(20)], before)


def test_maps_come_with_the_features_view_by_view(network, digits, tmp_path):
    parts, config = network
    config = replace(config, fine_tune_from="last-stage", views=2)
    cut_where_worthwhile(parts, digits, config)
    assert parts.cut
    frozen = FrozenLayers(parts, digits, config)
    for view in range(2):
        frozen.features(digits.train[:20], view, "test images")
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("features/*.npy")}
    maps = frozen.maps(digits.train[:20], 2, "test images")
    assert {file.name for file in tmp_path.glob("features/*.npy")} == files.keys()
    mirrored = digits.images(digits.train[:20])[:, :, ::-1]
    expected = parts.feature_extractor().predict(mirrored, verbose=0)[1]
    np.testing.assert_allclose(maps[np.arange(20, 40)], expected, rtol=2e-3, atol=1e-3)


def test_a_frozen_beginning_is_no_other_one_once_the_end_learns(network, digits, tmp_path):
    features(network, digits)
    unfreeze(network[0].backbone, network[1])
    features(network, digits)
    assert len(list(tmp_path.glob("features/*.npy"))) == 1


def test_maps_too_big_for_the_cache_are_not_kept(network, digits, monkeypatch, caplog):
    monkeypatch.setattr("headstart.training.features.MOST_CACHE_BYTES", 1000)
    cut_where_worthwhile(network[0], digits, replace(network[1], fine_tune_from="last-stage"))
    assert network[0].cut == ""
    assert "GB of disk" in caplog.text


def test_stored_rows_are_read_across_arrays(tmp_path):
    whole, arrays = np.arange(24, dtype=np.float16).reshape(8, 3), []
    for name, rows in (("a.npy", whole[:5]), ("b.npy", whole[5:])):
        np.save(tmp_path / name, rows)
        seal(tmp_path / name, name)
        arrays.append(read_stored(tmp_path / name, ("float16",), rows.shape))
    stored = StoredRows(arrays)
    assert len(stored) == 8
    np.testing.assert_array_equal(stored[np.array([7, 0, 5, 4])], whole[[7, 0, 5, 4]])


@pytest.mark.parametrize("view", [0, 1, 2])
def test_a_killed_extraction_goes_on_at_its_next_block_and_ends_with_the_same_bits(view, network, digits, tmp_path, monkeypatch):
    for module in ("blocks", "features"):
        monkeypatch.setattr(f"headstart.training.{module}.ROWS_OF_BLOCK", 128)
    given, original = [], engine.Engine.outputs

    def killed(self, batches, *others):
        for number, outputs in enumerate(original(self, batches, *others)):
            if number == 3:
                raise KeyboardInterrupt
            yield outputs

    def counted(self, batches, *others):
        for outputs in original(self, batches, *others):
            given.append(len(outputs[0]))
            yield outputs

    parts, config = network[0], replace(network[1], rand_augment=view == 2)
    with monkeypatch.context() as patch:
        patch.setattr(engine.Engine, "outputs", killed)
        with pytest.raises(KeyboardInterrupt):
            FrozenLayers(parts, digits, config).features(digits.train, view, "test images")
    assert len(list(tmp_path.glob("features/*.npy"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(engine.Engine, "outputs", counted)
        found = np.asarray(FrozenLayers(parts, digits, config).features(digits.train, view, "test images"))
    assert given == [64, 64, 44]
    for file in tmp_path.glob("features/*.npy"):
        file.unlink()
    np.testing.assert_array_equal(FrozenLayers(parts, digits, config).features(digits.train, view, "test images"), found)
