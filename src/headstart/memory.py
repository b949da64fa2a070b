"""How much main memory this process has held at most, as a whole or since a moment."""

import contextlib
import resource
import sys
from pathlib import Path

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_peak_memory() -> None:
    """Let `peak_memory_mb` count from now on; where the system cannot (only Linux can), it goes on as before."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")  # see proc(5): the peak of the resident set becomes its present size


def peak_memory_mb() -> float:
    """Return the most main memory that this process has held, since `forget_peak_memory`, in MB of 10**6 bytes."""
    # Where there is a choice, not `getrusage`, which counts what a process was before it became this program, too.
    with contextlib.suppress(OSError, StopIteration):
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # macOS counts bytes
