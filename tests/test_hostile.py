"""Nothing breaks it: files that somebody else has made are answered rightly or refused, in one or two lines.

`hostile/attack.py` makes the files and carries out the commands. Where a test fails, it names the cases;
`python tests/hostile/attack.py --parts PART --only NAME` repeats one of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import headstart

SCRIPT = Path(__file__).parent / "hostile" / "attack.py"


def attacked(folder: Path, *options: str) -> dict[str, object]:
    """Return the report of an attack on the package that is tested here."""
    out = folder / "report.json"
    environment = os.environ | {"PYTHONPATH": str(Path(headstart.__file__).parents[1])}
    command = [sys.executable, str(SCRIPT), "--work", str(folder / "work"), "--out", str(out), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    assert out.exists(), done.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))


def named(report) -> list[str]:
    """Return a line for each case in which something went wrong."""
    return [f"{one['name']!a}: {', '.join(one['wrong'])}: {one['end'][-300:]}" for one in report["failures"]]


@pytest.mark.slow
def test_a_few_hostile_files_of_each_kind_break_nothing(tmp_path):
    parts = {"images": 50, "runs": 30, "archives": 30, "models": 12, "inputs": 12}
    # One worker: other tests run beside this one, and each worker starts TensorFlow.
    report = attacked(tmp_path, "--parts", *parts, "--counts", *map(str, parts.values()), "--workers", "1")
    assert named(report) == []
    assert sum(row["tried"] for row in report["rows"].values()) >= 100


@pytest.mark.slow  # too: whoever leaves out slow tests leaves this out as well
@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_no_hostile_file_breaks_anything(tmp_path, seed):
    report = attacked(tmp_path, "--seed", str(seed))
    assert named(report) == []
