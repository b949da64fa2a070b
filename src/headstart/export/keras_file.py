"""Keras' own file format, for whoever goes on in Keras: it loads without Headstart, on each backend."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DamagedError, HeadstartError
from headstart.export.archive import add_about, read_about
from headstart.model.saved import CONFIG, nodes
from headstart.system.backend import keras
from headstart.system.text import first_line


def write(network: keras.Model, file: Path, about: dict[str, Any], precision: str, calibration: np.ndarray | None) -> None:
    """Write a network as `headstart.export.graph.exported_network` gives it, on any backend.

    Args:
        file: its name ends in `.keras`.
        about: what the file says of itself, see `headstart.export.archive`.
        precision: `float32`.
        calibration: not used.

    Raises:
        HeadstartError: another precision is asked for; or the network has a layer that Keras alone does not have, so that the
            file would not load elsewhere.
    """
    if precision != "float32":
        raise HeadstartError(
            f"a .keras file is written in float32, not in {precision}: choose the format onnx, litert or openvino"
        )
    network.save(file)
    with zipfile.ZipFile(file) as archive:
        described = json.loads(archive.read(CONFIG))
    for node in nodes(described, file):
        module = node.get("module") or "keras"
        if node.get("registered_name") not in (None, node.get("class_name")) or str(module).partition(".")[0] != "keras":
            file.unlink()
            raise HeadstartError(
                f"a .keras file with {module}.{node.get('class_name')} would load only where that layer is known: choose the "
                "format onnx, litert or openvino"
            )
    add_about(file, about)


class Runtime:
    """The file as Keras loads and runs it, in safe mode and without any layers but its own.

    Raises:
        HeadstartError: the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.about = read_about(file)
        try:
            self.model = keras.saving.load_model(file, compile=False)
        except Exception as error:  # Keras and h5py raise many kinds of exception for a damaged file
            raise DamagedError(f"{file} is damaged, or no Keras file: {first_line(error)}") from None

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, float32 (N, classes), and features, float32 (N, channels), of uint8 (N, H, W, 3)."""
        found = self.model.predict_on_batch(images)
        return np.asarray(found["probabilities"], np.float32), np.asarray(found["features"], np.float32)
