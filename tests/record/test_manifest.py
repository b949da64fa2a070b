import json
import shutil

import keras
import pytest

import headstart as hs


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(small_run.path, tmp_path / "copy")


def test_a_model_that_does_not_match_its_manifest_is_refused(copy):
    with (copy / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(hs.HeadstartError, match="not the file that its manifest describes"):
        hs.Run(copy).model  # noqa: B018


def test_a_run_of_a_newer_format_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(hs.HeadstartError, match="newer Headstart"):
        hs.Run(copy).model  # noqa: B018


@pytest.mark.parametrize("version", ["99.1.0", None])
def test_a_model_that_cannot_be_loaded_says_which_keras_can(version, copy, monkeypatch):
    def unknown(*_, **__):
        raise TypeError("Could not locate class 'Novelty'.\n\nconfig={...}")

    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"] = manifest["versions"] | {"keras": version}
    if version is None:  # as older versions wrote it
        del manifest["versions"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("keras.models.load_model", unknown)
    with pytest.raises(hs.HeadstartError, match=r"model\.keras cannot be loaded by Keras .*Novelty") as refusal:
        hs.Run(copy).model  # noqa: B018
    assert "\n" not in str(refusal.value)
    assert ("pip install keras==99.1.0" in str(refusal.value)) == (version is not None)


def test_a_run_knows_what_saved_its_model(small_run):
    assert small_run.classifier.manifest["versions"]["keras"] == keras.version()


def test_a_damaged_manifest_is_named(copy):
    (copy / "manifest.json").write_text('{"format": ')
    with pytest.raises(hs.HeadstartError, match=r"manifest\.json is damaged"):
        hs.Classifier(copy)


def test_a_folder_without_a_manifest_holds_no_model(tmp_path):
    with pytest.raises(hs.HeadstartError, match="holds no finished model"):
        hs.Classifier(tmp_path)
