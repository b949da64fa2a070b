"""What processor this is, and what it can do."""

import functools
import os
import platform
import re
from pathlib import Path


@functools.cache
def processor() -> dict[str, str]:
    """Return the model of the `processor`, and its numeric `instructions`; empty if they are not known."""
    known = fields()
    numeric = sorted(name for name in flags(known).split() if re.fullmatch(r"(avx|amx|sve|asimd|fma|f16c|bf16|i8mm).*", name))
    return {"processor": known.get("model name") or platform.processor(), "instructions": " ".join(numeric)}


def fields() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return dict(reversed([[half.strip() for half in line.split(":", 1)] for line in lines if ":" in line]))


def flags(known: dict[str, str]) -> str:
    """Return all instructions of a processor; ARM, which names no model, calls them "Features"."""
    return known.get("flags") or known.get("Features") or ""


def usable_cores() -> int:
    """Return how many cores this process may use: a container or a batch system may allow only some."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([found, *ALLOWED])


def allow_cores(number: int) -> None:
    """Let this process use so many cores, since others use the rest. To be called before a backend is started."""
    ALLOWED[:] = [number]
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(number)


# What `allow_cores` was told.
ALLOWED: list[int] = []
