"""One function for each command. They get parsed options, print results to stdout and everything else to stderr.

What needs Keras is reached through the package's public names, which are loaded at their first use: what can be refused
without Keras is refused before.
"""

import contextlib
import csv
import dataclasses
import json
import logging
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import headstart as hs
from headstart.cli.options import Backbones, Cache, Compare, Evaluate, Explain, Export, Predict, Recipes, Serve
from headstart.cli.tables import print_table
from headstart.config import HUB, Config, option_name, refuse_unsearchable, replace, suggestion
from headstart.data.load import refuse_missing, resolved
from headstart.data.walk import skipped_words
from headstart.errors import HeadstartError, UnreachableError, UnwritableError
from headstart.export.formats import FORMATS
from headstart.model import hub
from headstart.model.registry import BACKBONES, refuse_unusable, say_licence
from headstart.recipes import MEASURED, RECIPES
from headstart.record.folder import default_path, refuse_links, refuse_taken
from headstart.system.backend import load_keras
from headstart.system.cache import KINDS, Usage, cache_root, clear, usage
from headstart.system.cluster import follower, together
from headstart.system.files import as_cell, refuse_unwritable
from headstart.system.names import EXPORTING
from headstart.system.progress import ConsoleHandler
from headstart.system.text import count, printable

if TYPE_CHECKING:
    from headstart.inference.bulk import Totals


def train(options: SimpleNamespace) -> None:
    devices = options.config.devices
    show_log()
    ray = options.config.ray
    with together(devices):  # whoever cannot begin tells the others
        if options.resume:
            if not follower():
                hs.Run(options.resume)  # what is no run is refused
            start_keras()
            with stdout_for_results(ray):
                run = hs.resume(options.resume, trust=options.config.trust, devices=devices, ray=ray)
            return print_result(run)
        config = refuse_early(options.config)
        if not follower():
            refuse_taken(config, overwrite=options.overwrite)
        start_keras()
        with stdout_for_results(ray):
            run = hs.train(config, overwrite=options.overwrite, explicit=options.explicit)
        print_result(run)


def tune(options: SimpleNamespace) -> None:
    show_log()
    if options.resume:
        hs.Run(options.resume)  # what is no run is refused
        start_keras()
        return print_result(hs.resume_tuning(options.resume, trust=options.config.trust))
    refuse_unsearchable(options.config)
    config = refuse_early(options.config) if "backbone" in options.explicit else resolved(options.config)
    refuse_missing(config.data)
    config = replace(config, out=config.out or str(default_path(config, "tune")))
    refuse_taken(config, overwrite=options.overwrite)
    start_keras()
    print_result(hs.tune(config, overwrite=options.overwrite, explicit=options.explicit))


def plan(options: SimpleNamespace) -> None:
    config = refuse_early(options.config)
    start_keras()
    say_licence(config)
    table = hs.plan_table(config, options.explicit)
    print_table(table.columns, table.rows)
    for note in table.notes:
        print(printable(note))


def evaluate(options: Evaluate) -> None:
    run = hs.Run(options.run, trust=options.trust)
    if options.data:
        refuse_missing(options.data)
    start_keras()
    run.classifier.models  # noqa: B018  (an unfinished or damaged run is refused before its data are loaded)
    print(json.dumps(run.evaluate(options.data, mirror=options.mirror), indent=2))


def predict(options: Predict) -> None:
    if options.batch_size < 1:
        raise HeadstartError(f"--batch-size is {options.batch_size}, outside its range: 1 or more")
    refuse_precision(options.reject)
    if options.out:
        return predict_to(options)
    for option in ("shard", "overwrite", "ray"):
        if getattr(options, option):
            raise HeadstartError(f"--{option} wants --out, the file to write to")
    run = hs.Run(options.run, trust=options.trust)
    show_log()
    predictions = run.predict(
        options.images, options.batch_size, mirror=options.mirror, reject=options.reject, file_column=options.file_column
    )  # fmt: skip
    print_left_out(predictions)
    images, unlike = count(len(predictions), "image"), sum(outsiders(predictions))
    say_doubts(images, options.reject, predictions.threshold, predictions.rejected.sum(), unlike)
    PRINTERS[options.format](predictions)


def predict_to(options: Predict) -> None:
    """Do what `predict --out` asks for."""
    if options.format != "table":
        raise HeadstartError(f"--out says by its ending what is written: leave out --format {options.format}")
    run = hs.Run(options.run, trust=options.trust)
    show_log()
    try:
        with stdout_for_results(options.ray):
            totals = run.predict_to(
                options.out, options.images, options.batch_size, mirror=options.mirror, reject=options.reject,
                file_column=options.file_column, shard=share(options.shard), overwrite=options.overwrite, ray=options.ray,
            )  # fmt: skip
    except (KeyboardInterrupt, OSError, UnreachableError, UnwritableError) as error:
        error.add_note(f"finished blocks stay: go on with {command('predict', options)}")
        raise
    images = count(totals.images, "image")
    if totals.unreadable:
        print(f"headstart: {totals.unreadable:,} of {images} cannot be read: the column error says why", file=sys.stderr)
    say_skipped(totals)
    say_doubts(images, options.reject, totals.threshold, totals.rejected, totals.unlike)
    print(printable(str(totals.out)))


def stdout_for_results(ray: str) -> contextlib.AbstractContextManager[Any]:
    """Send what Ray prints inside the block, such as that a worker has died, to stderr, where all is that is no result."""
    return contextlib.redirect_stdout(sys.stderr) if ray else contextlib.nullcontext()


def share(text: str) -> tuple[int, int]:
    """Return the numbers in an option such as `2/8`; `1/1` if it is not given."""
    if not re.fullmatch(r"[0-9]{1,6}/[0-9]{1,6}", text or "1/1"):
        raise HeadstartError(f"--shard is {text!r}: give the number of this share and of all, such as 2/8")
    number, shares = (text or "1/1").split("/")
    return int(number), int(shares)


def command(name: str, options: Any) -> str:
    """Return the command line that gives these options: the positional ones, and those that differ from their defaults."""
    words = ["headstart", name]
    for one in dataclasses.fields(options):
        value = getattr(options, one.name)
        if one.default is dataclasses.MISSING:
            words += value if isinstance(value, tuple) else [value]
        elif value != one.default:
            words += [option_name(one.name), *([] if value is True else [str(value)])]
    return shlex.join(words)


def explain(options: Explain) -> None:
    run = hs.Run(options.run, trust=options.trust)
    out = Path(options.out).expanduser() if options.out else run.path / "explanations"
    if not options.out:
        refuse_links(run.path)
    refuse_unwritable(out)
    start_keras()
    explanations = run.explain(options.images)
    predictions = explanations.predictions
    print_left_out(predictions)
    files = explanations.save(out)
    for name, label, confidence, file in zip(predictions.names, predictions.labels, predictions.confidences, files, strict=True):
        print(f"{printable(str(file))}  {100 * confidence:5.1f} %  {printable(label)}  {printable(name)}")
    print(explanations.method, file=sys.stderr)


def compare(options: Compare) -> None:
    out = Path(options.out).expanduser()
    if options.out:
        refuse_unwritable(out)
    first, second = hs.Run(options.first), hs.Run(options.second)
    comparison = hs.Comparison(first, second)
    names = [printable(name) for name in comparison.names]
    print_table(["", *names, "difference"], comparison.rows())
    print()
    if options_that_differ := comparison.options():
        print_table(["option", *names], options_that_differ)
    else:
        print("no option differs")
    print(f"\n{printable(comparison.verdict())}")
    if options.out:
        comparison.write_page(out)


def export(options: Export) -> None:
    run = hs.Run(options.run, trust=options.trust)
    if not FORMATS[options.format].everywhere:
        os.environ["KERAS_BACKEND"] = EXPORTING
    show_log()
    folder = run.export(options.format, options.out, precision=options.precision, most_loss=options.most_loss)
    print(printable(str(folder)))


def audit(options: SimpleNamespace) -> None:
    refuse_unwritable(Path(options.config.out).expanduser())
    config = refuse_early(options.config)
    start_keras()
    content = hs.audit_data(config)
    print(f"near_duplicates {len(content['near_duplicates'])}")
    print(f"suspects {len(content['suspects'])}")


def refuse_precision(wanted: float) -> None:
    if not 0 <= wanted < 1:
        raise HeadstartError(f"--reject is {wanted:g}, outside its range: above 0, and below 1")


def serve(options: Serve) -> None:
    if not options.runs:
        raise HeadstartError("headstart serve wants the folder of a finished run")
    if not 0 <= options.port <= 65535:
        raise HeadstartError(f"--port is {options.port}, outside its range: 0 to 65535")
    if not 0 <= options.reject_below <= 1:
        raise HeadstartError(f"--reject-below is {options.reject_below}, outside its range: 0 to 1")
    refuse_precision(options.reject)
    if options.reject and options.reject_below:
        raise HeadstartError("--reject chooses the threshold that --reject-below gives: leave out one of them")
    try:
        from headstart.serve import server
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "python_multipart"):
            raise
        raise HeadstartError("headstart serve needs packages that are not installed: pip install 'headstart[serve]'") from None
    show_log()
    server.serve(
        [Path(run).expanduser() for run in options.runs], options.host, options.port,
        token_file=Path(options.token_file).expanduser() if options.token_file else None, allowed_hosts=options.allowed_host,
        reject=options.reject, reject_below=options.reject_below, trust=options.trust,
    )  # fmt: skip


def recipes(options: Recipes) -> None:
    rows = []
    for name, make in RECIPES.items():
        config, measured = make(), MEASURED.get(name)
        about = (make.__doc__ or "").splitlines()[0].removesuffix(".")
        figures = [f"{100 * measured.accuracy:.2f} %", f"{measured.minutes:g} min"] if measured else ["", ""]
        rows.append([name, about, config.backbone, f"{config.image_size} px", *figures])
    print_table(["recipe", "what it is", "backbone", "images", "accuracy", "time"], rows)
    print("\nmeasured on")
    for name in RECIPES:
        one = MEASURED.get(name)
        print(f"  {name:8}  " + ("; ".join(filter(None, [f"{one.data}, {one.machine}", one.note])) if one else "nothing yet"))


def backbones(options: Backbones) -> None:
    rows = [
        [name, one.paper.replace(" et al.", ""), f"{100 * one.top1:.1f} %" if one.top1 else "", f"{one.parameters / 1e6:.1f} M",
         f"{one.megabytes:.0f} MB", f"{one.smallest} px", one.licence]
        for name, one in BACKBONES.items()
    ]  # fmt: skip
    print_table(["backbone", "paper", "top-1", "params", "weights", "from", "licence"], rows)
    print("\ntop-1: accuracy on ImageNet, as Keras publishes it\nfrom: smallest side of the images\nlicence: of the weights")
    for name, one in BACKBONES.items():
        if one.note:
            print(f"{name}: {one.note}")
    if why := hub.missing():
        return print(f"\nhub:NAME: image backbones of KerasHub, such as DINOv2, SigLIP and HGNetV2. {why}")
    print("\nof KerasHub, downloaded from Kaggle; each with the preprocessing of its preset")
    rows = [
        [HUB + name, hub.FAMILIES[one.family].paper.replace(" et al.", ""), f"{one.parameters / 1e6:.1f} M",
         one.licence or "see its model card"]
        for name, one in hub.presets().items()
    ]  # fmt: skip
    print_table(["backbone", "paper", "params", "licence"], rows)
    print("\nparams: of SigLIP, with its network for text, which is not used")
    print("licence: as the model cards say that docs/backbones.md names; the card of a preset on Kaggle decides")


def cache(options: Cache) -> None:
    show_log()  # that the cache lies elsewhere than it should
    for kind in options.clear or ():
        if kind not in KINDS:
            raise HeadstartError(f"--clear: there is no kind {kind!r}{suggestion(kind, KINDS)}")
    if options.clear is not None:
        for kind in options.clear or KINDS:
            cleared = clear(kind)
            print(f"{kind}: {count(cleared.files, 'file')} removed, {megabytes(cleared)}")
        return
    print(f"{printable(str(cache_root()))}\n")
    used = {kind: usage(kind) for kind in KINDS}
    print_table(
        ["kind", "what it is", "files", "size"],
        [[kind, about, f"{used[kind].files:,}", megabytes(used[kind])] for kind, about in KINDS.items()],
    )


def megabytes(used: Usage) -> str:
    return f"{used.size / 1e6:,.1f} MB"


def refuse_early(config: Config) -> Config:
    """Refuse what can be refused without Keras and without reading an image; return the configuration with whole paths.

    Raises:
        HeadstartError: an unknown or missing backbone, too small an image size, or data that are not there.
    """
    refuse_unusable(config)
    config = resolved(config)
    refuse_missing(config.data)
    return config


def start_keras() -> None:
    """Load Keras without its backend's chatter, and print what is logged from now on to stderr."""
    load_keras()
    show_log()


def show_log() -> None:
    """Print what is logged from now on to stderr."""
    logger = logging.getLogger("headstart")
    logger.setLevel(logging.INFO)
    logger.handlers = [ConsoleHandler()]
    logger.propagate = False  # some libraries give the root logger a handler, which would print each line again


def print_result(run: "hs.Run") -> None:
    """Print the accuracies that a script would read; the rest stands in the log and the run folder."""
    if run.config.divided:
        for stage, spread in run.read_json("folds.json")["by_fold"].items():
            figures, deviation = run.metrics["test"][stage], spread["accuracy"]["deviation"]
            low, high = figures["interval"]
            print(f"{stage} {figures['accuracy']:.4f} interval {low:.4f} {high:.4f} deviation {deviation:.4f}")
        return
    if run.config.seeds == 1:
        for stage, figures in run.metrics["test"].items():
            print(f"{stage} {figures['accuracy']:.4f}")
        return
    for stage, figures in run.read_json("seeds.json")["test"].items():
        mean, deviation, (low, high) = (figures["accuracy"][name] for name in ("mean", "deviation", "range"))
        print(f"{stage} {mean:.4f} deviation {deviation:.4f} range {low:.4f} {high:.4f}")


def print_predictions(predictions: "hs.Predictions") -> None:
    names = [printable(name) for name in predictions.names]
    width, unlike = max(map(len, names)), outsiders(predictions)
    for name, label, confidence, far in zip(names, predictions.labels, predictions.confidences, unlike, strict=True):
        print(f"{name:{width}}  {100 * confidence:5.1f} %  {printable(label)}{UNLIKE if far else ''}")


def print_json(predictions: "hs.Predictions") -> None:
    # All but ASCII is escaped: names arrive as they are, whatever the encoding.
    print(json.dumps([
        {"image": name, "class": label} | {mark: bool(values[place]) for mark, values in predictions.marks.items()}
        | {"probabilities": dict(zip(predictions.class_names, row.round(6).tolist(), strict=True))}
        for place, (name, label, row) in enumerate(
            zip(predictions.names, predictions.labels, predictions.probabilities.astype(float), strict=True)
        )
    ], indent=2))  # fmt: skip


def print_csv(predictions: "hs.Predictions") -> None:
    writer = csv.writer(sys.stdout)
    marks = predictions.marks
    writer.writerow(["image", "class", *marks, *(as_cell(printable(name)) for name in predictions.class_names)])
    rows = zip(predictions.names, predictions.labels, predictions.probabilities.astype(float), strict=True)
    for place, (name, label, row) in enumerate(rows):
        marked = ["yes" if values[place] else "no" for values in marks.values()]
        writer.writerow([as_cell(printable(name)), as_cell(printable(label)), *marked, *row.round(6).tolist()])


def print_left_out(predictions: "hs.Predictions") -> None:
    """Say on stderr what was not classified, and what was lost of what was."""
    for line in predictions.unreadable:
        print(f"headstart: skipped {printable(line)}", file=sys.stderr)
    say_skipped(predictions)


def say_skipped(found: "hs.Predictions | Totals") -> None:
    """Say on stderr what is no image, and what was lost of images."""
    if found.skipped:
        print(f"headstart: not used: {printable(skipped_words(found.skipped))}", file=sys.stderr)
    for what, number in found.remarks.items():
        print(f"headstart: {number} x {what}", file=sys.stderr)


def say_doubts(images: str, reject: float, threshold: float, rejected: int, unlike: int) -> None:
    """Say on stderr how many answers are rejected, and how many images are unlike the training images."""
    if reject:
        print(
            f"headstart: {rejected:,} of {images} rejected: validation supports a precision of "
            f"{100 * reject:g} % from a confidence of {100 * threshold:.1f} % on",
            file=sys.stderr,
        )
    if unlike:
        print(f"headstart: {unlike:,} of {images} unlike the training images", file=sys.stderr)


def outsiders(predictions: "hs.Predictions") -> list[bool]:
    """Return for each image whether it is unlike the training images; of an older run, nothing is known to be."""
    return [False] * len(predictions) if predictions.outsiders is None else predictions.outsiders.tolist()


UNLIKE = "  (unlike the training images)"
PRINTERS = {"table": print_predictions, "json": print_json, "csv": print_csv}
