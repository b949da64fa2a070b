"""What an honest user has: images, a backbone, runs, and a cache. Everything hostile is made from it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from driver import Worker

CLASSES = ("blue", "green", "red")
# All images count as too many for memory, so that they are kept in the cache.
IN_THE_CACHE = {"headstart.data.store:MOST_BYTES_IN_MEMORY": 1}
# So few images are classified at a time that a bulk prediction has several parts.
SMALL_BLOCKS = {"headstart.inference.bulk:BLOCK": 8}
# A backbone of the user's own, as small as a network with batch norms can be.
BACKBONE = """
import keras, numpy as np
inputs = x = keras.Input((None, None, 3))
for number in range(2):
    x = keras.layers.Conv2D(8, 3, padding="same", name=f"stage{number}_conv")(x)
    x = keras.layers.BatchNormalization(name=f"stage{number}_bn")(x)
    x = keras.layers.Activation("relu", name=f"stage{number}_relu")(x)
keras.utils.set_random_seed(1)
model = keras.Model(inputs, x)
model.set_weights([np.random.default_rng(1).uniform(0.1, 1, weight.shape) for weight in model.get_weights()])
model.save(FILE)
"""

# A bulk prediction that Ctrl-C stops.
STOPPED = """
import itertools
import headstart as hs
from headstart.inference import bulk
write, done = bulk.write_block, itertools.count(1)
def stopping(*arguments):
    write(*arguments)
    if next(done) == 2:
        raise KeyboardInterrupt
bulk.write_block = stopping
try:
    hs.Run(RUN).predict_to("found.csv", DATA)
except KeyboardInterrupt:
    pass
finally:
    bulk.write_block = write
"""


@dataclass
class Honest:
    """Attributes:
    root: the folder of all of it.
    data: images of three classes in `train`, `val` and `test`.
    image: one of the test images.
    backbone: a `.keras` file.
    run, other: finished runs; `other` has another seed.
    interrupted: a run that was killed in fine-tuning.
    seeds: a folder with a run for each of two seeds.
    bulk: the folder of parts of a bulk prediction that was stopped after two blocks.
    cache: as these have left it.
    """

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / {"image": "data/test/red/062.png", "backbone": "tiny.keras"}.get(name, name)

    def options(self, out: str) -> list[str]:
        """Return the command line of a training that takes seconds."""
        return [
            "train", "--data", str(self.data), "--recipe", "starter", "--backbone", str(self.backbone), "--preprocess", "unit",
            "--image-size", "32", "--hidden-units", "0", "--head-epochs", "2", "--epochs", "3", "--batch-size", "16",
            "--precision", "float32", "--fine-tune-from", "stage1", "--out", out,
        ]  # fmt: skip


def make_honest(root: Path, worker: Worker, wanted: set[str]) -> Honest:
    """Make what the parts of an attack need, and return where it is."""
    honest = Honest(root)
    root.mkdir(parents=True)
    write_images(honest)

    def done(command: list[str]) -> None:
        answer = worker.carry_out(command, root, honest.cache, seconds=300)
        if answer["status"] != 0:
            raise RuntimeError(f"an honest command failed: {command} {answer}")

    done(["python", BACKBONE.replace("FILE", repr(str(honest.backbone)))])
    done(honest.options("run"))
    if "runs" in wanted:
        done([*honest.options("other"), "--seed", "7"])
    if "interrupted" in wanted:
        interrupt(honest, worker)
    if "inputs" in wanted:
        stopped = STOPPED.replace("RUN", repr(str(honest.run))).replace("DATA", repr(str(honest.data / "test")))
        answer = worker.carry_out(["python", stopped], root, honest.cache, seconds=300, limits=SMALL_BLOCKS)
        if answer["status"] != 0:
            raise RuntimeError(f"the prediction was not interrupted: {answer}")
        (root / "found.csv.parts").rename(honest.bulk)
    if "seeds" in wanted:
        done([*honest.options("seeds"), "--seeds", "2", "--epochs", "0"])
    if "caches" in wanted:
        done(["plan", *honest.options("")[1:-2]])
        answer = worker.carry_out(["load_data", str(honest.data)], root, honest.cache, limits=IN_THE_CACHE)
        if answer["status"] != 0:
            raise RuntimeError(f"honest data cannot be loaded: {answer}")
    return honest


def interrupt(honest: Honest, worker: Worker) -> None:
    """Start a training, and kill it in the stage of fine-tuning."""
    state, seen = honest.interrupted / "checkpoint" / "state.json", set()

    def in_the_middle() -> bool:
        if state.exists():
            seen.add(state.stat().st_mtime_ns)
        return len(seen) >= 4  # two epochs of the frozen stage, its end, and one of fine-tuning

    # With a time to keep to, so that it has a plan to read.
    command = [*honest.options("interrupted"), "--budget", "600s"]
    answer = worker.carry_out(command, honest.root, honest.cache, seconds=300, stop_when=in_the_middle)
    if answer["status"] != "stopped":
        raise RuntimeError(f"the training was not interrupted: {answer}")


def write_images(honest: Honest) -> None:
    """Write images that are learned at once, with a wrong label and near-duplicates for the audit to find."""
    for number in range(72):
        split = "test" if number >= 54 else "val" if number >= 42 else "train"
        save(scene(number), honest.data / split / CLASSES[number % 3] / f"{number:03}.png")
    save(scene(60).transpose(Image.Transpose.FLIP_LEFT_RIGHT), honest.data / "train" / "blue" / "copy_of_060.png")
    save(scene(2).crop((1, 1, 39, 39)), honest.data / "train" / "red" / "copy_of_002.png")
    save(scene(3000), honest.data / "train" / "red" / "really_blue.png")


def scene(seed: int) -> Image.Image:
    """Return an image with soft shapes of its own, in the colour of one of three classes."""
    random = np.random.default_rng(seed)
    sides = [Image.fromarray(random.integers(0, 200, (size, size), np.uint8)).resize((40, 40), 3) for size in (3, 5, 9)]
    colours = np.repeat(np.mean([np.asarray(side, np.float32) for side in sides], axis=0)[..., None], 3, axis=2)
    colours[..., 2 - seed % 3] += 80
    return Image.fromarray(np.uint8(np.clip(colours, 0, 255)))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
