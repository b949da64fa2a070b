"""Watch a worker: a command that takes too long or too much memory is ended, and the next one gets a new process."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# What no command may need: in seconds and in bytes. On a busy machine a command may take longer, as long as it computes, and
# does not compute for longer than it could have on two cores.
MOST_SECONDS, MOST_MEMORY = 30.0, 3 * 10**9
MOST_COMPUTING, LEAST_COMPUTING, MOST_SECONDS_BUSY = 2 * MOST_SECONDS, 3.0, 4 * MOST_SECONDS
# A worker that holds more than this after a command is replaced, so that what old commands left is not counted.
MOST_AT_REST = 1_400_000_000
START_SECONDS = 120.0


class Worker:
    """A process that carries out commands; see `worker.py`.

    Args:
        output: a folder of its own.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.process: subprocess.Popen[str] | None = None
        output.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """Its process, which is started if there is none."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        assert self.process
        return self.process.pid

    def start(self) -> None:
        # Output goes to a file: a worker that dies says there why. Temporary files, too, lie in its own folder.
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        environment = os.environ | {"TMPDIR": str(self.output), "TF_CPP_MIN_LOG_LEVEL": "2", "MPLBACKEND": "agg"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        answer = self.wait(START_SECONDS, sys.maxsize)
        if answer.get("status", 0) != 0:
            self.log.seek(0)
            raise RuntimeError(f"the worker does not start: {answer} {self.log.read()[-2000:].decode(errors='replace')}")

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def carry_out(
        self, command: list[str], folder: Path, cache: Path, *, limits: dict[str, Any] | None = None,
        seconds: float = 0.0, stop_when: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Return how a command ended, as `worker.carry_out` says it; `status` may also be `hang`, `memory` or `crash`.

        Args:
            seconds: how long it may take; without it, see `MOST_SECONDS`.
            stop_when: kill the worker as soon as this is true; then the status is `stopped`.
        """
        self.pid  # noqa: B018  (starts it)
        assert self.process
        assert self.process.stdin
        request = {
            "command": command, "folder": str(folder), "cache": str(cache), "output": str(self.output), "limits": limits or {}
        }  # fmt: skip
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.wait(seconds, MOST_MEMORY, stop_when)
        if "stderr" not in answer:  # it was ended
            errors = self.output / "stderr"
            end = errors.read_bytes()[-4000:] if errors.exists() else b""
            answer |= {"stdout": "", "stderr": end.decode(errors="replace"), "failure": ""}
        elif answer["peak_mb"] * 1e6 > MOST_MEMORY:
            answer["memory"] = True
        if self.process is not None and resident([self.process.pid]) > MOST_AT_REST:
            self.stop()
        return answer

    def wait(self, seconds: float, most_memory: int, stop_when: Callable[[], bool] | None = None) -> dict[str, Any]:
        """Return the next line that the process writes, or why there is none."""
        process = self.process
        assert process
        assert process.stdout
        start, largest, computed = time.monotonic(), 0, computing([process.pid])
        looked, members = start, [process.pid]

        def hangs(passed: float) -> bool:
            if seconds or passed < MOST_SECONDS:
                return bool(seconds) and passed > seconds
            spent = computing(family(process.pid)) - computed
            return spent > MOST_COMPUTING or spent < LEAST_COMPUTING or passed > MOST_SECONDS_BUSY

        while True:
            ready, _, _ = select.select([process.stdout], [], [], 0.002 if stop_when else 0.02)
            passed = time.monotonic() - start
            if time.monotonic() > looked + 0.5:
                looked, members = time.monotonic(), family(process.pid)
            if ready:
                if line := process.stdout.readline():
                    return json.loads(line)
                end = f"crash ({signal.Signals(-code).name})" if (code := process.wait()) < 0 else f"crash ({code})"
            elif stop_when and stop_when():
                end = "stopped"
            elif hangs(passed):
                end = "hang"
            elif (held := resident(members)) > most_memory:
                largest, end = held, "memory"
            else:
                continue
            self.stop()
            return {"status": end, "seconds": round(passed, 1), "peak_mb": round(largest / 1e6), "grew_mb": 0}


def family(pid: int) -> list[int]:
    """Return a process and those that it has started, as far as they stay in its session."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int(stat_of(int(folder.name))[3]) == pid:
                members.append(int(folder.name))
    return members


def stat_of(pid: int) -> list[str]:
    """Return what /proc tells of a process behind its name, see proc(5); nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def resident(pids: list[int]) -> int:
    """Return how much main memory processes hold, in bytes."""
    return sum(int(stat[21]) for pid in pids if (stat := stat_of(pid))) * os.sysconf("SC_PAGE_SIZE")


def computing(pids: list[int]) -> float:
    """Return for how long processes and their children that have ended have computed, in seconds of one core."""
    ticks = sum(sum(map(int, stat[11:15])) for pid in pids if (stat := stat_of(pid)))
    return ticks / os.sysconf("SC_CLK_TCK")


def emptied(folder: Path) -> Path:
    """Return a folder after all in it has been removed."""
    if folder.exists():
        for path, folders, _ in os.walk(folder):
            for name in folders:  # some cases take rights away
                with contextlib.suppress(OSError):
                    if not os.path.islink(os.path.join(path, name)):
                        os.chmod(os.path.join(path, name), 0o700)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
