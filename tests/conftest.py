"""What the tests share: a cache of their own, a small data set, and one small finished run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import headstart as hs


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep the tests' features and images out of the user's cache."""
    os.environ["HEADSTART_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with CIFAR-10 in its two layouts and an ImageNet ResNet-50, where the developer has the sources of it."""
    prepare = Path(__file__).parents[2] / "shared" / "data" / "prepare.py"
    if not prepare.is_file():
        pytest.skip("the development data, ../shared/data, are not on this machine")
    folder = Path.home() / ".cache" / "headstart-test-data"
    subprocess.run([sys.executable, str(prepare), str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def digits() -> hs.Dataset:
    return hs.load_data("digits", limit=300)


SMALL = {
    "data": "digits", "limit": 300, "flip": False, "image_size": 16, "head_epochs": 3, "epochs": 4, "hidden_units": 32,
    "warmup_steps": 5, "batch_size": 32, "head_learning_rate": 2e-4, "precision": "float32",
}  # fmt: skip


# What parts of a training cost on a machine that does not exist, at 64 px.
COSTS = {
    "build": 3.0, "start": 5.0, "image": 0.01, "feature_bytes": 200.0, "disk_image": 1000.0, "audit_start": 1.0,
    "audit_image": 0.001, "audit_pair": 1e-8, "head_start": 2.0, "head_step": 0.01, "head_score": 1e-5, "head_save": 0.1,
    "tune_start": 4.0, "tune_image": 0.02, "tune_score": 0.01, "tune_save": 1.0, "memory": 1e9, "tune_memory": 1e9,
    "memory_image": 1e6, "largest_batch": 0.0,
}  # fmt: skip


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, digits: hs.Dataset) -> hs.Run:
    """A run of both stages with the starter backbone, on a part of the digits."""
    return hs.train(hs.recipe("starter", out=str(tmp_path_factory.mktemp("runs") / "small"), **SMALL), digits)
