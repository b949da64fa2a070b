"""The options of every command: dataclasses, from which tyro makes the command line, its help and its completion.

Those of `train`, `plan` and `audit` are made from `Config`, a box of the help for each of its groups.
"""

import contextlib
import dataclasses
import inspect
import io
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Union, get_args

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg, subcommand

from headstart.config import (
    FORMER_SWITCHES,
    GROUPS,
    RUN,
    TUNE_BUDGET,
    Config,
    option_name,
    range_text,
    read_toml,
    replace,
    suggestion,
)
from headstart.errors import HeadstartError
from headstart.export.formats import FORMATS, MOST_LOSS
from headstart.recipes import recipe
from headstart.system.cache import KINDS
from headstart.system.workers import LOCAL, is_cluster

SUMMARY = """usage: headstart COMMAND ...

A pretrained backbone learns your images in two stages, and says truly how well.

commands:
{commands}

examples:
  headstart train photos/ --recipe standard --out runs/photos
  headstart train --resume runs/photos                # after a kill or a crash
  headstart predict runs/photos a.jpg folder/ --format csv

headstart COMMAND --help   explains a command, with the defaults that it uses
headstart --version        prints the version
headstart --completion bash (or zsh, fish) prints a script that completes what
you type; switch it on with  eval "$(headstart --completion bash)"
"""
SHELLS = ("bash", "zsh", "fish")
# Commands that take a recipe and a file of options.
CONFIGURED = ("train", "tune", "plan")

TRUST = "load layers of the model that may run code, if you trust whoever made it"
MIRROR = "average over each image and its mirror image: more accurate, for twice the work"
RunArgument = Annotated[Positional[str], arg(metavar="RUN", help="folder of a finished run")]


def described(help: str, metavar: str | None = None) -> Any:
    """Describe an option whose default is to do without it."""
    return arg(help=help, metavar=metavar, help_behavior_hint="")


ImagesArgument = Annotated[Positional[tuple[str, ...]], described("image files, and folders of them", "IMAGES")]


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's model again, on its own data or on other data."""

    run: RunArgument
    data: Annotated[
        str, described("other data with the same classes; all of their images, if they have no test split", "DATA")
    ] = ""
    mirror: Annotated[bool, described(MIRROR), FlagCreatePairsOff] = False
    trust: Annotated[bool, described(TRUST), FlagCreatePairsOff] = False


@dataclass(frozen=True)
class Predict:
    """Classify images with a run's model.

    With --out, any number of them: the same command goes on after a kill.
    """

    run: RunArgument
    images: Annotated[
        Positional[tuple[str, ...]],
        described("image files, folders and archives of them, and tables that name files; or addresses of these", "IMAGES"),
    ]
    out: Annotated[str, described("write a table to this file, which ends with .csv, .jsonl or .parquet", "FILE")] = ""
    format: Annotated[
        Literal["table", "json", "csv"], arg(help="table: the likeliest class; json and csv: the probabilities of all")
    ] = "table"
    batch_size: Annotated[int, arg(help="images at a time; 1 or more")] = 64
    mirror: Annotated[bool, described(MIRROR)] = False
    reject: Annotated[
        float, described('precision that is wanted, such as 0.99: answers that are less sure become "none of these"', "SHARE")
    ] = 0.0
    file_column: Annotated[str, described("column of a table that names files (default: one with a usual name)", "COLUMN")] = ""
    shard: Annotated[str, described("with --out, classify this share of the images alone, such as 2/8", "I/N")] = ""
    overwrite: Annotated[bool, described("replace the table that is there, and parts that another command began")] = False
    ray: Annotated[
        str,
        described(
            "with --out, let the workers of a Ray cluster classify: local, on this machine, which is meant without an address; "
            "auto, HOST:PORT or ray://HOST:PORT", "ADDRESS",
        ),
    ] = ""  # fmt: skip
    trust: Annotated[bool, described(TRUST)] = False


@dataclass(frozen=True)
class Explain:
    """Draw heat maps of what speaks for each image's likeliest class."""

    run: RunArgument
    images: ImagesArgument
    out: Annotated[str, described("folder for the PNG files (default: explanations in the run's folder)", "FOLDER")] = ""
    trust: Annotated[bool, described(TRUST), FlagCreatePairsOff] = False


@dataclass(frozen=True)
class Compare:
    """Compare two runs: accuracy, chance, time and options."""

    first: RunArgument
    second: Annotated[Positional[str], arg(metavar="RUN", help="folder of another one")]
    out: Annotated[str, described("write the comparison to this HTML file too", "FILE")] = ""


@dataclass(frozen=True)
class Export:
    """Write a run's model as a file for another program.

    The file takes raw pixels and gives probabilities.

    It is run on the test images, and kept only if it answers as the run does.
    """

    run: RunArgument
    format: Annotated[Literal[tuple(FORMATS)], arg(help="what to write")]  # type: ignore[valid-type]
    precision: Annotated[
        Literal["float32", "float16", "int8"], arg(help="of the weights; int8 (openvino, litert) computes with whole numbers")
    ] = "float32"
    out: Annotated[str, described("folder for the file (default: export/FORMAT in the run's folder)", "FOLDER")] = ""
    most_loss: Annotated[float, arg(help="how much accuracy int8 may lose on the validation split, 0 to 1")] = MOST_LOSS
    trust: Annotated[bool, described(TRUST), FlagCreatePairsOff] = False


@dataclass(frozen=True)
class Serve:
    """Answer over HTTP with runs' models: programs, and people on a page.

    SIGHUP loads the runs that have changed.

    SIGTERM and Ctrl-C answer what was asked, and end.
    """

    runs: Annotated[Positional[tuple[str, ...]], described("folders of finished runs, each with its own name", "RUN [RUN ...]")]
    host: Annotated[str, arg(help="address to listen on; 0.0.0.0 lets others in", metavar="ADDRESS")] = "127.0.0.1"
    port: Annotated[int, arg(help="port to listen on; 0: any that is free")] = 8000
    token_file: Annotated[str, described("file with a token that clients must send", "FILE")] = ""
    allowed_host: Annotated[
        tuple[str, ...], described("further names that it may be asked under, such as that of a proxy", "NAME [NAME ...]")
    ] = ()
    reject: Annotated[
        float, described('precision that is wanted, such as 0.99: answers that are less sure become "none of these"', "SHARE")
    ] = 0.0
    reject_below: Annotated[float, arg(help="mark a prediction as rejected if its probability is lower; 0 to 1")] = 0.0
    trust: Annotated[bool, described(TRUST), FlagCreatePairsOff] = False


@dataclass(frozen=True)
class Recipes:
    """List the recipes, with the accuracy and time measured of each."""


@dataclass(frozen=True)
class Backbones:
    """List the backbones: size, accuracy, licence of the weights."""


@dataclass(frozen=True)
class Cache:
    """Show what is kept for later runs, where and how much; or remove it.

    What is removed is computed again when it is needed. Runs lie elsewhere.
    """

    clear: Annotated[
        tuple[str, ...] | None,
        described(f"remove what is kept of these kinds ({', '.join(KINDS)}), or without a kind, of all", "[KIND ...]"),
    ] = None


# Groups whose options stand among those that only the command line has, under no heading of their own.
PLAIN_GROUPS = (RUN,)
# What determines splits and features: with the same values, a training finds the features of an audit in the cache.
AUDIT_OPTIONS = (
    "layout", "fit", "flip", "validation_fraction", "test_fraction", "limit", "seed",
    "backbone", "weights", "trust", "preprocess", "image_size", "precision", "remote_cache",
)  # fmt: skip
DATA_HELP = {one.name: one.metadata["help"] for one in dataclasses.fields(Config)}["data"]


def train_options(defaults: Config) -> type:
    """Return the options of `train`."""
    own = [
        SOURCE, OPTIONS_FILE,
        ("resume", Annotated[str, described("go on with the interrupted run in this folder", "RUN")], ""),
        ("overwrite", Annotated[bool, described("replace the run that is in the folder")], False),
    ]  # fmt: skip
    return config_options(own, defaults, "Train a classifier, or go on with a run that was stopped.")


def tune_options(defaults: Config) -> type:
    """Return the options of `tune`."""
    own = [
        SOURCE, OPTIONS_FILE,
        ("resume", Annotated[str, described("go on with the interrupted search in this folder", "RUN")], ""),
        ("overwrite", Annotated[bool, described("replace the run or search that is in the folder")], False),
    ]  # fmt: skip
    defaults = replace(defaults, budget=defaults.budget or TUNE_BUDGET)
    return config_options(own, defaults, """Search for the backbone and options that do best, and train them.

It tries backbones that are on this machine, image sizes, what is unfrozen,

learning rates, augmentation and epochs, and ends within --budget.

Options that you give are not searched.
""")  # fmt: skip


def plan_options(defaults: Config) -> type:
    """Return the options of `plan`."""
    return config_options([SOURCE, OPTIONS_FILE], defaults, """Predict time, memory and disk of trainings on this machine.

Each step of a training is measured for a moment.

Without --recipe and --config, there is a row for each recipe.

With --budget, the last line says what it would choose.
""")  # fmt: skip


def audit_options(defaults: Config) -> type:
    """Return the options of `audit`."""
    own = [
        ("source", Annotated[Positional[str], arg(metavar="DATA", help=DATA_HELP)], dataclasses.MISSING),
        ("out", Annotated[str, arg(metavar="FOLDER", help="folder to write the lists to")], "audit"),
    ]
    return config_options(own, defaults, """Find near-duplicates, and labels that are probably wrong.

Nothing is changed. A training does the same, and shares the computed features.
""", AUDIT_OPTIONS)  # fmt: skip


SOURCE = ("source", Annotated[Positional[str], described("what to learn from; the same as --data", "[DATA]")], "")
OPTIONS_FILE = ("config", Annotated[str, described("TOML file of options, such as a run's config.toml", "FILE")], "")


def config_options(own: list[tuple[str, Any, Any]], defaults: Config, description: str, names: Collection[str] = ()) -> type:
    """Return a dataclass of some options of its own, and of those of `Config`, each group in a dataclass below it.

    Args:
        own: name, type and default.
        names: of the options of `Config`; all, if there are none.
    """
    fields: list[Any] = [(name, kind, field(default=default)) for name, kind, default in own]
    for group, about in GROUPS.items():
        members = [
            config_option(one, getattr(defaults, one.name))
            for one in dataclasses.fields(Config)
            if one.metadata["group"] == group and (not names or one.name in names)
        ]
        if group in PLAIN_GROUPS:
            fields += members
        elif members:
            # Its name is the title of a box of the help, and is no part of the options' names.
            box = dataclasses.make_dataclass(group.title().replace("-", ""), members, namespace={"__doc__": about}, frozen=True)
            fields.append((group.replace("-", "_"), box, field(default_factory=box)))
    return dataclasses.make_dataclass("Options", fields, namespace={"__doc__": description}, frozen=True)


def config_option(one: dataclasses.Field[Any], default: Any) -> tuple[str, Any, Any]:
    """Return name, type with help, and default of an option that is a field of `Config`."""
    shown = {True: "on", False: "off"}[default] if isinstance(default, bool) else default
    limits = range_text(one)
    hints = [f"default: {shown}", limits if limits != "0 or more" else ""] if default != "" else []
    kind = arg(
        help=one.metadata["help"], metavar=one.metadata["metavar"] or None, prefix_name=False,
        help_behavior_hint=f"({'; '.join(filter(None, hints))})" if hints else "",
    )  # fmt: skip
    return one.name, Annotated[one.type, kind], field(default=default)


def flattened(options: Any) -> dict[str, Any]:
    """Return the values of options with groups as one dictionary."""
    groups = {group.replace("-", "_") for group in GROUPS}
    own = vars(options)
    return {name: value for name, value in own.items() if name not in groups} | {
        name: value for group in groups & own.keys() for name, value in vars(own[group]).items()
    }


@dataclass(frozen=True)
class Sources:
    """The two options that set the defaults of all others."""

    recipe: str = ""
    config: str = ""


def parse(arguments: list[str]) -> tuple[str, Any]:
    """Return the command that arguments name, and its options.

    Those of `train`, `tune`, `plan` and `audit` have the attributes `config`, a `Config`; `explicit`, the names of the options
    that the command line or the file of options gives; and the options that are none of `Config`'s.

    Args:
        arguments: a command's name and its options, or `--tyro-write-completion`, a shell and a file.

    Raises:
        HeadstartError: what is unknown or unreadable, in one or two lines.
        SystemExit: help or completion was asked for, and is printed.
    """
    arguments = with_values(arguments)
    name = arguments[0]
    defaults, changes = defaults_of(arguments) if name in CONFIGURED else (Config(), {})
    known = commands(defaults)
    if not name.startswith("-") and name not in known:
        raise HeadstartError(f"there is no command {name!r}{suggestion(name, known)}")
    options = read(every(known), arguments, f"headstart {name}", known.get(name))
    if name not in (*CONFIGURED, "audit"):
        return name, options
    values = flattened(options)
    if values.get("resume"):
        refuse_beside_resume(arguments, values["source"])
    config, explicit = configured(arguments, values, defaults, changes)
    own = values.keys() - {"config", *(one.name for one in dataclasses.fields(Config))}
    return name, SimpleNamespace(config=config, explicit=explicit, **{key: values[key] for key in own})


def commands(defaults: Config) -> dict[str, type]:
    """Return the options of every command by its name, with these defaults."""
    return {
        "train": train_options(defaults), "tune": tune_options(defaults), "plan": plan_options(defaults),
        "evaluate": Evaluate, "predict": Predict, "explain": Explain, "compare": Compare, "export": Export, "serve": Serve,
        "audit": audit_options(defaults),
        "recipes": Recipes, "backbones": Backbones, "cache": Cache,
    }  # fmt: skip


def every(known: dict[str, type]) -> Any:
    """Return the type from which tyro makes all commands."""
    members = [Annotated[options, subcommand(name, description=inspect.getdoc(options))] for name, options in known.items()]
    return Union[tuple(members)]  # noqa: UP007  (there is no other way to make one of a list)


def summary() -> str:
    """Return the help of the program, a line for each command."""
    first = {name: (options.__doc__ or "").splitlines()[0] for name, options in commands(Config()).items()}
    return SUMMARY.format(commands="\n".join(f"  {name:9}  {line}" for name, line in first.items()))


def defaults_of(arguments: list[str]) -> tuple[Config, dict[str, Any]]:
    """Return the configuration that the recipe and the file of options give, and what the file sets."""
    first = read(Sources, arguments[1:], f"headstart {arguments[0]}")
    changes = read_toml(Path(first.config).expanduser()) if first.config else {}
    # A recipe that is explicit wins over the file's; options of either win over the recipe's.
    in_file = str(changes.get("recipe", "quick"))
    given = {name: value for name, value in changes.items() if name != "recipe"}
    return replace(recipe(first.recipe if "--recipe" in option_words(arguments) else in_file), **given), changes


def with_values(arguments: list[str]) -> list[str]:
    """Return a command line in which every option has its value: `--ray` alone, and what was a switch in earlier versions."""
    words: list[str] = []
    known = {one.name: get_args(one.type) for one in dataclasses.fields(Config)}
    for place, word in enumerate(arguments):
        after = arguments[place + 1] if place + 1 < len(arguments) else "--"
        for name, (off, on) in FORMER_SWITCHES.items():
            switch = word.replace("_", "-")
            # What follows is the value, unless it is another option or what to learn from.
            if switch == option_name(f"no_{name}"):
                word = f"{option_name(name)}={off}"
            elif switch == option_name(name) and after not in known[name] and (after.startswith("-") or Path(after).exists()):
                word = f"{option_name(name)}={on}"
        if word == "--ray" and not is_cluster(after) and (after.startswith("-") or Path(after).exists()):
            word = f"--ray={LOCAL}"
        words.append(word)
    return words


def option_words(arguments: list[str]) -> set[str]:
    """Return the words of a command line without values, `--image_size=64` as `--image-size`."""
    return {word.split("=")[0].replace("_", "-") for word in arguments}


def configured(
    arguments: list[str], values: dict[str, Any], defaults: Config, changes: dict[str, Any]
) -> tuple[Config, set[str]]:
    """Return the configuration that parsed values give, and the names of the options that are explicit."""
    names = [one.name for one in dataclasses.fields(Config)]
    words = option_words(arguments)
    explicit = {name for name in names if words & {option_name(name), option_name(f"no_{name}")}} | changes.keys()
    given = {name: values[name] for name in names if name in values}
    if values["source"]:
        if "--data" in words and given["data"] != values["source"]:
            raise HeadstartError(f"the data are given twice: {values['source']} and --data {given['data']}; leave out one")
        given["data"] = values["source"]
        explicit.add("data")
    config = replace(defaults, **given)
    if "views" in explicit and config.views != given["views"]:
        raise HeadstartError(
            f"--views is {given['views']}, but without random augmentation there are at most {config.views}: "
            "give --rotation, --zoom, --translation or --rand-augment too"
        )
    return config, explicit


def refuse_beside_resume(arguments: list[str], source: str) -> None:
    """Refuse whatever is given beside `--resume` but `--trust`, `--devices` and `--ray`, since the run has all of its options."""
    beside = ("--resume", "--trust", "--devices", "--ray")
    given = [word for word in arguments if word.startswith("--") and word.split("=")[0] not in beside]
    if given or source:
        raise HeadstartError(f"--resume takes all options from the run: leave out {[*given, source][0]}")


def read(options: Any, arguments: list[str], program: str, known: type | None = None) -> Any:
    """Let tyro read arguments into `options`; what is unreadable is refused in one line.

    Args:
        program: whose help is named in a refusal.
        known: the dataclass among whose options there is something like an unknown one; None leaves unknown ones alone.
    """
    alone = options is not Sources
    refusal = io.StringIO()
    prints = alone and {"-h", "--help", "--tyro-write-completion"} & set(arguments)
    try:
        with contextlib.redirect_stderr(refusal), contextlib.nullcontext() if prints else unadorned():
            result, unknown = tyro.cli(
                options, args=arguments, prog="headstart" if alone else program, return_unknown_args=True, add_help=alone
            )
    except SystemExit as end:
        if end.code in (0, None):  # help or completion
            raise
        raise HeadstartError(f"{reason(refusal.getvalue())} ({program} --help explains the options)") from None
    if unknown and known:
        if not unknown[0].startswith("-"):
            raise HeadstartError(f"{program} has no use for {unknown[0]!r}; options begin with --")
        raise HeadstartError(f"there is no option {unknown[0]}{suggestion(unknown[0].split('=')[0], option_names(known))}")
    return result


def option_names(options: type) -> list[str]:
    """Return the options of a dataclass as they are written on the command line, those of its groups too."""
    names = []
    for one in dataclasses.fields(options):
        if isinstance(one.type, type) and dataclasses.is_dataclass(one.type):
            names += option_names(one.type)
        elif one.default is not dataclasses.MISSING and one.name != "source":
            names += [option_name(one.name), *([option_name(f"no_{one.name}")] if isinstance(one.default, bool) else [])]
    return names


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
