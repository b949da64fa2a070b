"""What else a user may be sent to train on or to classify: tables, archives of images, and the parts of a bulk prediction."""

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from case import Case, Place, chosen, put
from honest import SMALL_BLOCKS, Honest
from tamper import flipped

TABLES, PACKED, BULK = "tables of files", "archives of images", "parts of bulk predictions"
ROWS = [
    f"train/{kind}/{number:03}.png" for kind, first in (("blue", 0), ("green", 1), ("red", 2)) for number in range(first, 42, 3)
]
SPECIAL = [
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    "pipe",
    "folder",
    "itself",
    "\0",
    "x" * 5000,
    "a/" * 500,
    "",
    ".",
    "..",
    "~",
    "../victim/letter.txt",
    "\ud800",
    "\u202egnp.exe",
    "=cmd|'/c calc'!A1",
    "s3://nowhere/x.png",
    "file:///etc/passwd",
]


def input_cases(honest: Honest, count: int, seed: int) -> list[Case]:
    """Return tables, archives and parts, of which almost all are hostile."""
    return chosen([*tables(honest), *archives(honest, seed), *parts(honest, seed)], count, seed)


def tables(honest: Honest) -> Iterator[Case]:
    """Yield tables beside the honest images, which are trained on and classified."""

    def case(name: str, ending: str, content: bytes | str) -> Case:
        def make(place: Place) -> None:
            (place.folder / "train").symlink_to(honest.data / "train")
            os.mkfifo(place.folder / "pipe")
            (place.folder / "folder").mkdir()
            (place.folder / "itself").symlink_to("itself")
            put(place.folder / f"t{ending}", content)

        commands = [["load_data", f"t{ending}"], ["predict", str(honest.run), f"t{ending}", "--format", "csv"]]
        return Case(f"{TABLES}/{name}", TABLES, make, commands, compared=False)

    good = [(name, name.split("/")[1]) for name in ROWS]
    plain = "file,label\n" + "".join(f"{name},{label}\n" for name, label in good)
    yield case("honest", ".csv", plain)
    for number, name in enumerate(SPECIAL):
        quoted = name.replace('"', '""')
        yield case(f"a file called special {number}", ".csv", f'{plain}"{quoted}",red\n')
        yield case(f"a label called special {number}", ".csv", plain.replace(",red", f',"{quoted}"'))
        lines = [{"file": one, "label": label} for one, label in [*good, (name, "red")]]
        yield case(f"an object with a file called special {number}", ".jsonl", "\n".join(map(json.dumps, lines)))
    for name, content in {
        "empty": "",
        "a header alone": "file,label\n",
        "rubbish": os.urandom(5000),
        "zeros": bytes(5000),
        "no line ends": "x" * 10**7,
        "a quote without an end": plain + '"' + "x,\n" * 100_000,
        "a million columns": ",".join(map(str, range(10**6))) + "\n",
        "a million rows": plain + "x.png,red\n" * 10**6,
        "cells without end": "file,label\n" + "," * 10**6,
        "UTF-16": plain.encode("utf-16"),
        "two columns of one name": plain.replace("file,", "label,", 1),
        "names of control characters": "\x1b[2J,\a\n1,2\n",
        "a split of its own": plain.replace("label\n", "label,split\n", 1).replace(",red\n", ",red,\x1b[2J\n"),
    }.items():
        yield case(name, ".csv", content)
        yield case(f"{name}, as .tsv", ".tsv", content)
        yield case(f"{name}, as .parquet", ".parquet", content)
    for name, content in {
        "deep": '{"file": ' + "[" * 10**5,
        "NaN": '{"file": NaN, "label": Infinity}',
        "a number": "1" * 10**5,
        "a list": "[1, 2]",
        "a large number": '{"file": 1e999, "label": ' + "9" * 5000 + "}",
        "a name twice": '{"file": "a", "file": "b", "label": "c"}',
        "objects for cells": '{"file": {"a": []}, "label": [1]}\n' * 3,
        "many keys": json.dumps(dict.fromkeys(map(str, range(10**5)))),
    }.items():
        yield case(f"{name}, as .jsonl", ".jsonl", content)


def archives(honest: Honest, seed: int) -> Iterator[Case]:
    """Yield archives of the honest images, which are trained on and classified."""
    images = {name: (honest.data / name).read_bytes() for name in ROWS}
    table = "file,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in ROWS)

    def case(name: str, ending: str, content: bytes) -> Case:
        def make(place: Place) -> None:
            put(place.folder / f"a{ending}", content)

        commands = [["load_data", f"a{ending}"], ["predict", str(honest.run), f"a{ending}", "--format", "csv"]]
        commands += [["predict", str(honest.run), f"a{ending}", "--out", "found.csv"]]
        return Case(f"{PACKED}/{name}", PACKED, make, commands, compared=False, cache="cache")

    for ending, pack in {".zip": zipped, ".tar": tarred, ".tar.gz": lambda files: gzip.compress(tarred(files))}.items():
        whole = pack(images)
        yield case("honest" if ending == ".zip" else f"honest{ending} among others", ending, whole)
        changed = {
            "empty": b"",
            "rubbish": os.urandom(5000),
            "no files": pack({}),
            "cut": whole[: len(whole) // 2],
            "end alone": whole[-1000:],
            "rubbish before": os.urandom(999) + whole,
            "rubbish behind": whole + os.urandom(999),
            "a folder alone": pack({"a/b/": b""}),
            "no image": pack({"a/x.txt": b"x"}),
            "an image that is none": pack(images | {"train/red/x.png": b"x" * 999}),
            "zeros": pack({"train/red/x.png": bytes(10**8)}),
            "archives in it": pack({f"train/red/{n}.zip": whole for n in range(3)}),
            "many folders": pack({f"{'d/' * n}x.png": b"" for n in range(1, 70)}),
            "a run in it": pack(images | {"manifest.json": b"{}"}),
        }
        for name in (
            "/etc/x",
            "../victim/letter.txt",
            "a/../../victim/x",
            "C:\\x",
            "\\\\server\\x",
            "x" * 3000,
            "a\nb",
            "\x1b[2J",
            "con",
            "-rf",
            "train",
            "train/red/002.png/x",
            "TRAIN/RED/002.PNG",
        ):
            changed[f"a file called {name[:30]!a}"] = pack(images | {name: b"evil"})
        for name in ("/etc/passwd", "../../../victim/letter.txt", "train/../../x.png", "\0", "\ud800", "a" * 5000):
            rows = f'{table}"{name}",red\n'.encode("utf-8", "surrogatepass")
            changed[f"a table that names {name[:30]!a}"] = pack(images | {"t.csv": rows})
            changed[f"metadata that name {name[:30]!a}"] = pack(images | {"metadata.csv": b"file_name," + rows[5:]})
        changed |= {f"flipped {number}": flipped(whole, seed + number) for number in range(10)}
        for name, content in changed.items():
            yield case(f"{name}, as {ending}", ending, content)
    for name, kind in {
        "a link": tarfile.SYMTYPE,
        "a hard link": tarfile.LNKTYPE,
        "a device": tarfile.CHRTYPE,
        "a pipe": tarfile.FIFOTYPE,
        "a sparse file": tarfile.GNUTYPE_SPARSE,
    }.items():
        yield case(f"{name}, as .tar", ".tar", tarred(images, kind))


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], kind: bytes = b"") -> bytes:
    """Return a tar archive; with `kind`, it has an entry of this kind that leads to a file of the user."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
        if kind:
            entry = tarfile.TarInfo("train/red/x.png")
            entry.type, entry.linkname = kind, "../../../../victim/letter.txt"
            packed.addfile(entry)
    return stream.getvalue()


def parts(honest: Honest, seed: int) -> Iterator[Case]:
    """Yield folders of parts that an interrupted prediction left, in which a file is another one; the prediction goes on."""
    begun = honest.bulk
    files = sorted(path.name for path in begun.iterdir())

    def case(name: str, change: Callable[[Path], object]) -> Case:
        def make(place: Place) -> None:
            shutil.copytree(begun, place.folder / "found.csv.parts")
            change(place.folder / "found.csv.parts")

        commands = [["predict", str(honest.run), str(honest.data / "test"), "--out", "found.csv"], ["show", "found.csv"]]
        return Case(f"{BULK}/{name}", BULK, make, commands, limits=SMALL_BLOCKS)

    yield case("honest", lambda folder: None)
    for file in files:
        whole = (begun / file).read_bytes()
        contents = {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "rubbish": os.urandom(500),
            "zeros": bytes(500),
            "twice": whole * 2,
            "an empty object": b"{}",
            "a list": b"[]",
            "deep": b"[" * 10**5,
            "large": b"x" * 10**7,
        }
        contents |= {f"flipped {number}": flipped(whole, seed + number) for number in range(4)}
        if whole[:1] == b"{":
            content = json.loads(whole)
            for key in content:
                for value in (None, -1, 1e300, 10**30, "x", [], {}, True):
                    if value != content[key]:
                        contents[f"{key} {value!r}"] = json.dumps(content | {key: value}).encode()
            contents["without a key"] = json.dumps(dict(list(content.items())[1:])).encode()
        for name, other in contents.items():
            yield case(f"{file} {name}", lambda folder, file=file, other=other: put(folder / file, other))
        special: dict[str, Callable[[Path], object]] = {
            "missing": Path.unlink,
            "a folder": Path.mkdir,
            "a pipe": os.mkfifo,
            "a link to itself": lambda path: path.symlink_to(path.name),
            "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
            "a link to the user's file": lambda path: path.symlink_to("../../victim/letter.txt"),
        }
        for name, change in special.items():
            yield case(f"{file} {name}", partial(replaced, file=file, change=change))
    lines = (begun / "images.jsonl").read_bytes().splitlines(keepends=True)
    for name, row in {
        "/etc/passwd": ["x", "/etc/passwd"],
        "/dev/zero": ["x", "/dev/zero"],
        "a number": [1, 2],
        "one cell": ["x"],
    }.items():
        other = b"".join([*lines[:-1], json.dumps(row).encode() + b"\n"])
        yield case(f"images.jsonl with {name}", lambda folder, other=other: put(folder / "images.jsonl", other))


def replaced(folder: Path, file: str, change: Callable[[Path], object]) -> None:
    """Put something else, which `change` makes, in the place of a file."""
    if change is not Path.unlink:
        (folder / file).unlink()
    change(folder / file)
