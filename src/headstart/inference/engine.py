"""A network's forward pass by the fastest engine of the machine: OpenVINO on CPUs, Keras' backend elsewhere."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import UnwritableError
from headstart.inference.logits import network_logits
from headstart.inference.openvino import FEWEST_IMAGES, compile_file, import_openvino, overlapped, reason
from headstart.model.fast.copies import recast
from headstart.model.network import all_layers
from headstart.system.backend import converts_to_openvino, has_gpu, keras, silent_stderr
from headstart.system.files import written_whole

logger = logging.getLogger("headstart")

# Largest relative difference (L2 norm) from Keras' own outputs. bfloat16 has 8 bits of precision, and rounding builds up over
# the layers: 3 % for a ResNet-50's features, 5 % for its maps at 224 px. A conversion that goes wrong is off by more.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


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
        # Features instead of images or maps are too little work for an engine.
        self.untried = len(model.input_shape) == 4 and not has_gpu()

    def outputs(self, batches: Iterable[np.ndarray], total: int) -> Iterator[list[np.ndarray]]:
        """Yield the outputs, float32, for each batch in turn; only a few batches are held at a time.

        Args:
            batches: arrays of one shape but for their length.
            total: how many images there are in all. It alone decides whether OpenVINO is used, so that a run
                that is resumed between two parts of its data ends with the same numbers.
        """
        batches = iter(batches)
        if total >= FEWEST_IMAGES:
            if self.untried and (first := next(batches, None)) is not None:
                self.untried = False
                self.compiled, batches = compiled_by_openvino(self.model, first), chain([first], batches)
            if self.compiled is not None:
                yield from overlapped(self.compiled, batches, len(self.model.outputs))
                return
        for batch in batches:
            yield keras_outputs(self.model, batch)


def predict_logits(model: keras.Model, batches: Iterable[np.ndarray], total: int, mirror: bool = False) -> np.ndarray:
    """Return a model's logits, float32 (N, classes), in the order of the batches; `mirror` as in `network_logits`."""
    return np.concatenate(list(network_logits(Engine(model).outputs, batches, total, mirror)))


def keras_outputs(model: keras.Model, batch: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of Keras' backend for one batch, float32."""
    outputs = model.predict_on_batch(batch)
    return [np.asarray(output, np.float32) for output in (outputs if isinstance(outputs, list) else [outputs])]


def compiled_by_openvino(model: keras.Model, batch: np.ndarray, keep: Path | None = None) -> Any:
    """Return OpenVINO's compiled form of a network, or None where it cannot have one or computes something else.

    Args:
        batch: inputs for which its outputs must be Keras' own up to `TOLERANCE`.
        keep: where its files, `NAME.xml` and `NAME.bin`, stay if all is well.
    """
    if not converts_to_openvino():
        return None
    precision = precision_of(model)
    try:
        import_openvino()
        with contextlib.ExitStack() as stack:
            file = keep or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.xml"
            network = stack.enter_context(written_whole(file))
            stack.enter_context(written_whole(file.with_suffix(".bin")))  # the exporter names it after the other
            with silent_stderr():
                # As float32, for it fails on some casts to bfloat16; compiled, it computes in that all the same.
                recast(model, "float32").export(str(network), format="openvino", verbose=False)
            compiled = compile_file(network, precision)
            outputs = next(overlapped(compiled, [batch], len(model.outputs)))
            difference = max(map(relative_difference, outputs, keras_outputs(model, batch)))
            if difference > TOLERANCE[precision]:
                raise ValueError(f"its outputs differ from Keras' by {difference:.1g}")
    except UnwritableError:
        raise
    except Exception as error:  # it is not installed, a layer without a conversion, a processor that it does not know, ...
        logger.warning("OpenVINO cannot run this network (%s): Keras computes it", reason(error))
        return None
    logger.info("engine: OpenVINO, %s (relative difference from Keras %.1g)", precision, difference)
    return compiled


def precision_of(model: keras.Model) -> str:
    """Return what most of a network is computed in, `bfloat16` or `float32`."""
    return "bfloat16" if any(layer.compute_dtype == "bfloat16" for layer in all_layers(model)) else "float32"


def relative_difference(values: np.ndarray, exact: np.ndarray) -> float:
    """Return the L2 norm of the difference as a part of that of `exact`; other shapes are infinitely different."""
    if values.shape != exact.shape:
        return float("inf")
    return float(np.linalg.norm(values - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
