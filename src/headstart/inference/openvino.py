"""OpenVINO, the fastest engine on CPUs, for networks in its own file format. Keras is not needed."""

import hashlib
import io
import logging
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import MOST_VALUES
from headstart.errors import DamagedError
from headstart.system.files import open_regular, read_bytes
from headstart.system.processor import ALLOWED, usable_cores

logger = logging.getLogger("headstart")

# For fewer images, Keras is done before OpenVINO has converted and compiled a network.
FEWEST_IMAGES = 2000
MOST_GRAPH = 64 << 20  # bytes
# The operations that OpenVINO makes of plain Keras layers. Others could loop without end, or load code.
PLAIN = {
    "Abs", "Add", "AvgPool", "BatchNormInference", "Broadcast", "Clamp", "Concat", "Constant", "Convert", "Convolution",
    "ConvolutionBackpropData", "Divide", "Einsum", "Elu", "Equal", "Erf", "Exp", "Floor", "FloorMod", "Gather", "Gelu", "Greater",
    "GreaterEqual", "GroupConvolution", "GroupNormalization", "HSigmoid", "HSwish", "HardSigmoid", "Interpolate", "Less",
    "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "MVN", "MatMul", "MaxPool", "Maximum", "Minimum", "Multiply",
    "Negative", "NormalizeL2", "NotEqual", "PRelu", "Pad", "Parameter", "Power", "Range", "ReLU", "Relu", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Result", "Select", "ShapeOf", "Sigmoid", "Slice",
    "SoftPlus", "Softmax", "Split", "Sqrt", "SquaredDifference", "Squeeze", "StridedSlice", "Subtract", "Swish", "Tanh", "Tile",
    "Transpose", "Unsqueeze", "VariadicSplit",
}  # fmt: skip


def import_openvino() -> Any:
    """Import and return OpenVINO.

    Raises:
        ImportError: it is not installed.
    """
    # Its converter reports each use to its makers through this package; without the package it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compile_file(file: Path, precision: str, checksums: Mapping[str, str] | None = None) -> Any:
    """Return the network in OpenVINO's files, compiled for this CPU.

    Args:
        file: the `.xml` file; the `.bin` file lies beside it.
        precision: what it computes in, `float32` or `bfloat16`.
        checksums: the SHA-256 that the files must have, by their names; None for files that were written just now.

    Raises:
        DamagedError: a file is missing or has another checksum, or the network is not one that we write.
    """
    openvino, weights = import_openvino(), file.with_suffix(".bin")
    try:
        # What is hashed is what is read: the files could be exchanged in between.
        graph, arrays = read_bytes(file, MOST_GRAPH), mapped(weights)
    except OSError as error:
        raise DamagedError(f"{error.filename} is missing or cannot be read: {error.strerror}") from None
    for path, content in ((file, memoryview(graph)), (weights, arrays.data)):
        if checksums is not None and hashlib.sha256(content).hexdigest() != checksums.get(path.name):
            raise DamagedError(f"{path} is not the file that its manifest describes: train again, or bring the original back")
    if b"<!" in graph:
        raise DamagedError(f"{file} is damaged: it defines entities of its own")
    network = openvino.Core().read_model(graph, openvino.Tensor(arrays, shared_memory=True))
    largest = max(values_of(operation, file) for operation in network.get_ordered_ops())
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
    if ALLOWED:  # by itself, OpenVINO would take all cores, and bind each thread to one that another process may be bound to
        options |= {"INFERENCE_NUM_THREADS": usable_cores(), "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(network, "CPU", options)
    compiled.weights = arrays  # OpenVINO reads them where they lie, so they must live as long as it does
    compiled.largest = largest
    return compiled


def mapped(file: Path) -> np.ndarray:
    """Return the bytes of a file, uint8 (N,), which are read from disk when they are needed."""
    with open_regular(file) as stream:
        # Copy-on-write, since OpenVINO takes no array that cannot be written; it writes nothing.
        return np.memmap(stream, np.uint8, "c") if stream.seek(0, io.SEEK_END) else np.zeros(1, np.uint8)


def values_of(operation: Any, file: Path) -> int:
    """Return how many values the outputs of an operation have for one image.

    Raises:
        DamagedError: our networks do not have this operation, or the output would not fit the memory.
    """
    kind = operation.get_type_name()
    if kind not in PLAIN:
        raise DamagedError(f"{file} has an operation {kind}, which no network of ours has")
    shapes = [output.get_partial_shape() for output in operation.outputs()]
    values = max((math.prod(1 if one.is_dynamic else one.get_length() for one in shape) for shape in shapes), default=0)
    if values > MOST_VALUES:
        raise DamagedError(f"{file}: the output of {operation.get_friendly_name()} is too large: {values:,} values for an image")
    return int(values)


def compiled_file(file: Path, precision: str, checksums: Mapping[str, str]) -> Any:
    """Return the network as `compile_file` does, or log why OpenVINO cannot run it and return None.

    Raises:
        DamagedError: as for `compile_file`.
    """
    try:
        return compile_file(file, precision, checksums)
    except DamagedError:
        raise
    except Exception as error:  # not installed, an unknown processor, ...
        logger.info("OpenVINO cannot run the model in %s (%s): Keras computes it", file.parent, reason(error))
        return None


def shapes(compiled: Any) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Return the shapes of a compiled network's input and first output; a length that is open is None."""
    ports = (compiled.inputs[0].get_partial_shape(), compiled.outputs[0].get_partial_shape())
    found = [tuple(None if length.is_dynamic else length.get_length() for length in shape) for shape in ports]
    return found[0], found[1]


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
