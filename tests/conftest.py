"""What the tests share: a cache of their own, a small data set, and small finished runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import headstart as hs
from helpers import SMALL


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


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, digits: hs.Dataset) -> hs.Run:
    """A run of both stages with the starter backbone, on a part of the digits."""
    return hs.train(hs.recipe("starter", out=str(tmp_path_factory.mktemp("runs") / "small"), **SMALL), digits)
