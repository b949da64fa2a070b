"""Attack Headstart with files that somebody else could have made, and count what goes wrong.

    python tests/hostile/attack.py --parts images runs --counts 100 50 --seed 0 --out report.json
    python tests/hostile/attack.py --parts runs --only "runs/manifest.json/temperature NaN"

The package that `PYTHONPATH` names is attacked. The exit status is 1 if anything went wrong.
"""

import argparse
import contextlib
import hashlib
import json
import os
import queue
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from archives import archive_cases
from caches import cache_cases
from case import Case, Place
from driver import Worker, emptied
from honest import Honest, make_honest
from images import image_cases
from inputs import input_cases
from models import model_cases
from runs import FINISHED, INTERRUPTED, SEEDS, run_cases
from sealing import SEALED

PARTS = {"images": 1000, "runs": 400, "interrupted": 80, "seeds": 40, "caches": 60, "archives": 300, "models": 240, "inputs": 300}
RUNS = {"runs": FINISHED, "interrupted": INTERRUPTED, "seeds": SEEDS}
# What may go wrong, as keys of the report and headings of the table.
WRONG = {
    "traceback": "tracebacks", "hang": "hangs", "memory": "over 3 GB", "executed": "executed",
    "differs": "answered differently", "lines": "not one or two lines",
}  # fmt: skip
NOT_A_NUMBER = re.compile(r"(?<![\w/])[-+]?(nan|inf(inity)?)(?![\w/])", re.IGNORECASE)
MOST_LINES = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--counts", nargs="+", type=int, help="how many cases of each part; without it: the whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], help="names, or beginnings of names, of cases")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--work", type=Path, help="a folder to work in; it stays, with the honest files and the case --only names"
    )
    parser.add_argument("--out", type=Path, help="a JSON file for the report")
    options = parser.parse_args()
    counts = dict(zip(options.parts, options.counts or [PARTS[part] for part in options.parts], strict=True))
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        report = attack(work.absolute(), counts, options.seed, options.workers, options.only)
    sys.stdout.reconfigure(errors="backslashreplace")  # some names are no UTF-8
    if options.out:
        options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(table(report))
    for one in report["failures"]:
        print(f"\n{one['name']}: {', '.join(one['wrong'])}\n  {' '.join(one['command'])}: {one['status']}, {one['seconds']} s")
        print("  " + one["end"].replace("\n", "\n  "))
    return int(bool(report["failures"]))


def attack(work: Path, counts: dict[str, int], seed: int, workers: int, only: list[str]) -> dict[str, Any]:
    """Carry out the cases and return the report."""
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        each = [Worker(work / f"worker-{number}") for number in range(workers)]  # started when they have something to do
        for one in each:
            stack.callback(one.stop)
        first = each[0]
        honest = Honest(work / "honest") if (work / "honest").exists() else make_honest(work / "honest", first, set(counts))
        cases = [
            case for part, count in counts.items() for case in cases_of(part, honest, 10**9 if only else count, seed, work, first)
        ]
        if only:
            cases = [case for case in cases if case.name.endswith("/honest") or case.name.startswith(tuple(only))]
            kinds = {case.kind for case in cases if not case.name.endswith("/honest")}
            cases = [case for case in cases if case.kind in kinds]
        print(f"{len(cases)} cases; honest files took {time.monotonic() - start:.0f} s", file=sys.stderr)
        return Attack(work, honest, cases, each).report() | {"seconds": round(time.monotonic() - start)}


def cases_of(part: str, honest: Honest, count: int, seed: int, work: Path, worker: Worker) -> list[Case]:
    """Return the cases of a part."""
    if part == "images":
        return image_cases(honest, work / "images", min(count, 2000), seed)
    if part in RUNS:
        return run_cases(honest, RUNS[part], count, seed)
    if part == "caches":
        return cache_cases(honest, count, seed)
    if part == "archives":
        return archive_cases(honest, count, seed)
    if part == "inputs":
        return input_cases(honest, count, seed)
    return model_cases(honest, count, seed, worker)


class Attack:
    """Carries out cases in several processes at once.

    The honest cases come first: what they answer is right.
    """

    def __init__(self, work: Path, honest: Honest, cases: list[Case], workers: list[Worker]) -> None:
        self.work, self.honest, self.workers = work, honest, workers
        self.cases, self.answers, self.found = cases, {}, []
        self.lock, self.done = threading.Lock(), 0
        self.tried: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    def report(self) -> dict[str, Any]:
        truths = [case for case in self.cases if case.name.endswith("/honest")]
        self.all_of(truths)
        if self.found:
            raise RuntimeError(f"an honest command failed: {self.found}")
        self.all_of([case for case in self.cases if not case.name.endswith("/honest")])
        rows = {
            kind: {"tried": tried} | {key: len({one["name"] for one in self.found if one["kind"] == kind and key in one["wrong"]})
                                      for key in WRONG} | {"another_model": self.others[kind]}
            for kind, tried in self.tried.items()
        }  # fmt: skip
        self.found.sort(key=lambda one: one["name"])
        return {"rows": rows, "failures": self.found}

    def all_of(self, cases: list[Case]) -> None:
        waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
        for case in cases:
            waiting.put(case)
        threads = [threading.Thread(target=self.work_off, args=(waiting, number)) for number in range(len(self.workers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def work_off(self, waiting: "queue.SimpleQueue[Case]", number: int) -> None:
        worker, folder = self.workers[number], self.work / f"case-{number}"
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self.carry_out(case, worker, folder)
            except Exception as error:  # of the attack itself: it must be seen
                self.add(
                    case, [], {"status": "the attack failed", "seconds": 0}, ["traceback"], f"{type(error).__name__}: {error}"
                )
            with self.lock:
                self.done += 1
                if self.done % 50 == 0:
                    print(f"{self.done} of {len(self.cases)}, {len(self.found)} wrong", file=sys.stderr)

    def carry_out(self, case: Case, worker: Worker, folder: Path) -> None:
        emptied(folder)
        place = Place(folder / "here", self.honest, folder / "executed", folder / "victim", worker.pid)
        place.folder.mkdir()
        make_victim(place.victim)
        before = contents(place.victim)
        case.make(place)
        cache = place.folder / case.cache if case.cache else self.honest.cache
        with self.lock:
            if not case.name.endswith("/honest"):
                self.tried[case.kind] += 1
        for number, command in enumerate(case.commands):
            answer = worker.carry_out(command, place.folder, cache, limits=case.limits)
            wrong = self.judge(case, number, command, answer, place)
            if place.marker.exists() or contents(place.victim) != before:
                wrong.append("executed")
            if wrong:
                end = (answer["failure"] or answer["stderr"] or answer["stdout"])[-600:].strip()
                self.add(case, command, answer, wrong, end)
            if "executed" in wrong or (case.name.endswith("/honest") and wrong):
                return

    def add(self, case: Case, command: list[str], answer: dict[str, Any], wrong: list[str], end: str) -> None:
        with self.lock:
            self.found.append({
                "name": case.name, "kind": case.kind, "command": command, "wrong": wrong, "status": answer["status"],
                "seconds": answer["seconds"], "peak_mb": answer.get("peak_mb"), "end": end,
            })  # fmt: skip

    def judge(self, case: Case, number: int, command: list[str], answer: dict[str, Any], place: Place) -> list[str]:
        """Return what went wrong in a command, as keys of `WRONG`."""
        status, wrong = answer["status"], []
        if answer.get("memory") or status == "memory":
            wrong.append("memory")
        if status == "hang":
            wrong.append("hang")
        elif status == "exception" or str(status).startswith("crash") or "Traceback (most recent" in answer["stderr"]:
            wrong.append("traceback")
        if status == 2:
            lines = answer["stderr"].rstrip("\n").split("\n")
            starts = [row for row, line in enumerate(lines) if line.startswith("headstart: ")]
            if not starts or len(lines) - starts[-1] > MOST_LINES:
                wrong.append("lines")
        elif status not in (0, None, "hang", "memory", "exception") and not str(status).startswith("crash"):
            wrong.append("lines")
        if status in (0, None):
            key, given = (case.kind, number), self.given(command, answer, place)
            if case.name.endswith("/honest"):
                self.answers[key] = given, set(answer["stderr"].splitlines())
            elif self.differs(case, command, key, given, answer["stderr"]):
                wrong.append("differs")
        elif case.name.endswith("/honest"):
            wrong.append("lines")
        return wrong

    def given(self, command: list[str], answer: dict[str, Any], place: Place) -> str:
        """Return what a command answered: what it printed, and the results of a training without its times."""
        if command[0] != "train":
            return answer["stdout"]
        run = place.folder / ("run" if "--resume" in command else "out")
        digest = hashlib.sha256()
        for file in sorted([*run.rglob("*.npy"), *run.rglob("history.csv")]):
            digest.update(str(file.relative_to(run)).encode() + (file.read_bytes() if file.is_file() else b""))
        figures = ""
        with contextlib.suppress(OSError, ValueError, KeyError, RecursionError):
            figures = json.dumps(json.loads((run / "metrics.json").read_text())["test"])
        return answer["stdout"] + digest.hexdigest() + figures

    def differs(self, case: Case, command: list[str], key: tuple[str, int], given: str, errors: str) -> bool:
        """Whether a command answered differently, without a word about it."""
        if not case.compared or key not in self.answers or given == self.answers[key][0]:
            return False
        right, lines = self.answers[key]
        words = command[0] != "train" and set(errors.splitlines()) - lines
        if words:
            return False
        if len(NOT_A_NUMBER.findall(given)) > len(NOT_A_NUMBER.findall(right)):
            return True
        honest = case.resealed and (case.plausible or case.file not in SEALED)
        unseen = case.plausible and not case.covered
        if honest or unseen or command[0] == "compare":
            with self.lock:
                self.others[case.kind] += 1
            return False
        return True


def make_victim(folder: Path) -> None:
    """Make files of the user that no command may change."""
    (folder / "folder").mkdir(parents=True)
    for file in ("letter.txt", "folder/arrays.safetensors", "folder/state.json", "folder/.partial-1-x", "folder/history.png"):
        (folder / file).write_text("mine\n")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(report: dict[str, Any]) -> str:
    """Return the counts as a table in Markdown."""
    heading = ["attacked with", "tried", *WRONG.values(), "another model"]
    rows = [[kind, *map(str, row.values())] for kind, row in report["rows"].items()]
    return (
        "\n".join("| " + " | ".join(row) + " |" for row in [heading, ["---"] * len(heading), *rows]) + f"\n{report['seconds']} s"
    )


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.exit(main())
