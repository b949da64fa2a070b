"""What is known of KerasHub's presets without Keras: names, licences, files and downloads."""

import importlib.metadata
import json
import sys
from types import SimpleNamespace

import pytest

import headstart as hs
from headstart.config import hub_folder
from headstart.data.load import resolved
from headstart.model import hub
from headstart.model.registry import licence_of, refuse_unusable


def config(name: str, **options: object) -> hs.Config:
    return hs.recipe("quick", backbone=f"hub:{name}", **options)


@pytest.fixture
def small_vit(monkeypatch):
    """KerasHub as it were if `small_vit` was its only preset."""
    known = {"small_vit": hub.Preset("vit", 10_000, "keras/vit/keras/small_vit/1", "")}
    monkeypatch.setattr(hub, "presets", lambda: known)
    monkeypatch.setattr(hub, "missing", lambda: "")


def preset(folder, kind="ViTBackbone", **options):
    """Write the description of a preset, without its weights."""
    folder.mkdir()
    content = {"registered_name": f"keras_hub>{kind}", "config": {"patch_size": [16, 16]} | options}
    (folder / hub.CONFIG).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("version", "why"), [(None, "is not installed"), ("0.99.0", r"0\.99\.0 is installed")])
def test_without_the_right_kerashub_the_packages_are_named(monkeypatch, version, why):
    def installed(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with pytest.raises(hs.HeadstartError, match=rf"{why}.*headstart\[hub\].*--no-deps keras-hub"):
        refuse_unusable(config("dinov2_small"))


def test_an_unknown_preset_gets_a_suggestion(small_vit):
    with pytest.raises(hs.HeadstartError, match="did you mean small_vit"):
        refuse_unusable(config("smal_vit"))


def test_a_preset_of_kerashub_is_accepted(small_vit):
    refuse_unusable(config("small_vit"))


def test_other_weights_than_the_presets_are_refused():
    with pytest.raises(hs.HeadstartError, match="leave out --weights"):
        config("small_vit", weights="imagenet")


def test_a_folder_has_a_slash_and_becomes_absolute(tmp_path, monkeypatch):
    assert hub_folder("hub:./mine") == "./mine"
    assert hub_folder("hub:~") == "~"
    assert hub_folder("hub:dinov2_small") == hub_folder("resnet50") == ""
    monkeypatch.chdir(tmp_path)
    assert resolved(config("./mine")).backbone == f"hub:{tmp_path / 'mine'}"
    assert resolved(config("small_vit")).backbone == "hub:small_vit"


def test_a_missing_folder_is_named(small_vit):
    with pytest.raises(hs.HeadstartError, match=r"there is no folder \./missing"):
        refuse_unusable(config("./missing"))


def test_a_folder_without_the_files_of_a_preset_is_refused(small_vit, tmp_path):
    with pytest.raises(hs.HeadstartError, match=r"it has no config\.json"):
        refuse_unusable(config(str(tmp_path)))


@pytest.mark.parametrize(("size", "message"), [(72, "give 64 or 80"), (16, "smallest is 32")])
def test_a_size_that_does_not_fit_the_patches_is_refused(small_vit, tmp_path, size, message):
    with pytest.raises(hs.HeadstartError, match=message):
        refuse_unusable(config(str(preset(tmp_path / "mine")), image_size=size))


def test_a_network_that_is_none_of_the_known_families_is_refused(small_vit, tmp_path):
    with pytest.raises(hs.HeadstartError, match="'keras_hub>GemmaBackbone', which cannot be used"):
        refuse_unusable(config(str(preset(tmp_path / "mine", "GemmaBackbone"))))


def test_what_is_no_description_is_refused(small_vit, tmp_path):
    (tmp_path / hub.CONFIG).write_text('["no description"]')
    with pytest.raises(hs.HeadstartError, match="which cannot be used"):
        refuse_unusable(config(str(tmp_path)))


def test_the_licence_is_that_of_the_family_or_says_where_to_look(small_vit, tmp_path):
    assert "see its model card, https://www.kaggle.com/models/keras/vit" in licence_of(config("small_vit"))
    assert "which you gave" in licence_of(config(str(tmp_path)))
    assert "no pretrained weights" in licence_of(config("small_vit", weights="none", fine_tune_from="all"))


def test_no_licence_is_claimed_without_the_card_that_says_so():
    assert all(bool(one.licence) == one.card.startswith("https://") for one in hub.FAMILIES.values())
    assert not hub.FAMILIES["vgg"].licence  # the cards contradict each other


def test_a_file_is_downloaded_from_where_kerashub_has_it(small_vit, monkeypatch, tmp_path):
    asked = []
    download = lambda handle, path: asked.append((handle, path)) or str(tmp_path / path)  # noqa: E731
    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=download))
    assert hub.preset_file("hub:small_vit", hub.WEIGHTS) == tmp_path / hub.WEIGHTS
    assert asked == [("keras/vit/keras/small_vit/1", hub.WEIGHTS)]


@pytest.mark.parametrize("error", [OSError("Failed to resolve 'api.kaggle.com'\nat length"), ConnectionResetError("cut off")])
def test_a_failed_download_says_why_and_what_else_there_is(small_vit, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=fail))
    with pytest.raises(hs.HeadstartError, match=r"(Failed to resolve|cut off).*\nWithout .*--backbone hub:FOLDER") as caught:
        hub.described("hub:small_vit")
    assert len(str(caught.value).splitlines()) == 2


def test_without_the_package_that_downloads_it_is_named(small_vit, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(hs.HeadstartError, match="kagglehub, which is not installed"):
        hub.described("hub:small_vit")


def test_kerashubs_presets_are_read_with_their_sizes_and_licences():
    pytest.importorskip("keras_hub", reason="KerasHub is not installed")
    found = hub.presets()
    assert {one.family for one in found.values()} == hub.FAMILIES.keys()
    assert found["dinov2_small"].parameters > 2e7
    assert found["dinov2_small"].licence == "Apache-2.0"
    assert found["dinov3_vit_small_lvd1689m"].licence == "DINOv3 License"
    assert found["densenet_121_imagenet"].licence == "BSD-3-Clause"
    assert found["medsiglip_900m_448"].licence.startswith("Health AI")
    assert found["vit_base_patch16_224_imagenet"].page == "https://www.kaggle.com/models/keras/vit"
