"""What an exported file says of itself."""

import datetime
import importlib.metadata
from typing import Any

from headstart.config import Config
from headstart.model.registry import BACKBONES
from headstart.record.folder import RunFolder
from headstart.record.manifest import read_manifest
from headstart.record.split import decoding_of
from headstart.system.text import last_part


def describe(run: RunFolder, format: str, precision: str) -> dict[str, Any]:
    """Return what lies in the file's own metadata, ready for JSON. No folder of this machine is named in it."""
    manifest, summary = read_manifest(run.path), run.read_json("data.json")
    figures = list(run.metrics["test"].values())[-1]
    height, width, _ = manifest["input"]["shape"]
    decoding = decoding_of(dict(manifest["input"]))
    return {
        "format": format,
        "precision": precision,
        "classes": manifest["classes"],
        "temperature": manifest.get("temperature", 1.0),
        "image": {"height": height, "width": width, "fit": decoding.fit, "grey_range": decoding.grey_range},
        "accuracy": figures["accuracy"],
        "interval": figures["interval"],
        "test_images": figures["images"],
        "backbone": last_part(run.config.backbone),
        "licence": licence(run.config),
        "data": last_part(summary["source"]),
        "data_fingerprint": summary["fingerprint"],
        "run_fingerprint": manifest.get("seal", ""),
        "headstart": importlib.metadata.version("headstart"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def licence(config: Config) -> str:
    """Return the licence of the weights that a run began with: an SPDX identifier, or where it comes from."""
    if config.weights == "none":
        return "yours: no pretrained weights were used"
    if config.backbone in BACKBONES and config.weights in ("auto", "imagenet"):
        return BACKBONES[config.backbone].licence
    return "that of the weights file which you gave"
