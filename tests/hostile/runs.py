"""Runs that somebody has tampered with."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from case import Case, Place, chosen, cleared, copied, put
from honest import Honest
from sealing import covered, reseal
from tamper import Change, of_any_file, of_array, of_csv, of_json, of_safetensors, of_text, of_toml, with_entry

FINISHED, INTERRUPTED, SEEDS = "runs", "interrupted runs", "runs of two seeds"
# Files that no command reads back, but one may write to; a few cases of each are enough.
WRITTEN = ("log.txt", "report.html", "near_duplicates.csv", "suspects.csv")


def commands(kind: str, honest: Honest) -> list[list[str]]:
    """Return the command lines that meet a run."""
    if kind == INTERRUPTED:
        return [["train", "--resume", "run"]]
    if kind == SEEDS:
        return [["train", "--resume", "run"], ["compare", "run/seed-1", str(honest.seeds / "seed-1")], ["evaluate", "run/seed-1"]]
    return [
        ["predict", "run", str(honest.image), "--format", "csv"],
        ["evaluate", "run"],
        ["explain", "run", str(honest.image), "--out", "explained"],
        ["compare", "run", str(honest.run)],
    ]


def source(kind: str, honest: Honest) -> Path:
    return {FINISHED: honest.run, INTERRUPTED: honest.interrupted, SEEDS: honest.seeds}[kind]


def run_cases(honest: Honest, kind: str, count: int, seed: int) -> list[Case]:
    """Return tampered runs of one kind."""
    return chosen(cases_of(kind, honest, random.Random(seed)), count, seed)


def cases_of(kind: str, honest: Honest, rng: random.Random) -> Iterator[Case]:
    root, lines = source(kind, honest), commands(kind, honest)

    def case(file: str, what: str, change: Change, plausible: bool = False, *, resealed: bool = False) -> Case:
        def make(place: Place) -> None:
            copied(root, place.folder / "run")
            change(place.folder / "run" / file, place.marker, place.victim)
            if resealed:
                reseal(place.folder / "run")

        name = f"{kind}/{file}/{what}" + (", resealed" if resealed else "")
        return Case(name, kind, make, lines, file=file, plausible=plausible, covered=covered(root, file), resealed=resealed)

    yield Case(f"{kind}/honest", kind, lambda place: copied(root, place.folder / "run"), lines)
    for path in sorted(root.rglob("*")):
        file = str(path.relative_to(root))
        if path.is_dir() or path.suffix == ".png" or (kind == SEEDS and "/" in file and not file.startswith("seed-1/m")):
            continue
        changes = of_file(path, rng)
        if path.name in WRITTEN:
            changes = dict(list(changes.items())[-8:]) | of_any_file(rng, 0)
        for what, (change, plausible) in changes.items():
            yield case(file, what, change, plausible)
            if kind != SEEDS and covered(root, file):
                yield case(file, what, change, plausible, resealed=True)
        if other := from_another(path, file, honest, kind):
            yield case(file, "of another run", other, True)
            if kind != SEEDS and covered(root, file):
                yield case(file, "of another run", other, True, resealed=True)
    for file, what, change in links(root, kind):
        yield case(file, what, change)


def of_file(path: Path, rng: random.Random) -> dict[str, tuple[Change, bool]]:
    """Return all changes of one file of a run, by its name and kind."""
    changes = of_any_file(rng)
    if path.suffix in (".json", ".toml", ".csv", ".xml", ".txt", ".html"):
        changes |= of_text()
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        changes |= of_json(content, rng, min(40, 8 + len(path.read_text()) // 60))
        changes |= {"version " + text: with_format(content, text) for text in ("99", "-1", '"1"', "null", "1.5", "true")}
        if path.name == "manifest.json":
            changes |= of_manifest(content)
        if path.name == "state.json":
            changes |= of_state(content)
    elif path.suffix == ".toml":
        changes |= of_toml(path.read_text(), rng, 30)
    elif path.suffix == ".csv":
        changes |= of_csv(path.read_text(), rng, 10)
    elif path.suffix == ".npy":
        changes |= of_array(np.load(path))
    elif path.suffix == ".safetensors":
        changes |= of_safetensors(path)
    elif path.suffix == ".xml":
        changes |= of_openvino(path.read_text())
    return changes


def with_format(content: Any, text: str) -> tuple[Change, bool]:
    """Return a change of the version of a file; one that had none gets one, which means nothing."""
    new = with_entry({"format": 0} | content, ("format",), "", text) if isinstance(content, dict) else text
    return (lambda path, *_: put(path, new)), "format" not in content


def of_manifest(content: dict[str, Any]) -> dict[str, tuple[Change, bool]]:
    """Return changes of what a manifest says of the model."""
    found: dict[str, tuple[Change, bool]] = {}

    def entry(name: str, place: tuple[str, ...], text: str, plausible: bool = False) -> None:
        try:
            new = with_entry(content, place, "", text)
        except KeyError:  # this version has no such entry
            return
        found[name] = ((lambda path, *_: put(path, new)), plausible)

    for text in ("NaN", "Infinity", "-Infinity", "0", "-1", "1e300", "1e-300", "5e-324", '"1"', "null", "[1]", "true", "1e999"):
        entry(f"temperature {text}", ("temperature",), text)
    entry("temperature 0.5", ("temperature",), "0.5", True)
    classes = content["classes"]
    for name, new, plausible in [
        ("swapped", [classes[1], classes[0], *classes[2:]], True),
        ("twice", [classes[0]] * len(classes), False),
        ("too few", classes[:-1], False),
        ("too many", [*classes, "more"], False),
        ("none", [], False),
        ("one", classes[:1], False),
        ("empty names", [""] * len(classes), False),
        ("control characters", ["\x1b[2J\a", *classes[1:]], True),  # a folder may have such a name
        ("line breaks", ["a\nheadstart: b", *classes[1:]], False),
        ("paths", ["../../x", *classes[1:]], True),
        ("formulas", ["=1+1", *classes[1:]], True),
        ("numbers", [1, 2, 3], False),
        ("lists", [[c] for c in classes], False),
        ("text", "".join(classes)[:3], False),
        ("a long name", ["a" * 1_000_000, *classes[1:]], False),
        ("many", [f"c{i}" for i in range(1_000_000)], False),
        ("half a character", ["\ud800", *classes[1:]], False),
        ("a dictionary", dict.fromkeys(classes, 1), False),
    ]:
        entry(f"classes {name}", ("classes",), json.dumps(new), plausible)
    for text in (
        "[0, 0, 3]",
        "[-32, -32, 3]",
        "[100000, 100000, 3]",
        "[32, 32, 3, 1]",
        "[32, 32]",
        "[]",
        "[32, 32, 1]",
        "[32, 32, 4]",
        "[32, 32, 10000]",
        "[32, 64, 3]",
        "[16, 16, 3]",
        "[33, 33, 3]",
        "[32.5, 32, 3]",
        '["32", 32, 3]',
        "[null, null, 3]",
        "32",
        "null",
        "[1, 1, 3]",
        "[1025, 1025, 3]",
        "[true, true, 3]",
        "[NaN, 32, 3]",
        "[1e999, 32, 3]",
        f"[{10**30}, 32, 3]",
        "[1000000000, 1, 3]",
    ):
        entry(f"shape {text}", ("input", "shape"), text, text in ("[16, 16, 3]", "[33, 33, 3]", "[32, 64, 3]"))
    for text in (
        '{"fit": "squash", "grey_range": null}',
        '{"fit": "pad", "grey_range": null}',
        '{"fit": "x", "grey_range": null}',
        '{"fit": "crop", "grey_range": [NaN, 1]}',
        '{"fit": "crop", "grey_range": [5, 5]}',
        '{"fit": "crop", "grey_range": [9, 1]}',
        '{"fit": "crop", "grey_range": [1]}',
        '{"fit": null, "grey_range": null}',
        "{}",
        "null",
        "[]",
        '{"more": 1, "fit": "crop"}',
        '{"fit": "crop", "grey_range": "ab"}',
        '{"fit": "crop", "grey_range": [-1e308, 1e308]}',
    ):
        entry(f"decoding {text}", ("input", "decoding"), text, "squash" in text or "pad" in text)
    for what in ('"float32"', "null", '"bfloat16"', '"x"', "0"):
        entry(f"dtype {what}", ("input", "dtype"), what)
        entry(f"precision {what}", ("precision",), what, "float" in what)
    for what in ('"BGR"', "null", '"L"'):
        entry(f"colours {what}", ("input", "colours"), what)
    for what in ("[0, 1]", "[-1, 1]", "[]", "[NaN, 255]", "null"):
        entry(f"range {what}", ("input", "range"), what)
    for what in ("{}", "null", "[]", '{"../../etc/passwd": "0"}', '{"model.xml": null}', '{"model.xml": "0"}'):
        entry(f"checksums {what}", ("sha256",), what)
    return found


def of_state(content: dict[str, Any]) -> dict[str, tuple[Change, bool]]:
    """Return changes of the state of a checkpoint. Its entries became attributes of an object once."""
    found: dict[str, tuple[Change, bool]] = {}
    for name, place, text in [
        ("a path for arrays", ("arrays",), '"../../../honest.safetensors"'),
        ("an absolute path", ("arrays",), '"/dev/zero"'),
        ("a folder for arrays", ("arrays",), '".."'),
        ("no arrays", ("arrays",), '""'),
        ("a zero byte", ("arrays",), '"a\\u0000"'),
        ("unknown stage", ("stage",), '"evil"'),
        ("another stage", ("stage",), '"frozen"'),
        ("finished", ("finished",), "true"),
        ("times that are NaN", ("seconds",), '{"head": NaN}'),
        ("times that are text", ("seconds",), '{"head": "x"}'),
        ("memory that is negative", ("memory_mb",), '{"head": -1}'),
        ("memory that is infinite", ("memory_mb",), '{"head": Infinity}'),
        ("empty history", ("history",), "[]"),
        ("history of text", ("history",), '["x"]'),
        ("history without keys", ("history",), "[{}]"),
        ("history of an unknown stage", ("history",), '[{"stage": "evil", "epoch": 1}]'),
    ]:
        if place[0] in content:
            new = with_entry(content, place, "", text)
            found[name] = ((lambda path, *_, new=new: put(path, new)), name in ("empty history", "another stage", "finished"))
    for key, text in (
        ("folder", '"/tmp"'),
        ("file", '"x"'),
        ("save", "1"),
        ("__class__", '"x"'),
        ("watchers", "[1]"),
        ("clock", '"x"'),
    ):
        new = json.dumps(content)[:-1] + f', "{key}": {text}}}'
        found[f"an entry {key}"] = ((lambda path, *_, new=new: put(path, new)), True)
    return found


def of_openvino(text: str) -> dict[str, tuple[Change, bool]]:
    """Return changes of OpenVINO's description of a network."""
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 20}">' for i in range(1, 12))
    start, _, rest = text.partition("?>")
    doctype = f'{start}?><!DOCTYPE net [<!ENTITY l0 "lol">{laughs}<!ENTITY f SYSTEM "file:///etc/passwd">]>'

    def new(content: str) -> tuple[Change, bool]:
        return (lambda path, *_: put(path, content)), False

    return {
        "laughs": new(doctype + rest.replace("<net ", '<net evil="&l11;" ', 1)),
        "a file as an entity": new(doctype + rest.replace("<net ", '<net evil="&f;" ', 1)),
        "deep": new(f"{start}?>" + "<net>" * 100_000),
        "no layers": new(f'{start}?><net name="x" version="11"><layers/><edges/></net>'),
        "version 99": new(text.replace('version="11"', 'version="99"', 1)),
        "huge shape": new(text.replace('shape="8', 'shape="800000000')),
        "huge dimensions": new(text.replace("<dim>8</dim>", "<dim>9223372036854775807</dim>")),
        "negative dimensions": new(text.replace("<dim>8</dim>", "<dim>-8</dim>")),
        "offset outside": new(text.replace('offset="', 'offset="99999999999')),
        "negative offset": new(text.replace('offset="', 'offset="-')),
        "size outside": new(text.replace('size="', 'size="9999999999')),
        "an unknown layer": new(text.replace('type="ReLU"', 'type="Evil"')),
        "an extension": new(text.replace('type="ReLU" version="opset1"', 'type="ReLU" version="extension"')),
        "a circle": new(text.replace('to-layer="', 'to-layer="1" old="')),
        "no edges": new(text.partition("<edges>")[0] + "<edges></edges></net>"),
        "another type": new(text.replace('element_type="f32"', 'element_type="i64"')),
        "another input": new(text.replace('element_type="u8"', 'element_type="f64"')),
    }


def from_another(path: Path, file: str, honest: Honest, kind: str) -> Change | None:
    """Return the change that puts the file of another run in the place of this one, if it has such a file."""
    other = (honest.run if kind == INTERRUPTED else honest.other) / (file.split("/")[-1] if kind == SEEDS else file)
    if not other.is_file():
        return None
    return lambda path, *_: put(path, other.read_bytes())


def links(root: Path, kind: str) -> Iterator[tuple[str, str, Change]]:
    """Yield links in a run that lead to files and folders of the user elsewhere."""

    def link(target: str) -> Change:
        return lambda path, _, victim: cleared(path).symlink_to(victim / target)

    for file in ("plan.json", "mlflow.json", "mirror.json", "seeds.json", "audit.json"):
        if not (root / file).exists():
            yield file, "that was not there", lambda path, *_: put(path, "[" * 1000)
            yield file, "a pipe that was not there", lambda path, *_: os.mkfifo(path)
    for folder in ("images", "checkpoint", "tensorboard", "explanations", ".partial-x"):
        yield folder, "a link to a folder elsewhere", link("folder")
    for file in (
        "log.txt",
        "report.html",
        "manifest.json",
        "split.csv",
        "test_fine_tuned.npy",
        "images/history.png",
        "seeds.json",
    ):
        yield file, "a link to a file that must not change", link("letter.txt")
    yield "checkpoint", "a file", lambda path, *_: put(path, b"x")
    yield "images", "a pipe", lambda path, *_: os.mkfifo(cleared(path))
