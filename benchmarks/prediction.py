"""Classifying a folder of JPEG files, and one: `run.predict` against a decoding loop and Keras' `predict`.

python -m benchmarks.prediction --run runs/photos
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from benchmarks import common

TEXT = """A folder of JPEG files to a class for each: `run.predict(folder)`, with all that it does at each call after the first,
against a loop of `keras.utils.load_img` and `model.predict` of the same model file, loaded and warm: in the precision in
which Headstart chose to train it, and in float32, Keras' default. Where files are larger than the model's images, the
two decode and shrink them in different ways, and need not agree on every class. Headstart also marks images that are unlike the
training images: the column says how many times the processor's seconds that takes beside the same without, since these hardly
depend on what else the machine does. The last row is one file, a whole process
each: `headstart predict` against a script that loads the model with Keras."""
AIM = 2.5
UNMARKED, MARKS = "without marks", "marks take ... times"
SCRIPT = """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1], compile=False)
image = keras.utils.load_img(sys.argv[2], target_size=model.input_shape[1:3], interpolation="bilinear")
print(np.argmax(model.predict(np.uint8(keras.utils.img_to_array(image))[None], verbose=0)))
"""


@dataclass(frozen=True)
class Options(common.Options):
    """Measure prediction."""

    run: str = ""  # folder of a finished run; empty: a frozen one on 1,000 images is trained for it
    size: int = 96  # side in pixels of that run's network
    images: int = 5000  # JPEG files, of the test split's images
    side: tuple[int, ...] = (0, 512)  # sides of the files in pixels; 0: the data's own
    repeats: int = 3  # measurements of each contender
    peers: bool = True  # Keras too; without it, only what marking costs


def main(options: Options) -> None:
    import headstart as hs

    table = common.Table("prediction", "Prediction", TEXT, options)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or common.in_own_process(train, options, folder)
        data, trained_in = common.load(hs.Run(run).config), hs.Run(run).classifier.manifest["precision"]
        precisions = sorted({"float32", trained_in}) if options.peers else []
        rows = np.resize(data.test, options.images)
        for side in options.side:
            files = Path(folder) / f"files-{side}"
            write_files(data.images(rows), files, side)
            with contextlib.ExitStack() as stack:
                ours = {"headstart": True, UNMARKED: False}
                contenders = {
                    name: stack.enter_context(common.contender(prepare_headstart, run, files, marks))
                    for name, marks in ours.items()
                }
                for precision in precisions:
                    prepared = common.contender(prepare_keras, run, files, options.batch_size, precision)
                    contenders[precision] = stack.enter_context(prepared)
                found = common.alternate(contenders, options.repeats)
            what = f"{len(rows):,} files of {side or data.image_shape[0]} px"
            for precision in precisions:
                add_row(table, what, precision, found, AIM)
            if not precisions:
                taken = {name: [sample["processor"] for sample in found[name]] for name in ("headstart", UNMARKED)}
                seconds = {f"{name}, processor's s": common.median(values) for name, values in taken.items()}
                table.rows.append({"": what} | seconds | {MARKS: marking(found)})
                table.samples[what] = taken
            table.write()
        if not options.peers:
            return
        file = str(Path(folder) / f"files-{options.side[0]}" / "000000.jpg")
        exported = str(Path(folder) / "model.keras")
        hs.Run(run).model.save(exported)
        found = common.alternate({
            "headstart": lambda: script(["-m", "headstart", "predict", run, file, "--format", "csv"]),
            trained_in: lambda: script(["-c", SCRIPT, exported, file]),
        }, options.repeats)  # fmt: skip
        for sample in found[trained_in]:
            sample["labels"] = [data.class_names[int(sample["output"])]]
        for sample in found["headstart"]:
            sample["labels"] = [sample["output"].splitlines()[-1].removeprefix(f"{file},").split(",")[0]]
        add_row(table, "one file, from the start of Python", trained_in, found, None)
        table.write()


def train(options: Options, folder: str) -> str:
    import headstart as hs

    out = f"{folder}/run"
    config = common.configuration(options, options.size, epochs=0, limit=1000, out=out)
    hs.train(config)
    return out


def write_files(images: np.ndarray, folder: Path, side: int) -> None:
    folder.mkdir()
    for number, image in enumerate(images):
        image = Image.fromarray(image)
        image = image.resize((side, side), Image.Resampling.BICUBIC) if side else image
        image.save(folder / f"{number:06}.jpg", quality=95)


def prepare_headstart(path: str, folder: Path, marks: bool = True) -> Callable[[], dict[str, Any]]:
    import headstart as hs

    run = hs.Run(path)
    if not marks:
        run.classifier.limits = None  # as if the run were of a version that recorded none
    run.model, run.classifier.compiled  # noqa: B018  (loaded before the clock starts, as the other's)

    def measure() -> dict[str, Any]:
        begin, processor = time.perf_counter(), time.process_time()
        labels = run.predict(folder).labels
        seconds, processor = time.perf_counter() - begin, time.process_time() - processor
        return {"seconds": seconds, "processor": processor, "labels": labels}

    return measure


def prepare_keras(path: str, folder: Path, batch_size: int, precision: str) -> Callable[[], dict[str, Any]]:
    from headstart.system.backend import load_keras

    keras = load_keras()
    import headstart as hs
    from headstart.inference.engine import precision_of
    from headstart.model.fast.copies import recast

    names, model = hs.Run(path).class_names, hs.Run(path).model
    if precision != precision_of(model):
        model = recast(model, precision)
    shape = model.input_shape[1:3]
    model.predict(np.zeros((batch_size, *shape, 3), np.uint8), batch_size, verbose=0)

    def measure() -> dict[str, Any]:
        begin = time.perf_counter()
        images = [
            np.uint8(keras.utils.img_to_array(keras.utils.load_img(file, target_size=shape, interpolation="bilinear")))
            for file in sorted(folder.iterdir())
        ]
        logits = model.predict(np.stack(images), batch_size, verbose=0)
        return {"seconds": time.perf_counter() - begin, "labels": [names[index] for index in logits.argmax(axis=1)]}

    return measure


def script(arguments: list[str]) -> dict[str, Any]:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], check=True, text=True, capture_output=True)
    return {"seconds": time.perf_counter() - begin, "output": done.stdout.strip()}


def marking(found: dict[str, list[dict[str, Any]]]) -> float:
    """Return how many times as long the processor computes with marks as without."""
    return common.ratio(*([sample["processor"] for sample in found[name]] for name in ("headstart", UNMARKED)))


def add_row(table: common.Table, what: str, precision: str, found: dict[str, list[dict[str, Any]]], aim: float | None) -> None:
    ours, theirs = ([sample["seconds"] for sample in found[name]] for name in ("headstart", precision))
    labels, others = (np.array(found[name][0]["labels"]) for name in ("headstart", precision))
    table.rows.append({
        "": what,
        "Headstart, s": common.median(ours),
        "Keras in": precision,
        "Keras, s": common.median(theirs),
        "times as fast": common.ratio(theirs, ours),
        "aim": aim,
        MARKS: marking(found) if UNMARKED in found else None,
        "same class": f"{100 * np.mean(labels == others):.2f} %",
    })  # fmt: skip
    table.samples[f"{what}, {precision}"] = {"headstart": ours, "keras": theirs}


if __name__ == "__main__":
    main(tyro.cli(Options))
