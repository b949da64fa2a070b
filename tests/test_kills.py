"""Trainings that are killed anywhere end as undisturbed ones; see `kills.py`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.slow), pytest.param(100, marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_killed_trainings_end_as_undisturbed_ones(kills, tmp_path):
    command = [
        sys.executable,
        str(Path(__file__).with_name("kills.py")),
        "--kills",
        str(kills),
        "--folder",
        str(tmp_path / "kills"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills in" in done.stdout
