"""Save a trained network for use, as files for Keras and for OpenVINO."""

import dataclasses
from pathlib import Path

from headstart.data.dataset import Dataset
from headstart.inference.engine import compiled_by_openvino, precision_of
from headstart.inference.limits import Limits, write_limits
from headstart.model.network import with_features
from headstart.model.saved import save_network
from headstart.record.manifest import write_manifest
from headstart.system.backend import keras
from headstart.system.environment import versions

# So many images of the test split are used to compare OpenVINO's outputs with Keras'.
IMAGES_TO_COMPARE = 64


def save_classifier(folder: Path, model: keras.Model, data: Dataset, temperature: float, limits: Limits) -> None:
    """Write a model as plain arrays with the graph of its layers and, if OpenVINO can run it, for OpenVINO.

    The manifest comes last: it marks a run as finished.

    Args:
        folder: an existing folder.
        model: uint8 images to logits, see `headstart.model.network.Network.classifier`.
        data: what it was trained on. Its classes, image shape and decoding are recorded.
        temperature: the number that logits are divided by before the softmax.
        limits: how far its answers can be trusted.
    """
    files = [*save_network(folder, model), write_limits(folder, limits)]
    if compiled_by_openvino(with_features(model), data.images(data.test[:IMAGES_TO_COMPARE]), folder / "model.xml") is not None:
        files += ["model.xml", "model.bin"]
    write_manifest(folder, files, {
        "versions": {name: version for name, version in versions().items() if name in ("headstart", "keras")},
        "classes": list(data.class_names),
        "input": {
            "shape": list(data.image_shape), "dtype": "uint8", "colours": "RGB", "range": [0, 255],
            "decoding": dataclasses.asdict(data.source.decoding),
        },
        "output": "logits, one for each class, in this order; softmax of logits / temperature gives probabilities",
        "temperature": temperature,
        "precision": precision_of(model),
    })  # fmt: skip
