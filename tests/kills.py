"""Kill trainings at random moments and go on with them: each must end as one that nobody disturbed, equal to the bit.

    python tests/kills.py --kills 100 --seed 0

The kills are spread evenly over what a training does (`PHASES`), and fall anywhere within it. Processes are forked from this one,
which has imported everything and computed nothing: a start takes a second instead of six.
"""

import argparse
import itertools
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headstart import results, trainer
from headstart.cli import commands
from headstart.cli.main import main
from headstart.training.features import FrozenLayers
from helpers import save, scene

# What a training does, in order, by what begins it. It starts with the process.
PHASES: dict[str, list[tuple[Any, str]]] = {
    "start": [],
    "features": [(FrozenLayers, "features"), (FrozenLayers, "maps")],
    "audit": [(trainer, "audit_run")],
    "epochs": [(trainer, "fit_stage")],
    "logits": [(trainer, "ask_once")],
    "results": [(trainer, "write_results")],
    "report": [(results, "draw_plots"), (results, "write_report")],
    "model": [(results, "save_classifier")],
}
ORDER = list(PHASES)
COMMON = [
    "--recipe", "starter", "--image-size", "32", "--hidden-units", "0", "--head-epochs", "3", "--epochs", "3",
    "--precision", "float32", "--batch-size", "16", "--fewest-steps", "9",
]  # fmt: skip
# From images, where the backbone learns from its first layer on; and from feature maps, in two views.
# And in two folds, which share their feature maps.
MAPS = ["--fine-tune-from", "last-stage", "--views", "2"]
VARIANTS = {"images": ["--fine-tune-from", "all"], "maps": MAPS, "folds": [*MAPS, "--folds", "2"]}
# What `metrics.json` holds of the machine.
MEASURED = ("seconds", "memory_mb", "peak_memory_mb")
# A process that takes longer than this hangs, in seconds.
PATIENCE = 300.0


class Process:
    """A training in a process of its own.

    Attributes:
        pid: its number.
        begun: the phases that it has begun, with the seconds since its start.
    """

    def __init__(self, arguments: list[str], cache: Path, log: Path) -> None:
        self.begun: list[tuple[str, float]] = [("start", 0.0)]
        self.start = time.monotonic()
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self.train(arguments, cache, log, writer)
        os.close(writer)

    def train(self, arguments: list[str], cache: Path, log: Path, writer: int) -> None:
        """Do what `headstart` does with the arguments, and tell each phase that begins."""
        os.close(self.reader)
        os.environ["HEADSTART_CACHE"] = str(cache)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        for phase, beginnings in PHASES.items():
            for owner, name in beginnings:
                setattr(owner, name, announced(getattr(owner, name), phase, writer))
        status: Any = 0
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code or 0
        except BaseException as error:
            print(f"Traceback: {error!r}", file=sys.stderr)
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def kill_in(self, phase: str, seconds: float) -> str | None:
        """Kill the process some seconds after it has begun a phase or a later one; return which it was in, None if it ended."""
        while ORDER.index(self.begun[-1][0]) < ORDER.index(phase) and self.wait(PATIENCE):
            pass
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0 and self.wait(left):
            pass
        if time.monotonic() < ends:
            return None
        os.kill(self.pid, signal.SIGKILL)
        return self.begun[-1][0]

    def wait(self, seconds: float) -> bool:
        """Wait so long for the next phase; return whether it has begun, False too if the process has ended."""
        if not select.select([self.reader], [], [], seconds)[0]:
            return False
        if not (told := os.read(self.reader, 1)):
            return False
        self.begun.append((ORDER[told[0]], time.monotonic() - self.start))
        return True

    def status(self) -> int:
        """Wait for the end of the process and return its status."""
        while self.wait(PATIENCE):
            pass
        os.close(self.reader)
        if time.monotonic() - self.start > PATIENCE:
            os.kill(self.pid, signal.SIGKILL)
            raise SystemExit(f"a process took longer than {PATIENCE:.0f} s; it was in {self.begun[-1][0]}")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def announced(function: Callable[..., Any], phase: str, writer: int) -> Callable[..., Any]:
    """Return a function that tells that a phase has begun, and then does what the function does."""

    def telling(*arguments: Any, **options: Any) -> Any:
        os.write(writer, bytes([ORDER.index(phase)]))
        return function(*arguments, **options)

    return telling


def outcome(run: Path) -> dict[str, Any]:
    """Return what must not depend on interruptions: the names of all files, and the content of those without times in them."""
    files = {str(path.relative_to(run)): path for path in sorted(run.rglob("*"))}
    content: dict[str, Any] = {
        name: path.read_bytes() for name, path in files.items() if path.name == "history.csv" or path.suffix == ".npy"
    }
    for name, path in files.items():
        if path.name in ("metrics.json", "folds.json"):
            figures = json.loads(path.read_text(encoding="utf-8"))
            content[name] = {key: value for key, value in figures.items() if key not in MEASURED}
    content["files"] = list(files)
    return content


def left_over(*folders: Path) -> list[Path]:
    """Return what killed processes have left."""
    return [path for folder in folders for path in folder.rglob("*") if path.name.startswith((".partial-", "tmp", "checkpoint"))]


def lengths(process: Process) -> dict[str, float]:
    """Return the seconds that a whole process took for each phase."""
    begun = [*process.begun, ("end", time.monotonic() - process.start)]
    taken: Counter[str] = Counter()
    for (phase, begin), (_, end) in itertools.pairwise(begun):
        taken[phase] += end - begin
    return taken


def disturb(kills: int, seed: int, folder: Path) -> None:
    """Kill so many times, and compare each finished run with an undisturbed one; stop at the first difference."""
    chance = random.Random(seed)
    data, log = folder / "data", folder / "log.txt"
    for number in range(60):
        save(scene(number), data / ("blue" if number % 2 else "red") / f"{number:03}.png")
    expected: dict[str, dict[str, Any]] = {}
    taken: dict[str, dict[str, float]] = {}
    done: Counter[str] = Counter()
    number = 0
    while done.total() < kills:
        name = list(VARIANTS)[number % len(VARIANTS)]
        if name not in expected:
            whole = Process(["train", str(data), *COMMON, *VARIANTS[name], "--out", str(folder / name)], folder / "cache", log)
            if status := whole.status():
                raise SystemExit(f"an undisturbed training of {name} ended with status {status}; see {log}")
            expected[name], taken[name] = outcome(folder / name), lengths(whole)
            print(f"{name}: " + ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in taken[name].items()), flush=True)
        run, cache = folder / f"run-{number}", folder / f"cache-{number}"
        began = ["train", str(data), *COMMON, *VARIANTS[name], "--out", str(run)]
        # In the order of a training, so that each kill hits what was not done yet.
        phases = sorted(chance.sample(ORDER, min(len(ORDER), kills - done.total())), key=ORDER.index)
        here = 0
        while True:
            arguments = ["train", "--resume", str(run)] if (run / "config.toml").exists() else began
            process = Process(arguments, cache, log)
            killed = None
            if phases:
                phase = phases.pop(0)
                killed = process.kill_in(phase, chance.uniform(0, taken[name][phase]))
            if killed:
                done[killed] += 1
                here += 1
            status = process.status()
            if status == 0:
                break
            if status != -signal.SIGKILL or not killed:
                raise SystemExit(f"{run} ended with status {status}; see {log}")
        found = outcome(run)
        if different := [key for key, value in expected[name].items() if found[key] != value]:
            raise SystemExit(f"{run} was killed {here} times, and differs from {folder / name}: {', '.join(different)}")
        if left := left_over(run, cache):
            raise SystemExit(f"{run} was killed {here} times, and this is left over: {', '.join(map(str, left))}")
        print(f"run {number} ({name}): killed {here} times, {done.total()} in all, and equal", flush=True)
        number += 1
    if "Traceback" in log.read_text(encoding="utf-8", errors="replace"):
        raise SystemExit(f"there is a traceback in {log}")
    print(f"{done.total()} kills in {number} runs: " + ", ".join(f"{phase} {done[phase]}" for phase in ORDER))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty folder that is kept; by default a temporary one")
    options = parser.parse_args()
    assert commands  # imported, so that no process has to
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        disturb(options.kills, options.seed, options.folder)
    else:
        with tempfile.TemporaryDirectory() as name:
            disturb(options.kills, options.seed, Path(name))
