"""Accuracy over time from nothing cached: our recipe at several sizes against what plain Keras has by then.

python -m benchmarks.curve --runs runs/quick-32 runs/quick-64       # finished runs, each from an empty cache
python -m benchmarks.curve --train 96 128                           # makes such runs, in runs/
python -m benchmarks.curve --size 64 --minutes 20                   # records plain Keras, an epoch a point
python -m benchmarks.curve --size 64 --policy mixed_bfloat16        # and with its mixed precision
python -m benchmarks.curve                                          # draws again

Each call adds to what lies in benchmarks/results/curve, and draws all of it.
"""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common
from headstart.config import Config
from headstart.system.files import write_json

TEXT = """Test accuracy over the time from a named data set on, nothing cached, without the start of Python and the report.
Each of our lines is one run, from the frozen stage's head, audit included, to the fine-tuned network. Plain Keras trains
as its guide does, through the whole network at every epoch, first frozen, then everything; each point is an epoch, and
the time for testing it does not count. The table has the best that any of its lines had reached when our run was done,
and when; its lines end where they were recorded no longer."""
LEVELS = (90, 92, 94)  # accuracies in percent that are marked


@dataclass(frozen=True)
class Options(common.Options):
    """Measure and draw accuracy over time."""

    runs: tuple[str, ...] = ()  # finished run folders, each from an empty cache
    train: tuple[int, ...] = ()  # sides in pixels at which such runs are made, by the recipe quick
    size: tuple[int, ...] = ()  # sides in pixels at which plain Keras is recorded
    minutes: float = 20  # how long plain Keras trains at each size; an epoch that has begun is finished
    frozen_epochs: int = 2  # its epochs with a frozen backbone, 2 in the guide
    rate: float = 1e-5  # its learning rate in fine-tuning, 1e-5 in the guide
    policy: str = "float32"  # its dtype policy; or mixed_bfloat16, which the guide does not mention
    held: bool = False  # freeze its batch norms in fine-tuning, which the guide's training=False does not do in Keras 3
    images: int = 0  # images in all, of every part in proportion, to train on in this call; 0: all there are
    batch_size: int = 64  # images a batch of plain Keras; ours is the recipe's
    image: Path = Path("images/accuracy_over_time.png")  # the image


def main(options: Options) -> None:
    table = common.Table("curve", "Accuracy over time", TEXT, options, image=f"../{options.image}")
    folder = options.out / "curve"
    folder.mkdir(parents=True, exist_ok=True)
    subset = f"-{options.images}" if options.images else ""
    runs = [f"runs/benchmark-{size}px{subset}" for size in options.train]
    for size, out in zip(options.train, runs, strict=True):
        config = common.configuration(options, size, batch_size=128, out=out)
        with tempfile.TemporaryDirectory() as cache:
            common.in_own_process(train, config, options.images, HEADSTART_CACHE=cache)
    for run in [*options.runs, *runs]:
        write_json(folder / f"headstart-{Path(run).name}.json", points_of(run))
    for size in options.size:
        config = common.configuration(options, size, head_epochs=options.frozen_epochs)
        name = ", ".join(traits(size, options))
        file = folder / f"keras-{re.sub('[^a-z0-9.]+', '-', name)}.json"
        common.in_own_process(
            record, config, name, options.held, options.rate, options.policy, options.minutes, options.images, file
        )
    lines = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    lines.sort(key=lambda line: (not line["headstart"], line["side"]))
    table.rows += [row(line, lines) for line in lines if line["headstart"]]
    table.samples = {"lines": lines}
    draw(options.image, lines)
    table.write()


def train(config: Config, images: int) -> None:
    import headstart as hs

    hs.train(config, common.load(config, images), overwrite=True)


def traits(size: int, options: Options) -> list[str]:
    """Return what tells one line of plain Keras from the others."""
    found = [f"{size} px", f"rate {options.rate:g}"]
    if options.policy != "float32":
        found.append(options.policy)
    if options.held:
        found.append("batch norm frozen")
    if options.images:
        found.append(f"{options.images:,} images")
    return found


def record(config: Config, *arguments: Any) -> None:
    from benchmarks import keras_guide

    keras_guide.record(config, *arguments)


def points_of(path: str) -> dict[str, Any]:
    """Return the line of a finished run: seconds and test accuracy of its stages."""
    import headstart as hs

    run = hs.Run(path)
    total, fine_tuning = (run.metrics["seconds"].get(part, 0.0) for part in ("total", "fine_tuning"))
    seconds = {"frozen": total - fine_tuning, "fine_tuned": total}
    return {
        "name": f"Headstart, {run.config.recipe}, {run.config.image_size} px",
        "headstart": True,
        "side": run.config.image_size,
        "environment": run.read_json("environment.json") | {"command": ""},  # whose paths are the machine's
        "points": [{"seconds": seconds[stage], "stage": stage, "test": common.accuracy(figures)}
                   for stage, figures in run.metrics["test"].items()],
    }  # fmt: skip


def row(line: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return our run's row, with the best of plain Keras in the same time."""
    *_, last = line["points"]
    peers = [(point["test"], f"{other['name'].removeprefix('Keras, ')}, {point['seconds'] / 60:.1f} min")
             for other in lines if not other["headstart"]
             for point in other["points"] if point["seconds"] <= last["seconds"]]  # fmt: skip
    test, which = max(peers, default=(None, "no epoch was finished"), key=lambda peer: peer[0]["accuracy"])
    return {
        "": line["name"], "minutes": last["seconds"] / 60,
        **{f"{point['stage'].replace('_', '-')}, test accuracy": point["test"] for point in line["points"]},
        "plain Keras in that time": test, "which": which,
    }  # fmt: skip


def draw(path: Path, lines: list[dict[str, Any]]) -> None:
    """Draw test accuracy over minutes, on a logarithmic axis."""
    from matplotlib import colormaps
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    from headstart.report.plots import MUTED, figure

    path.parent.mkdir(parents=True, exist_ok=True)
    with figure(path, (8, 6)) as canvas:
        axes = canvas.subplots()
        counts = {ours: sum(line["headstart"] == ours for line in lines) for ours in (True, False)}
        drawn = {True: 0, False: 0}
        for line in lines:
            ours = line["headstart"]
            shade = 0.45 + 0.45 * (drawn[ours] + 1) / counts[ours]
            drawn[ours] += 1
            minutes = [point["seconds"] / 60 for point in line["points"]]
            percent = [100 * point["test"]["accuracy"] for point in line["points"]]
            axes.plot(minutes, percent, "o-" if ours else "s--", markersize=5, linewidth=1.8 if ours else 1.3,
                      color=colormaps["Blues" if ours else "Oranges"](shade), label=line["name"])  # fmt: skip
        everything = [100 * point["test"]["accuracy"] for line in lines for point in line["points"]]
        for level in LEVELS:
            axes.axhline(level, color=MUTED, linewidth=0.8, linestyle=":")
            axes.annotate(f"{level} %", (1, level), xycoords=("axes fraction", "data"), xytext=(4, 0),
                          textcoords="offset points", va="center", color=MUTED)  # fmt: skip
        axes.set(xscale="log", xlabel="minutes, nothing cached (logarithmic)", ylabel="test accuracy in %")
        axes.set_ylim(max(0, np.floor((min(everything, default=60) - 2) / 5) * 5), 96)
        low, high = axes.get_xlim()
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180) if low <= tick <= high]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.2, axis="x")
        axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


if __name__ == "__main__":
    main(tyro.cli(Options))
