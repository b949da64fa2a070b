"""LiteRT, once TensorFlow Lite: the file for phones and small boards."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import DamagedError, HeadstartError
from headstart.export.archive import add_about, read_about
from headstart.system.backend import keras, silent_stderr
from headstart.system.litert import export_options, interpreter, quantized
from headstart.system.text import first_line


def write(network: keras.Model, file: Path, about: dict[str, Any], precision: str, calibration: np.ndarray | None) -> None:
    """Write a network as `headstart.export.graph.exported_network` gives it, on TensorFlow.

    Args:
        file: its name ends in `.tflite`.
        about: what the file says of itself, see `headstart.export.archive`.
        precision: `float32`; `float16` for weights of 16 bits; `int8` for weights and feature maps of 8 bits. Input and outputs
            are the same with each.
        calibration: images that stand for all that will come, uint8 (M, height, width, 3). Only `int8` needs them.

    Raises:
        HeadstartError: Keras runs on another backend than TensorFlow; the network has operations that LiteRT has not; or there
            are no images for `int8`.
    """
    if precision == "int8" and (calibration is None or not len(calibration)):
        raise HeadstartError("int8 needs images for calibration: without them nobody knows the ranges of its feature maps")
    options = export_options(precision, calibration)
    try:
        with silent_stderr():
            network.export(str(file), format="litert", verbose=False, **options)
            if precision == "int8" and calibration is not None:
                file.write_bytes(quantized(file, calibration))
    except Exception as error:
        # TensorFlow's operations are allowed with a delegate that LiteRT's own packages do not have. The file would stop there.
        missing = re.search(r"(?:TF Select|Custom) ops: (.*)", str(error))
        if missing is None:
            raise
        raise HeadstartError(
            f"LiteRT has no operation for {missing[1].strip()}, which this network needs: choose the format onnx or openvino"
        ) from None
    add_about(file, about)


class Runtime:
    """The file as LiteRT's interpreter runs it on all cores.

    Raises:
        HeadstartError: ai-edge-litert is not installed, or the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.about = read_about(file)
        try:
            self.run = interpreter(file).get_signature_runner("serving_default")
        except (ValueError, RuntimeError) as error:
            raise DamagedError(f"{file} is damaged, or no LiteRT file: {first_line(error)}") from None

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, float32 (N, classes), and features, float32 (N, channels), of uint8 (N, H, W, 3)."""
        with silent_stderr():  # it prints which instructions it uses
            found = self.run(images=images)
        return found["probabilities"], found["features"]
