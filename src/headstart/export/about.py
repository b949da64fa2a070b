"""What an exported file says of itself."""

import datetime
import importlib.metadata
from typing import Any

from headstart.inference.classifier import Classifier
from headstart.model.registry import licence_of
from headstart.record.folder import RunFolder
from headstart.system.text import last_part


def describe(run: RunFolder, classifier: Classifier, format: str, precision: str) -> dict[str, Any]:
    """Return what lies in the file's own metadata, ready for JSON. No folder of this machine is named in it."""
    summary, decoding = run.read_json("data.json"), classifier.decoding
    figures = list(run.metrics["test"].values())[-1]
    height, width, _ = classifier.image_shape
    return {
        "format": format,
        "precision": precision,
        "classes": list(classifier.class_names),
        "temperature": classifier.temperature,
        "image": {"height": height, "width": width, "fit": decoding.fit, "grey_range": decoding.grey_range},
        "accuracy": figures["accuracy"],
        "interval": figures["interval"],
        "test_images": figures["images"],
        "backbone": last_part(run.config.backbone),
        "licence": licence_of(run.config),
        "data": last_part(summary["source"]),
        "data_fingerprint": summary["fingerprint"],
        "run_fingerprint": classifier.manifest.get("seal", ""),
        "headstart": importlib.metadata.version("headstart"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
