"""A network's forward pass by the fastest engine of the machine: OpenVINO on CPUs, Keras' backend elsewhere."""

import logging
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np

from headstart.backend import converts_to_openvino, has_gpu, silent_stderr
from headstart.model.folding import recast
from headstart.model.graph import all_layers

logger = logging.getLogger("headstart")

# Converting and compiling a network takes longer than Keras needs for fewer pictures.
FEWEST_PICTURES = 2000
# Largest relative difference (L2 norm) from Keras' own outputs. bfloat16 has 8 bits of precision, and
# rounding builds up over the layers: 2.5 % for a ResNet-50.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}


class Engine:
    """A network's forward pass by what is fastest: OpenVINO where it can, else Keras' backend.

    OpenVINO can on CPUs, for networks that it converts, and only if its outputs for the first batch
    are Keras' own up to `TOLERANCE`. It is started once, at the first use that is worth it.

    Args:
        model: a network with one input and no randomness, whose weights stay as they are.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.compiled: Any = None
        # Features instead of pictures or maps are too little work for an engine.
        self.untried = len(model.input_shape) == 4 and not has_gpu() and converts_to_openvino()

    def outputs(self, batches: Iterable[np.ndarray], pictures: int) -> Iterator[list[np.ndarray]]:
        """Yield the outputs, float32, for each batch in turn; only a few batches are held at a time.

        Args:
            batches: arrays of one shape but for their length.
            pictures: how many there are in all. It alone decides whether OpenVINO is used, so that a run
                that is resumed between two parts of its data ends with the same numbers.
        """
        batches = iter(batches)
        if pictures >= FEWEST_PICTURES:
            if self.untried and (first := next(batches, None)) is not None:
                self.untried = False
                self.compiled, batches = self.checked(compiled_by_openvino(self.model), first), chain([first], batches)
            if self.compiled is not None:
                yield from overlapped(self.compiled, batches, len(self.model.outputs))
                return
        for batch in batches:
            yield keras_outputs(self.model, batch)

    def checked(self, compiled: Any, batch: np.ndarray) -> Any:
        """Return the compiled network if it computes what Keras does, else None."""
        if compiled is None:
            return None
        by_openvino, precision = next(overlapped(compiled, [batch], len(self.model.outputs))), precision_of(self.model)
        difference = max(map(relative_difference, by_openvino, keras_outputs(self.model, batch)))
        if difference > TOLERANCE[precision]:
            logger.warning("OpenVINO's outputs differ from Keras' by %.1g: Keras computes them instead", difference)
            return None
        logger.info("engine: OpenVINO, %s (relative difference from Keras %.1g)", precision, difference)
        return compiled


def forward(model: keras.Model, batches: Iterable[np.ndarray], pictures: int) -> Iterator[list[np.ndarray]]:
    """Yield a network's outputs for each batch in turn, as `Engine.outputs` of an engine that is used this once."""
    return Engine(model).outputs(batches, pictures)


def keras_outputs(model: keras.Model, batch: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of Keras' backend for one batch, float32."""
    outputs = model.predict_on_batch(batch)
    return [np.asarray(output, np.float32) for output in (outputs if isinstance(outputs, list) else [outputs])]


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


def compiled_by_openvino(model: keras.Model) -> Any:
    """Return OpenVINO's compiled form of a network, or None where it is missing or cannot convert it."""
    # Its converter would report each use to its makers; without this package it has no way to.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino

        with tempfile.TemporaryDirectory() as folder, silent_stderr():
            file = Path(folder) / "network.xml"
            # As float32, for it fails on some casts to bfloat16; the hint makes it compute in that all the same.
            recast(model, "float32").export(str(file), format="openvino", verbose=False)
            options = {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": "bf16" if precision_of(model) == "bfloat16" else "f32",
            }
            return openvino.Core().compile_model(file, "CPU", options)
    except Exception as error:  # a layer without a conversion, a processor that it does not know, ...
        logger.warning("OpenVINO cannot run this network (%s): Keras computes it", str(error).splitlines()[0])
        return None


def precision_of(model: keras.Model) -> str:
    """Return what most of a network is computed in, `bfloat16` or `float32`."""
    return "bfloat16" if any(layer.compute_dtype == "bfloat16" for layer in all_layers(model)) else "float32"


def relative_difference(values: np.ndarray, exact: np.ndarray) -> float:
    """Return the L2 norm of the difference as a part of that of `exact`; other shapes are infinitely different."""
    if values.shape != exact.shape:
        return float("inf")
    return float(np.linalg.norm(values - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
