"""A network's forward pass by the fastest engine on this machine: OpenVINO on CPUs, Keras' backend elsewhere."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import HeadstartError, UnwritableError
from headstart.inference.openvino import FEWEST_IMAGES, compile_file, import_openvino, overlapped, reason
from headstart.model.fast.copies import recast
from headstart.model.network import all_layers
from headstart.system.backend import compiles_each_shape, converts_to_openvino, has_gpu, is_out_of_memory, keras, silent_stderr
from headstart.system.files import written_whole
from headstart.system.text import first_line

logger = logging.getLogger("headstart")

# The largest allowed relative difference (L2 norm) from Keras' own outputs. bfloat16 has 8 bits of precision, and rounding
# adds up over the layers: 3 % for a ResNet-50's features, 5 % for its feature maps at 224 px. A wrong conversion differs by
# more.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


class Engine:
    """A network's forward pass by the fastest engine: OpenVINO or Keras' backend.

    OpenVINO is used on CPUs, for networks that it converts, if its outputs for the first batch equal Keras' up to
    `TOLERANCE`. It is started once, at the first use with enough images.

    Args:
        model: a network with one input and without randomness. Its weights must not change.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.compiled: Any = None
        self.rows = 0  # of the largest batch so far
        # A network on features, instead of images or feature maps, is too little work to convert it.
        self.untried = len(model.input_shape) == 4 and not has_gpu()

    def outputs(self, batches: Iterable[np.ndarray], total: int, rows: int = 0) -> Iterator[list[np.ndarray]]:
        """Yield the outputs, float32, for each batch in turn. Only a few batches are in memory at a time.

        Args:
            batches: arrays whose shapes differ only in their length.
            total: the number of images in all. Only this number decides whether OpenVINO is tried, so that a run that is
                resumed between two of its splits ends with the same numbers.
            rows: of the largest batch, if it may be none of these; by default, that of the largest so far.
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
            self.rows = max(self.rows, len(batch))
            # A smaller batch, such as the last one, would be compiled anew.
            missing = (rows or self.rows) - len(batch) if compiles_each_shape() else 0
            padded = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch
            yield [values[: len(batch)] for values in keras_outputs(self.model, padded)]


def keras_outputs(model: keras.Model, batch: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of Keras' backend for one batch, float32.

    Raises:
        HeadstartError: the network is well-formed, but the backend cannot run it, as one that a damaged file describes.
    """
    try:
        outputs = model.predict_on_batch(batch)
    except Exception as error:  # the backends raise many kinds of exception
        if is_out_of_memory(error):
            raise
        raise HeadstartError(f"{keras.backend.backend()} cannot run this network: {first_line(error)}") from error
    return [np.asarray(output, np.float32) for output in (outputs if isinstance(outputs, list) else [outputs])]


def compiled_by_openvino(model: keras.Model, batch: np.ndarray, keep: Path | None = None) -> Any:
    """Return a network compiled by OpenVINO, or None if OpenVINO cannot run it or its outputs differ.

    Args:
        batch: inputs for which its outputs must equal Keras' up to `TOLERANCE`.
        keep: the path `NAME.xml` where its files, `NAME.xml` and `NAME.bin`, are kept if all went well; None keeps none.
    """
    if not converts_to_openvino():
        return None
    precision = precision_of(model)
    try:
        import_openvino()
        with contextlib.ExitStack() as stack:
            file = keep or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.xml"
            network = stack.enter_context(written_whole(file))  # the exporter writes a .bin beside it
            with silent_stderr():
                # As float32, since the export fails on some casts to bfloat16. The compiled network can compute in bfloat16.
                recast(model, "float32").export(str(network), format="openvino", verbose=False)
            compiled = compile_file(network, precision)
            outputs = next(overlapped(compiled, [batch], len(model.outputs)))
            difference = max(map(relative_difference, outputs, keras_outputs(model, batch)))
            if difference > TOLERANCE[precision]:
                raise ValueError(f"its outputs differ from Keras' by {difference:.1g}")
    except UnwritableError:
        raise
    except Exception as error:  # not installed, a layer without a conversion, an unknown processor, ...
        logger.warning("OpenVINO cannot run this network (%s): Keras computes it", reason(error))
        return None
    logger.info("engine: OpenVINO, %s (relative difference from Keras %.1g)", precision, difference)
    return compiled


def precision_of(model: keras.Model) -> str:
    """Return `bfloat16` if any layer of a network computes in it, else `float32`."""
    return "bfloat16" if any(layer.compute_dtype == "bfloat16" for layer in all_layers(model)) else "float32"


def relative_difference(values: np.ndarray, exact: np.ndarray) -> float:
    """Return the L2 norm of the difference relative to that of `exact`; infinity if the shapes differ."""
    if values.shape != exact.shape:
        return float("inf")
    return float(np.linalg.norm(values - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
