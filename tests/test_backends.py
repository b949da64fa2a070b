"""What a user does first, by the command line: on the backend that this environment takes by itself, and on PyTorch.

`make test-jax` runs these tests where TensorFlow is not installed.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

OWN = next(name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name))
DEMO = ["--data", "digits", "--recipe", "starter", "--image-size", "8", "--hidden-units", "0", "--no-flip"]  # as in the Makefile
QUICK = [
    "--data", "digits", "--recipe", "quick", "--backbone", "starter", "--image-size", "32", "--no-flip",
    "--limit", "400", "--head-epochs", "3", "--epochs", "1", "--fewest-steps", "20",
]  # fmt: skip


@pytest.fixture(scope="module", params=dict.fromkeys([OWN, "torch"]))
def backend(request) -> str:
    if not importlib.util.find_spec(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def headstart(backend, tmp_path_factory):
    """A function that runs a command in a process of its own and returns what it prints; on a machine without a GPU."""
    # What this environment takes by itself is not named: it must be found.
    environment = os.environ | {"KERAS_BACKEND": "" if backend == OWN else backend, "CUDA_VISIBLE_DEVICES": ""}
    # Tests run side by side, and PyTorch's threads wait for each other by computing in vain: four times the time of one thread.
    environment["OMP_NUM_THREADS"] = "1"
    # JAX compiles here for longer than it computes; this takes half the time.
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
    environment["KERAS_HOME"] = str(tmp_path_factory.mktemp("keras"))

    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "headstart", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def demo(headstart, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    headstart("train", *DEMO, "--out", out)
    return out


@pytest.fixture
def seven(tmp_path) -> Path:
    Image.fromarray((load_digits().images[7] * 15.9).astype("uint8")).save(tmp_path / "seven.png")
    return tmp_path / "seven.png"


@pytest.mark.slow
def test_the_demo_learns_digits(demo, backend):
    accuracies = {
        stage: figures["accuracy"] for stage, figures in json.loads((demo / "metrics.json").read_text())["test"].items()
    }
    assert accuracies["frozen"] > 0.9
    assert accuracies["fine_tuned"] > 0.93  # of 359 images; 96.9 to 98.6 % were measured
    assert json.loads((demo / "environment.json").read_text())["backend"] == backend


@pytest.mark.slow
def test_the_demo_predicts_explains_evaluates_and_reports(demo, headstart, seven, tmp_path):
    (line,) = json.loads(headstart("predict", demo, seven, "--format", "json"))
    assert line["class"] == "7"
    assert "  7  " in headstart("explain", demo, seven, "--out", tmp_path / "maps")
    assert [Image.open(file).size[0] > 0 for file in (tmp_path / "maps").glob("*.png")] == [True]
    evaluated = json.loads(headstart("evaluate", demo))
    assert evaluated["accuracy"] > 0.93
    page = (demo / "report.html").read_text()
    assert all(word in page for word in ("digits", "Confusions", "What it looked at"))


@pytest.mark.slow
def test_quick_fine_tunes_the_last_stage_on_feature_maps(headstart, tmp_path):
    out = headstart("train", *QUICK, "--out", tmp_path / "run")
    assert float(out.split()[3]) > 0.8, out  # frozen ACCURACY fine_tuned ACCURACY
