"""LiteRT's interpreter; TensorFlow's converter to it, and its quantization to 8 bits, for which private names are used.

The tests of `headstart.export.litert` say what breaks if TensorFlow moves one of them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import HeadstartError
from headstart.system.backend import load_keras, silent_stderr
from headstart.system.processor import usable_cores


def interpreter(file: Path, **options: Any) -> Any:
    """Return LiteRT's interpreter of a file, on all cores.

    Raises:
        HeadstartError: it is not installed.
        ValueError: the file is no LiteRT file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise HeadstartError("LiteRT files are run by a package that is not installed: pip install 'headstart[litert]'") from None
    with silent_stderr():
        return Interpreter(str(file), num_threads=usable_cores(), **options)


def export_options(precision: str, calibration: np.ndarray | None) -> dict[str, Any]:
    """Return the options of `keras.Model.export` for a LiteRT file of the runtime's own operations alone.

    Args:
        precision: `float32`; `float16` for weights of 16 bits; `int8` for a file that `quantized` takes.
        calibration: images for `int8`, uint8 (M, height, width, 3).

    Raises:
        HeadstartError: Keras runs on another backend than TensorFlow.
    """
    if load_keras().backend.backend() != "tensorflow":
        raise HeadstartError("LiteRT files are written by TensorFlow: set KERAS_BACKEND=tensorflow and start again")
    from tensorflow import float16, lite

    options: dict[str, Any] = {"target_spec": {"supported_ops": [lite.OpsSet.TFLITE_BUILTINS]}}
    if precision != "float32":
        options["optimizations"] = [lite.Optimize.DEFAULT]
    if precision == "float16":
        options["target_spec"]["supported_types"] = [float16]
    if precision == "int8" and calibration is not None:
        first = calibration[:1]
        options |= {"representative_dataset": lambda: iter([[first]]), "_experimental_calibrate_only": True}
    return options


def quantized(file: Path, calibration: np.ndarray) -> bytes:
    """Return a LiteRT network with weights and feature maps of 8 bits.

    The ranges of feature maps are measured here. TensorFlow's own calibration (2.21) reads an input of an operation after the
    operation has run, when sums and products have written their output over it: behind a division by 255, a range of 0..1
    became 0..255, and a starter on CIFAR-10 fell from 82.2 % to 22.1 %. With the ranges from here, it has 82.0 %.

    Args:
        file: written with `export_options`.
        calibration: images that stand for all that will come, uint8 (M, height, width, 3).
    """
    from ai_edge_litert.interpreter import OpResolverType
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.tools import flatbuffer_utils

    network = flatbuffer_utils.read_model(str(file))
    tensors = network.subgraphs[0].tensors
    measured = {
        index: tensor.quantization
        for index, tensor in enumerate(tensors)
        if tensor.quantization is not None and tensor.quantization.min is not None
    }
    # No delegate, which would keep what lies between its operations to itself.
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runner = interpreter(file, experimental_preserve_all_tensors=True, experimental_op_resolver_type=resolver)
    images = runner.get_input_details()[0]["index"]
    for statistics in measured.values():
        statistics.min, statistics.max = [np.inf], [-np.inf]
    runner.allocate_tensors()
    for image in calibration:  # one at a time: all its feature maps are in memory
        runner.set_tensor(images, image[None])
        runner.invoke()
        for index, statistics in measured.items():
            values = runner.get_tensor(index)
            statistics.min = [min(statistics.min[0], float(values.min()))]
            statistics.max = [max(statistics.max[0], float(values.max()))]
    # A softmax of 8 bits would give one of 256 probabilities, and 0 for what is less likely than 1 in 512.
    return bytes(mlir_quantize(bytes(flatbuffer_utils.convert_object_to_bytearray(network)), denylisted_ops=["SOFTMAX"]))
