"""Networks as files that cannot run code: a graph of plain Keras layers, and arrays.

Keras' own `.keras` files name any class of any module, and Keras imports and calls it, in safe mode too. Here, each object of
a graph must be in `PLAIN` before anything is built. The network is built without memory for its weights, and gets memory when
their shapes fit those in the file.
"""

import contextlib
import io
import json
import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from headstart.config import LARGEST_IMAGE, MOST_VALUES
from headstart.errors import DamagedError, HeadstartError
from headstart.system.backend import keras
from headstart.system.files import open_regular, read_bytes, written_whole
from headstart.system.keras_internals import give_memory, output_shapes, traced_shape, without_memory
from headstart.system.reading import MOST_JSON, parse_json
from headstart.system.text import first_line

# The files of a network in a run's folder.
GRAPH, WEIGHTS = "network.json", "weights.safetensors"
# Members of a .keras file.
CONFIG, ARRAYS = "config.json", "model.weights.h5"

# Layers that compute by Keras' own code alone and read no files, with the initialisers and whatever else they consist of.
PLAIN = {
    "keras": ("DTypePolicy", "Functional", "Sequential"),
    "keras.src.models.functional": ("Functional",),
    "keras.layers": (
        "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate", "Conv2D",
        "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "ELU", "EinsumDense", "Flatten",
        "GaussianDropout", "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "Identity",
        "InputLayer", "LayerNormalization", "LeakyReLU", "Maximum", "MaxPooling2D", "Minimum", "Multiply",
        "Normalization", "PReLU", "Permute", "RMSNormalization", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D",
        "Softmax", "SpatialDropout2D", "Subtract", "UnitNormalization", "UpSampling2D", "ZeroPadding2D",
    ),
    "keras.initializers": (
        "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "IdentityInitializer", "LecunNormal",
        "LecunUniform", "Ones", "Orthogonal", "OrthogonalInitializer", "RandomNormal", "RandomUniform", "TruncatedNormal",
        "VarianceScaling", "Zeros",
    ),
    "keras.regularizers": ("L1", "L1L2", "L2", "OrthogonalRegularizer"),
    "keras.constraints": ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"),
    "keras.src.applications.convnext": ("LayerScale",),
    "keras.src.ops.numpy": (
        "Add", "Concatenate", "Divide", "Maximum", "Mean", "Minimum", "Multiply", "Pad", "Reshape", "Sqrt", "Square", "Subtract",
        "Transpose", "TrueDivide",
    ),
    "keras.src.ops.nn": (
        "DotProductAttention", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Relu6", "Sigmoid", "Silu", "Softmax",
    ),
}  # fmt: skip
# Values that Keras writes as objects; they hold numbers alone.
VALUES = ("__keras_tensor__", "__numpy__", "__tensor__")
NUMBERS = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "uint8", "int32", "bool")
# More than any network has that fits this program: levels of nested objects, and objects. The largest backbone has 20,000.
MOST_LEVELS, MOST_OBJECTS = 60, 60_000
# Whatever is packed into a .keras file unpacks to at most so many times its size. Weights hardly compress.
MOST_EXPANSION = 8


def save_network(folder: Path, network: keras.Model) -> list[str]:
    """Write a network of plain layers as `network.json` and `weights.safetensors`; return the names of the files.

    Args:
        folder: an existing folder.
        network: a functional model.
    """
    with written_whole(folder / GRAPH) as partial:
        partial.write_text(json.dumps(keras.saving.serialize_keras_object(network)), encoding="utf-8")
    with written_whole(folder / WEIGHTS) as partial:
        partial.write_bytes(save(named(network)))  # `save_file` would keep it from everybody else
    return [GRAPH, WEIGHTS]


def named(network: keras.Model) -> dict[str, np.ndarray]:
    """Return a network's weights by their number. Their paths are no names: some layers name their weights by a counter."""
    # In C order: safetensors writes the memory as it is.
    arrays = (np.array(keras.ops.convert_to_numpy(weight), order="C") for weight in network.weights)
    return dict(zip(names(network), arrays, strict=True))


def names(network: keras.Model) -> list[str]:
    return [f"{number:05d}" for number in range(len(network.weights))]


def load_network(folder: Path, *, trust: bool = False) -> keras.Model:
    """Return the network that `save_network` has written into a folder.

    Args:
        trust: build layers outside of `PLAIN` too, which may run code.

    Raises:
        HeadstartError: a file is missing or damaged, or the network has layers that are not plain.
    """
    graph, weights = folder / GRAPH, folder / WEIGHTS
    try:
        network = build(parse_json(read_bytes(graph, MOST_JSON), graph), graph, trust)
        arrays = load_file(weights)
    except FileNotFoundError as error:
        raise DamagedError(f"{error.filename} is missing") from None
    except SafetensorError as error:
        raise DamagedError(f"{weights} is damaged: {error}") from None
    found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    wanted = dict(zip(names(network), ((tuple(one.shape), one.dtype) for one in network.weights), strict=True))
    if found != wanted:
        first = min(name for name in found.keys() | wanted if found.get(name) != wanted.get(name))
        raise DamagedError(f"{weights} does not fit {GRAPH}: weight {first} is {found.get(first)}, not {wanted.get(first)}")
    give_memory(network, [arrays[name] for name in names(network)])
    return network


def load_keras_file(path: Path, *, trust: bool = False) -> keras.Model:
    """Return the network in a `.keras` file.

    Args:
        trust: build layers outside of `PLAIN` too, which may run code.

    Raises:
        HeadstartError: the file is damaged, or has layers that are not plain.
    """
    with opened_keras_file(path) as archive:
        network = build(parse_json(read_member(archive, CONFIG, path), path), path, trust)
        arrays = read_member(archive, ARRAYS, path)
    available, wanted = count_arrays(io.BytesIO(arrays), path), network.count_params()
    if wanted > available:
        raise DamagedError(f"{path} is damaged: its layers want {wanted:,} weights, and it has {available:,}")
    give_memory(network)
    load_arrays(network, arrays, path)
    return network


def load_weights_file(network: keras.Model, path: Path) -> None:
    """Load the weights in a file, HDF5 or `.keras`, into a network.

    Raises:
        HeadstartError: they do not fit, are not finite, or the file is damaged.
    """
    if zipfile.is_zipfile(path):
        with opened_keras_file(path) as archive:
            arrays = read_member(archive, ARRAYS, path)
        count_arrays(io.BytesIO(arrays), path)
        return load_arrays(network, arrays, path)
    with open_regular(path) as stream:
        count_arrays(stream, path)
    load_checked(network, path, path)


def load_arrays(network: keras.Model, arrays: bytes, path: Path) -> None:
    """Load the content of an HDF5 file, which has been checked, into a network; `path` is named in errors."""
    # Through a file: out of an archive, Keras reads eight times as slowly.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, ARRAYS)
        file.write_bytes(arrays)
        load_checked(network, file, path)


def load_checked(network: keras.Model, file: Path, path: Path) -> None:
    try:
        network.load_weights(file)
    except Exception as error:  # h5py and Keras raise many kinds of exception for a file that does not fit
        raise HeadstartError(f"{path} holds no weights for {network.name}: {first_line(error)}") from None
    if not all(np.isfinite(keras.ops.convert_to_numpy(weight)).all() for weight in network.weights):
        raise HeadstartError(
            f"{path} lacks weights, or holds weights that are not finite: the training that made them has failed"
        )


def build(content: Any, path: Path, trust: bool) -> keras.Model:
    """Return a network without memory for its weights; with `trust`, with memory.

    Args:
        content: of the JSON that describes the network.
        path: of its file, for errors.
    """
    if not isinstance(content, dict) or "class_name" not in content:
        raise DamagedError(f"{path} is damaged: it describes no network")
    try:
        if trust:
            keras.config.enable_unsafe_deserialization()  # layers that are copied later are made of their configuration again
            return keras.saving.deserialize_keras_object(without_compiling(content), safe_mode=False)
        refuse_code(content, path)
        with without_memory():
            network = keras.saving.deserialize_keras_object(without_compiling(content), safe_mode=True)
            if not isinstance(network, keras.Model) or not network.inputs:
                raise ValueError("it does not say what it takes")
            if any(one is other for one in network.inputs for other in network.outputs):
                raise ValueError("it gives back what it takes")
            refuse_huge_outputs(network, path)
        return network
    except HeadstartError:
        raise
    except Exception as error:  # Keras raises many kinds of exception for what does not fit together
        raise HeadstartError(f"{path} cannot be built by Keras {keras.version()}: {first_line(error)}") from None


def refuse_code(content: Any, path: Path) -> None:
    """Refuse the description of a network with an object that is not in `PLAIN`. Nothing is imported for that.

    Raises:
        HeadstartError: it names the object, and the way to use it all the same.
    """
    for number, node in enumerate(nodes(content, path)):
        if number > MOST_OBJECTS:
            raise DamagedError(f"{path} is damaged: it has more than {MOST_OBJECTS:,} objects")
        name, module, registered = (node.get(key) for key in ("class_name", "module", "registered_name"))
        if "class_name" in node and not is_plain(name, module, registered):
            what = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else f"an object {str(name)[:50]!r}"
            raise HeadstartError(
                f"{path} has {what}, which is none of Keras' plain layers and may run code: give --trust if you trust whoever "
                "made the file"
            )
        dilation = node.get("dilation_rate", 1)  # what it adds to an image takes memory, and is not seen in any output
        if any(isinstance(one, int) and one > LARGEST_IMAGE for one in (dilation if isinstance(dilation, list) else [dilation])):
            raise HeadstartError(f"{path} has a layer of dilation_rate {str(dilation)[:50]}, which is larger than any image")
        numbers = node.get("config", {}).get("name") if name == "DTypePolicy" else node.get("dtype")
        if isinstance(numbers, str) and numbers not in NUMBERS:
            raise HeadstartError(f"{path} computes in {numbers[:50]}, and not in one of {', '.join(NUMBERS)}")


def is_plain(name: Any, module: Any, registered: Any) -> bool:
    """Whether class, module and registered name of an object are those of a plain one."""
    if not isinstance(name, str) or not isinstance(module, str | None) or registered not in (None, name):
        return False
    return (name in VALUES and module is None) or name in PLAIN.get(module or "", ())


def nodes(content: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries in decoded JSON, without recursion."""
    waiting = [(content, 0)]
    while waiting:
        node, level = waiting.pop()
        if level > MOST_LEVELS:
            raise DamagedError(f"{path} is damaged: its entries are nested too deeply")
        if isinstance(node, dict):
            yield node
        if isinstance(node, dict | list):
            waiting += [(inner, level + 1) for inner in (node.values() if isinstance(node, dict) else node)]


def without_compiling(content: Any) -> Any:
    """Return the description of a network without what it was trained with: loss, optimizer, metrics."""
    if isinstance(content, list):
        return [without_compiling(item) for item in content]
    if not isinstance(content, dict):
        return content
    return {name: without_compiling(value) for name, value in content.items() if name != "compile_config"}


def try_out(network: keras.Model, shape: tuple[int, ...], path: Path) -> None:
    """Refuse a network that is well-formed, but that the backend cannot run on images of a shape. Nothing is computed for that.

    Raises:
        HeadstartError: it gives the backend's reason.
    """
    try:
        with without_memory():
            traced_shape(network, (1, *shape))
    except Exception as error:  # the backends raise many kinds of exception
        raise HeadstartError(f"{path} cannot be run on images of {shape[0]} x {shape[1]} px: {first_line(error)}") from None


def refuse_huge_outputs(network: keras.Model, path: Path) -> None:
    """Refuse a network with a layer whose output for one image would not fit the memory."""
    name, values = largest_output(network)
    if values > MOST_VALUES:
        raise HeadstartError(f"{path}: the output of layer {name!r} is too large: {values:,} values for an image")


def largest_output(network: keras.Model) -> tuple[str, int]:
    """Return the layer whose output for one image has the most values, and their number."""
    _, *sides = network.input_shape
    shapes = output_shapes(network, (1, *(side or LARGEST_IMAGE for side in sides)))
    return max(((name, math.prod(length or 1 for length in shape)) for name, shape in shapes), key=lambda one: one[1])


@contextlib.contextmanager
def opened_keras_file(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a `.keras` file, a zip archive.

    Raises:
        DamagedError: it is none, or was cut.
    """
    with open_regular(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                yield archive
        # A damaged member: a wrong checksum or place, an unknown compression, a password, data that end too early.
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise DamagedError(f"{path} is not a Keras model that can be loaded: {first_line(error)}") from None


def read_member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Return the content of a member of a `.keras` file."""
    found = [member for member in archive.infolist() if member.filename == name]
    if len(found) != 1:
        raise DamagedError(f"{path} is not a Keras model that can be loaded: it has {len(found)} members {name}")
    if found[0].file_size > MOST_EXPANSION * found[0].compress_size + MOST_JSON // 8:
        raise DamagedError(f"{path} is not a Keras model that can be loaded: {name} unpacks to {found[0].file_size:,} bytes")
    return archive.read(found[0])


def count_arrays(stream: BinaryIO, path: Path) -> int:
    """Return how many numbers the arrays of an HDF5 file have, all of which must lie in this file.

    Raises:
        DamagedError: it is no such file; it links to others; or its arrays would take much more memory than the file.
    """
    size = stream.seek(0, io.SEEK_END)
    values = [0, 0]

    # What these two return, other than None, ends the visit.
    def of_link(name: str, link: Any) -> str | None:
        if name.count("/") > MOST_LEVELS:
            return "its groups are nested too deeply"
        return None if isinstance(link, h5py.HardLink) else f"{name} is a link to another place"

    def of_item(name: str, item: Any) -> str | None:
        if not isinstance(item, h5py.Dataset):
            return None
        if item.dtype.kind not in "fiubV" or item.dtype.hasobject or item.is_virtual or item.external:
            return f"{name} holds no plain numbers"
        values[0], values[1] = values[0] + item.size, values[1] + item.nbytes
        return f"{name} is larger than the file" if values[1] > MOST_EXPANSION * size + MOST_JSON // 8 else None

    try:
        with h5py.File(stream, "r") as store:
            wrong = store.visititems_links(of_link) or store.visititems(of_item)
    except Exception as error:  # h5py raises many kinds of exception for a damaged file
        wrong = first_line(error)
    if wrong:
        raise DamagedError(f"{path} holds no weights that can be read: {wrong}")
    return values[0]
