"""`manifest.json`: what anybody needs to know to use a trained model. It is written last, and marks a run as finished."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from headstart.errors import HeadstartError
from headstart.system.files import checksum, write_json

# A manifest with a higher format comes from a newer version of Headstart.
FORMAT = 1


class ManifestInput(TypedDict):
    shape: list[int]
    dtype: str
    colours: str
    range: list[int]
    decoding: NotRequired[dict[str, Any]]


class Manifest(TypedDict):
    """Content of `manifest.json`.

    `input` describes the model's input: shape (height, width, 3), uint8, RGB, 0..255, and how image files are decoded to it.
    `classes` are in the order of the outputs. Probabilities are the softmax of the logits divided by `temperature`, which is
    missing in old runs. `sha256` has the checksum of each file of the model.
    """

    format: int
    versions: dict[str, str]
    classes: list[str]
    input: ManifestInput
    output: str
    temperature: NotRequired[float]
    precision: str
    sha256: dict[str, str]


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest in a model's folder.

    Raises:
        HeadstartError: there is none, it is damaged, or a newer version of Headstart wrote it.
    """
    file = folder / "manifest.json"
    try:
        manifest: Manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HeadstartError(f"{folder} holds no finished model: there is no manifest.json in it") from None
    except ValueError as error:
        raise HeadstartError(f"{file} is damaged: {error}") from None
    if manifest["format"] > FORMAT:
        which = manifest.get("versions", {}).get("headstart", f"format {manifest['format']}")
        raise HeadstartError(f"{folder} was written by a newer Headstart ({which}): upgrade this one")
    return manifest


def write_manifest(folder: Path, files: list[str], content: dict[str, Any]) -> None:
    """Write the manifest of a model, with the checksums of its files.

    Args:
        folder: where the files of the model are, and where the manifest is written.
        files: their names.
        content: the rest of the manifest.
    """
    write_json(folder / "manifest.json", {"format": FORMAT} | content | {"sha256": {f: checksum(folder / f) for f in files}})


def verify(folder: Path, manifest: Manifest, *names: str) -> None:
    """Raise `HeadstartError` if one of a model's files is missing, or is not the one that the manifest describes."""
    for name in names:
        file = folder / name
        if not file.is_file() or checksum(file) != manifest["sha256"].get(name):
            raise HeadstartError(
                f"{file} is missing or not the file that its manifest describes: train again, or bring the original back"
            )
