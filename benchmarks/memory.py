"""Train on more images than memory holds, and record the memory over time; kill it in the middle, and say what that cost.

python -m benchmarks.memory                                # 200,000 images of 300 px, 54 GB decoded: hours on two cores
python -m benchmarks.memory --images 3000 --side 96 --most-memory 0.05    # minutes, as if memory held 0.05 GB of images

The images are made first, and kept: the same call goes on with them. They are JPEGs of soft shapes, whose colour is their class.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from benchmarks import common

TEXT = """One training on a folder of JPEGs, the frozen stage and fine-tuning, from an empty cache, and its memory every second:
all of its processes (`peak`, between the looks too), and without the pages of files, which the system takes back when it needs
them (`own peak`). The training is killed in the middle of the features, and goes on. Lost: the images whose features were
computed again."""
# Images of a folder; a file system slows down with more.
IN_FOLDER = 5000
CLASSES = 8
LIMIT = 4.0  # GB, the line in the picture
# What the process is told before it trains: how much memory images may take.
START = "import sys; from headstart.data import store; store.MOST_BYTES_IN_MEMORY = int(sys.argv.pop(1)); "
START += "from headstart.cli.main import main; main()"


@dataclass(frozen=True)
class Options(common.Options):
    """Measure the memory of a training on more images than memory holds."""

    images: int = 200_000  # how many are made
    side: int = 300  # their height and width, and --image-size
    backbone: str = "efficientnetlite0"
    fine_tune_from: str = "last-stage"  # all: fine-tuning looks at the images in every epoch
    epochs: int = 1  # of fine-tuning
    batch_size: int = 16  # with all layers in training, 32 images of 300 px take 3.8 GB, and 64 more than 5
    most_memory: float = 2.0  # GB of images that are held in memory
    kill: bool = True  # kill the training once, when a third of the features is there
    folder: Path = Path("build/memory")  # of the images, the cache and the run
    image: Path = Path("images/memory.png")  # the picture


def main(options: Options) -> None:
    table = common.Table("memory", "More than memory", TEXT, options, image=f"../{options.image}")
    data, cache, run = (options.folder / name for name in (f"images-{options.images}-{options.side}", "cache", "run"))
    make(data, options.images, options.side)
    for old in (cache, run):
        shutil.rmtree(old, ignore_errors=True)
    table.samples = train(data, cache, run, options)
    samples = table.samples.pop("memory")  # thousands, of which the picture remains
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    decoded = options.images * options.side**2 * 3
    table.rows.append({
        "images": f"{options.images:,} of {options.side} px", "decoded, GB": decoded / 1e9, "backbone": options.backbone,
        "from": options.fine_tune_from, "minutes": samples[-1]["seconds"] / 60,
        "peak, GB": max(one["high"] for one in samples), "own peak, GB": max(one["own"] for one in samples),
        "disk, GB": size_of(cache) / 1e9, "killed at, blocks": table.samples.get("blocks_at_kill"),
        "lost, images": table.samples.get("lost"),
        "accuracy": next(reversed(metrics["test"].values())),
    })  # fmt: skip
    draw(options.image, samples, table.samples.get("killed_after"))
    table.write()


def make(folder: Path, images: int, side: int) -> None:
    """Make a data set unless it is there: in each class a folder for every 5,000 images."""
    missing = [number for number in range(images) if not (folder / path_of(number)).exists()]
    chunks = np.array_split(missing, max(1, len(missing) // 500))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for done, _ in enumerate(processes.map(make_some, chunks, repeat(folder), repeat(side)), start=1):
            if done % 20 == 0:
                print(f"{500 * done:,} of {len(missing):,} images made", flush=True)


def path_of(number: int) -> str:
    return f"class-{number % CLASSES}/{number // IN_FOLDER:03}/{number:07}.jpg"


def make_some(numbers: np.ndarray, folder: Path, side: int) -> None:
    for number in numbers.tolist():
        random = np.random.default_rng(number)
        shapes = [
            np.asarray(Image.fromarray(random.integers(0, 256, (size, size), np.uint8)).resize((side, side)), np.float32)
            for size in (4, 9, 20)
        ]
        grey = np.mean(shapes, axis=0)
        label = number % CLASSES
        tint = 50 * np.array([label & 1, label >> 1 & 1, label >> 2 & 1], np.float32)
        path = folder / path_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        Image.fromarray(np.uint8(np.clip(grey[..., None] * 0.7 + tint, 0, 255))).save(partial, "JPEG", quality=85)
        partial.replace(path)


def train(data: Path, cache: Path, run: Path, options: Options) -> dict[str, Any]:
    """Train, and return the memory over time; and when and at how many blocks it was killed, and what was lost."""
    found: dict[str, Any] = {"memory": []}
    begin = time.monotonic()
    first = [
        "train", str(data), "--recipe", "laptop", "--backbone", options.backbone, "--image-size", str(options.side),
        "--fine-tune-from", options.fine_tune_from, "--epochs", str(options.epochs), "--fewest-steps", "0", "--views", "1",
        "--batch-size", str(options.batch_size), "--out", str(run),
    ]  # fmt: skip
    whole = blocks_of(options.images)
    process = started(first, cache, options)
    for sample in memory(process):
        found["memory"].append({"seconds": round(time.monotonic() - begin, 1), **sample})
        if options.kill and "killed_after" not in found and len(blocks := stored(cache)) >= max(1, whole // 3):
            process.send_signal(signal.SIGKILL)
            process.wait()
            found |= {"killed_after": found["memory"][-1]["seconds"], "blocks_at_kill": len(blocks)}
    if "killed_after" in found:
        process = started(["train", "--resume", str(run)], cache, options)
        for sample in memory(process):
            found["memory"].append({"seconds": round(time.monotonic() - begin, 1), **sample})
        after = stored(cache)
        again = [name for name, inode in blocks.items() if after.get(name) != inode]
        # What was computed of the block that was killed in the middle is at most a block.
        found["lost"] = f"at most {rows_of_block():,}" if not again else f"{len(again)} blocks"
    if process.returncode:
        raise SystemExit(f"the training ended with status {process.returncode}; see {options.folder / 'log.txt'}")
    return found


def started(arguments: list[str], cache: Path, options: Options) -> subprocess.Popen[bytes]:
    """Start `headstart` in a process of its own."""
    environment = os.environ | {"HEADSTART_CACHE": str(cache)}
    with (options.folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-c", START, str(int(options.most_memory * 1e9)), *arguments]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def memory(process: subprocess.Popen[bytes]) -> Iterator[dict[str, float]]:
    """Yield every second, until a process ends, its and its children's memory in GB.

    `all` is what they hold, `own` without pages of files, and `high` the most that each has held since the last time that it
    began to count, which no pause between two looks can hide.
    """
    while process.poll() is None:
        lines = []
        with contextlib.suppress(OSError):  # it ends
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for pid in (process.pid, *children):
                lines += Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes = {
            name: sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))
            for name, kind in (("all", "VmRSS"), ("own", "RssAnon"), ("high", "VmHWM"))
        }
        if kilobytes["all"]:
            yield {name: round(1024 * value / 1e9, 3) for name, value in kilobytes.items()}
        time.sleep(1)
    process.wait()


def rows_of_block() -> int:
    from headstart.training.blocks import ROWS_OF_BLOCK

    return ROWS_OF_BLOCK


def blocks_of(images: int) -> int:
    return -(-images // rows_of_block())


def stored(cache: Path) -> dict[str, int]:
    """Return the number of each block of features by its name, which changes if it is written again."""
    return {
        file.name: file.stat().st_ino for file in (cache / "features").glob("????????????????????????????????????????-?????.npy")
    }


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def draw(path: Path, samples: list[dict[str, float]], killed: float | None) -> None:
    """Draw memory over minutes."""
    from headstart.report.plots import MUTED, figure

    path.parent.mkdir(parents=True, exist_ok=True)
    minutes = [one["seconds"] / 60 for one in samples]
    with figure(path, (8, 4)) as canvas:
        axes = canvas.subplots()
        axes.plot(minutes, [one["all"] for one in samples], label="with pages of files")
        axes.plot(minutes, [one["own"] for one in samples], label="its own")
        axes.axhline(LIMIT, color=MUTED, linestyle="--")
        if killed:
            axes.axvline(killed / 60, color=MUTED)
            axes.annotate(" killed", (killed / 60, LIMIT), va="top")
        axes.set(
            xlabel="minutes", ylabel="memory of the process, GB", ylim=(0, None), title="A training on more than memory holds"
        )
        axes.legend()


if __name__ == "__main__":
    main(tyro.cli(Options))
