"""What every table shares: contenders that take turns, and results beside all that they depend on."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import headstart as hs
from headstart.data.load import configured_data
from headstart.data.splits import stratified_subset
from headstart.system.files import write_json

RESULTS = Path(__file__).parent / "results"
# The packages whose versions stand below a table. Results hold those of all that a figure depends on.
CUDNN = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
VERSIONS = ("python", "keras", "tensorflow-cpu", "jax", "openvino", "torch", *CUDNN)


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


def reports(function: Callable[..., Iterator[Any]], *arguments: Any, seconds: float, **environment: str) -> Iterator[Any]:
    """Yield what a generator yields that runs once in a new process, each item as soon as it is there.

    Args:
        seconds: how long the process may take. Then it is ended, with all processes that it has started.
        environment: variables of the environment that are set there.

    Raises:
        TimeoutError: it took longer.
        ChildProcessError: it failed; the message is the first line of the error, and the traceback goes to stderr.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, environment, function, arguments))
    process.start()
    sender.close()
    end = time.monotonic() + seconds
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            kind, value = receiver.recv()
            if kind == "end":
                return
            if kind == "error":
                raise ChildProcessError(value)
            yield value
        raise TimeoutError(f"stopped after {seconds:.0f} s")
    except EOFError:
        process.join()
        raise ChildProcessError(f"its process ended with exit status {process.exitcode}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _report(sender: Connection, environment: dict[str, str], function: Callable[..., Iterator[Any]], arguments: tuple) -> None:
    os.setsid()  # so that what it starts, such as compilers, can be ended with it
    _set(environment)
    try:
        for item in function(*arguments):
            sender.send(("item", item))
        sender.send(("end", None))
    except Exception as error:
        traceback.print_exc()
        sender.send(("error", f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"))


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


def over_seeds(shares: list[float]) -> str:
    """Return the mean of some shares, and their range if there are several, in percent."""
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{100 * statistics.mean(shares):.2f}" + (f" ({low:.2f} to {high:.2f})" if len(shares) > 1 else "")


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


def of_each_class(data: hs.Dataset, images: int, seed: int) -> hs.Dataset:
    """Return a data set with so many images of each class, drawn by the seed, in training and validation together.

    A tenth validates, and all test images stay. 0: all images.
    """
    if not images:
        return data
    random, validating = np.random.default_rng(seed), max(1, images // 10)
    kept = {}
    for split, number in (("train", images - validating), ("validation", validating)):
        rows = random.permutation(getattr(data, split))
        labels = data.labels(rows)
        kept[split] = np.concatenate([rows[labels == label][:number] for label in range(len(data.class_names))])
    return dataclasses.replace(data, **kept)


def training_images(config: hs.Config, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (count, H, W, 3) training images, again from the start where they are too few, and int32 labels."""
    data = configured_data(config)
    rows = np.resize(data.train, count)
    return data.images(rows), data.labels(rows)


def built_network(config: hs.Config, image_shape: tuple[int, int, int], classes: int) -> tuple[Any, str]:
    """Return a network as a training builds it, a `headstart.model.network.Network`, and its precision."""
    from headstart.model.backbones import load_backbone
    from headstart.model.network import build_network
    from headstart.system.backend import resolve_precision, seed_everything
    from headstart.system.memory import keep_freed_memory

    keep_freed_memory()
    seed_everything(0, deterministic=False)
    precision = resolve_precision(config.precision)
    return build_network(*load_backbone(config), image_shape, classes, config, precision), precision


def timed(name: str, run: Callable[[], Any], images: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Call a function that passes images through a network, and waits for the device, once to warm up and then to measure.

    Yields:
        An empty dictionary before anything is called; then, after each measurement, the images a second of all so far under
        `name`, and under `f"{name}_first"` how many seconds longer the call took that warmed up.
    """
    yield {}
    seconds: list[float] = []
    for _ in range(1 + repeats):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
        if len(seconds) > 1:
            yield {name: [images / each for each in seconds[1:]], f"{name}_first": seconds[0] - seconds[1]}


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
    machine: dict[str, str] = field(default_factory=lambda: machine())

    def __post_init__(self) -> None:
        self.begin, self.load = time.monotonic(), os.getloadavg()[0]

    def write(self) -> None:
        """Write the results as JSON, and print the table."""
        print(section(self.save()))

    def save(self) -> dict[str, Any]:
        """Write the results as JSON, and return them."""
        content = {
            "name": self.name, "title": self.title, "text": self.text, "rows": self.rows, "image": self.image,
            "command": command(), "date": time.strftime("%Y-%m-%d"), "minutes": round((time.monotonic() - self.begin) / 60, 1),
            "load_before": round(self.load, 1), "machine": self.machine, "samples": self.samples,
        }  # fmt: skip
        self.options.out.mkdir(parents=True, exist_ok=True)
        write_json(self.options.out / f"{self.name}.json", content)
        return content


def machine() -> dict[str, str]:
    """Return the hardware and the versions of everything that a figure depends on."""
    from headstart.system.environment import versions  # it starts Keras, whose backend a contender may choose for itself

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = versions() | {"processor": processor(), "memory": f"{memory / 2**30:.0f} GiB"} | graphics()
    for package in ("openvino", "jax", "torch", *CUDNN):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def graphics() -> dict[str, str]:
    """Return the name, the memory and the driver of NVIDIA's GPUs, under `gpu_name`; nothing without one."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"gpu_name": "; ".join(names.splitlines())}


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
    known = [(name, hardware[name]) for name in VERSIONS if name in hardware]
    versions = ", ".join(f"{name} {version}" for name, version in known)
    device = f"{hardware['gpu_name']}; " if "gpu_name" in hardware else ""
    image = f"\n![{result['title']}]({result['image']})\n" if result["image"] else ""
    return (
        f"## {result['title']}\n\n{result['text']}\n{image}\n{markdown(result['rows'])}\n\n"
        f"`{result['command']}`, {result['date']}, {result['minutes']:g} minutes; {device}{hardware['cores']} cores of "
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
