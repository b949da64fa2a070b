"""Main memory: the peak of this process, how much is available, and whether freed memory is kept or given back."""

import contextlib
import ctypes
import functools
import gc
import os
import platform
import resource
import sys
from pathlib import Path

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# Parameters of mallopt(3), by their numbers in <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def forget_peak_memory() -> None:
    """Let `peak_memory_mb` count from now on. Only Linux can; elsewhere it still counts from the start of the process."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")  # resets the peak resident set size, see proc(5)


def peak_memory_mb() -> float:
    """Return the peak main memory of this process since `forget_peak_memory`, in MB of 10**6 bytes."""
    # `getrusage` is the second choice: it also counts what the process held before it became this program.
    if peak := bytes_in(STATUS, "VmHWM"):
        return peak / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # macOS counts bytes


def available_memory() -> int:
    """Return how many bytes this process can hold, including those that it holds already.

    On Linux, it is what the system calls available, within the limit of a container. Elsewhere it is the whole memory.
    """
    free = bytes_in(MEMINFO, "MemAvailable")
    if not free:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free + bytes_in(STATUS, "VmRSS")


def bytes_in(file: Path, name: str) -> int:
    """Return the value of a line in a file of /proc, which is in KiB, in bytes; 0 if there is no such file or line."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def keep_freed_memory() -> None:
    """Let the C library keep up to 2 GiB of freed memory for the next step. For processes that train.

    By default, glibc maps each large tensor anew and gives it back a moment later, so the kernel zeroes all its pages at every
    step. On a virtual machine, that took 43 % of the processor's time, and training ran at 95 instead of 240 images per
    second. With other C libraries, this does nothing.
    """
    if not has_glibc():
        return
    libc = ctypes.CDLL(None)
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
        libc.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Give kept memory back to the system: what follows needs blocks of other sizes."""
    gc.collect()  # Keras' networks have reference cycles
    trim()


def trim() -> None:
    """Give kept memory back to the system that no object holds."""
    if has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
