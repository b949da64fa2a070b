import keras
import numpy as np
import pytest

import headstart as hs
from headstart.model.backbones import load_backbone


def test_a_backbone_file_gets_the_preprocessing_of_its_family(tmp_path):
    keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.35).save(tmp_path / "mine.keras")
    model, preprocess = load_backbone(hs.recipe("quick", backbone=str(tmp_path / "mine.keras")))
    assert preprocess == "tf"
    assert model.output_shape[-1] == 1280


def test_a_damaged_backbone_file_is_named(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"no zip")
    with pytest.raises(hs.HeadstartError, match=r"net\.keras is not a Keras model"):
        load_backbone(hs.recipe("quick", backbone=str(tmp_path / "net.keras")))


def test_without_a_network_the_address_and_the_way_on_are_named(monkeypatch, tmp_path):
    def unreachable(*args, origin, **kwargs):
        raise Exception(f"URL fetch failure on {origin}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(
        "keras.src.applications.mobilenet_v2.file_utils.get_file", lambda name, url, **kw: unreachable(origin=url)
    )
    with pytest.raises(hs.HeadstartError, match=r"https://.*\n.*--weights FILE"):
        load_backbone(hs.recipe("quick", backbone="mobilenetv2"))


def test_pretrained_weights_are_those_that_keras_loads(monkeypatch, tmp_path):
    saved = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(None, None, 3))
    saved.save(tmp_path / "weights.h5")
    path = str(tmp_path / "weights.h5")
    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", lambda *_, **__: path)
    model, _ = load_backbone(hs.recipe("quick", backbone="mobilenetv2"))
    for loaded, weights in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, weights)


def test_random_weights_are_random():
    first, second = (load_backbone(hs.recipe("starter", weights="none"))[0].get_weights()[0] for _ in range(2))
    assert first.std() > 0
    assert np.abs(first - second).max() > 0
