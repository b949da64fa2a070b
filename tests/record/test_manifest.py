import json
import shutil

import keras
import pytest

import headstart as hs
from helpers import change_manifest


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(small_run.path, tmp_path / "copy")


@pytest.mark.parametrize("name", ["weights.safetensors", "network.json"])
def test_a_model_that_does_not_match_its_manifest_is_refused(name, copy):
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(hs.HeadstartError, match="not the file that its manifest describes"):
        hs.Run(copy).model  # noqa: B018


def test_a_run_of_a_newer_format_is_refused(copy):
    change_manifest(copy, format=99)
    with pytest.raises(hs.HeadstartError, match="newer Headstart"):
        hs.Run(copy).model  # noqa: B018


@pytest.mark.parametrize("version", ["99.1.0", None])
def test_a_model_that_cannot_be_built_says_which_keras_can(version, copy, monkeypatch):
    def unknown(*_, **__):
        raise TypeError("Could not locate class 'Novelty'.\n\nconfig={...}")

    change_manifest(copy, versions=version and {"headstart": "0.1.0", "keras": version})
    monkeypatch.setattr("keras.saving.deserialize_keras_object", unknown)
    with pytest.raises(hs.HeadstartError, match=r"network\.json cannot be built by Keras .*Novelty") as refusal:
        hs.Run(copy).model  # noqa: B018
    assert "config=" not in str(refusal.value)
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


def test_a_manifest_that_was_changed_by_hand_is_refused(copy):
    content = json.loads((copy / "manifest.json").read_text())
    content["classes"][:2] = reversed(content["classes"][:2])
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(hs.HeadstartError, match="was changed after the training"):
        hs.Run(copy).classifier  # noqa: B018


IMAGES = {"dtype": "uint8", "colours": "RGB", "range": [0, 255]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": float("nan")}, "temperature: expected float > 0"),
        ({"temperature": float("inf")}, "temperature: expected float <= 1e"),
        ({"temperature": -1.0}, "temperature: expected float > 0"),
        ({"temperature": "1"}, "temperature: expected float, got str"),
        ({"classes": [str(number) for number in range(9)]}, "does not fit the network, which gives"),
        ({"classes": ["0"] * 10}, "two have the same name"),
        ({"classes": "0123456789"}, "classes: expected array"),
        ({"classes": []}, "classes: expected array of length >= 2"),
        ({"input": IMAGES | {"shape": [100_000, 100_000, 3]}}, r"input\.shape\[0\]: expected int <= 1024"),
        ({"input": IMAGES | {"shape": [9, 9, 3]}}, "does not fit the network"),
        ({"input": IMAGES | {"shape": [8, 8]}}, r"input\.shape: expected array of length 3"),
        ({"input": IMAGES | {"shape": [8, 8, 3], "decoding": {"fit": "bend"}}}, r"input\.decoding\.fit: invalid enum value"),
        ({"input": IMAGES | {"shape": [8, 8, 3], "dtype": "object"}}, r"input\.dtype: invalid enum value"),
        ({"precision": "int8"}, "precision: invalid enum value"),
        ({"sha256": {"weights.safetensors": "x"}}, "expected str matching regex"),
        ({"sha256": {}}, "not the file that its manifest describes"),
        ({"format": -1}, "format: expected int >= 0"),
    ],
)
def test_an_entry_outside_of_its_limits_is_named(change, message, copy):
    change_manifest(copy, **change)
    with pytest.raises(hs.HeadstartError, match=message) as refusal:
        hs.Run(copy).model  # noqa: B018
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "data.json", "audit.json", "test_frozen.npy", "labels_test.npy"])
def test_findings_that_were_changed_are_refused(name, copy):
    content = bytearray((copy / name).read_bytes())
    place = max(number for number, byte in enumerate(content) if chr(byte) in "123456") if not name.endswith("npy") else -1
    content[place] ^= 1
    (copy / name).write_bytes(content)
    run, (stem, ending) = hs.Run(copy), name.split(".")
    read = {"json": lambda: run.read_json(name), "csv": lambda: run.history, "npy": lambda: run.array(stem)}[ending]
    with pytest.raises(hs.HeadstartError, match=f"{name} is not the file that its manifest describes"):
        read()
