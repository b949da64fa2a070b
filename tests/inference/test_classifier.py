import io
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

import headstart as hs
from headstart.data.decode import read_image
from headstart.inference import classifier
from helpers import change_manifest


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """The first ten test digits as files, and one that is no image."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(digits.images(digits.test[:10])):
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_files_arrays_and_images_give_the_same(small_run, digits, folder):
    arrays = digits.images(digits.test[:10])
    expected = small_run.predict(arrays).probabilities
    assert expected.shape == (10, 10)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    for images in ([Image.fromarray(array) for array in arrays], list(arrays), sorted(folder.glob("*.png"))):
        np.testing.assert_allclose(small_run.predict(images, batch_size=3).probabilities, expected, rtol=1e-3, atol=1e-5)


def test_probabilities_are_calibrated_unless_the_run_knows_no_temperature(small_run, digits, tmp_path):
    copy = hs.Run(shutil.copytree(small_run.path, tmp_path / "copy"))
    images = digits.images(digits.test)
    logits = small_run.test_logits("fine_tuned")
    for temperature in (2.5, None):
        change_manifest(copy.path, temperature=temperature)
        expected = softmax(logits / (temperature or 1), axis=1)
        run = hs.Run(copy.path)
        np.testing.assert_allclose(run.predict(images).probabilities, expected, rtol=1e-3, atol=1e-4)
        assert run.evaluate(digits)["temperature"] == (temperature or 1)


def test_the_mean_over_mirror_images(small_run, digits, tmp_path):
    copy = shutil.copytree(small_run.path, tmp_path / "copy")
    options = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(options.replace("flip = false", "flip = true"))
    run, images = hs.Run(copy), digits.images(digits.test)
    both = [np.log(run.predict(images).probabilities) for images in (images, images[:, :, ::-1].copy())]
    expected = softmax(np.mean(both, axis=0), axis=1)
    np.testing.assert_allclose(run.predict(images, batch_size=7, mirror=True).probabilities, expected, rtol=1e-3, atol=1e-5)
    right = expected.argmax(axis=1) == digits.labels(digits.test)
    assert run.evaluate(digits, mirror=True)["accuracy"] == right.mean() != run.evaluate(digits)["accuracy"]


def test_a_folder_skips_and_names_what_is_no_image(small_run, folder):
    predictions = small_run.predict(folder)
    assert len(predictions.names) == len(predictions.labels) == len(predictions.confidences) == 10
    assert [line.split(":")[0] for line in predictions.unreadable] == [str(folder / "broken.jpg")]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("missing.jpg", "no file or folder missing.jpg"),
        ([], "no images"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no images"),
        (np.zeros((8, 8, 3)), r"must be uint8 .* not float64 \(8, 8, 3\); numpy\.uint8\(255 \* array\)"),
        (np.full((8, 8, 3), 200.0), r"numpy\.uint8\(array\)"),
        (np.full((8, 8, 3), -1.0), "scale it to 0..255"),
        (np.full((8, 8), 60_000, np.uint16), "scale it to 0..255"),
        (np.zeros((8, 8), bool), r"numpy\.uint8\(255 \* array\)"),
        (np.zeros((8, 8, 3), complex), "not complex128"),
        (np.zeros((3, 8, 8), np.uint8), r"numpy\.moveaxis\(array, 0, -1\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"numpy\.moveaxis\(array, 1, -1\)"),
        (np.zeros((9, 8, 8), np.uint8), r"array\[\.\.\., None\]"),
        (np.zeros((2, 8, 8, 5), np.uint8), "must be uint8"),
        (np.zeros((8, 3), np.uint8), r"not uint8 \(8, 3\)"),
        (np.uint8(3), "must be uint8"),
        (None, "NoneType is no image: give a path"),
        ([None], "NoneType is no image"),
        ([[1, 2], [3, 4]], "int is no image"),
        (io.StringIO("text"), "mode 'rb'"),
        (b"no image", "none of 1 image can be read; the first is image 0: these bytes are no image"),
    ],
)
def test_what_cannot_be_classified_is_said(small_run, images, message):
    with pytest.raises(hs.HeadstartError, match=message) as refusal:
        small_run.predict(images)
    assert "\n" not in str(refusal.value)


def test_whatever_evidently_is_a_image_is_taken_as_one(small_run, digits, folder):
    array, file = digits.images(digits.test[:1])[0], folder / "0.png"
    grey, content = array[..., 0], file.read_bytes()
    expected = small_run.predict(array).probabilities[0]
    with file.open("rb") as opened:
        given = [grey, grey[..., None], grey[None, ..., None], content, bytearray(content), opened, np.array([str(file)]),
                 np.dstack([array, np.full_like(grey, 255)]), keras.ops.convert_to_tensor(array), [[file], (array,)]]  # fmt: skip
        predictions = small_run.predict(given)
    assert len(predictions.names) == len(set(predictions.names)) + 1 == 11  # the file's name is there twice
    for probabilities in predictions.probabilities:
        np.testing.assert_allclose(probabilities, expected, rtol=1e-3, atol=1e-5)


def test_a_pillow_image_is_turned_as_its_camera_says(small_run, digits, tmp_path):
    image = Image.fromarray(digits.images(digits.test[:1])[0]).resize((64, 64)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    expected = small_run.predict(tmp_path / "turned.png").probabilities
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_allclose(small_run.predict(opened).probabilities, expected, rtol=1e-3, atol=1e-5)


def test_nothing_readable_is_an_error(small_run, folder):
    with pytest.raises(hs.HeadstartError, match="none of 1 image"):
        small_run.predict(folder / "broken.jpg")


def test_one_image_is_classified_without_starting_keras(small_run, folder):
    lines = (
        "import sys; from headstart.cli.main import main",
        f"main(['predict', {str(small_run.path)!r}, {str(folder / '0.png')!r}, '--format', 'json'])",
        "assert 'keras' not in sys.modules",
    )
    given = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, text=True)
    image = read_image(folder / "0.png", *small_run.image_shape[:2])
    logits = small_run.model.predict(image[None], verbose=0)
    expected = softmax(logits / small_run.classifier.temperature, axis=1)[0]
    np.testing.assert_allclose(list(json.loads(given.stdout)[0]["probabilities"].values()), expected, rtol=1e-3, atol=1e-4)


def test_without_openvino_keras_classifies(small_run, folder, monkeypatch):
    fast = small_run.predict(folder / "0.png").probabilities
    monkeypatch.setitem(sys.modules, "openvino", None)
    np.testing.assert_allclose(hs.Run(small_run.path).predict(folder / "0.png").probabilities, fast, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gpu", [False, True])
def test_many_images_are_classified_as_a_few(gpu, small_run, digits, monkeypatch):
    images = digits.images(digits.test[:5])
    few = small_run.predict(images).probabilities
    monkeypatch.setattr(classifier, "FEWEST_IMAGES", 2)
    monkeypatch.setattr(classifier, "has_gpu", lambda: gpu)
    np.testing.assert_allclose(hs.Run(small_run.path).predict(images).probabilities, few, rtol=1e-3, atol=1e-4)


def test_a_network_for_openvino_that_is_not_the_runs_own_is_refused(small_run, folder, tmp_path):
    copy = shutil.copytree(small_run.path, tmp_path / "copy")
    (copy / "model.bin").write_bytes(b"something else")
    with pytest.raises(hs.HeadstartError, match=r"model\.bin is not the file that its manifest describes"):
        hs.Run(copy).predict(folder / "0.png")


def test_batches_of_networks_with_large_outputs_are_smaller(small_run, folder, monkeypatch):
    monkeypatch.setattr(classifier, "MOST_AT_ONCE", 3 * hs.Classifier(small_run.path).compiled.largest)
    sizes = []

    def recorded(self, batches, total):
        for batch in batches:
            sizes.append(len(batch))
            yield [np.zeros((len(batch), 10), np.float32), np.ones((len(batch), small_run.classifier.limits.references.shape[1]))]

    monkeypatch.setattr(classifier.Classifier, "outputs_with_features", recorded)
    small_run.predict(sorted(folder.glob("*.png")))
    assert sizes == [3, 3, 3, 1]
