"""How much main memory this process has held at most, since it began or since a moment, and how much it could."""

import contextlib
import os
import resource
import sys
from pathlib import Path

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def forget_peak_memory() -> None:
    """Let `peak_memory_mb` count from now on; where the system cannot (only Linux can), it goes on as before."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")  # see proc(5): the peak of the resident set becomes its present size


def peak_memory_mb() -> float:
    """Return the most main memory that this process has held, since `forget_peak_memory`, in MB of 10**6 bytes."""
    # Where there is a choice, not `getrusage`, which counts what a process was before it became this program, too.
    if peak := bytes_in(STATUS, "VmHWM"):
        return peak / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # macOS counts bytes


def available_memory() -> int:
    """Return how many bytes this process could hold in all, those that it holds already included.

    That is what Linux calls available, within the limit of a container. Elsewhere it is the whole memory.
    """
    free = bytes_in(MEMINFO, "MemAvailable")
    if not free:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit, which is called max
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free + bytes_in(STATUS, "VmRSS")


def bytes_in(file: Path, name: str) -> int:
    """Return what a line of a file of /proc says in KiB, in bytes; 0 where there is no such file or line."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
