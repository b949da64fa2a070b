"""OpenVINO, the fastest engine on CPUs, for networks that lie in its own files. It needs no Keras."""

import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger("headstart")

# Converting and compiling a network takes longer than Keras needs for fewer images.
FEWEST_IMAGES = 2000


def import_openvino() -> Any:
    """Import and return OpenVINO.

    Raises:
        ImportError: it is not installed.
    """
    # Its converter would report each use to its makers; without this package it has no way to.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compile_file(file: Path, precision: str) -> Any:
    """Return a network in OpenVINO's files, compiled for this CPU.

    Args:
        file: ends in `.xml`, with `.bin` beside it.
        precision: `float32` or `bfloat16`, what it computes in.
    """
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
    return import_openvino().Core().compile_model(file, "CPU", options)


def compiled_file(file: Path, precision: str) -> Any:
    """Return what `compile_file` does; None, and a line in the log, where OpenVINO is not installed or cannot."""
    try:
        return compile_file(file, precision)
    except Exception as error:  # not installed, a processor that it does not know, ...
        logger.info("OpenVINO cannot run %s (%s): Keras does", file.parent, reason(error))
        return None


def overlapped(compiled: Any, batches: Iterable[np.ndarray], outputs: int) -> Iterator[list[np.ndarray]]:
    """Yield OpenVINO's first outputs in order, while it computes as many later batches as it can at once."""
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
    """Return why OpenVINO could not do something: its errors say first where in its sources, and last what."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
