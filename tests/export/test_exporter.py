"""Exported files answer as the run does, and a file that does not is not kept."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

import headstart as hs
from headstart.data.decode import fit
from headstart.export import exporter, graph
from headstart.export.exporter import WRITERS
from headstart.export.formats import FOR_PRECISION, FORMATS
from headstart.model.fast.copies import recast
from headstart.system.backend import keras

FORMATS_OF_ANY_SIZE = [name for name, one in FORMATS.items() if one.any_size]


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """A copy of a run: an export is recorded in its folder."""
    return hs.Run(shutil.copytree(small_run.path, tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A function that returns the folder of an export, which is made once."""
    folder = tmp_path_factory.mktemp("exports")

    def get(format: str, precision: str = "float32"):
        out = folder / f"{format}-{precision}"
        return out if out.exists() else run.export(format, out, precision=precision)

    return get


def runtime(folder, format: str):
    return WRITERS[format].Runtime(folder / FORMATS[format].file)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [1, 5])
def test_a_file_gives_the_runs_probabilities(run, digits, exported, format, count):
    images = digits.images(digits.test[:count])
    probabilities, features = runtime(exported(format), format).outputs(images)
    assert np.abs(probabilities - run.predict(images).probabilities).max() < 1e-3
    assert features.shape == (count, features.shape[1])


@pytest.mark.parametrize("format", FORMATS_OF_ANY_SIZE)
def test_a_file_fits_images_of_other_sizes(run, digits, exported, format):
    height, width, _ = run.image_shape
    image = np.kron(digits.images(digits.test[:1])[0], np.ones((5, 7, 1), np.uint8))
    fitted = fit(Image.fromarray(image), height, width)
    found, _ = runtime(exported(format), format).outputs(image[None])
    assert np.abs(found - run.predict(fitted).probabilities).max() < 0.02


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_and_its_folder_tell_what_it_is(run, exported, format):
    folder = exported(format)
    about = runtime(folder, format).about
    figures = run.metrics["test"]["fine_tuned"]
    assert about["classes"] == list(run.class_names)
    assert (about["accuracy"], about["interval"]) == (figures["accuracy"], figures["interval"])
    assert about["data_fingerprint"] == run.read_json("data.json")["fingerprint"]
    assert about["licence"]
    assert (folder / "labels.txt").read_text().split() == list(run.class_names)
    content = json.loads((folder / "export.json").read_text())
    assert content["about"] == about
    assert content["proof"]["test"]["equal_decisions"] == 1
    assert content["proof"]["test"]["images"] == figures["images"]
    assert content["proof"]["accuracy"] == pytest.approx(figures["accuracy"], abs=0.01)
    assert content["files"].keys() == {one.name for one in folder.glob("model.*")}


@pytest.mark.parametrize(("format", "precision"), [(name, one) for name, form in FORMATS.items() for one in form.precisions])
def test_smaller_files_are_proved_too(run, exported, format, precision):
    if needed := FOR_PRECISION.get((format, precision)):
        pytest.importorskip(needed)
    proof = json.loads((exported(format, precision) / "export.json").read_text())["proof"]
    sizes = [
        sum(json.loads((exported(format, one) / "export.json").read_text())["files"].values()) for one in (precision, "float32")
    ]
    assert sizes[0] < 0.6 * sizes[1]
    assert proof["test"]["equal_decisions"] > 0.95
    assert (proof["validation"] is None) == (precision != "int8")


def bfloat16(monkeypatch):
    monkeypatch.setattr(graph, "recast", lambda model, policy: recast(model, "mixed_bfloat16"))


def other_normalisation(monkeypatch):
    original = graph.Network.of_saved

    def of_saved(model):
        network = original(model)
        network.prepare = [keras.layers.Rescaling(1 / 127.5, name="half"), *network.prepare[1:]]
        return network

    monkeypatch.setattr(graph.Network, "of_saved", of_saved)


def left_in_augmentation(monkeypatch):
    class Noise(keras.layers.Layer):
        def call(self, images):
            return keras.ops.cast(images, "float32") + keras.random.normal(keras.ops.shape(images), stddev=20.0)

    original = graph.Network.of_saved

    def of_saved(model):
        network = original(model)
        network.prepare = [Noise(name="augmentation"), *network.prepare]
        return network

    monkeypatch.setattr(graph.Network, "of_saved", of_saved)


def permuted_labels(monkeypatch):
    original = exporter.describe

    def describe(*arguments):
        about = original(*arguments)
        return about | {"classes": about["classes"][::-1]}

    monkeypatch.setattr(exporter, "describe", describe)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("broken", [bfloat16, other_normalisation, left_in_augmentation, permuted_labels])
def test_a_broken_file_is_not_kept(run, tmp_path, monkeypatch, broken, format):
    # Only what is written is broken: the proof builds the network that it compares with by itself.
    with monkeypatch.context() as patches:
        broken(patches)
        network = exporter.exported_network(run.model, run.classifier.temperature, "crop" * FORMATS[format].any_size)
        about = exporter.describe(run, run.classifier, format, "float32")
    monkeypatch.setattr(exporter, "exported_network", lambda *_: network)
    monkeypatch.setattr(exporter, "describe", lambda *_: about)
    with pytest.raises(hs.HeadstartError, match=r"is not kept|cannot become"):
        run.export(format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_int8_that_loses_too_much_is_not_kept(run, tmp_path):
    pytest.importorskip("nncf")
    with pytest.raises(hs.HeadstartError, match=r"validation images, .* were allowed"):
        run.export("openvino", tmp_path / "out", precision="int8", most_loss=-1.0)
    assert list(tmp_path.iterdir()) == []


def test_the_report_has_the_exports(small_run, tmp_path):
    run = hs.Run(shutil.copytree(small_run.path, tmp_path / "run"))
    before = (run.path / "report.html").read_text()
    assert run.export("onnx") == run.path / "export" / "onnx"
    run.export("onnx", tmp_path / "elsewhere")
    run.export("openvino")
    page = (run.path / "report.html").read_text()
    assert "Exported files" not in before
    assert page.count("Exported files") == 1
    assert [page.count(f">{name}</th>") for name in ("ONNX", "OpenVINO")] == [1, 1]
    start, end = page.index("<!-- exported files -->"), page.index("<!-- end of exported")
    assert f"{page[:start]}<!-- exported files -->{page[end:]}" == before


def test_what_cannot_be_exported_is_refused_before_anything_starts(run, tmp_path, monkeypatch):
    for format, precision, message in (
        ("onyx", "float32", "did you mean onnx"),
        ("keras", "float16", "Keras files are not written in float16: --precision float32"),
    ):
        with pytest.raises(hs.HeadstartError, match=message):
            run.export(format, tmp_path / "out", precision=precision)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("mine")
    with pytest.raises(hs.HeadstartError, match="holds something else"):
        run.export("onnx", tmp_path / "taken")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(hs.HeadstartError, match=r"pip install 'headstart\[onnx\]'"):
        run.export("onnx", tmp_path / "out")


def test_an_export_replaces_an_older_one(run, tmp_path):
    out = run.export("onnx", tmp_path / "out")
    (out / "model.onnx").write_bytes(b"old")
    run.export("onnx", out)
    onnx.checker.check_model(onnx.load(str(out / "model.onnx")))


def test_the_command_exports_whatever_backend_is_chosen(run, tmp_path):
    command = [
        sys.executable,
        "-m",
        "headstart",
        "export",
        str(run.path),
        "--format",
        "onnx",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "decides like the network on 100.00 %" in done.stderr
