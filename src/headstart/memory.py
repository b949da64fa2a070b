"""How much main memory this process holds, and how much the machine still has; bytes throughout."""

import contextlib
import os
import resource
import sys
from pathlib import Path

STATUS, MEMINFO, CGROUP = Path("/proc/self/status"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def peak() -> int:
    """Return the most memory that this process has held, since `reset_peak` where that works."""
    # Not first by getrusage: on Linux, a process that another one started begins there with what that one held.
    if held := field(STATUS, "VmHWM"):
        return held
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def reset_peak() -> None:
    """Let `peak` begin anew with what is held now; only Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def available() -> int:
    """Return how much this process could hold in all, what it holds already included.

    That is what Linux calls available, within the limit of a container. Elsewhere it is the whole memory.
    """
    free = field(MEMINFO, "MemAvailable")
    if not free:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit, which is called max
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free + field(STATUS, "VmRSS")


def field(file: Path, name: str) -> int:
    """Return a line of a file of /proc, which counts in KiB; 0 where there is no such file or line."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
