import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from exporting import ABOUT, soft_images
from headstart.errors import DamagedError, HeadstartError
from headstart.export.keras_file import Runtime, write
from headstart.system.backend import keras

# Loads a file where `headstart` cannot be imported, in safe mode, and saves what it computes.
ELSEWHERE = """
import sys
sys.modules["headstart"] = None
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.savez(sys.argv[3], **{name: np.asarray(keras.ops.convert_to_numpy(found)) for name, found in
                         model(np.load(sys.argv[2])).items()})
"""


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    write(network, path, ABOUT, "float32", None)
    return path


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_file_gives_the_same_for_any_number_of_images(network, file, count):
    images = soft_images(count)
    wanted = network(images, training=False)
    probabilities, features = Runtime(file).outputs(images)
    np.testing.assert_allclose(probabilities, keras.ops.convert_to_numpy(wanted["probabilities"]), atol=1e-6)
    np.testing.assert_allclose(features, keras.ops.convert_to_numpy(wanted["features"]), rtol=1e-5, atol=1e-5)


def test_plain_keras_loads_the_file_where_headstart_is_missing(network, file, tmp_path):
    images = soft_images(3)
    np.save(tmp_path / "images.npy", images)
    arguments = [str(file), str(tmp_path / "images.npy"), str(tmp_path / "found.npz")]
    backend = {"KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], check=True, env=os.environ | backend)
    with np.load(tmp_path / "found.npz") as found:
        wanted = network(images, training=False)
        np.testing.assert_allclose(found["probabilities"], keras.ops.convert_to_numpy(wanted["probabilities"]), atol=1e-6)


def test_the_file_says_what_it_is_beside_keras_own_members(file):
    assert Runtime(file).about == ABOUT
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt").decode().splitlines()[:2] == ["cat", "straße"]
        assert json.loads(archive.read("metadata.json"))["keras_version"] == keras.version()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_another_precision_is_refused(network, tmp_path, precision):
    with pytest.raises(HeadstartError, match=f"not in {precision}"):
        write(network, tmp_path / "model.keras", ABOUT, precision, None)
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_only_its_author_has_is_refused(tmp_path):
    class OfMine(keras.layers.Layer):
        def call(self, images):
            return images

    images = keras.Input((8, 8, 3), dtype="uint8", name="images")
    features = keras.layers.GlobalAveragePooling2D()(OfMine()(keras.layers.Rescaling(1.0)(images)))
    network = keras.Model(images, {"probabilities": keras.layers.Softmax()(features), "features": features})
    with pytest.raises(HeadstartError, match="OfMine would load only where that layer is known"):
        write(network, tmp_path / "model.keras", ABOUT, "float32", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["cut", "no metadata", "no weights"])
def test_a_broken_file_is_a_plain_error(file, tmp_path, kind):
    path = tmp_path / "model.keras"
    if kind == "cut":
        path.write_bytes(file.read_bytes()[:-100])
    else:
        left_out = {"no metadata": "headstart.json", "no weights": "model.weights.h5"}[kind]
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(path, "w") as other:
            for name in archive.namelist():
                if name != left_out:
                    other.writestr(name, archive.read(name))
    with pytest.raises(DamagedError, match=r"model\.keras is damaged, or"):
        Runtime(path)
