"""Which backend computes, if the user has not chosen one: found out without importing any of them."""

import functools
import glob
import importlib.util
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from headstart.errors import DamagedError
from headstart.system.names import BACKENDS
from headstart.system.reading import read_json

logger = logging.getLogger("headstart")

# What an installation holds that can compute on an NVIDIA GPU: a file in the folder of a package. The fastest comes first.
CUDA = {"jax": ("jax_plugins", "xla_cuda*"), "torch": ("torch", "lib/*torch_cuda.*")}
# The devices of NVIDIA GPUs on Linux, containers included, and NVIDIA's driver in WSL, which has no such devices.
DEVICES = ("/dev/nvidia[0-9]*", "/usr/lib/wsl/lib/libcuda.so.1")
# The version of the driver in the kernel, and the oldest one for CUDA 13.
DRIVER, OLDEST_DRIVER = Path("/sys/module/nvidia/version"), 580


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
def say_unused_gpu(used: str) -> None:
    """Warn, once in a process, if the machine has an NVIDIA GPU. Called where the backend that is used cannot use one."""
    if not nvidia_gpu():
        return
    able = [name for name in CUDA if has_cuda(name)]
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


def another_backend(than: str) -> str:
    """Return, as the end of a sentence, which installed backend to choose, or which one to install."""
    here = [name for name in BACKENDS if name != than and importlib.util.find_spec(name)]
    return f"set KERAS_BACKEND to {' or '.join(here)}" if here else f"install {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}"
