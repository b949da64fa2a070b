"""A GPU: ours beside compiled PyTorch and Keras' `fit`, and how long it takes to 97 % on CIFAR-10.

python -m benchmarks.gpu --data cifar-10-batches-py --backbone resnet50_imagenet.keras
python -m benchmarks.gpu --size 64 32 --batch-size 8 --images 16 --repeats 1 --matrix 512     # a rehearsal on a CPU

Every row is in the results as soon as it is measured, the most telling ones first; what fails or takes too long is a row
that says so. Nothing is downloaded: without `--data` and `--backbone`, images and weights are random, and the rows that
need real ones are left out.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

import headstart as hs
from benchmarks import common
from benchmarks.steps import forward_operations, matrix_product_rate
from headstart.config import ALL, Config
from headstart.data.dataset import Dataset
from headstart.data.source import Source

TEXT = """Fine-tuning of every layer, in images a second, each contender in a process of its own, one after the other, and
after an epoch to warm up. Images are random, of the network's own size, so that nothing is enlarged and the augmentation
has the most to do. Headstart is a training's own way from a data set in memory: `fit`, fed as on this device by default,
with the default augmentation; then the same without augmentation, with images from the host, and as an ideal loop, which
is the same step on images that stay on the device, sixteen in a call (`lax.scan`). PyTorch is the same network with
channels last and bfloat16 autocast, compiled, with a fused AdamW and images that stay on the device, and never augments.
Keras is `fit` as its guide to transfer learning has it, in mixed precision. Forward is the pooled features of images in
memory for Headstart, `predict` for Keras, and for PyTorch the network on images that stay on the device. Shares are those
of the rate at which the device multiplies large matrices, counting convolutions alone, forward and twice as much backward.
Starting is from the start of Python to the first step, compiling included; programs that JAX compiled for a row that was
measured before are found again."""
GOALS_TEXT = """What is asked of a GPU, beside what was found, in the same run as the table before. Seconds are those of the
whole command, from the start of Python to the report. The second time, the features of the frozen layers are computed
anew, and what else the cache keeps is there."""
STEPS_A_CALL = 16
SECONDS_OF_REST = 15.0  # with less time than this left, nothing is started
AUGMENTED, PLAIN = "Headstart", "Headstart, without augmentation"
HOST, IDEAL = "Headstart, images from the host", "Headstart's step, ideal loop"
PYTORCH, HELD, KERAS = "PyTorch, compiled", "PyTorch, compiled, batch norm frozen", "Keras `fit`, the guide"
ROWS = (AUGMENTED, PLAIN, HOST, IDEAL, PYTORCH, HELD, KERAS)
WITHOUT_AUGMENTATION: dict[str, Any] = {"flip": False, "rotation": 0.0, "zoom": 0.0, "translation": 0.0}
FIRST_TIME, SECOND_TIME, PLANNED, BEST = "first time", "second time", "plan", "best"
CLASSES = 10

Part = Literal["rates", "cifar10", "plan", "best"]


@dataclass(frozen=True)
class Options(common.Options):
    """Measure on a GPU."""

    data: str = ""  # CIFAR-10, for the rows about accuracy: its files, or cifar10; "": they are left out
    backbone: str = ""  # .keras file of a ResNet-50 without top, or resnet50; "": random weights, for the rates alone
    repeats: int = 3  # epochs that are measured
    batch_size: int = 256  # images a batch, of every contender
    size: tuple[int, ...] = (224, 128, 64)  # sides in pixels; all contenders are measured at the first one
    images: int = 12_288  # images an epoch at the first size; at other sizes as many as take about as long
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # of ours
    part: tuple[Part, ...] = ("rates", "cifar10", "plan")  # what to measure; best takes minutes
    minutes: float = 6.0  # no row is begun after this time, and none goes on
    limit: float = 120.0  # seconds for a row; three times as many for a whole training
    matrix: int = 8192  # side of the matrices that give the device's rate
    torch_mode: str = "default"  # mode of torch.compile
    recipe: str = "standard"  # of the training to 97 %
    train: tuple[str, ...] = ()  # options of that training, as in a TOML file: image_size=96 epochs=3
    table: str = "gpu"  # name of the results; another one for another part
    go_on: bool = False  # keep what the results in the folder have, and measure what is missing there


class Job(NamedTuple):
    """A row to measure: which one, by which generator with which arguments, in which environment, and in how many seconds."""

    name: str
    measure: Callable[..., Iterator[dict[str, Any]]]
    arguments: tuple[Any, ...]
    environment: dict[str, str]
    seconds: float


def main(options: Options) -> None:
    end = time.monotonic() + 60 * options.minutes
    machine = common.in_own_process(common.machine)  # here, it would take the GPU's memory from the contenders
    table = common.Table(options.table, "On a GPU", TEXT, options, machine=machine)
    goals = common.Table(f"{options.table}-goals", "On a GPU, what is asked for", GOALS_TEXT, options, machine=machine)
    kept = finished(options.out / f"{options.table}.json", machine, settings(options)) if options.go_on else {}
    table.samples["settings"] = settings(options)
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs(options, Path(folder)):
            found: dict[str, Any] = {}
            left = end - time.monotonic()
            if job.name in kept and job.measure is not ground:  # others need its files
                found = kept[job.name]
            elif left < SECONDS_OF_REST:
                found["error"] = "left out: the time was over"
            elif job.name == SECOND_TIME and "error" in table.samples[FIRST_TIME]:
                found["error"] = "left out: the first time did not end well"
            else:
                collect(job, left, found)
            table.samples[job.name] = found
            table.rows[:], goals.rows[:] = rows(options, table.samples), goal_rows(options, table.samples)
            for each in (table, goals):
                each.save()
            print(f"{job.name}: {found.get('error', 'measured')}", flush=True)
    for each in (table, goals):
        if each.rows:
            each.write()


def settings(options: Options) -> dict[str, Any]:
    """Return what figures depend on besides the machine, as JSON gives it back."""
    names = ("batch_size", "images", "precision", "matrix", "torch_mode", "recipe", "train")
    files = {name: Path(getattr(options, name)).name for name in ("data", "backbone")}
    return json.loads(json.dumps({name: getattr(options, name) for name in names} | files | {"first_size": options.size[0]}))


def finished(file: Path, machine: dict[str, str], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what earlier results have found without an error, by the names of the jobs.

    Nothing is kept from another machine, other versions or other settings.
    """
    earlier = json.loads(file.read_text()) if file.exists() else {"samples": {}}
    if earlier.get("machine") != machine or earlier["samples"].pop("settings", {}) != settings:
        return {}
    kept = {name: found for name, found in earlier["samples"].items() if "error" not in found}
    both = {FIRST_TIME, SECOND_TIME} <= kept.keys()  # the second time needs the cache of the first
    return {name: found for name, found in kept.items() if both or name not in (FIRST_TIME, SECOND_TIME)}


def collect(job: Job, left: float, found: dict[str, Any]) -> None:
    """Carry out a job, and update what it has found; if it fails, that has an `error`."""
    begin = time.monotonic()
    try:
        for report in common.reports(job.measure, *job.arguments, seconds=min(left, job.seconds), **job.environment):
            found |= {"starting": time.monotonic() - begin, **found} | report
    except (ChildProcessError, TimeoutError) as error:
        found["error"] = str(error)


def jobs(options: Options, folder: Path) -> Iterator[Job]:
    """Yield what to measure, the most telling first."""
    first, others = options.size[0], options.size[1:]
    accuracy = [job for job in trainings(options, folder) if job.name in (FIRST_TIME, SECOND_TIME)]
    rest = [job for job in trainings(options, folder) if job.name not in (FIRST_TIME, SECOND_TIME)]
    if "rates" not in options.part:
        yield from accuracy + rest
        return
    yield Job("ground", ground, (options, folder), {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}, options.limit)
    yield Job("matrix", matrix, (options,), {}, options.limit)
    yield from (rate(options, folder, first, name) for name in (AUGMENTED, PYTORCH))
    yield from accuracy
    yield from (rate(options, folder, first, name) for name in (PLAIN, IDEAL))
    yield from rest
    yield from (rate(options, folder, size, name) for size in others for name in (AUGMENTED, PYTORCH))
    yield from (rate(options, folder, first, name) for name in (KERAS, HOST, HELD))
    yield from (rate(options, folder, size, KERAS) for size in others)


def rate(options: Options, folder: Path, size: int, name: str) -> Job:
    """Return the job that measures one contender at one size."""
    changes = WITHOUT_AUGMENTATION if name == PLAIN else {}
    config = configured(options, folder, size, changes)
    count = common.whole_batches(options.images * (options.size[0] / size) ** 2, options.batch_size)
    if name in (PYTORCH, HELD):
        arguments = (config, folder, count, options.repeats, name == HELD, options.torch_mode)
        # Keras on PyTorch: TensorFlow and Triton, which PyTorch brings along, crash in one process.
        return Job(named(size, name), pytorch, arguments, {"KERAS_BACKEND": "torch"}, options.limit)
    measure: Any = keras_fit if name == KERAS else ideal if name == IDEAL else ours
    arguments = (config, count, options.repeats) + ((name,) if measure is ours else ())
    # What one row has compiled, the next finds again.
    return Job(named(size, name), measure, arguments, {"HEADSTART_CACHE": str(folder / "cache-of-rates")}, options.limit)


def named(size: int, name: str) -> str:
    return f"{name}, {size} px"


def configured(options: Options, folder: Path, size: int, changes: dict[str, Any]) -> Config:
    backbone = options.backbone or str(folder / "random.keras")
    chosen = {"backbone": backbone, "batch_size": options.batch_size, "image_size": size, "precision": options.precision}
    return hs.recipe("quick", **chosen, fine_tune_from=ALL, **changes)


def trainings(options: Options, folder: Path) -> Iterator[Job]:
    """Yield the jobs that train on CIFAR-10 to the end, and the plan for it, each with an empty cache but the second time's."""
    if not (options.data and options.backbone):
        return
    chosen = {"data": options.data, "backbone": options.backbone} | tomllib.loads("\n".join(options.train))
    if "cifar10" in options.part:
        for row in (FIRST_TIME, SECOND_TIME):
            yield Job(
                row,
                training,
                (options.recipe, chosen, folder / row),
                {"HEADSTART_CACHE": str(folder / "cache")},
                3 * options.limit,
            )
    if "plan" in options.part:
        cache = {"HEADSTART_CACHE": str(folder / "cache-of-plan")}
        yield Job(PLANNED, plan, (options.recipe, chosen), cache, options.limit)
    if "best" in options.part:
        cache = {"HEADSTART_CACHE": str(folder / "cache-of-best")}
        yield Job(BEST, training, ("best", chosen, folder / BEST), cache, 60 * options.minutes)


def ground(options: Options, folder: Path) -> Iterator[dict[str, Any]]:
    """Write the backbone with random weights, if none is given, and the one for PyTorch; both on the CPU.

    Yields:
        For each size, how many operations the forward pass of an image takes.
    """
    from benchmarks.keras_guide import exported
    from headstart.model.backbones import load_backbone
    from headstart.system.backend import load_keras

    if not options.backbone:
        shape = (None, None, 3)
        load_keras().applications.ResNet50(include_top=False, weights=None, input_shape=shape).save(folder / "random.keras")
    config = configured(options, folder, options.size[0], {})
    network, _ = load_backbone(config)
    yield {"operations": {str(size): forward_operations(network, (1, size, size, 3)) for size in options.size}}
    content = exported(config)
    arrays = {f"{name}/{place}": array for name, (weights, _) in content["layers"].items() for place, array in enumerate(weights)}
    np.savez(folder / "backbone.npz", **arrays)
    strides = {name: stride for name, (_, stride) in content["layers"].items()}
    (folder / "backbone.json").write_text(json.dumps({"strides": strides, "preprocess": content["preprocess"]}))


def matrix(options: Options) -> Iterator[dict[str, Any]]:
    yield {"rate": matrix_product_rate(options.precision, options.matrix, products=8)}


def random_images(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (count, size, size, 3) images, which repeat, and their labels, int32."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (min(count, 512), size, size, 3), dtype=np.uint8)
    return np.resize(images, (count, size, size, 3)), np.resize(np.arange(CLASSES, dtype=np.int32), count)


def ours(config: Config, count: int, repeats: int, name: str) -> Iterator[dict[str, Any]]:
    """Measure our fine-tuning and, of the default one, the forward pass; see `benchmarks.common.timed`."""
    from headstart.inference.engine import Engine
    from headstart.record.history import FINE_TUNED
    from headstart.system.kernels import without_autotuning
    from headstart.training.fit import ProgressLine
    from headstart.training.stages import image_batches, resident_images, tuning_learner

    images, labels = random_images(count, config.image_size)
    few, names = np.arange(min(count, config.batch_size)), tuple(map(str, range(CLASSES)))
    source = Source(images, labels, names, np.zeros(count, np.int8), "random")
    network, precision = common.built_network(config, images.shape[1:], CLASSES)
    resident = None if name == HOST else resident_images(images, config)
    data = Dataset(source, np.arange(count), few, few)
    batches, _, _ = image_batches(data, config, seed=0, classes=CLASSES, resident=resident is not None)
    learner = tuning_learner(network, config, 100 * batches.num_batches, resident)
    yield {"precision": precision, "resident": resident is not None}

    def train() -> None:
        line = ProgressLine(FINE_TUNED, 1, batches.num_batches)  # it reads the accuracy now and then, and so waits
        line.on_epoch_end = lambda *arguments: None  # its line is about validation, and there is none
        learner.fit(without_autotuning(batches), callbacks=[line], shuffle=False, verbose=0)

    yield from common.timed("training", train, count, repeats)
    if name == AUGMENTED:
        engine = Engine(network.feature_extractor())
        size = config.batch_size
        parts = [images[start : start + size] for start in range(0, count, size)]
        yield from common.timed("forward", lambda: list(engine.outputs(parts, count)), count, repeats)


def ideal(config: Config, count: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure our step on images that stay on the device, several of them in a call."""
    import jax

    from headstart.system.backend import load_keras
    from headstart.training.stages import tuning_learner

    if load_keras().backend.backend() != "jax":
        raise NotImplementedError("the ideal loop is written for JAX")
    images, labels = random_images(count, config.image_size)
    network, _ = common.built_network(config, images.shape[1:], CLASSES)
    steps = count // config.batch_size
    learner = tuning_learner(network, config, 100 * steps, images)
    learner.optimizer.build(learner.trainable_variables)
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]

    def step(state: tuple[Any, Any, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        trainable, others, optimizer = state
        numbers, targets = batch

        def loss_of(weights: Any) -> tuple[Any, Any]:
            logits, changed = learner.stateless_call(weights, others, numbers, training=True)
            return learner.loss(targets, logits), changed

        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        trainable, optimizer = learner.optimizer.stateless_apply(optimizer, gradients, trainable)
        return (trainable, others, optimizer), loss

    several = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0)
    variables = (learner.trainable_variables, learner.non_trainable_variables, learner.optimizer.variables)
    state: Any = tuple([variable.value for variable in kind] for kind in variables)
    calls = max(1, steps // STEPS_A_CALL)
    used = calls * min(steps, STEPS_A_CALL) * config.batch_size

    def train() -> None:
        nonlocal state
        order = np.random.default_rng(0).permutation(count)[:used].astype(np.int32)
        for numbers in order.reshape(calls, -1, config.batch_size):
            state, losses = several(state, (numbers, one_hot[numbers]))
        losses.block_until_ready()

    yield from common.timed("training", train, used, repeats)


def pytorch(config: Config, folder: Path, count: int, repeats: int, held: bool, mode: str) -> Iterator[dict[str, Any]]:
    from benchmarks.pytorch_tutorial import rates

    kept = json.loads((folder / "backbone.json").read_text())
    with np.load(folder / "backbone.npz") as arrays:
        weights: dict[str, list[np.ndarray]] = {}
        for key in arrays.files:  # in the order in which they were written
            weights.setdefault(key.split("/")[0], []).append(arrays[key])
    if "conv5_block3_3_conv" not in weights or "conv5_block4_1_conv" in weights:
        raise NotImplementedError("PyTorch's network is written out as a ResNet-50 only")
    layers = {name: (arrays, kept["strides"][name]) for name, arrays in weights.items()}
    backbone = {"layers": layers, "preprocess": kept["preprocess"]}
    yield from rates(config, backbone, *random_images(count, config.image_size), repeats, held, mode)


def keras_fit(config: Config, count: int, repeats: int) -> Iterator[dict[str, Any]]:
    from benchmarks.keras_guide import rates

    yield from rates(config, *random_images(count, config.image_size), repeats)


def training(recipe: str, chosen: dict[str, Any], out: Path) -> Iterator[dict[str, Any]]:
    """Train by the command line, and yield its seconds, its accuracy and what it spent them on.

    Args:
        chosen: options.
        out: folder of the run.
    """
    shutil.rmtree(Path(os.environ["HEADSTART_CACHE"]) / "features", ignore_errors=True)
    options = out.with_suffix(".toml")
    options.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in chosen.items()))
    words = [sys.executable, "-m", "headstart", "train", "--recipe", recipe, "--config", str(options), "--out", str(out)]
    begin, last = time.monotonic(), "no message"
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    seconds = time.monotonic() - begin
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {last}")
    metrics = json.loads((out / "metrics.json").read_text())
    stage = "fine_tuned" if "fine_tuned" in metrics["test"] else "frozen"
    yield {"seconds": seconds, "test": common.accuracy(metrics["test"][stage]), "parts": metrics["seconds"]}


def plan(recipe: str, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what `headstart plan` foresees for a training, as text by part, and in all in seconds."""
    table = hs.plan_table(hs.recipe(recipe, **chosen), {"recipe", *chosen})
    if not table.rows:
        raise RuntimeError("; ".join(table.notes))
    foreseen = dict(zip(table.columns, table.rows[0], strict=True))
    number, unit = foreseen["total"].split()
    yield {"foreseen": foreseen, "seconds": float(number) * {"s": 1, "min": 60, "h": 3600}[unit]}


def rows(options: Options, samples: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table of rates from what has been found."""
    device = samples.get("matrix", {}).get("rate")
    operations = samples.get("ground", {}).get("operations", {})
    found = []
    for size in options.size:
        mine = samples.get(named(size, AUGMENTED), {})
        for name in ROWS:
            if (sample := samples.get(named(size, name))) is None:
                continue
            training, forward = (common.median(sample[key]) if key in sample else None for key in ("training", "forward"))
            share = 3 * operations[str(size)] / device if device and operations else None
            peer = name in (PYTORCH, HELD, KERAS)
            starting = sample["starting"] + sample["training_first"] if "training_first" in sample else None
            found.append({
                "side, px": size,
                "": name,
                "training, images/s": training,
                "share of a matrix product's rate": training * share if training and share else None,
                "Headstart trains ... times as fast": quotient(mine, sample, "training") if peer else None,
                "forward, images/s": forward,
                "Headstart is ... times as fast forward": quotient(mine, sample, "forward") if peer else None,
                "starting, s": starting,
                "remark": "; ".join(filter(None, [sample.get("note"), sample.get("error")])) or None,
            })  # fmt: skip
    return found


def quotient(sample: dict[str, Any], other: dict[str, Any], key: str) -> float | None:
    return common.median(sample[key]) / common.median(other[key]) if key in sample and key in other else None


def goal_rows(options: Options, samples: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table of what is asked for, from what has been found."""
    side = options.size[0]
    mine, plain, loop, torch = (samples.get(named(side, name), {}) for name in (AUGMENTED, PLAIN, IDEAL, PYTORCH))
    first, second, foreseen, best = (samples.get(name, {}) for name in (FIRST_TIME, SECOND_TIME, PLANNED, BEST))
    missing = "left out: give --data and --backbone" if not (options.data and options.backbone) else None
    at = f"{side} px, batch {options.batch_size}, {options.precision}"

    def ratio(what: str, sample: dict[str, Any], other: dict[str, Any], aim: float) -> dict[str, Any]:
        remark = "; ".join(filter(None, [sample.get("error"), other.get("error")])) or None
        return {"": what, "found": quotient(sample, other, "training"), "aim": f"at least {aim:g}", "remark": remark}

    def seconds(what: str, sample: dict[str, Any], aim: str) -> dict[str, Any]:
        taken = f"{sample['seconds']:.1f} s" if "seconds" in sample else None
        parts = ", ".join(f"{name.replace('_', '-')} {value:.1f} s" for name, value in sample.get("parts", {}).items())
        remark = missing or sample.get("error") or parts or None
        return {"": what, "found": taken, "test accuracy": sample.get("test"), "aim": aim, "remark": remark}

    found = [
        ratio(f"training with the default augmentation against without, {at}", mine, plain, 0.9),
        ratio(f"the whole way against the same step with images resident, ideal loop, {at}", mine, loop, 0.9),
        ratio(f"training against compiled PyTorch, {at}", mine, torch, 1.0),
    ]
    if "rates" not in options.part:
        found = []
    if "cifar10" in options.part:
        what = f"recipe `{options.recipe}` on CIFAR-10"
        found.append(seconds(f"{what}, nothing cached", first, "97 % in 60 s"))
        found.append(seconds(f"{what}, the compiled step kept", second, "97 % in 30 s"))
    if "plan" in options.part:
        note = missing or foreseen.get("error")
        if "seconds" in foreseen and "seconds" in first:
            own = f"{first['parts']['total']:.1f} s by the run's own clock, without imports and report"
            note = f"{foreseen['seconds']:.0f} s foreseen, {first['seconds']:.1f} s taken; {own}"
        share = foreseen["seconds"] / first["seconds"] if "seconds" in foreseen and "seconds" in first else None
        found.append({"": "`plan` against that", "found": share, "aim": "0.75 to 1.25", "remark": note})
    if "best" in options.part:
        found.append(seconds("recipe `best` on CIFAR-10", best, "97.5 %, minutes"))
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
