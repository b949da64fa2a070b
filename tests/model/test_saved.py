import json
import os
import pickle
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import headstart as hs
from headstart.model import saved, starter
from headstart.model.backbones import load_backbone
from headstart.model.registry import BACKBONES
from headstart.system.keras_internals import without_memory
from helpers import random_images, tiny_backbone, tiny_network


def rewritten(path: Path, change=lambda config: config, name: str = saved.CONFIG, network: keras.Model | None = None) -> Path:
    """Write a `.keras` file of a tiny backbone, or of a network, with one member changed."""
    (network or tiny_backbone()).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    content = members[name]
    members[name] = json.dumps(change(json.loads(content))).encode() if name == saved.CONFIG else change(content)
    with zipfile.ZipFile(path, "w") as archive:
        for one, data in members.items():
            archive.writestr(one, data)
    return path


def with_layer(layer: dict) -> object:
    """Return a change that puts another description in the place of the second layer's."""

    def change(config: dict) -> dict:
        config["config"]["layers"][1] |= layer
        return config

    return change


def configured(**options: object) -> object:
    """Return a change of options of the second layer, a convolution."""

    def change(config: dict) -> dict:
        config["config"]["layers"][1]["config"] |= options
        return config

    return change


def given_back(config: dict) -> dict:
    """Make the input the output."""
    config["config"]["output_layers"] = config["config"]["input_layers"]
    return config


def refused(path: Path, message: str, **options: object) -> None:
    with pytest.raises(hs.HeadstartError, match=message) as refusal:
        load_backbone(hs.recipe("quick", backbone=str(path), preprocess="unit", image_size=32, **options))
    assert str(refusal.value).count("\n") <= 1


def test_a_network_comes_back_to_the_bit(tmp_path):
    network = tiny_network()[0].classifier()
    assert saved.save_network(tmp_path, network) == ["network.json", "weights.safetensors"]
    again = saved.load_network(tmp_path)
    images = random_images(4)
    np.testing.assert_array_equal(again.predict(images, verbose=0), network.predict(images, verbose=0))
    assert [layer.name for layer in again.layers] == [layer.name for layer in network.layers]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_registered_backbone_is_plain(name):
    with without_memory():
        entry = BACKBONES[name]
        factory = getattr(keras.applications, entry.factory, None)
        network = factory(include_top=False, weights=None, input_shape=(None, None, 3)) if factory else starter.build()
        saved.refuse_huge_outputs(network, Path(name))
    saved.refuse_code(json.loads(json.dumps(keras.saving.serialize_keras_object(network))), Path(name))


@pytest.mark.parametrize("name", ["convnexttiny", "efficientnetv2b0", "mobilenetv3small"])
def test_networks_of_unusual_layers_come_back(name, tmp_path):
    backbone = getattr(keras.applications, BACKBONES[name].factory)(include_top=False, weights=None, input_shape=(None, None, 3))
    backbone.save(tmp_path / "backbone.keras")
    saved.save_network(tmp_path, backbone)
    images = np.float32(random_images(2))
    expected = backbone.predict(images, verbose=0)
    for again in (saved.load_keras_file(tmp_path / "backbone.keras"), saved.load_network(tmp_path)):
        np.testing.assert_array_equal(again.predict(images, verbose=0), expected)


def test_an_adapted_normalization_comes_back(tmp_path):
    """Its mean is kept beside its weights."""
    adapted = keras.layers.Normalization(axis=-1)
    adapted.adapt(np.float32(random_images(8)))
    network = keras.Sequential([keras.Input((32, 32, 3)), adapted, keras.layers.Conv2D(2, 3)])
    saved.save_network(tmp_path, network)
    images = np.float32(random_images(2))
    np.testing.assert_array_equal(saved.load_network(tmp_path).predict(images, verbose=0), network.predict(images, verbose=0))


CALL = {"class_name": "function", "module": "os", "config": "system", "registered_name": "system"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_layer({"class_name": "Lambda"}), r"has keras\.layers\.Lambda, .* give --trust"),
        (with_layer({"module": "os", "class_name": "system"}), r"has os\.system"),
        (with_layer({"module": None}), "has an object 'Conv2D'"),
        (with_layer({"registered_name": "evil>Conv2D"}), r"has keras\.layers\.Conv2D"),
        (with_layer({"class_name": ["Conv2D"]}), "has an object"),
        (with_layer({"class_name": "TFSMLayer"}), r"has keras\.layers\.TFSMLayer"),
        (configured(activation=CALL), r"has os\.function"),
        (
            configured(activation={"class_name": "__lambda__", "config": {"value": ["", None, None]}}),
            "has an object '__lambda__'",
        ),
        (configured(kernel_initializer={"module": "builtins", "class_name": "eval", "config": {}}), r"has builtins\.eval"),
        (configured(dtype="int8"), "computes in int8"),
        (configured(activation="no such"), "cannot be built by Keras"),
        (configured(filters=0), "cannot be built by Keras"),
        (configured(dilation_rate=[10**9, 10**9]), "dilation_rate .* is larger than any image"),
        (configured(strides=[0, 0]), "cannot be built by Keras"),
        (lambda config: {}, "describes no network"),
        (lambda config: [config], "describes no network"),
        (lambda config: config | {"config": {}}, "cannot be built by Keras"),
        (given_back, "it gives back what it takes"),
        (lambda config: config | {"config": [{}] * 70_000}, "more than 60,000 objects"),
    ],
)
def test_a_file_with_anything_but_plain_layers_is_refused(change, message, tmp_path):
    refused(rewritten(tmp_path / "net.keras", change), message)


def test_layers_with_huge_outputs_are_refused(tmp_path):
    layers = [
        keras.layers.Conv2D(4, 3, name="first"),
        keras.layers.UpSampling2D(2000, name="huge"),
        keras.layers.MaxPooling2D(2000),
    ]
    keras.Sequential([keras.Input((None, None, 3)), *layers]).save(tmp_path / "net.keras")
    refused(tmp_path / "net.keras", "the output of layer 'huge' is too large")


def nested(config: dict) -> object:
    for _ in range(100):
        config = {"class_name": "Sequential", "module": "keras", "registered_name": None, "config": {"layers": [config]}}
    return config


def test_networks_within_networks_end_somewhere(tmp_path):
    refused(rewritten(tmp_path / "net.keras", nested), "nested too deeply")


def test_huge_layers_are_refused_and_get_no_memory_later(tmp_path):
    network = keras.Sequential([keras.Input((3, 3, 3)), keras.layers.Conv2D(4, 3)])
    rewritten(tmp_path / "net.keras", configured(filters=10**8), network=network)
    refused(tmp_path / "net.keras", "its layers want 2,800,000,000 weights, and it has")
    keras.layers.Dense(2)(keras.Input((3,)))  # the next layer that is built: Keras gives memory to all that wait for it


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_file_runs_with_trust_alone(tmp_path):
    marker = tmp_path / "marker"
    network = keras.Sequential([
        keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, strides=2),
        keras.layers.Lambda(eval(f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]")),
    ])  # fmt: skip
    network.save(tmp_path / "net.keras")
    marker.unlink()
    refused(tmp_path / "net.keras", "give --trust")
    assert not marker.exists()
    options = {"backbone": str(tmp_path / "net.keras"), "preprocess": "unit", "trust": True}
    model, _ = load_backbone(hs.recipe("quick", **options))
    assert marker.exists()
    assert model.output_shape[-1] == 4


def h5(write) -> object:
    """Return a change of a file's weights by h5py."""

    def change(content: bytes) -> bytes:
        path = Path(os.environ["PYTEST_H5"])
        path.write_bytes(content)
        with h5py.File(path, "a") as store:
            write(store, next(layer["vars"] for layer in store["layers"].values() if "0" in layer["vars"]))
        return path.read_bytes()

    return change


def replace(group, name: str, **options: object) -> None:
    del group[name]
    group.create_dataset(name, **options)


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras says first what is then refused
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda store, group: group.__setitem__("link", h5py.ExternalLink("/etc/passwd", "/")), "a link to another place"),
        (lambda store, group: group.__setitem__("link", h5py.SoftLink("/layers")), "a link to another place"),
        (lambda store, group: replace(group, "0", shape=(10**6, 10**6), dtype="f4", chunks=(100, 100)), "larger than the file"),
        (lambda store, group: replace(group, "0", data=np.zeros((9, 9))), "holds no weights for"),
        (
            lambda store, group: replace(group, "0", data=np.array([b"text"], object), dtype=h5py.string_dtype()),
            "no plain numbers",
        ),
        (lambda store, group: store.create_group("/deep" * 200), "nested too deeply"),
        (lambda store, group: group["0"].__setitem__(..., np.nan), "weights that are not finite"),
        (lambda store, group: group.__delitem__("0"), "its layers want|holds no weights for"),
    ],
)
def test_weights_that_are_not_plain_arrays_of_the_file_are_refused(write, message, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_H5", str(tmp_path / "weights.h5"))
    refused(rewritten(tmp_path / "net.keras", h5(write), saved.ARRAYS), message)


def test_the_users_own_weights_are_looked_at_too(tmp_path):
    with h5py.File(tmp_path / "evil.weights.h5", "w") as store:
        store["link"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(hs.HeadstartError, match="a link to another place"):
        load_backbone(hs.recipe("starter", weights=str(tmp_path / "evil.weights.h5")))


def packed(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> object:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members:
                archive.writestr(name, content)

    return write


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (packed((saved.CONFIG, b" " * (200 << 20))), "unpacks to 209,715,200 bytes"),
        (packed((saved.CONFIG, b"[" * 1_000_000)), "nested too deeply"),
        (packed((saved.CONFIG, b"{")), "is damaged: Expecting property name"),
        (packed((saved.CONFIG, b"{}"), (saved.CONFIG, b"{}")), "it has 2 members config.json"),
        (packed(("other", b"")), "it has 0 members config.json"),
        (lambda path: path.write_bytes(b""), "is not a Keras model"),
        (lambda path: path.write_bytes(pickle.dumps(Payload(path.with_name("marker")))), "is not a Keras model"),
    ],
)
def test_archives_that_are_none_of_keras_are_refused(write, message, tmp_path):
    write(tmp_path / "net.keras")
    refused(tmp_path / "net.keras", message)
    assert not (tmp_path / "marker").exists()


def image_network(*shape: int | None, dtype: str = "float32", outputs: int = 1) -> keras.Model:
    inputs = keras.Input(shape, dtype=dtype)
    features = [keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1.0)(inputs)) for _ in range(outputs)]
    return keras.Model(inputs, features if outputs > 1 else features[0])


def deep_network() -> keras.Model:
    """Return a network that halves an image six times, and then looks at 3 x 3 positions."""
    halves = [keras.layers.MaxPooling2D() for _ in range(6)]
    return keras.Sequential([keras.Input((None, None, 3)), *halves, keras.layers.Conv2D(4, 3)])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: image_network(16, 16, 3), "takes images of 16 x 16 px alone, and not of --image-size 32"),
        (lambda: image_network(32, 32, 3, dtype="uint8"), "takes uint8 images of 3 channels: a backbone must take float RGB"),
        (lambda: image_network(None, None, 1), "takes float32 images of 1 channels"),
        (lambda: image_network(None, None, 4), "takes float32 images of 4 channels"),
        (lambda: image_network(None, None, 3, outputs=2), "is no backbone"),
        (deep_network, "cannot be run on images of 32 x 32 px"),
        (lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]), "is no backbone"),
    ],
)
def test_a_network_that_is_no_backbone_for_these_images_is_refused(network, message, tmp_path):
    network().save(tmp_path / "net.keras")
    refused(tmp_path / "net.keras", message)
