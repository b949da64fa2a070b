"""The formats of exported files, and what is known of an export. Nothing here needs Keras."""

import importlib.util
from dataclasses import dataclass
from typing import Any, TypedDict

from headstart.config import suggestion
from headstart.errors import HeadstartError
from headstart.system.names import EXPORTING
from headstart.system.text import count

# The folder, in that of a run, of exports and of what was proved of each, wherever it lies.
RECORDS = "export"
# What int8 may cost on the validation split: half a point.
MOST_LOSS = 0.005


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: what users call it.
        file: its name.
        precisions: that it has, besides `float32`.
        any_size: whether it takes images of any height and width.
        packages: by their import names, that write it or run it.
        everywhere: whether Keras writes it with every backend.
    """

    name: str
    file: str
    precisions: tuple[str, ...] = ()
    any_size: bool = False
    packages: tuple[str, ...] = ()
    everywhere: bool = False


FORMATS = {
    "keras": Format("Keras", "model.keras", everywhere=True),
    "onnx": Format("ONNX", "model.onnx", ("float16",), True, ("onnx", "onnxruntime", "tf2onnx")),
    "litert": Format("LiteRT", "model.tflite", ("float16", "int8"), False, ("ai_edge_litert",)),
    "openvino": Format("OpenVINO", "model.xml", ("float16", "int8"), True, ("openvino",)),
}
# Which optional package a precision needs, beside those of the format.
FOR_PRECISION = {("openvino", "int8"): "nncf"}


class Differences(TypedDict):
    """How a file's answers differ from those of the network in float32.

    `relative_difference` is that of logits in the L2 norm, and `features` that of features. Logits are compared without their
    mean over the classes, which no probability depends on.
    """

    images: int
    largest_difference: float
    relative_difference: float
    features: float
    equal_decisions: float


class Proof(TypedDict):
    """What was measured of a file. `against_run` is the exact McNemar test against the run, as `predict` answers."""

    test: Differences
    other_sizes: Differences | None
    accuracy: float
    interval: list[float]
    accuracy_of_run: float
    against_run: dict[str, float]
    images_per_second: float
    images_per_second_of_run: float
    validation: dict[str, float] | None


class Export(TypedDict):
    """Content of `export.json`: what was written, what the file says of itself, and what was proved."""

    format: str
    precision: str
    files: dict[str, int]
    about: dict[str, Any]
    proof: Proof
    versions: dict[str, str]


def default_name(format: str, precision: str) -> str:
    """Return what an export is called where no name is given: `onnx`, `openvino-int8`."""
    return format if precision == "float32" else f"{format}-{precision}"


def refuse_export(format: str, precision: str) -> None:
    """Refuse, before anything slow starts, a format that is unknown, or for which a precision or a package is missing.

    Raises:
        HeadstartError: the message says what there is, or what to install.
    """
    if format not in FORMATS:
        raise HeadstartError(f"there is no format {format!r}{suggestion(format, FORMATS)}; there are {', '.join(FORMATS)}")
    one = FORMATS[format]
    if precision not in ("float32", *one.precisions):
        known = ", ".join(("float32", *one.precisions))
        raise HeadstartError(f"{one.name} files are not written in {precision}: --precision {known}")
    packages = (*one.packages, *filter(None, [FOR_PRECISION.get((format, precision))]))
    if missing := [name for name in packages if not importlib.util.find_spec(name)]:
        extra = "int8" if missing == ["nncf"] else format
        raise HeadstartError(f"{one.name} files need {' and '.join(missing)}: pip install 'headstart[{extra}]'")
    if not one.everywhere and not importlib.util.find_spec(EXPORTING):
        raise HeadstartError(f"{one.name} files are made with {EXPORTING}, which is not installed: pip install {EXPORTING}")


def in_words(content: Export) -> list[str]:
    """Return the proof of an export in a few lines."""
    proof, test, name = content["proof"], content["proof"]["test"], FORMATS[content["format"]].name
    lines = [
        f"{name}, {content['precision']}: {sum(content['files'].values()) / 1e6:.1f} MB, "
        f"{proof['images_per_second']:,.0f} images a second (the run: {proof['images_per_second_of_run']:,.0f})",
        f"on {count(test['images'], 'test image')}, it decides like the network on {100 * test['equal_decisions']:.2f} %; logits "
        f"differ by at most {test['largest_difference']:.2g}; accuracy {100 * proof['accuracy']:.2f} % (the run: "
        f"{100 * proof['accuracy_of_run']:.2f} %)",
    ]
    if sizes := proof["other_sizes"]:
        lines.append(
            f"on {count(sizes['images'], 'image')} of other sizes, which the file fits itself, it decides alike on "
            f"{100 * sizes['equal_decisions']:.0f} %"
        )
    if validation := proof["validation"]:
        images = count(int(validation["images"]), "validation image")
        of_file, of_run = (100 * validation[key] for key in ("accuracy", "accuracy_of_run"))
        lines.append(f"on {images}, its accuracy is {of_file:.2f} % (the run: {of_run:.2f} %)")
    return lines
