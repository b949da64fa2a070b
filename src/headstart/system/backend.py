"""The one place that knows Keras' backends by name: TensorFlow, JAX and PyTorch."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from headstart.errors import HeadstartError
from headstart.system.memory import keep_freed_memory

# What the three backends write when memory is short.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "can't allocate memory", "bad_alloc")


BACKENDS = ("tensorflow", "jax", "torch")


def load_keras():
    """Import and return Keras, without the lines that its backend prints while it starts.

    Raises:
        HeadstartError: the backend that `KERAS_BACKEND` (or Keras' own configuration) asks for is unknown, cannot train,
            is not installed, or is broken.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    chosen = os.environ.get("KERAS_BACKEND", "")
    if chosen not in ("", *BACKENDS):
        raise HeadstartError(f"KERAS_BACKEND is {chosen!r}, which Headstart does not know: {another_backend(chosen)}")
    try:
        with silent_stderr():
            import keras
    except Exception as error:  # it lacks a library, or one is of another version or for another processor, ...
        which = f"KERAS_BACKEND={chosen}" if chosen else "Keras' backend"
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HeadstartError(f"{which} cannot be loaded ({why}): mend that installation, or {another_backend(chosen)}") from error
    used = keras.backend.backend()
    if used not in BACKENDS:  # by Keras' configuration file, or imported before
        raise HeadstartError(f"Keras' backend is {used!r}, which Headstart does not know: {another_backend(used)}")
    # TensorFlow warns of retracing each time that another small model predicts.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return keras


def another_backend(than: str) -> str:
    """Return how to choose a backend that is installed, or which to install."""
    here = [name for name in BACKENDS if name != than and importlib.util.find_spec(name)]
    return f"set KERAS_BACKEND to {' or '.join(here)}" if here else f"install {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}"


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop what native code writes to file descriptor 2; Python's own `sys.stderr` may be elsewhere."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def has_gpu() -> bool:
    """Whether the backend computes on a GPU."""
    keras = load_keras()
    if keras.backend.backend() == "torch":  # Keras lists no devices for it.
        import torch

        return torch.accelerator.is_available()
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def resolve_precision(precision: str) -> str:
    """Return `bfloat16` or `float32` for `auto`: bfloat16 where the hardware gains from it.

    On CPUs that is TensorFlow with Intel's AMX or with AMD's AVX-512. Intel's AVX-512 has the same bfloat16
    instructions, but at half the rate: a Sapphire Rapids without AMX ran a 3 x 3 convolution at 150 GFLOP/s in
    bfloat16 and at 250 in float32, where a Zen 4 passed ResNet-50 forward twice and trained it 1.5 times as
    fast in bfloat16, and the starter with batch norm that learns 1.4 times.
    """
    if precision != "auto":
        return precision
    if has_gpu():
        return "bfloat16"
    cpu_flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fast = "amx_bf16" in cpu_flags or ("avx512_bf16" in cpu_flags and "AuthenticAMD" in cpu_flags)
    gains = fast and load_keras().backend.backend() == "tensorflow"
    return "bfloat16" if gains else "float32"


def converts_to_openvino() -> bool:
    """Whether OpenVINO converts the backend's networks: it knows neither JAX's operations nor its exported graphs."""
    return load_keras().backend.backend() != "jax"


def resolve_jit() -> bool | str:
    """Return Keras' `jit_compile`: XLA is three times slower than oneDNN for TensorFlow on CPUs."""
    on_tensorflow_cpu = load_keras().backend.backend() == "tensorflow" and not has_gpu()
    return False if on_tensorflow_cpu else "auto"


def small_convolutions_are_slow() -> bool:
    """Whether convolutions of small maps are several times slower than the same as products of matrices, forward too.

    They are in JAX on CPUs: a ResNet-50 at 64 px took 42 ms for each image, and 9 with `headstart.model.fast.small_convolutions`.
    """
    return load_keras().backend.backend() == "jax" and not has_gpu()


def without_autotuning(batches: Any) -> Any:
    """Return a `keras.utils.PyDataset` as `fit` had better be given it: with TensorFlow as a dataset without autotuning.

    Batches that are made one after the other leave nothing to tune, but the thread that would tune them
    sleeps for up to a minute, and `fit` returns only when it wakes.
    """
    if load_keras().backend.backend() != "tensorflow":
        return batches
    import tensorflow

    def generate() -> Iterator[tuple]:
        keep_freed_memory()  # again, since TensorFlow's generators reset that when they start
        for step in range(batches.num_batches):  # in the order that they have when an epoch begins
            yield batches[step]

    signature = tuple(tensorflow.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    dataset = tensorflow.data.Dataset.from_generator(generate, output_signature=signature)
    counted = dataset.apply(tensorflow.data.experimental.assert_cardinality(batches.num_batches))
    return counted.prefetch(2).with_options(options)  # the next batch is made while this one trains


def adam_in_one_pass(
    variable: Any,
    momentum: Any,
    velocity: Any,
    gradient: Any,
    rate: Any,
    iterations: Any,
    betas: tuple[float, float],
    epsilon: float,
) -> bool:
    """Do Adam's step on one variable in a single pass over its memory, where the backend has an operation for that.

    Keras writes the step as a dozen operations, and TensorFlow passes over all weights in each: 90 ms of a 600 ms
    step of a ResNet-50 at 64 px.

    Args:
        variable, momentum, velocity: a weight and its two moments, all of one shape.
        iterations: how many steps were done before this one.

    Returns:
        Whether it has done it; else the caller must.
    """
    keras = load_keras()
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow

    weight, first, second = (
        array.value if isinstance(array, keras.Variable) else array for array in (variable, momentum, velocity)
    )
    step = tensorflow.cast(tensorflow.convert_to_tensor(iterations) + 1, weight.dtype)
    powers = [tensorflow.pow(tensorflow.cast(beta, weight.dtype), step) for beta in betas]
    tensorflow.raw_ops.ResourceApplyAdam(
        var=weight.handle, m=first.handle, v=second.handle, beta1_power=powers[0], beta2_power=powers[1],
        lr=tensorflow.cast(rate, weight.dtype), beta1=betas[0], beta2=betas[1], epsilon=epsilon, grad=gradient,
    )  # fmt: skip
    return True


def batch_norm_in_one_pass(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any] | None:
    """Normalise a batch by its own mean and variance in a single operation, where the backend has one.

    Forward and backward it took 8 ms for a batch of 128 with 32 x 32 x 32 values in bfloat16, and Keras' batch norm 37.

    Args:
        inputs: float (B, h, w, C).
        gamma, beta: float32 (C,).

    Returns:
        The outputs, of the inputs' shape and dtype, and the batch's mean and variance, float32 (C,); None where there is none.
    """
    keras = load_keras()
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow

    outputs, mean, variance, *_ = tensorflow.raw_ops.FusedBatchNormV3(
        x=inputs, scale=gamma.value, offset=beta.value, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tensorflow.cast(tensorflow.size(inputs) / tensorflow.shape(inputs)[-1], variance.dtype)
    # It estimates the population's variance, and Keras keeps the batch's.
    return outputs, mean, variance * (count - 1) / count


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed Python, NumPy and the backend; on request, allow only deterministic operations."""
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


def versions() -> dict[str, str]:
    """Return the versions and the hardware that a result depends on."""
    names = ("headstart", "numpy", "scipy", "pillow", "scikit-learn")
    return {
        "backend": load_keras().backend.backend(), "python": platform.python_version(), "platform": platform.platform(),
        **installed(names), **computing(), **processor(), "cores": str(os.cpu_count()), "threads": str(usable_cores()),
        "gpu": str(has_gpu()).lower(),
    }  # fmt: skip


def computing() -> dict[str, str]:
    """Return the versions of what computes a network's outputs: Keras, its backend under all its packages' names, OpenVINO."""
    keras = load_keras()
    backend = keras.backend.backend()
    # TensorFlow comes as tensorflow, tensorflow-cpu and others; JAX computes by jaxlib and a plugin for each device.
    found = installed_like(rf"{backend}(lib|-.*)?") or {backend: sys.modules[backend].__version__}
    return {"keras": keras.version()} | found | installed(("openvino",))


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of some packages that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def installed_like(pattern: str) -> dict[str, str]:
    """Return the versions of the installed packages whose whole name matches."""
    named = {
        distribution.name.lower().replace("_", "-"): distribution.version for distribution in importlib.metadata.distributions()
    }
    return {name: version for name, version in sorted(named.items()) if re.fullmatch(pattern, name)}


@functools.cache
def processor() -> dict[str, str]:
    """Return the `processor`'s model and those of its `instructions` by which numbers are computed, where they are known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # Linux alone has it
        lines = []
    # The first processor's; "flags" on x86, "Features" on ARM, which names no model.
    known = dict(reversed([[half.strip() for half in line.split(":", 1)] for line in lines if ":" in line]))
    flags = (known.get("flags") or known.get("Features") or "").split()
    numeric = sorted(flag for flag in flags if re.fullmatch(r"(avx|amx|sve|asimd|fma|f16c|bf16|i8mm).*", flag))
    return {"processor": known.get("model name") or platform.processor(), "instructions": " ".join(numeric)}


def usable_cores() -> int:
    """Return how many cores this process may use, as a container or a batch system allows."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
