"""What an exported file says about itself, in a zip archive: the whole of a `.keras` file, and the end of a `.tflite` file."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from headstart.errors import DamagedError
from headstart.system.files import open_regular
from headstart.system.reading import MOST_JSON, as_kind, parse_json
from headstart.system.text import first_line, printable

# `metadata.json` is Keras' own member of a `.keras` file. ONNX and OpenVINO files have the same content under `headstart`.
LABELS, ABOUT = "labels.txt", "headstart.json"


def add_about(file: Path, about: dict[str, Any]) -> None:
    """Append the class names and all that a file says about itself to it.

    Nothing is compressed, so that a program can find the texts without unpacking. A file that is no archive gets one at its
    end, as TensorFlow Lite keeps its associated files: the runtimes do not read that far.
    """
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(LABELS, labels_text(about["classes"]))
        archive.writestr(ABOUT, json.dumps(about, indent=2) + "\n")


def read_about(file: Path) -> dict[str, Any]:
    """Return what `add_about` has appended to a file.

    Raises:
        DamagedError: the file was cut, changed, or written by another program.
        FileNotFoundError: there is none.
    """
    with open_regular(file) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                if archive.getinfo(ABOUT).file_size > MOST_JSON:
                    raise ValueError(f"{ABOUT} is larger than {MOST_JSON:,} bytes")
                content = archive.read(ABOUT)
        # No archive or a wrong checksum, no such member, an unknown compression, a password, data that end too early.
        except (zipfile.BadZipFile, KeyError, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
            raise DamagedError(f"{file} is damaged, or `headstart export` did not write it: {first_line(error)}") from None
    found: dict[str, Any] = as_kind(parse_json(content, file), dict[str, Any], file)
    return found


def labels_text(classes: list[str]) -> str:
    """Return the class names in the order of the outputs, one in each line."""
    return "".join(f"{printable(name)}\n" for name in classes)
