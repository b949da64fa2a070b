"""How much main memory this process has held at most, since it began or since a moment, and how much it could; what is
freed is kept within a stage, and given back after it."""

import contextlib
import ctypes
import gc
import os
import platform
import resource
import sys
from pathlib import Path

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# Parameters of mallopt(3), as <malloc.h> numbers them.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


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


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next step, up to 2 GiB; for processes that train.

    Left alone, glibc maps each large tensor anew and gives it back a moment later, and the kernel zeroes
    every page of it at every step: on a virtual machine that took 43 % of the processor's time and
    training ran at 95 instead of 240 images a second. Elsewhere than with glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
        libc.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Give the system back what was freed and kept, since what comes next needs other sizes."""
    gc.collect()  # Keras' networks refer to themselves
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
