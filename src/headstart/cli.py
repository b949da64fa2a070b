"""The command line: `headstart train`, `plan`, `evaluate`, `predict`, `explain`, `compare` and `audit`.

Its options are made from `headstart.config.Config`; nothing heavy is imported before a command runs.
"""

import contextlib
import csv
import dataclasses
import errno
import io
import json
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from headstart.config import Config, option_name, range_text, read_toml, replace, suggestion
from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from headstart.predict import Predictions
    from headstart.run import Run

SUMMARY = """usage: headstart COMMAND ... (headstart COMMAND --help explains its options)

A pretrained backbone learns your pictures in two stages, and says truly how well.

  train      train a classifier:      headstart train --data photos/ --recipe standard --out runs/photos
             go on with a killed run: headstart train --resume runs/photos
  plan       how long it will take:   headstart plan [--data photos/] [--budget 20m]
  evaluate   measure a run again:     headstart evaluate runs/photos [--data other/] [--mirror]
  predict    classify pictures:       headstart predict runs/photos a.jpg folder/ [--format table|json|csv] [--mirror]
  explain    show what it looked at:  headstart explain runs/photos a.jpg folder/ [--out heat-maps/]
  compare    two runs side by side:   headstart compare runs/photos runs/other [--out compare.html]
  audit      twins and wrong labels:  headstart audit photos/ --out audits/photos
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit status is 2 for what the user can mend, 130 after Ctrl-C or `kill`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system ends jobs so: they should say how to go on
    if not arguments or arguments[0] in ("-h", "--help"):
        print(SUMMARY, end="")
        return
    commands = {
        "train": train, "plan": plan, "evaluate": evaluate, "predict": predict, "explain": explain, "compare": compare,
        "audit": audit,
    }  # fmt: skip
    try:
        if arguments[0] not in commands:
            raise HeadstartError(f"there is no command {arguments[0]!r}{suggestion(arguments[0], commands)}")
        commands[arguments[0]](arguments[1:])
    except HeadstartError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; a training run goes on with headstart train --resume RUN", status=130)
    except BrokenPipeError:
        sys.exit(141)  # the reader of our output has gone, as with `| head`
    except OSError as error:
        if error.errno != errno.ENOSPC and "No space left" not in str(error):
            raise
        fail(f"the disk is full ({error}); make room, then go on with headstart train --resume RUN")


def fail(message: str, status: int = 2) -> None:
    print(f"headstart: {message}", file=sys.stderr)
    sys.exit(status)


def train(arguments: list[str]) -> None:
    """Train a classifier in two stages, or go on with an interrupted run."""
    extra: Any = parse(train_options(Config(), TRAIN_ONLY), arguments, "headstart train", train.__doc__)
    if extra.resume:
        given = [word for word in arguments if word.startswith("--") and not word.startswith("--resume")]
        if given:
            raise HeadstartError(f"--resume takes all options from the run: leave out {given[0]}")
        start_keras()
        from headstart.trainer import resume

        return print_result(resume(extra.resume))
    config, typed = configured(arguments, TRAIN_ONLY, "headstart train", train.__doc__)
    start_keras()
    from headstart.trainer import train as train_run

    print_result(train_run(config, overwrite=extra.overwrite, typed=typed))


def plan(arguments: list[str]) -> None:
    """Measure this machine for a moment, and say what each recipe and image size takes here, in time, memory and disk.

    With a recipe or a file of options, only that one; with a budget, what it would choose.
    """
    config, typed = configured(arguments, {}, "headstart plan", plan.__doc__)
    start_keras()
    from headstart.plan.job import table

    print(table(config, typed))


def configured(arguments: list[str], extra: dict[str, Any], program: str, description: str | None) -> tuple[Config, set[str]]:
    """Return the configuration that arguments, the file and the recipe give, and the names of the options of the first two."""
    # Once to learn which recipe and file set the defaults, once more upon these.
    chosen: Any = parse(train_options(Config(), extra), arguments, program, description)
    from headstart.recipes import recipe

    changes = read_toml(Path(chosen.config)) if chosen.config else {}
    words = {word.split("=")[0].replace("_", "-") for word in arguments}
    names = [field.name for field in dataclasses.fields(Config)]
    typed = {name for name in names if words & {option_name(name), option_name(f"no_{name}")}} | changes.keys()
    # A recipe that is typed wins over the file's; options of either win over the recipe's.
    in_file = changes.pop("recipe", chosen.recipe)
    defaults = recipe(chosen.recipe if "--recipe" in words else in_file, **changes)
    values = dataclasses.asdict(parse(train_options(defaults, extra), arguments, program, description))
    return replace(defaults, **{name: values[name] for name in names}), typed


# What only the command line has: default and help.
TRAIN_ONLY = {"resume": ("", "go on with the interrupted run in this folder"), "overwrite": (False, "replace an existing run")}


def train_options(defaults: Config, extra: dict[str, tuple[Any, str]]) -> type:
    """Return a dataclass with every field of `Config`, the file of options, and some that a command has beside them."""
    from tyro.conf import arg

    extra = extra | {"config": ("", "TOML file of options, such as a run's config.toml")}
    fields: list[Any] = [
        (name, Annotated[type(default), arg(help=text)], dataclasses.field(default=default))
        for name, (default, text) in extra.items()
    ]
    fields += [config_option(field, getattr(defaults, field.name)) for field in dataclasses.fields(Config)]
    return dataclasses.make_dataclass("Train", fields)


def config_option(field: dataclasses.Field, default: Any) -> tuple[str, Any, Any]:
    """Return name, type with help, and default of an option that is a field of `Config`."""
    from tyro.conf import arg

    text = "; ".join(filter(None, (field.metadata["help"], range_text(field))))
    return field.name, Annotated[field.type, arg(help=text)], dataclasses.field(default=default)


def parse(options: type, arguments: list[str], program: str, description: str | None) -> Any:
    """Parse arguments into a dataclass; what is unknown or unreadable is refused in one line."""
    import tyro

    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            parsed: Any = tyro.cli(options, args=arguments, prog=program, description=description, return_unknown_args=True)
    except SystemExit as end:
        if end.code == 0:  # --help
            raise
        # tyro draws a box: a title, what was wrong, and then more than the two lines that we promise.
        written = [line.strip("│| ") for line in refusal.getvalue().splitlines() if any(map(str.isalpha, line))]
        reason = written[1]
        raise HeadstartError(f"{reason} ({program} --help explains the options)") from None
    result, unknown = parsed
    if unknown:
        known = [option_name(field.name) for field in dataclasses.fields(options)]
        raise HeadstartError(f"there is no option {unknown[0]}{suggestion(unknown[0], known)}")
    return result


MIRROR = "take the mean over each picture and its mirror image: more accurate, at twice the work"


def evaluate(arguments: list[str]) -> None:
    """Measure a run's model on the test part of its own data, or of other data with the same classes."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        run: Annotated[Positional[str], arg(help="folder of a finished run")]
        data: Annotated[str, arg(help="other data; without a test part, all its pictures are used (default: the run's own)")] = ""
        mirror: Annotated[bool, arg(help=MIRROR)] = False

    options = parse(Options, arguments, "headstart evaluate", evaluate.__doc__)
    from headstart.run import Run

    start_keras()
    run = Run(options.run)
    run.model  # noqa: B018  (an unfinished or damaged run is refused before its data are loaded)
    from headstart.evaluate import load_for_evaluation

    print(json.dumps(run.evaluate(load_for_evaluation(run, options.data), mirror=options.mirror), indent=2))


def predict(arguments: list[str]) -> None:
    """Classify pictures with a run's model."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        run: Annotated[Positional[str], arg(help="folder of a finished run")]
        pictures: Annotated[Positional[tuple[str, ...]], arg(help="picture files and folders of them")]
        format: Annotated[
            Literal["table", "json", "csv"], arg(help="table: the likeliest class; json and csv: all probabilities")
        ] = "table"
        batch_size: Annotated[int, arg(help="pictures at a time; 1 or more")] = 64
        mirror: Annotated[bool, arg(help=MIRROR)] = False

    options = parse(Options, arguments, "headstart predict", predict.__doc__)
    if options.batch_size < 1:
        raise HeadstartError(f"--batch-size is {options.batch_size}, outside its range: 1 or more")
    from headstart.run import Run

    run = Run(options.run)
    show_log()
    predictions = run.predict(options.pictures, options.batch_size, mirror=options.mirror)
    print_left_out(predictions)
    PRINTERS[options.format](predictions)


def audit(arguments: list[str]) -> None:
    """Find near-duplicates and labels that are probably wrong; nothing is changed.

    A training with the same data, splits and backbone finds the features in the cache, and audits by itself.
    """
    from tyro.conf import Positional, arg

    source = arg(help="cifar10, cifar100, digits, or the path of a picture folder or CIFAR files")
    defaults = dataclasses.replace(Config(), out="audit")
    fields: list[Any] = [("data", Annotated[Positional[str], source])]
    fields += [config_option(field, getattr(defaults, field.name))
               for field in dataclasses.fields(Config) if field.name in AUDIT_OPTIONS]  # fmt: skip
    options = parse(dataclasses.make_dataclass("Audit", fields), arguments, "headstart audit", audit.__doc__)
    config = replace(defaults, **dataclasses.asdict(options))
    start_keras()
    from headstart.audit.job import audit_data

    content = audit_data(config)
    print(f"near_duplicates {len(content['near_duplicates'])}")
    print(f"suspects {len(content['suspects'])}")


# What determines splits and features; with the same values a training shares the cached features.
AUDIT_OPTIONS = (
    "out", "validation_fraction", "test_fraction", "limit", "seed",
    "backbone", "weights", "preprocess", "image_size", "precision",
)  # fmt: skip


def print_table(predictions: "Predictions") -> None:
    width = max(len(name) for name in predictions.names)
    for name, label, confidence in zip(predictions.names, predictions.labels, predictions.confidences, strict=True):
        print(f"{name:{width}}  {100 * confidence:5.1f} %  {label}")


def print_json(predictions: "Predictions") -> None:
    print(json.dumps([
        {"picture": name, "class": label, "probabilities": dict(zip(predictions.class_names, row.round(6).tolist(), strict=True))}
        for name, label, row in zip(predictions.names, predictions.labels, predictions.probabilities.astype(float), strict=True)
    ], indent=2))  # fmt: skip


def print_csv(predictions: "Predictions") -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["picture", "class", *predictions.class_names])
    for name, label, row in zip(predictions.names, predictions.labels, predictions.probabilities.astype(float), strict=True):
        writer.writerow([name, label, *row.round(6).tolist()])


def print_left_out(predictions: "Predictions") -> None:
    """Say on stderr what was not classified, and what was lost of what was."""
    from headstart.data.walk import skipped_words

    for line in predictions.unreadable:
        print(f"headstart: skipped {line}", file=sys.stderr)
    if predictions.skipped:
        print(f"headstart: not used: {skipped_words(predictions.skipped)}", file=sys.stderr)
    for what, number in predictions.remarks.items():
        print(f"headstart: {number} x {what}", file=sys.stderr)


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv}


def explain(arguments: list[str]) -> None:
    """Write pictures under heat maps that show where the evidence for their likeliest class lies."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        run: Annotated[Positional[str], arg(help="folder of a finished run")]
        pictures: Annotated[Positional[tuple[str, ...]], arg(help="picture files and folders of them")]
        out: Annotated[str, arg(help="folder for the PNG files (default: explanations in the run's folder)")] = ""

    options = parse(Options, arguments, "headstart explain", explain.__doc__)
    from headstart.run import Run

    run = Run(options.run)
    start_keras()
    explanations = run.explain(options.pictures)
    predictions = explanations.predictions
    print_left_out(predictions)
    files = explanations.save(options.out or run.path / "explanations")
    for name, label, confidence, file in zip(predictions.names, predictions.labels, predictions.confidences, files, strict=True):
        print(f"{file}  {100 * confidence:5.1f} %  {label}  {name}")
    print(explanations.method, file=sys.stderr)


def compare(arguments: list[str]) -> None:
    """Compare two finished runs: accuracy, whether the difference could be chance, time, and differing options."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        first: Annotated[Positional[str], arg(help="folder of a finished run")]
        second: Annotated[Positional[str], arg(help="folder of another one")]
        out: Annotated[str, arg(help="write the comparison to this HTML file too")] = ""

    options = parse(Options, arguments, "headstart compare", compare.__doc__)
    from headstart.report.compare import Comparison
    from headstart.run import Run

    comparison = Comparison(Run(options.first), Run(options.second))
    print(comparison.text())
    if options.out:
        comparison.write_page(Path(options.out).expanduser())


def print_result(run: "Run") -> None:
    """Print the accuracies that a script would read; the rest stands in the log and the run folder."""
    if run.config.seeds == 1:
        for stage, figures in run.metrics["test"].items():
            print(f"{stage} {figures['accuracy']:.4f}")
        return
    for stage, figures in run.read_json("seeds.json")["test"].items():
        mean, deviation, (low, high) = (figures["accuracy"][name] for name in ("mean", "deviation", "range"))
        print(f"{stage} {mean:.4f} deviation {deviation:.4f} range {low:.4f} {high:.4f}")


def start_keras() -> None:
    """Load Keras without its backend's chatter, and print what is logged from now on to stderr."""
    from headstart.backend import load_keras

    load_keras()
    show_log()


def show_log() -> None:
    """Print what is logged from now on to stderr."""
    from headstart.progress import console

    class ConsoleHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(("" if record.levelno < logging.WARNING else "warning: ") + record.getMessage(), markup=False)

    logger = logging.getLogger("headstart")
    logger.setLevel(logging.INFO)
    logger.handlers = [ConsoleHandler()]
