"""Networks as `headstart.export.graph.exported_network` gives them, and what a file says of them."""

import numpy as np
from PIL import Image

from headstart.export.graph import exported_network
from headstart.system.backend import keras
from helpers import tiny_network

ABOUT = {
    "classes": ["cat", "straße", "grey wolf", "\u732b", "line\nbreak"], "temperature": 1.5,
    "image": {"height": 32, "width": 32, "fit": "pad"}, "accuracy": 0.912, "interval": [0.874, 0.943], "test_images": 340,
    "backbone": "resnet50", "licence": "MIT", "data": "pets", "data_fingerprint": "5f" * 32, "run_fingerprint": "1c" * 32,
    "format": "litert", "precision": "float32", "headstart": "0.1.0", "created": "2026-01-31T12:00:00+00:00",
}  # fmt: skip

PROOF = {
    "test": {"images": 340, "largest_difference": 1.2e-5, "relative_difference": 1e-6, "features": 1e-6, "equal_decisions": 1.0},
    "other_sizes": None, "accuracy": 0.912, "interval": [0.874, 0.943], "accuracy_of_run": 0.909,
    "against_run": {"only_run_right": 0, "only_file_right": 1, "p_value": 1.0}, "images_per_second": 1234.5,
    "images_per_second_of_run": 987.6, "validation": None,
}  # fmt: skip


def content(format: str, **changes: object) -> dict[str, object]:
    """Return what `export.json` says of a file of a format."""
    about = ABOUT | {"format": format}
    return {"format": format, "precision": "float32", "files": {}, "about": about, "proof": PROOF, "versions": {}} | changes


def tiny_exported() -> keras.Model:
    """Return the one around `tiny_backbone`, of 32 x 32 images and 5 classes, whose probabilities differ between images."""
    network, _ = tiny_network(hidden_units=0)
    random = np.random.default_rng(3)
    logits = network.head.layers[-1]
    logits.set_weights([random.normal(0, 1.0, weight.shape) for weight in logits.get_weights()])
    for weight in network.backbone.weights:  # with others, 8 bits might fit worse
        if weight.name == "kernel":
            weight.assign(random.normal(0, 1 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape))
    return exported_network(network.classifier(), ABOUT["temperature"])


def soft_images(count: int, seed: int = 0) -> np.ndarray:
    """Return images with soft shapes and differing colours, uint8 (count, 32, 32, 3)."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in small])
