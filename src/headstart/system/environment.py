"""What a result depends on besides its configuration: versions, processor, cores."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterable

from headstart.system.backend import has_gpu, keras
from headstart.system.processor import processor, usable_cores


def versions() -> dict[str, str]:
    """Return the versions and the hardware that a result depends on."""
    names = ("headstart", "numpy", "scipy", "pillow", "scikit-learn")
    return {
        "backend": keras.backend.backend(), "python": platform.python_version(), "platform": platform.platform(),
        **installed(names), **computing(), **processor(), "cores": str(os.cpu_count()), "threads": str(usable_cores()),
        "gpu": str(has_gpu()).lower(),
    }  # fmt: skip


def computing() -> dict[str, str]:
    """Return the versions of the packages that compute a network's outputs: Keras, all packages of its backend, OpenVINO."""
    backend = keras.backend.backend()
    # TensorFlow comes as tensorflow, tensorflow-cpu and others; JAX computes with jaxlib and a plugin for each device.
    found = installed_like(rf"{backend}(lib|-.*)?") or {backend: sys.modules[backend].__version__}
    return {"keras": keras.version()} | found | installed(("openvino",))


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the named packages, without those that are not installed."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def installed_like(pattern: str) -> dict[str, str]:
    """Return the versions of the installed packages whose whole name matches a regular expression."""
    named = {
        distribution.name.lower().replace("_", "-"): distribution.version for distribution in importlib.metadata.distributions()
    }
    return {name: version for name, version in sorted(named.items()) if re.fullmatch(pattern, name)}
