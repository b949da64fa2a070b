"""One process that carries out commands of Headstart, one after the other, so that Keras starts once.

It reads a request a line, as JSON, and answers with a line. Each command runs through `headstart.cli.main`, whose ends of a
process are its own: exit statuses, refusals on stderr, or an exception that nobody caught, which is what the attack looks for.
"""

import contextlib
import gc
import hashlib
import importlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headstart as hs
from headstart.cli import main as command_line
from headstart.system.backend import load_keras
from headstart.system.memory import forget_peak_memory, peak_memory_mb

# Of stdout, so much is an answer; the rest counts as its length.
MOST_OUTPUT = 1 << 20


def load_data(path: str) -> None:
    """Load a data set, and print what it holds."""
    data = hs.load_data(path)
    rows = [data.images(rows).tobytes() + data.labels(rows).tobytes() for rows in (data.train, data.validation, data.test)]
    print(len(data.train), data.class_names, hashlib.sha256(b"".join(rows)).hexdigest())


def python(source: str) -> None:
    """Run Python that needs Keras, to make honest files."""
    exec(source, {})


def show(file: str) -> None:
    """Print a text file."""
    print(Path(file).read_text(encoding="utf-8"))


CALLS = {"load_data": load_data, "python": python, "show": show}


def carry_out(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a command and say how it ended.

    Args:
        request: `command`, its words; `folder`, where it runs; `cache`; `output`, a folder for what it prints; and `limits`,
            values for constants of the package, by module and name.
    """
    os.chdir(request["folder"])
    os.environ["HEADSTART_CACHE"] = request["cache"]
    name, *words = request["command"]
    out, err = (Path(request["output"], name) for name in ("stdout", "stderr"))
    status: int | str | None = 0
    failure = ""
    gc.collect()
    forget_peak_memory()
    at_start, start = peak_memory_mb(), time.monotonic()
    with redirected(out, err), replaced_limits(request.get("limits", {})):
        try:
            run = command_line.run
            if name in CALLS:
                command_line.run = lambda words: CALLS[name](*words)
                command_line.main(words)
            else:
                command_line.main([name, *words])
        except SystemExit as end:
            status = end.code
        except BaseException:
            status, failure = "exception", traceback.format_exc()
        finally:
            command_line.run = run
        seconds, peak = time.monotonic() - start, peak_memory_mb()
        logging.getLogger("headstart").handlers = []
        keras = sys.modules.get("keras")
        if keras is not None:
            keras.backend.clear_session()
    return {
        "status": status,
        "failure": failure,
        "seconds": round(seconds, 3),
        "peak_mb": round(peak),
        "grew_mb": round(peak - at_start),
        "stdout": content(out),
        "stderr": content(err),
    }


def content(file: Path) -> str:
    """Return what was printed, without most of what nobody would read."""
    with file.open("rb") as stream:
        start = stream.read(MOST_OUTPUT).decode("utf-8", "replace")
    left = file.stat().st_size - MOST_OUTPUT
    return start + (f"... and {left} bytes more" if left > 0 else "")


@contextlib.contextmanager
def redirected(out: Path, err: Path) -> Iterator[None]:
    """Send both outputs, also those of libraries that are no Python, to files."""
    before = [os.dup(1), os.dup(2)]
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        for number, old in enumerate(before, 1):
            os.dup2(old, number)
            os.close(old)


@contextlib.contextmanager
def replaced_limits(limits: dict[str, Any]) -> Iterator[None]:
    """Give constants other values, such as `headstart.data.store:MOST_BYTES_IN_MEMORY`."""
    old = []
    for place, value in limits.items():
        module = importlib.import_module(place.partition(":")[0])
        name = place.partition(":")[2]
        old.append((module, name, getattr(module, name)))
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in old:
            setattr(module, name, value)


def serve() -> None:
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    sys.path.insert(0, "")  # as `python -m headstart` has it: modules of the folder where it runs can be imported
    load_keras()
    gc.collect()
    gc.freeze()  # what is imported stays: to look through it for garbage after each command would take longer than most commands
    answers.write("{}\n")  # ready
    answers.flush()
    for line in requests:
        answers.write(json.dumps(carry_out(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
