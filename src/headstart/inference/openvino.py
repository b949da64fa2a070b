"""OpenVINO, the fastest engine on CPUs, for networks in its own file format. Keras is not needed."""

import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger("headstart")

# For fewer images, Keras is done before OpenVINO has converted and compiled a network.
FEWEST_IMAGES = 2000


def import_openvino() -> Any:
    """Import and return OpenVINO.

    Raises:
        ImportError: it is not installed.
    """
    # Its converter reports each use to its makers through this package; without the package it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compile_file(file: Path, precision: str) -> Any:
    """Return the network in OpenVINO's files, compiled for this CPU.

    Args:
        file: the `.xml` file; the `.bin` file lies beside it.
        precision: what it computes in, `float32` or `bfloat16`.
    """
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
    return import_openvino().Core().compile_model(file, "CPU", options)


def compiled_file(file: Path, precision: str) -> Any:
    """Return the network as `compile_file` does, or log why OpenVINO cannot run it and return None."""
    try:
        return compile_file(file, precision)
    except Exception as error:  # not installed, an unknown processor, ...
        logger.info("OpenVINO cannot run the model in %s (%s): Keras computes it", file.parent, reason(error))
        return None


def overlapped(compiled: Any, batches: Iterable[np.ndarray], outputs: int) -> Iterator[list[np.ndarray]]:
    """Yield a compiled network's first `outputs` outputs for each batch, in order; later batches are computed meanwhile."""
    idle = [compiled.create_infer_request() for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))]
    busy: deque[Any] = deque()

    def finished() -> list[np.ndarray]:
        request = busy.popleft()
        request.wait()
        idle.append(request)
        return [np.array(tensor.data, np.float32) for tensor in request.output_tensors[:outputs]]

    for batch in batches:
        if not idle:
            yield finished()
        request = idle.pop()
        request.start_async({0: batch})
        busy.append(request)
    while busy:
        yield finished()


def reason(error: Exception) -> str:
    """Return why OpenVINO failed. Its errors begin with places in its sources and end with the reason."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
