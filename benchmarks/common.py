"""What every table shares: contenders that take turns, and results beside all that they depend on."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import headstart as hs
from headstart.data.load import configured_data
from headstart.data.splits import stratified_subset
from headstart.system.files import write_json

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """What every table can be told."""

    data: str = "cifar10"  # cifar10, cifar100, digits, or the path of an image folder or CIFAR files
    backbone: str = "resnet50"  # name of a registered backbone, or the path of a .keras file without top
    repeats: int = 5  # measurements of each contender
    batch_size: int = 64  # images a batch, of every contender
    out: Path = RESULTS  # folder of the results


@contextlib.contextmanager
def contender(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """Yield a function that measures one contender once, in a process of its own.

    Backends that share a process fight over its threads; a process that waits costs nothing.

    Args:
        prepare: run once in that process, with the arguments: loads, compiles and warms up, and returns what is
            called for each measurement. Function, arguments and what is measured must be picklable.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(_prepare, prepare, arguments).result()
        yield lambda: process.submit(_measure).result()


def in_own_process(function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
    """Return what a function gives that is called once in a new process, with variables of the environment set there."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(_set, environment).result()
        return process.submit(function, *arguments).result()


def _set(environment: dict[str, str]) -> None:
    os.environ.update(environment)


_prepared: dict[str, Callable[[], Any]] = {}


def _prepare(prepare: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    _prepared["measure"] = prepare(*arguments)


def _measure() -> Any:
    return _prepared["measure"]()


def alternate(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Measure all contenders in turn, `repeats` times; every other round runs backwards, so that a drift hits all alike."""
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name in list(contenders)[:: -1 if repeat % 2 else 1]:
            found[name].append(contenders[name]())
    return found


def median(values: list[float]) -> float:
    return float(statistics.median(values))


def ratio(values: list[float], others: list[float]) -> float:
    """Return the median of the ratios `values / others`, repeat by repeat: each pair was measured side by side."""
    return median([value / other for value, other in zip(values, others, strict=True)])


def configuration(options: Options, image_size: int, **changes: Any) -> hs.Config:
    """Return the recipe `quick` for a table's data, backbone and batch size at an image size."""
    chosen = {"data": options.data, "backbone": options.backbone, "batch_size": options.batch_size, "image_size": image_size}
    return hs.recipe("quick", **chosen | changes)


def load(config: hs.Config, images: int = 0) -> hs.Dataset:
    """Load a configuration's data; with `images`, about as many, of every split the same stratified part."""
    data = configured_data(config)
    parts = (data.train, data.validation, data.test)
    share = images / sum(map(len, parts)) if images else 1.0
    if share >= 1:
        return data
    classes = len(data.class_names)
    kept = [stratified_subset(data.source, part, number, max(classes, round(share * len(part))), seed=0)
            for number, part in enumerate(parts)]  # fmt: skip
    return dataclasses.replace(data, **dict(zip(("train", "validation", "test"), kept, strict=True)))


def training_images(config: hs.Config, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (count, H, W, 3) training images, again from the start where they are too few, and int32 labels."""
    data = configured_data(config)
    rows = np.resize(data.train, count)
    return data.images(rows), data.labels(rows)


def whole_batches(images: float, batch_size: int) -> int:
    """Return the nearest number of images that fills whole batches, at least two of them."""
    return batch_size * max(2, round(images / batch_size))


@dataclass
class Table:
    """A table while it is measured; each row is a dictionary from column to value.

    Values are text, numbers, or `{"accuracy": ..., "interval": [low, high]}` of `headstart.metrics.classification.measure`.

    Attributes:
        name: file name of the results.
        text: what is compared, in Markdown.
        samples: every single measurement.
    """

    name: str
    title: str
    text: str
    options: Options
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    image: str = ""

    def __post_init__(self) -> None:
        self.begin, self.load = time.monotonic(), os.getloadavg()[0]
        self.machine = machine()

    def write(self) -> None:
        """Write the results as JSON, and print the table."""
        content = {
            "name": self.name, "title": self.title, "text": self.text, "rows": self.rows, "image": self.image,
            "command": command(), "date": time.strftime("%Y-%m-%d"), "minutes": round((time.monotonic() - self.begin) / 60, 1),
            "load_before": round(self.load, 1), "machine": self.machine, "samples": self.samples,
        }  # fmt: skip
        self.options.out.mkdir(parents=True, exist_ok=True)
        write_json(self.options.out / f"{self.name}.json", content)
        print(section(content))


def machine() -> dict[str, str]:
    """Return the hardware and the versions of everything that a figure depends on."""
    from headstart.system.environment import versions  # it starts Keras, whose backend a contender may choose for itself

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = versions() | {"processor": processor(), "memory": f"{memory / 2**30:.0f} GiB"}
    for package in ("openvino", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def processor() -> str:
    """Return the processor's name, and which of the instructions that matter here it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name, flags = (next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
                   for key in ("model name", "flags"))  # fmt: skip
    return f"{name} ({', '.join(flag for flag in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if flag in flags.split())})"


def command() -> str:
    """Return the command that is running; of paths, only the last part."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["python -m benchmarks." + Path(sys.argv[0]).stem, *words])


def section(result: dict[str, Any]) -> str:
    """Return a table's results as a section of Markdown."""
    hardware = result["machine"]
    versions = ", ".join(f"{name} {hardware[name]}" for name in ("python", "keras", "tensorflow-cpu", "jax", "openvino", "torch")
                         if name in hardware)  # fmt: skip
    image = f"\n![{result['title']}]({result['image']})\n" if result["image"] else ""
    return (
        f"## {result['title']}\n\n{result['text']}\n{image}\n{markdown(result['rows'])}\n\n"
        f"`{result['command']}`, {result['date']}, {result['minutes']:g} minutes; {hardware['cores']} cores of "
        f"{hardware['processor']}, {hardware['memory']}, load before {result['load_before']:g}; {versions}.\n"
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table; its columns are the keys of all rows, in order."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([shown(row.get(column)) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: Any) -> str:
    """Return a value as it stands in a table: three figures, an accuracy with its interval, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, dict):
        low, high = value["interval"]
        return f"{100 * value['accuracy']:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
    if isinstance(value, float):
        return (
            f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}" if abs(value) >= 0.01 else f"{value:.1e}" if value else "0"
        )
    return str(value)


def accuracy(figures: dict[str, Any]) -> dict[str, Any]:
    """Return what a table shows of the figures of `headstart.metrics.classification.measure`."""
    return {"accuracy": figures["accuracy"], "interval": figures["interval"]}
