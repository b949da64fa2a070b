"""What the tests share: a cache of their own, a small data set, and small finished runs, made once for all workers."""

import fcntl
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

import headstart as hs
from helpers import DRAWN, SMALL, TINY, photo_options, real_charts, save, scene, tiny_backbone

# Trainings collect garbage many times, and would look through all that was imported each time: a fifth of a small run.
gc.collect()
gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: one that came last would keep a single core busy while the other waits."""
    slow = {item.path for item in items if item.get_closest_marker("slow") and not item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in slow)  # stable


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that returns a folder of all workers, which the first one to ask for it makes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / name).exists():
                make(base / name)
        return base / name

    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(shared):
    """Keep the tests' features and images out of the user's cache."""
    os.environ["HEADSTART_CACHE"] = str(shared("cache", Path.mkdir))


@pytest.fixture(scope="session", autouse=True)
def blank_charts():
    """Save charts as blank images of their size: to draw them takes a fifth of a tiny training.

    The runs that tests share have real ones, and tests of the report draw them (see `helpers.real_charts`).
    """

    def blank(self: Figure, file: object, **options: object) -> None:
        if options.get("format") == "svg":
            DRAWN(self, file, **options)
        else:
            Image.new("L", tuple(int(inches * 120) for inches in self.get_size_inches())).save(file, "PNG")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", blank)
        yield


@pytest.fixture(autouse=True)
def own_log():
    """Give each test the logger of a program that has configured nothing, whatever a command did to it before."""
    logger = logging.getLogger("headstart")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)  # OpenVINO's converter lets errors alone pass after it has failed


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with CIFAR-10 in its two layouts and an ImageNet ResNet-50, where the developer has the sources of it."""
    prepare = Path(__file__).parents[2] / "shared" / "data" / "prepare.py"
    if not prepare.is_file():
        pytest.skip("the development data, ../shared/data, are not on this machine")
    folder = Path.home() / ".cache" / "headstart-test-data"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:  # one worker at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, str(prepare), str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def digits() -> hs.Dataset:
    return hs.load_data("digits", limit=300)


@pytest.fixture(scope="session")
def small_run(shared, digits) -> hs.Run:
    """A run of both stages with the starter backbone, on a part of the digits."""
    with real_charts():
        return hs.Run(shared("small_run", lambda out: hs.train(hs.recipe("starter", out=str(out), **SMALL), digits)))


@pytest.fixture(scope="session")
def tiny(shared) -> dict[str, object]:
    """Options of a short training of a tiny network, for what does not depend on how well it learns."""
    return TINY | {"backbone": str(shared("tiny.keras", lambda file: tiny_backbone().save(file)))}


@pytest.fixture(scope="session")
def photos(shared) -> Path:
    """Two classes with a near-duplicate across training and test, one within training, and one wrong label; to be read only."""

    def make(root: Path) -> None:
        for seed in range(60):
            split = "test" if seed >= 50 else "val" if seed >= 40 else "train"
            save(scene(seed), root / split / ("blue" if seed % 2 else "red") / f"{seed:03}.png")
        save(scene(50).transpose(Image.Transpose.FLIP_LEFT_RIGHT), root / "train" / "red" / "copy_of_050.png")
        save(scene(1).crop((1, 1, 39, 39)), root / "train" / "blue" / "copy_of_001.png")
        save(scene(2000), root / "train" / "blue" / "really_red.png")

    return shared("photos", make)


@pytest.fixture(scope="session")
def photo_run(shared, photos) -> hs.Run:
    """A run of both stages on the photos."""
    with real_charts():
        return hs.Run(shared("photo_run", lambda out: hs.train(photo_options(photos, out))))
