"""OpenVINO: the fastest on Intel's and AMD's CPUs, and the one that computes with whole numbers there."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from headstart.inference.openvino import import_openvino
from headstart.system.backend import keras, silent_stderr


def write(network: keras.Model, file: Path, about: dict[str, Any], precision: str, calibration: np.ndarray | None) -> None:
    """Write a network as `headstart.export.graph.exported_network` gives it, as `NAME.xml` and `NAME.bin`.

    Args:
        about: what the file says of itself, see `headstart.export.about`.
        precision: `float32`; `float16`, of the stored weights; or `int8`, of convolutions and dense layers.
        calibration: uint8 (N, H, W, 3), training images, from which `int8` learns the ranges of values.
    """
    openvino = import_openvino()
    plain = file.with_name("plain.xml")
    with silent_stderr():
        network.export(str(plain), format="openvino", verbose=False)
    model = openvino.Core().read_model(str(plain))
    if precision == "int8":
        assert calibration is not None
        model = in_int8(model, calibration)
    # As OpenVINO's Model API has it: names are parted by blanks, so that a blank in a name is written in another way.
    model.set_rt_info(" ".join(name.replace(" ", "_") for name in about["classes"]), ["model_info", "labels"])
    model.set_rt_info("Classification", ["model_info", "model_type"])
    model.set_rt_info(json.dumps(about), ["headstart"])
    openvino.save_model(model, str(file), compress_to_fp16=precision == "float16")
    plain.unlink()
    plain.with_suffix(".bin").unlink()


def in_int8(model: Any, calibration: np.ndarray) -> Any:
    """Return the network with 8-bit convolutions and dense layers; see NNCF's post-training quantization."""
    import nncf

    samples = nncf.Dataset([image[None] for image in calibration])
    return nncf.quantize(model, samples, subset_size=len(calibration), preset=nncf.QuantizationPreset.MIXED)


class Runtime:
    """The file as OpenVINO runs it on the CPU, in the precision that it was written in."""

    def __init__(self, file: Path) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        model = core.read_model(str(file))
        self.about: dict[str, Any] = json.loads(model.get_rt_info(["headstart"]).astype(str))
        # Where the processor has bfloat16, OpenVINO would compute in it.
        self.compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, float32 (N, classes), and features, float32 (N, channels), of uint8 (N, H, W, 3)."""
        found = self.compiled(images)
        return found["probabilities"], found["features"]
