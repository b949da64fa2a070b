"""Classifying a great many files into a table: `headstart predict --out` against the loops of Ray Data and Daft.

python -m benchmarks.bulk --images 1000000 --kills 10    # the files are made first: about 1 GB at 32 px
python -m benchmarks.bulk --images 2000                  # a trial

Ray Data and Daft are measured where they are installed: pip install 'ray[data]' daft.
"""

import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from benchmarks import common
from headstart.system.processor import usable_cores

TEXT = """JPEG files in one folder to a table with the class of each, each contender from the start of its process to its end.
Ray Data and Daft read, decode, resize and schedule as their own documents write it, with one worker that holds the model,
and write Parquet; the model is ours in both, `run.predict` of each batch of decoded images, in quarters, so that OpenVINO has
work for every core. The memory is that of a process and all that it has started (PSS, so that shared pages count once)."""
# In seconds, between two looks at the memory.
EVERY = 0.5
PACKAGES = {"Ray Data": "ray", "Daft": "daft"}
FILES_IN_FOLDER = 10_000


@dataclass(frozen=True)
class Options(common.Options):
    """Measure the classification of many files."""

    run: str = ""  # folder of a finished run; empty: a frozen one on 1,000 images is trained for it
    size: int = 64  # side in pixels of that run's network
    images: int = 2000  # JPEG files: the test split's images, again and again under other names
    side: int = 0  # side of the files in pixels; 0: the data's own
    kills: int = 0  # how often ours is killed and started again, in a further pass whose result must be equal
    repeats: int = 1  # measurements of each contender
    image: Path = Path("images/bulk_memory.png")  # memory over time


def main(options: Options) -> None:
    import headstart as hs

    table = common.Table("bulk", "Many files", TEXT, options, image=f"../{options.image}")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = str(Path(options.run).absolute()) if options.run else common.in_own_process(train, options, name)
        data = common.load(hs.Run(run).config)
        write_files(data.images(data.test), work / "files", options.images, options.side)
        contenders = {"Headstart": lambda: watched(ours(run, work / "files", work / "found.parquet", options.batch_size))}
        for title, package in PACKAGES.items():
            if not importlib.util.find_spec(package):
                print(f"{title} is left out: {package} is not installed")
                continue
            theirs = [sys.executable, "-m", "benchmarks.bulk_peers", package, run, str(work / "files"), str(options.batch_size)]
            contenders[title] = lambda theirs=theirs: watched(theirs)
        found = common.alternate(contenders, options.repeats)
        for title, samples in found.items():
            seconds = [sample["seconds"] for sample in samples]
            peaks = [max(memory for _, memory in sample["memory"]) for sample in samples]
            # Of the second half: what grows with the number of files shows here.
            growth = [sample["memory"][-1][1] - sample["memory"][len(sample["memory"]) // 2][1] for sample in samples]
            table.rows.append({
                "": title,
                "files": f"{options.images:,}",
                "seconds": common.median(seconds),
                "images a second and core": options.images / common.median(seconds) / usable_cores(),
                "peak memory, MB": common.median(peaks),
                "growth in the second half, MB": common.median(growth),
            })  # fmt: skip
            table.samples[title] = samples
        draw(options.image, {title: samples[0]["memory"] for title, samples in found.items()})
        if options.kills:
            table.samples["kills"] = disturbed(run, work, options)
        table.write()


def train(options: Options, folder: str) -> str:
    import headstart as hs

    out = f"{folder}/run"
    hs.train(common.configuration(options, options.size, epochs=0, limit=1000, out=out))
    return out


def write_files(images: np.ndarray, folder: Path, number: int, side: int) -> None:
    """Write so many JPEG files, in subfolders of 10,000; each image is encoded once."""
    encoded = folder.with_name("encoded.jpg")
    contents = []
    for image in images[:number]:
        one = Image.fromarray(image)
        (one.resize((side, side), Image.Resampling.BICUBIC) if side else one).save(encoded, quality=95)
        contents.append(encoded.read_bytes())
    for place in range(number):
        path = folder / f"{place // FILES_IN_FOLDER:04}" / f"{place:08}.jpg"
        if place % FILES_IN_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(contents[place % len(contents)])


def ours(run: str, files: Path, out: Path, batch_size: int) -> list[str]:
    size = ["--batch-size", str(batch_size)]
    return [sys.executable, "-m", "headstart", "predict", run, str(files), "--out", str(out), "--overwrite", *size]


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command, and return its seconds and its memory over time, in seconds and MB."""
    begin, memory = time.perf_counter(), []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            memory.append((round(time.perf_counter() - begin, 2), sum(map(held_by, family(process.pid))) / 1000))
            time.sleep(EVERY)
        seconds = time.perf_counter() - begin
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output.read()[-3000:]}")
    return {"seconds": seconds, "memory": [one for one in memory if one[1]] or [(0.0, 0.0)]}


def family(process: int) -> Iterator[int]:
    """Yield the number of a process, and of all that it has started."""
    yield process
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            for child in Path(f"/proc/{process}/task/{thread}/children").read_text().split():
                yield from family(int(child))
    except OSError:
        return  # it has ended


def held_by(process: int) -> int:
    """Return the memory of a process in kB, of which pages that several share count in part for each."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def disturbed(run: str, work: Path, options: Options) -> list[float]:
    """Kill our process so many times, and start it again each time; return after how many seconds each was killed.

    Raises:
        SystemExit: the table is not that of the process that nobody has killed.
    """
    chance, out, killed = random.Random(0), work / "killed.parquet", []
    command = ours(run, work / "files", out, options.batch_size)
    begin = time.perf_counter()
    subprocess.run(ours(run, work / "files", work / "whole.parquet", options.batch_size), check=True, capture_output=True)
    whole = time.perf_counter() - begin
    while len(killed) < options.kills:
        process, seconds = (
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            chance.uniform(0, whole),
        )
        try:
            if status := process.wait(timeout=seconds):
                raise SystemExit(f"{' '.join(command)} ended with {status}")
            out.unlink()  # what is left of the kills falls on a new table
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed.append(round(seconds, 1))
    subprocess.run(command, check=True, capture_output=True)
    if out.read_bytes() != (work / "whole.parquet").read_bytes():
        raise SystemExit(f"the table of a process that was killed {len(killed)} times is another one")
    print(f"killed {len(killed)} times, after {killed} seconds, and equal")
    return killed


def draw(path: Path, memory: dict[str, list[tuple[float, float]]]) -> None:
    """Draw memory over time."""
    from headstart.report.plots import figure

    path.parent.mkdir(parents=True, exist_ok=True)
    with figure(path, (8, 4)) as canvas:
        axes = canvas.subplots()
        for title, samples in memory.items():
            axes.plot([seconds for seconds, _ in samples], [held for _, held in samples], label=title)
        axes.set(xlabel="seconds", ylabel="memory in MB")
        axes.set_ylim(0)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)


if __name__ == "__main__":
    main(tyro.cli(Options))
