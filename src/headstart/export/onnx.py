"""ONNX: the file that most runtimes read, on every system."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from headstart.system.backend import keras, silent_stderr

# Smaller arrays, such as numbers of the graph, are not worth an operation more.
FEWEST_WEIGHTS = 256


def write(network: keras.Model, file: Path, about: dict[str, Any], precision: str, calibration: np.ndarray | None) -> None:
    """Write a network as `headstart.export.graph.exported_network` gives it, on TensorFlow.

    Args:
        about: what the file says of itself, see `headstart.export.about`.
        precision: `float32`, or `float16` for the stored weights. Both compute in float32: the fit of large images, and many
            CPUs, need it.
        calibration: not used.
    """
    import onnx

    images = keras.InputSpec("uint8", shape=network.input_shape, name="images")
    with silent_stderr(), warnings.catch_warnings(action="ignore"):  # Keras' patch of the converter for NumPy 2 warns
        network.export(str(file), format="onnx", input_signature=[images], verbose=False)
    model = onnx.load(str(file))
    without_erfc(model)
    if precision == "float16":
        halve_weights(model)
    for value, free in ((model.graph.input[0], "NHW"), *((output, "N") for output in model.graph.output)):
        for dimension, letter in zip(value.type.tensor_type.shape.dim, free, strict=False):
            dimension.dim_param = letter
    onnx.helper.set_model_props(model, {"headstart": json.dumps(about), "labels": "\n".join(about["classes"])})
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def without_erfc(model: Any) -> None:
    """Replace each Erfc, which ONNX does not have and the converter leaves there for a GELU, by 1 - Erf."""
    import onnx

    nodes = []
    for node in model.graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        erf, one = f"{node.output[0]}_erf", f"{node.output[0]}_one"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), one))
        nodes.append(onnx.helper.make_node("Erf", [node.input[0]], [erf], name=erf))
        nodes.append(onnx.helper.make_node("Sub", [one, erf], [node.output[0]], name=node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def halve_weights(model: Any) -> None:
    """Store the weights of an ONNX model as float16. A cast follows each, which a runtime does once, when it loads the file."""
    import onnx

    casts = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= FEWEST_WEIGHTS:
            casts.append(onnx.helper.make_node("Cast", [f"{weight.name}_half"], [weight.name], to=onnx.TensorProto.FLOAT))
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{weight.name}_half"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class Runtime:
    """The file as onnxruntime runs it on the CPU."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.about: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map["headstart"])

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, float32 (N, classes), and features, float32 (N, channels), of uint8 (N, H, W, 3)."""
        probabilities, features = self.session.run(["probabilities", "features"], {"images": images})
        return probabilities, features
