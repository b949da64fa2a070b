"""Export a run: a file for another program, with labels, a README, and the proof that it answers as the run does."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from headstart.data.dataset import Dataset
from headstart.errors import HeadstartError, UnwritableError
from headstart.export import keras_file, litert, onnx, openvino
from headstart.export.about import describe
from headstart.export.archive import LABELS, labels_text
from headstart.export.formats import FORMATS, RECORDS, Export, Format, default_name
from headstart.export.graph import exported_network
from headstart.export.proof import prove, spread
from headstart.export.readme import write_readme
from headstart.inference.classifier import Classifier
from headstart.record.folder import RunFolder, refuse_links
from headstart.system.backend import keras
from headstart.system.environment import computing, installed
from headstart.system.files import holds_something_else, refuse_unwritable, temporary_folder, unwritable, write_json
from headstart.system.names import EXPORTING
from headstart.system.text import first_line

logger = logging.getLogger("headstart")

# So many training images show int8 which values occur.
CALIBRATION_IMAGES = 300
RECORD = "export.json"
WRITERS = {"keras": keras_file, "onnx": onnx, "litert": litert, "openvino": openvino}


def exports_here(format: str) -> bool:
    """Whether this process can write files of a format: Keras runs on the backend from which it exports it."""
    return FORMATS[format].everywhere or keras.backend.backend() == EXPORTING


def export(
    run: RunFolder, classifier: Classifier, data: Dataset, format: str, precision: str, folder: Path, most_loss: float
) -> Export:
    """Write a run's network as a file, prove it on the test split, and keep it only if the proof holds.

    Args:
        run: a finished one, whose `classifier` and `data` these are.
        folder: where the file will lie. An earlier export in it is replaced, once the new one is proved.

    Raises:
        HeadstartError: the proof fails; nothing is left behind. Or the folder holds something else, or cannot be written.
    """
    one = FORMATS[format]
    refuse_links(run.path)
    refuse_other_content(folder)
    network = exported_network(classifier.model, classifier.temperature, classifier.decoding.fit if one.any_size else "")
    about = describe(run, classifier, format, precision)
    calibration = data.images(spread(data.train, CALIBRATION_IMAGES)) if precision == "int8" else None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as private:
            new = private / "export"
            new.mkdir()
            logger.info("%s: writing %s", one.name, one.file)
            try:
                WRITERS[format].write(network, new / one.file, about, precision, calibration)
                proof = prove(WRITERS[format].Runtime(new / one.file), classifier, data, precision, one.any_size, most_loss)
            except (UnwritableError, OSError):
                raise
            except HeadstartError as error:
                raise HeadstartError(f"the {one.name} file is not kept: {error}") from None
            except Exception as error:  # converters and runtimes raise many kinds of exception on what they do not know
                raise HeadstartError(f"this network cannot become {one.name} in {precision}: {first_line(error)}") from error
            files = {file.name: file.stat().st_size for file in sorted(new.iterdir())}
            content: Export = {
                "format": format, "precision": precision, "files": files, "about": about, "proof": proof,
                "versions": installed_packages(one),
            }  # fmt: skip
            (new / LABELS).write_text(labels_text(about["classes"]), encoding="utf-8")
            write_readme(new, content)
            write_json(new / RECORD, content)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(new, folder)
        (run.path / RECORDS).mkdir(exist_ok=True)
        write_json(run.path / RECORDS / f"{default_name(format, precision)}.json", content)
    except OSError as error:
        raise unwritable(folder, error) from None
    return content


def installed_packages(one: Format) -> dict[str, str]:
    """Return the versions of what wrote and ran a file."""
    return computing() | installed([name.replace("_", "-") for name in one.packages])


def refuse_other_content(folder: Path) -> None:
    """Refuse a folder that holds something else than an export, which would be lost."""
    refuse_unwritable(folder)
    if holds_something_else(folder, RECORD):
        raise HeadstartError(f"{folder} holds something else than an export: name another folder")


def export_elsewhere(run: RunFolder, format: str, precision: str, folder: Path, most_loss: float) -> None:
    """Export in a process of its own, on the backend from which Keras exports."""
    options = ["--format", format, "--precision", precision, "--out", str(folder), "--most-loss", str(most_loss)]
    trust = ["--trust"] if run.config.trust else []
    command = [sys.executable, "-m", "headstart", "export", str(run.path), *options, *trust]
    done = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": EXPORTING}, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with status {done.returncode}"]
        raise HeadstartError(lines[-1].removeprefix("headstart: "))
