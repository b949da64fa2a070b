"""Keras and its backends. TensorFlow, JAX and PyTorch are known by name in `headstart.system` alone.

Every module takes Keras from here, `from headstart.system.backend import keras`, so that Keras starts without messages.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from headstart.errors import HeadstartError
from headstart.system.choice import another_backend, choose_backend, say_unused_gpu
from headstart.system.compiled import keep_compiled
from headstart.system.names import BACKENDS
from headstart.system.processor import fields, flags

# What messages of the three backends contain if memory runs out.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "can't allocate memory", "bad_alloc")


# How many blocks of `silent_stderr` a descriptor is silent for, and what it was before.
_SILENT: dict[int, tuple[int, int]] = {}
_SILENCING = threading.Lock()


def __getattr__(name: str) -> Any:
    if name == "keras":
        return load_keras()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_keras() -> Any:
    """Import and return Keras, without the messages that its backend prints while it starts; see `choose_backend`.

    Raises:
        HeadstartError: the backend that `KERAS_BACKEND` or Keras' configuration file names is unknown, not installed or broken.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # By default, JAX takes 75 % of a GPU's memory at once and TensorFlow all of it. Then nothing is left for the process in
    # which `plan` measures, for a second training, or for the user's other programs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    choose_backend()
    chosen = os.environ.get("KERAS_BACKEND", "")
    if chosen not in ("", *BACKENDS):
        raise HeadstartError(f"KERAS_BACKEND is {chosen!r}, which Headstart does not know: {another_backend(chosen)}")
    try:
        with contextlib.nullcontext() if "keras" in sys.modules else silent_stderr():
            import keras
    except Exception as error:  # a library is missing, has the wrong version or is for another processor, ...
        which = f"KERAS_BACKEND={chosen}" if chosen else "Keras' backend"
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HeadstartError(f"{which} cannot be loaded ({why}): mend that installation, or {another_backend(chosen)}") from error
    used = keras.backend.backend()
    if used not in BACKENDS:  # chosen by Keras' configuration file, or Keras was imported before
        raise HeadstartError(f"Keras' backend is {used!r}, which Headstart does not know: {another_backend(used)}")
    # TensorFlow warns about retracing each time another small model predicts.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if used == "jax":
        keep_compiled()
    return keras


@contextlib.contextmanager
def silent_stderr(number: int = 2) -> Iterator[None]:
    """Drop what native code writes to file descriptor 2, or another one, inside the block.

    Several threads may be inside: the first one redirects, and the last one brings the descriptor back.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with _SILENCING:
        inside, saved = _SILENT.get(number) or (0, os.dup(number))
        if not inside:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
        _SILENT[number] = (inside + 1, saved)
    try:
        yield
    finally:
        with _SILENCING:
            inside, saved = _SILENT.pop(number)
            if inside > 1:
                _SILENT[number] = (inside - 1, saved)
            else:
                os.dup2(saved, number)
                os.close(saved)


def has_gpu() -> bool:
    """Whether the backend computes on a GPU. If it cannot use one that the machine has, a warning says so, once."""
    keras = load_keras()
    if keras.backend.backend() == "torch":  # Keras lists no devices for PyTorch
        import torch

        found = torch.accelerator.is_available()
    else:
        found = any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())
    if not found:
        say_unused_gpu(keras.backend.backend())
    return found


def device_memory() -> int:
    """Return how many bytes of memory the GPU has; 0 without a GPU, or where the backend does not say it."""
    if not has_gpu():
        return 0
    backend = load_keras().backend.backend()
    if backend == "jax":
        import jax

        return int((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0))
    if backend == "torch":
        import torch

        return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0
    return 0


def steps_per_call() -> int:
    """Return how many training steps Keras gives the backend at once: several on a GPU, which must not wait for the host.

    With PyTorch, Keras allows one alone.
    """
    return 16 if has_gpu() and load_keras().backend.backend() != "torch" else 1


def resolve_precision(precision: str) -> str:
    """Return `bfloat16` or `float32`. For `auto`, it is bfloat16 if the hardware is faster with it.

    A GPU is. A CPU is with TensorFlow and Intel's AMX or AMD's AVX-512. Intel's AVX-512 has the same bfloat16 instructions,
    but at half the rate: a Sapphire Rapids without AMX ran a 3 x 3 convolution at 150 GFLOP/s in bfloat16 and at 250 in
    float32. In bfloat16, a Zen 4 ran ResNet-50 forward 2 times as fast and trained it 1.5 times as fast, and trained the
    starter with batch norm that learns 1.4 times as fast.
    """
    if precision != "auto":
        return precision
    if has_gpu():
        return "bfloat16"
    cpu = fields()
    fast = "amx_bf16" in flags(cpu) or ("avx512_bf16" in flags(cpu) and cpu.get("vendor_id") == "AuthenticAMD")
    gains = fast and load_keras().backend.backend() == "tensorflow"
    return "bfloat16" if gains else "float32"


def converts_to_openvino() -> bool:
    """Whether OpenVINO converts networks of the backend. It knows neither JAX's operations nor its exported graphs."""
    return load_keras().backend.backend() != "jax"


def resolve_jit() -> bool | str:
    """Return the value for Keras' `jit_compile`. It is False for TensorFlow on CPUs, where XLA is three times slower."""
    on_tensorflow_cpu = load_keras().backend.backend() == "tensorflow" and not has_gpu()
    return False if on_tensorflow_cpu else "auto"


def compiles_each_shape() -> bool:
    """Whether the backend compiles a network anew for each batch size, which takes seconds. JAX does."""
    return load_keras().backend.backend() == "jax"


def small_convolutions_are_slow() -> bool:
    """Whether the forward pass of convolutions of small feature maps is several times slower than matrix products.

    It is with JAX on CPUs: a ResNet-50 at 64 px took 42 ms per image, and 9 ms with `headstart.model.fast.small_convolutions`.
    """
    return load_keras().backend.backend() == "jax" and not has_gpu()


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed Python, NumPy and the backend.

    Args:
        deterministic: allow only deterministic operations.

    Raises:
        HeadstartError: JAX on a GPU needs an environment variable for `deterministic`.
    """
    keras = load_keras()
    keras.utils.set_random_seed(seed)
    if not deterministic:
        return
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()
    elif backend == "torch":
        import torch

        torch.use_deterministic_algorithms(True)
    elif has_gpu() and "xla_gpu_deterministic_ops" not in os.environ.get("XLA_FLAGS", ""):
        raise HeadstartError("--deterministic with JAX on a GPU: set XLA_FLAGS=--xla_gpu_deterministic_ops=true and start again")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any backend says that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
