"""The command line: `headstart train`, `plan`, `evaluate`, `predict`, `explain`, `compare` and `audit`.

Its options are made from `headstart.config.Config`; nothing heavy is imported before a command runs.
"""

import contextlib
import csv
import dataclasses
import io
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from headstart.config import Config, option_name, range_text, read_toml, replace, suggestion
from headstart.errors import HeadstartError, UnwritableError
from headstart.system.files import is_disk_full, refuse_unwritable
from headstart.system.text import printable

if TYPE_CHECKING:
    from headstart.inference.predictions import Predictions
    from headstart.run import Run

SUMMARY = """usage: headstart COMMAND ... (headstart COMMAND --help explains its options)

A pretrained backbone learns your images in two stages, and says truly how well.

  train      train a classifier:      headstart train --data photos/ --recipe standard --out runs/photos
             go on with a killed run: headstart train --resume runs/photos
  plan       how long it will take:   headstart plan [--data photos/] [--budget 20m]
  evaluate   measure a run again:     headstart evaluate runs/photos [--data other/] [--mirror]
  predict    classify images:       headstart predict runs/photos a.jpg folder/ [--format table|json|csv] [--mirror]
  explain    show what it looked at:  headstart explain runs/photos a.jpg folder/ [--out heat-maps/]
  compare    two runs side by side:   headstart compare runs/photos runs/other [--out compare.html]
  audit      twins and wrong labels:  headstart audit photos/ --out audits/photos
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit status is 2 for what the user can mend, 130 after Ctrl-C or `kill`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system ends jobs so: they should say how to go on
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # some that take their place cannot be told
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
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
    except UnwritableError as error:
        fail(f"{error}{way_on(error)}")
    except HeadstartError as error:
        fail(str(error))
    except KeyboardInterrupt as error:
        fail(f"interrupted{way_on(error)}", status=130)
    except BrokenPipeError:
        sys.exit(141)  # the reader of our output has gone, as with `| head`
    except OSError as error:
        if is_disk_full(error):
            fail(f"the disk is full ({error}); make room{way_on(error)}")
        if not error.filename:
            raise
        fail(f"{error.filename}: {error.strerror}{way_on(error)}")
    except RuntimeError as error:
        if "home directory" not in str(error):  # of `expanduser`
            raise
        fail("a path begins with ~, and there is no such home folder: give the whole path")


def way_on(error: BaseException) -> str:
    """Return how to go on with the run that an exception has stopped, if there is one."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", [])[-1:])


def fail(message: str, status: int = 2) -> None:
    print("\n".join(map(printable, f"headstart: {message}".split("\n"))), file=sys.stderr)
    sys.exit(status)


def train(arguments: list[str]) -> None:
    """Train a classifier in two stages, or go on with an interrupted run."""
    config, explicit, extra = configured(arguments, TRAIN_ONLY, "headstart train", train.__doc__)
    if extra["resume"]:
        given = [word for word in arguments if word.startswith("--") and not word.startswith("--resume")]
        if given:
            raise HeadstartError(f"--resume takes all options from the run: leave out {given[0]}")
        start_keras()
        from headstart.trainer import resume

        return print_result(resume(extra["resume"]))
    start_keras()
    from headstart.trainer import train as train_run

    print_result(train_run(config, overwrite=extra["overwrite"], explicit=explicit))


def plan(arguments: list[str]) -> None:
    """Measure this machine for a moment, and say what each recipe and image size takes here, in time, memory and disk.

    With a recipe or a file of options, only that one; with a budget, what it would choose.
    """
    config, explicit, _ = configured(arguments, {}, "headstart plan", plan.__doc__)
    start_keras()
    from headstart.plan.table import plan_table

    print(plan_table(config, explicit))


def configured(
    arguments: list[str], extra: dict[str, Any], program: str, description: str | None
) -> tuple[Config, set[str], dict[str, Any]]:
    """Return the configuration that arguments, the file and the recipe give; the names of the options of the first two; and
    the values of `extra`.
    """
    from headstart.recipes import recipe

    first = parse(Sources, arguments, program, None, alone=False)
    changes = read_toml(Path(first.config)) if first.config else {}
    words = {word.split("=")[0].replace("_", "-") for word in arguments}
    names = [field.name for field in dataclasses.fields(Config)]
    explicit = {name for name in names if words & {option_name(name), option_name(f"no_{name}")}} | changes.keys()
    # A recipe that is explicit wins over the file's; options of either win over the recipe's.
    in_file = str(changes.pop("recipe", "quick"))
    defaults = replace(recipe(first.recipe if "--recipe" in words else in_file), **changes)
    values = vars(parse(train_options(defaults, extra), arguments, program, description))
    config = replace(defaults, **{name: values[name] for name in names})
    if "views" in explicit and config.views != values["views"]:
        raise HeadstartError(
            f"--views is {values['views']}, but without random augmentation there are at most {config.views}: "
            "give --rotation, --zoom, --translation or --rand-augment too"
        )
    return config, explicit, {name: values[name] for name in extra}


@dataclass(frozen=True)
class Sources:
    """The two options that set the defaults of all others."""

    recipe: str = ""
    config: str = ""


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


def parse(options: type, arguments: list[str], program: str, description: str | None, *, alone: bool = True) -> Any:
    """Parse arguments into a dataclass; what is unknown or unreadable is refused in one line.

    Args:
        alone: there are no other options than these, and `--help` explains them.
    """
    import tyro

    refusal = io.StringIO()
    for_help = alone and {"-h", "--help"} & set(arguments)
    try:
        with contextlib.redirect_stderr(refusal), contextlib.nullcontext() if for_help else unadorned():
            parsed: Any = tyro.cli(
                options, args=arguments, prog=program, description=description, return_unknown_args=True, add_help=alone
            )
    except SystemExit as end:
        if end.code == 0:  # --help
            raise
        raise HeadstartError(f"{reason(refusal.getvalue())} ({program} --help explains the options)") from None
    result, unknown = parsed
    if unknown and alone:
        fields = [field for field in dataclasses.fields(options) if field.default is not dataclasses.MISSING]
        known = [option_name(name) for field in fields
                 for name in (field.name, *([f"no_{field.name}"] if isinstance(field.default, bool) else []))]  # fmt: skip
        if not unknown[0].startswith("-"):
            raise HeadstartError(f"{program} has no use for {unknown[0]!r}; options begin with --")
        raise HeadstartError(f"there is no option {unknown[0]}{suggestion(unknown[0], known)}")
    return result


@contextlib.contextmanager
def unadorned() -> Iterator[None]:
    """Let tyro write its refusals without colours, and without breaking lines at the terminal's width."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it looks there for what the terminal can show
            yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def reason(refusal: str) -> str:
    """Return what tyro says in a refusal: it stands between two rules, below the title."""
    parts = re.split(r"^[ -]*---[ -]*$", refusal, flags=re.MULTILINE)
    return " ".join(parts[1 if len(parts) > 1 else 0].split()).removesuffix(" Expected 1 values.")


MIRROR = "take the mean over each image and its mirror image: more accurate, at twice the work"


def evaluate(arguments: list[str]) -> None:
    """Measure a run's model on the test split of its own data, or of other data with the same classes."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        run: Annotated[Positional[str], arg(metavar="RUN", help="folder of a finished run")]
        data: Annotated[str, arg(help="other data; without a test split, all its images are used (default: the run's own)")] = ""
        mirror: Annotated[bool, arg(help=MIRROR)] = False

    options = parse(Options, arguments, "headstart evaluate", evaluate.__doc__)
    from headstart.run import Run

    start_keras()
    run = Run(options.run)
    run.model  # noqa: B018  (an unfinished or damaged run is refused before its data are loaded)
    print(json.dumps(run.evaluate(options.data, mirror=options.mirror), indent=2))


def predict(arguments: list[str]) -> None:
    """Classify images with a run's model."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        run: Annotated[Positional[str], arg(metavar="RUN", help="folder of a finished run")]
        images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGES", help="image files and folders of them")]
        format: Annotated[
            Literal["table", "json", "csv"], arg(help="table: the likeliest class; json and csv: all probabilities")
        ] = "table"
        batch_size: Annotated[int, arg(help="images at a time; 1 or more")] = 64
        mirror: Annotated[bool, arg(help=MIRROR)] = False

    options = parse(Options, arguments, "headstart predict", predict.__doc__)
    if options.batch_size < 1:
        raise HeadstartError(f"--batch-size is {options.batch_size}, outside its range: 1 or more")
    from headstart.run import Run

    run = Run(options.run)
    show_log()
    predictions = run.predict(options.images, options.batch_size, mirror=options.mirror)
    print_left_out(predictions)
    PRINTERS[options.format](predictions)


def audit(arguments: list[str]) -> None:
    """Find near-duplicates and labels that are probably wrong; nothing is changed.

    A training with the same data, splits and backbone finds the features in the cache, and audits by itself.
    """
    from tyro.conf import Positional, arg

    source = arg(metavar="DATA", help="cifar10, cifar100, digits, or the path of an image folder or CIFAR files")
    defaults = dataclasses.replace(Config(), out="audit")
    fields: list[Any] = [("data", Annotated[Positional[str], source])]
    fields += [config_option(field, getattr(defaults, field.name))
               for field in dataclasses.fields(Config) if field.name in AUDIT_OPTIONS]  # fmt: skip
    options = parse(dataclasses.make_dataclass("Audit", fields), arguments, "headstart audit", audit.__doc__)
    config = replace(defaults, **dataclasses.asdict(options))
    refuse_unwritable(Path(config.out).expanduser())
    start_keras()
    from headstart.auditor import audit_data

    content = audit_data(config)
    print(f"near_duplicates {len(content['near_duplicates'])}")
    print(f"suspects {len(content['suspects'])}")


# What determines splits and features; with the same values a training shares the cached features.
AUDIT_OPTIONS = (
    "out", "layout", "fit", "flip", "validation_fraction", "test_fraction", "limit", "seed",
    "backbone", "weights", "preprocess", "image_size", "precision",
)  # fmt: skip


def print_table(predictions: "Predictions") -> None:
    names = [printable(name) for name in predictions.names]
    width = max(map(len, names))
    for name, label, confidence in zip(names, predictions.labels, predictions.confidences, strict=True):
        print(f"{name:{width}}  {100 * confidence:5.1f} %  {printable(label)}")


def print_json(predictions: "Predictions") -> None:
    # All but ASCII is escaped: names arrive as they are, whatever the encoding.
    print(json.dumps([
        {"image": name, "class": label, "probabilities": dict(zip(predictions.class_names, row.round(6).tolist(), strict=True))}
        for name, label, row in zip(predictions.names, predictions.labels, predictions.probabilities.astype(float), strict=True)
    ], indent=2))  # fmt: skip


def print_csv(predictions: "Predictions") -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "class", *map(printable, predictions.class_names)])
    for name, label, row in zip(predictions.names, predictions.labels, predictions.probabilities.astype(float), strict=True):
        writer.writerow([printable(name), printable(label), *row.round(6).tolist()])


def print_left_out(predictions: "Predictions") -> None:
    """Say on stderr what was not classified, and what was lost of what was."""
    from headstart.data.walk import skipped_words

    for line in predictions.unreadable:
        print(f"headstart: skipped {printable(line)}", file=sys.stderr)
    if predictions.skipped:
        print(f"headstart: not used: {printable(skipped_words(predictions.skipped))}", file=sys.stderr)
    for what, number in predictions.remarks.items():
        print(f"headstart: {number} x {what}", file=sys.stderr)


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv}


def explain(arguments: list[str]) -> None:
    """Write images under heat maps that show where the evidence for their likeliest class lies."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        run: Annotated[Positional[str], arg(metavar="RUN", help="folder of a finished run")]
        images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGES", help="image files and folders of them")]
        out: Annotated[str, arg(help="folder for the PNG files (default: explanations in the run's folder)")] = ""

    options = parse(Options, arguments, "headstart explain", explain.__doc__)
    from headstart.run import Run

    run = Run(options.run)
    out = Path(options.out).expanduser() if options.out else run.path / "explanations"
    refuse_unwritable(out)
    start_keras()
    explanations = run.explain(options.images)
    predictions = explanations.predictions
    print_left_out(predictions)
    files = explanations.save(out)
    for name, label, confidence, file in zip(predictions.names, predictions.labels, predictions.confidences, files, strict=True):
        print(f"{printable(str(file))}  {100 * confidence:5.1f} %  {printable(label)}  {printable(name)}")
    print(explanations.method, file=sys.stderr)


def compare(arguments: list[str]) -> None:
    """Compare two finished runs: accuracy, whether the difference could be chance, time, and differing options."""
    from tyro.conf import Positional, arg

    @dataclass(frozen=True)
    class Options:
        first: Annotated[Positional[str], arg(metavar="RUN", help="folder of a finished run")]
        second: Annotated[Positional[str], arg(metavar="RUN", help="folder of another one")]
        out: Annotated[str, arg(help="write the comparison to this HTML file too")] = ""

    options = parse(Options, arguments, "headstart compare", compare.__doc__)
    out = Path(options.out).expanduser()
    if options.out:
        refuse_unwritable(out)
    from headstart.report.compare import Comparison
    from headstart.run import Run

    comparison = Comparison(Run(options.first), Run(options.second))
    print("\n".join(map(printable, comparison.text().split("\n"))))
    if options.out:
        comparison.write_page(out)


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
    from headstart.system.backend import load_keras

    load_keras()
    show_log()


def show_log() -> None:
    """Print what is logged from now on to stderr."""
    from headstart.system.progress import console

    class ConsoleHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = printable(record.getMessage())
            console.print(("" if record.levelno < logging.WARNING else "warning: ") + message, markup=False)

    logger = logging.getLogger("headstart")
    logger.setLevel(logging.INFO)
    logger.handlers = [ConsoleHandler()]
