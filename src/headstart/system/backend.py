"""Keras and its backends. Only this module, `headstart.system.kernels` and `headstart.system.coordinator` know
TensorFlow, JAX and PyTorch by name.

Every module takes Keras from here, `from headstart.system.backend import keras`, so that Keras starts without messages.
"""

import contextlib
import functools
import glob
import hashlib
import importlib.util
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headstart.errors import DamagedError, HeadstartError
from headstart.system.cache import cache_folder, files_of, prune
from headstart.system.reading import read_json

logger = logging.getLogger("headstart")

# What messages of the three backends contain if memory runs out.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "can't allocate memory", "bad_alloc")

BACKENDS = ("tensorflow", "jax", "torch")

# What an installation holds that can compute on an NVIDIA GPU: a file in the folder of a package. The fastest comes first.
CUDA = {"jax": ("jax_plugins", "xla_cuda*"), "torch": ("torch", "lib/*torch_cuda.*")}
# The devices of NVIDIA GPUs on Linux, containers included, and NVIDIA's driver in WSL, which has no such devices.
DEVICES = ("/dev/nvidia[0-9]*", "/usr/lib/wsl/lib/libcuda.so.1")
# The version of the driver in the kernel, and the oldest one for CUDA 13.
DRIVER, OLDEST_DRIVER = Path("/sys/module/nvidia/version"), 580

# A training's programs, a hundred or two, take 1 MB on CPUs.
MOST_COMPILED_BYTES = 1 << 30


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
        with silent_stderr():
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


def choose_backend() -> None:
    """Set `KERAS_BACKEND`, for this process and those that it starts, unless the user has chosen a backend.

    Without a choice, it is one that can use the machine's NVIDIA GPU: JAX, then PyTorch. Without a GPU, or where none of them
    can use it, it is the first that is installed: TensorFlow, JAX or PyTorch. Apple's and AMD's GPUs are not looked for, since
    nothing was measured on them.
    """
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND") or configured():
        return
    able = [name for name in CUDA if has_cuda(name)] if nvidia_gpu() else []
    here = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if able or here:
        os.environ["KERAS_BACKEND"] = (able or here)[0]


def configured() -> bool:
    """Whether Keras' configuration file names a backend that the user has chosen.

    TensorFlow is no choice: Keras writes that file itself when it is first imported, and names TensorFlow in it.
    """
    folder = os.environ.get("KERAS_HOME", os.path.join("~", ".keras"))
    try:
        named = read_json(Path(os.path.expanduser(folder), "keras.json"), dict[str, Any]).get("backend")
    except (OSError, DamagedError):
        return False
    return named not in (None, "tensorflow")


def nvidia_gpu() -> bool:
    """Whether the machine has an NVIDIA GPU that this process may use. No driver and no backend is started to find out."""
    visible, platforms = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("JAX_PLATFORMS")
    # CUDA ignores what follows the first name that is no device's: nothing, -1 and Slurm's NoDevFiles hide all GPUs.
    if visible is not None and not re.match(r"\s*(\d|GPU-|MIG-)", visible):
        return False
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return False
    return any(glob.glob(pattern) for pattern in DEVICES)


def has_cuda(name: str) -> bool:
    """Whether JAX or PyTorch is installed, and built for NVIDIA GPUs. It is not imported, which would take seconds."""
    package, pattern = CUDA[name]
    found = importlib.util.find_spec(name) and importlib.util.find_spec(package)
    folders = (found and found.submodule_search_locations) or []
    return any(glob.glob(os.path.join(glob.escape(folder), pattern)) for folder in folders)


@functools.cache
def say_unused_gpu() -> None:
    """Warn, once in a process, if the machine has an NVIDIA GPU. Called where the backend cannot use one."""
    if not nvidia_gpu():
        return
    used, able = load_keras().backend.backend(), [name for name in CUDA if has_cuda(name)]
    if used in able:  # the driver is missing, too old or for another kernel; a library of CUDA is missing, ...
        test = "jax; jax.devices('cuda')" if used == "jax" else "torch; torch.zeros(1).cuda()"
        way = f'python -c "import {test}" says why'
    elif able:
        way = f"start again with KERAS_BACKEND={able[0]}"
    else:
        way = f"pip install '{'jax[cuda12]' if driver_is_old() else 'headstart[cuda]'}'"
    logger.warning("this machine has an NVIDIA GPU that %s cannot use here: %s", used, way)


def driver_is_old() -> bool:
    """Whether NVIDIA's driver is too old for CUDA 13, which `headstart[cuda]` brings. False if its version is not known."""
    try:
        return int(DRIVER.read_text().partition(".")[0]) < OLDEST_DRIVER
    except (OSError, ValueError):
        return False


@functools.cache
def keep_compiled() -> None:
    """Let JAX keep the programs that it compiles in the cache folder, where the next process finds them.

    JAX finds a program again if the computation with its shapes and constants, the device, JAX's version, XLA's flags and the
    folder are the same. `JAX_COMPILATION_CACHE_DIR` and `JAX_ENABLE_COMPILATION_CACHE=false` are respected.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return
    try:
        # Programs for CPUs use all instructions of the processor, and JAX does not ask whether another one has them.
        folder = cache_folder("compiled") / hashlib.sha256(processor_flags().encode()).hexdigest()[:16]
        folder.mkdir(mode=0o700, exist_ok=True)
        prune(files_of("compiled"), MOST_COMPILED_BYTES)
    except (HeadstartError, OSError):
        return  # whatever cannot do without a cache says so
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The many small ones, too: together they take seconds, and each compiles longer than it is read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    explain_damage(folder)


def explain_damage(folder: Path) -> None:
    """Remove kept programs that JAX warns about, and say so in one line in place of its warning.

    JAX compiles again what it cannot read, such as a file that a killed process left, but never writes it anew.
    """
    shown, said = warnings.showwarning, set()

    def show(message: Warning | str, *args: Any, **options: Any) -> None:
        pattern = r"Error (reading|writing) persistent compilation cache entry for '([^']+)': \w+: ([^\n]*)"
        if not (found := re.match(pattern, str(message))):
            return shown(message, *args, **options)
        what, name, why = found.groups()
        for file in folder.glob(f"{glob.escape(name)}-*"):
            file.unlink(missing_ok=True)
        if what not in said and what == "reading":
            logger.info("compiled programs in %s are damaged: they are compiled again", folder)
        elif what not in said:
            logger.warning("compiled programs cannot be kept in %s, so the next start takes as long: %s", folder, why)
        said.add(what)

    warnings.showwarning = show


def processor_flags() -> str:
    """Return what kind of processor this is, and what instructions it has, as Linux says it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return " ".join([platform.machine(), *[line for line in lines if re.match(r"(flags|Features)\s*:", line)][:1]])


def another_backend(than: str) -> str:
    """Return, as the end of a sentence, which installed backend to choose, or which one to install."""
    here = [name for name in BACKENDS if name != than and importlib.util.find_spec(name)]
    return f"set KERAS_BACKEND to {' or '.join(here)}" if here else f"install {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}"


@contextlib.contextmanager
def silent_stderr(number: int = 2) -> Iterator[None]:
    """Drop what native code writes to file descriptor 2, or another one, inside the block."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved, null = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    try:
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)
        os.close(null)


def has_gpu() -> bool:
    """Whether the backend computes on a GPU. If it cannot use one that the machine has, a warning says so, once."""
    keras = load_keras()
    if keras.backend.backend() == "torch":  # Keras lists no devices for PyTorch
        import torch

        found = torch.accelerator.is_available()
    else:
        found = any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())
    if not found:
        say_unused_gpu()
    return found


def learning_devices(devices: str) -> list[str]:
    """Return the names of the devices that `--devices` asks for; none where the backend computes on one and chooses it.

    Args:
        devices: `all`, `cluster` or a number.

    Raises:
        HeadstartError: there are fewer, or the backend is not JAX.
    """
    keras, several = load_keras(), devices not in ("all", "1")
    if keras.backend.backend() != "jax":
        if several:
            raise HeadstartError(
                f"--devices {devices} needs JAX, not {keras.backend.backend()}: install jax, and set KERAS_BACKEND=jax"
            )
        return []
    found = keras.distribution.list_devices()
    if devices == "all" and not has_gpu():
        return found[:1]  # a CPU's cores work together as they are
    if several and devices != "cluster" and int(devices) > len(found):
        more = "" if has_gpu() else "; a CPU counts as one"
        raise HeadstartError(f"--devices {devices}: JAX finds only {len(found)} here{more}")
    return found if devices in ("all", "cluster") else found[: int(devices)]


def join_processes(address: str, count: int, process: int, neighbour: int, neighbours: int) -> None:
    """Let JAX compute on the devices of several processes. Call it before anything is computed.

    Args:
        address: `HOST:PORT`, where the first process is to start the coordination service.
        count: the number of processes.
        process: the number of this one, from 0.
        neighbour: its number among those on this machine, from 0.
        neighbours: how many these are. If each sees all GPUs of the machine, each takes one.

    Raises:
        HeadstartError: the backend is not JAX, or JAX is in use already.
    """
    if load_keras().backend.backend() != "jax":
        learning_devices("cluster")
    import jax

    options: dict[str, Any] = {}
    if process == 0 and (served := serve_coordination(address, count)):
        # Its own service, which nobody uses, gets a port that nobody knows.
        options["coordinator_bind_address"] = served
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if neighbours > 1 and (visible is None or len(visible.split(",")) >= neighbours):
        options["local_device_ids"] = [neighbour]
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # JAX would ask the launcher too, and take one device where Slurm or Open MPI started it.
        jax.distributed.initialize(address, count, process, cluster_detection_method="deactivate", **options)
    except RuntimeError as error:
        raise HeadstartError(f"--devices cluster: JAX cannot begin ({str(error).splitlines()[0]})") from None
    from jax.experimental import multihost_utils

    with silent_stderr(1), silent_stderr(2):  # each connection is reported
        multihost_utils.sync_global_devices("headstart")


def serve_coordination(address: str, count: int) -> str:
    """Start `headstart.system.coordinator`; return an address on which nothing listens, or "" if it does not start."""
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "headstart.system.coordinator", f"[::]:{port}", str(count)]
    # It notices by its stdin that this process has ended. It ends by itself, so nobody waits for it.
    service = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    SERVICES.append(service)
    assert service.stdout
    if service.stdout.readline() != b"ready\n":
        return ""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


SERVICES: list[subprocess.Popen[bytes]] = []  # kept, since their stdin would be closed with them


def replicated(value: Any, layout: Any) -> Any:
    """Return an array of JAX on all devices of a Keras `TensorLayout`, or for None on the first device of this process."""
    import jax

    if layout is None:
        return jax.numpy.asarray(jax.device_get(value))
    sharding = layout.backend_layout
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    array = jax.device_get(value)  # `device_put` would compare the values of all processes, one array at a time
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


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
    cpu_flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fast = "amx_bf16" in cpu_flags or ("avx512_bf16" in cpu_flags and "AuthenticAMD" in cpu_flags)
    gains = fast and load_keras().backend.backend() == "tensorflow"
    return "bfloat16" if gains else "float32"


def converts_to_openvino() -> bool:
    """Whether OpenVINO converts networks of the backend. It knows neither JAX's operations nor its exported graphs."""
    return load_keras().backend.backend() != "jax"


def resolve_jit() -> bool | str:
    """Return the value for Keras' `jit_compile`. It is False for TensorFlow on CPUs, where XLA is three times slower."""
    on_tensorflow_cpu = load_keras().backend.backend() == "tensorflow" and not has_gpu()
    return False if on_tensorflow_cpu else "auto"


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
