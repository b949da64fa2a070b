import keras
import pytest

import headstart as hs
from headstart.model.backbones import load_backbone, preprocess_by_name


def test_a_backbone_file_gets_the_preprocessing_of_its_family(tmp_path):
    keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.35).save(tmp_path / "mine.keras")
    model, preprocess = load_backbone(hs.recipe("quick", backbone=str(tmp_path / "mine.keras")))
    assert preprocess == "tf"
    assert model.output_shape[-1] == 1280


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", "caffe"),
        ("resnet50v2", "tf"),
        ("resnet50_v15", "caffe"),
        ("efficientnetv2-b0", "none"),
        ("convnext_tiny", "none"),
    ],
)
def test_families_are_known_by_their_model_names(name, expected):
    assert preprocess_by_name(name) == expected


def test_an_unknown_family_is_asked_for_not_guessed():
    with pytest.raises(hs.HeadstartError, match="--preprocess"):
        preprocess_by_name("functional_3")


def test_an_unknown_backbone_gets_a_suggestion():
    with pytest.raises(hs.HeadstartError, match="did you mean resnet50"):
        load_backbone(hs.recipe("quick", backbone="resnet5O"))


def test_a_size_below_the_minimum_is_refused():
    with pytest.raises(hs.HeadstartError, match="smallest is 32"):
        load_backbone(hs.recipe("scratch", backbone="resnet50", image_size=16))


def test_a_damaged_backbone_file_is_named(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"no zip")
    with pytest.raises(hs.HeadstartError, match=r"net\.keras is not a Keras model"):
        load_backbone(hs.recipe("quick", backbone=str(tmp_path / "net.keras")))


def test_a_missing_weights_file_is_named():
    with pytest.raises(hs.HeadstartError, match=r"no file missing\.h5"):
        load_backbone(hs.recipe("quick", backbone="mobilenetv2", weights="missing.h5"))


def test_without_a_network_the_address_and_the_way_on_are_named(monkeypatch, tmp_path):
    def unreachable(*args, origin, **kwargs):
        raise Exception(f"URL fetch failure on {origin}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(
        "keras.src.applications.mobilenet_v2.file_utils.get_file", lambda name, url, **kw: unreachable(origin=url)
    )
    with pytest.raises(hs.HeadstartError, match=r"https://.*\n.*--weights FILE"):
        load_backbone(hs.recipe("quick", backbone="mobilenetv2"))
