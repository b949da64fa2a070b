import json
import zipfile

import numpy as np
import pytest

from exporting import ABOUT, soft_images
from headstart.errors import DamagedError, HeadstartError
from headstart.export.litert import Runtime, write
from headstart.system.backend import keras

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow writes LiteRT files")


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    write(network, path, ABOUT, "float32", None)
    return path


def differences(network, path, images) -> tuple[float, float, float]:
    """Return how far a file's outputs are from the network's: of probabilities, and of features relative to the largest; and
    the share of equal decisions."""
    wanted = network(images, training=False)
    probabilities, features = Runtime(path).outputs(images)
    expected, exact = np.asarray(wanted["probabilities"]), np.asarray(wanted["features"])
    assert probabilities.shape == expected.shape
    assert features.shape == exact.shape
    assert probabilities.dtype == features.dtype == np.float32
    equal = float(np.mean(probabilities.argmax(1) == expected.argmax(1)))
    return float(abs(probabilities - expected).max()), float(abs(features - exact).max() / abs(exact).max()), equal


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_float32_file_gives_the_same_for_any_number_of_images(network, file, count):
    probabilities, features, equal = differences(network, file, soft_images(count))
    assert probabilities < 1e-5
    assert features < 1e-5
    assert equal == 1


def test_one_runtime_takes_batches_of_changing_size(network, file):
    runtime, images = Runtime(file), soft_images(7)
    whole, _ = runtime.outputs(images)
    parts = [runtime.outputs(images[part])[0] for part in (slice(0, 1), slice(1, 4), slice(4, 7))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def kinds(path) -> list[type]:
    """Return the types of all tensors of a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return [one["dtype"] for one in interpreter.get_tensor_details()]


def test_weights_have_16_bits_if_asked(network, file, tmp_path):
    write(network, tmp_path / "model.tflite", ABOUT, "float16", None)
    probabilities, features, equal = differences(network, tmp_path / "model.tflite", soft_images(64))
    assert probabilities < 5e-3
    assert features < 5e-3
    assert equal >= 0.98
    assert not [one for one in kinds(file) if one == np.float16]
    assert len([one for one in kinds(tmp_path / "model.tflite") if one == np.float16]) >= 10


def test_8_bits_keep_what_the_network_says(network, tmp_path):
    """TensorFlow's own calibration takes the range of the next operation for that of pixels in 0..1."""
    write(network, tmp_path / "model.tflite", ABOUT, "int8", soft_images(100, seed=1))
    probabilities, features, equal = differences(network, tmp_path / "model.tflite", soft_images(100))
    assert probabilities < 0.15
    assert features < 0.05
    assert equal >= 0.9
    found, _ = Runtime(tmp_path / "model.tflite").outputs(soft_images(100))
    assert len(np.unique(found)) > 256
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_8_bits_are_computed_with_8_bits(network, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    write(network, tmp_path / "model.tflite", ABOUT, "int8", soft_images(4))
    interpreter = Interpreter(str(tmp_path / "model.tflite"))
    (images,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    assert images["dtype"] == np.uint8
    assert [output["dtype"] for output in outputs] == [np.float32, np.float32]
    found = kinds(tmp_path / "model.tflite")
    assert found.count(np.int8) >= 20
    assert found.count(np.float32) <= 4  # pixels as they are cast, and outputs


def test_the_signature_has_our_names(file):
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(file)).get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["images"], "outputs": ["features", "probabilities"]}}


def test_any_zip_reader_finds_what_the_file_says_of_itself(file):
    assert Runtime(file).about == ABOUT
    with zipfile.ZipFile(file) as archive:
        assert json.loads(archive.read("headstart.json")) == ABOUT
        assert archive.read("labels.txt").decode().splitlines() == ["cat", "straße", "grey wolf", "\u732b", "line\\nbreak"]


def test_a_network_that_litert_lacks_operations_for_is_refused(tmp_path):
    class Strange(keras.layers.Layer):
        def call(self, images):
            return keras.ops.erfinv(keras.ops.cast(images, "float32"))

    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    features = keras.layers.GlobalAveragePooling2D()(Strange()(images))
    network = keras.Model(images, {"probabilities": keras.layers.Softmax()(features), "features": features})
    with pytest.raises(HeadstartError, match=r"no operation for .*Erfinv.*choose the format onnx or openvino"):
        write(network, tmp_path / "model.tflite", ABOUT, "float32", None)
    assert list(tmp_path.iterdir()) == []


def test_8_bits_without_images_are_refused(network, tmp_path):
    with pytest.raises(HeadstartError, match="calibration"):
        write(network, tmp_path / "model.tflite", ABOUT, "int8", None)


@pytest.mark.parametrize("kind", ["cut", "no metadata", "no network", "text"])
def test_a_broken_file_is_a_plain_error(file, tmp_path, kind):
    content, path = file.read_bytes(), tmp_path / "model.tflite"
    with zipfile.ZipFile(file) as archive:
        start = archive.infolist()[0].header_offset
    broken = {"cut": content[:-40], "no metadata": content[:start], "no network": b"\0" * start + content[start:], "text": b"no"}
    path.write_bytes(broken[kind])
    with pytest.raises(DamagedError, match=r"model\.tflite is damaged, or"):
        Runtime(path)
