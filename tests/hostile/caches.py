"""Caches in which somebody else has written: a training must end as if nothing had been there."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from case import Case, Place, chosen, cleared, copied, put
from honest import IN_THE_CACHE, Honest
from tamper import Change, of_any_file, of_array, of_json, of_safetensors, of_text

FEATURES, IMAGES, PLANS = "caches of features", "caches of images", "caches of plans"
ANYBODY = 65534


def cache_cases(honest: Honest, count: int, seed: int) -> list[Case]:
    """Return caches that are not what the program left: half of them of features, which a training reads."""
    rng = random.Random(seed)
    return [
        *chosen(features(honest, rng), count // 2, seed),
        *chosen(images(honest, rng), count - count // 2 - count // 6, seed),
        *chosen(plans(honest, rng), count // 6, seed),
    ]


def entries(folder: Path) -> list[Path]:
    """Return the files of a kind of cache, each relative to the cache."""
    return sorted(path.relative_to(folder.parent) for path in folder.rglob("*") if path.is_file())


def changes_of(path: Path, rng: random.Random) -> dict[str, tuple[Change, bool]]:
    """Return changes of one entry."""
    found = of_any_file(rng)
    if path.suffix == ".npy":
        found |= of_array(np.load(path))
    elif path.suffix == ".safetensors":
        found |= of_safetensors(path)
    elif path.suffix == ".json":
        found |= of_text() | of_json(json.loads(path.read_text()), rng, 30)
    found["of others, to be written by all"] = (foreign, False)
    found["to be written by all"] = (lambda path, *_: rewritten(path, lambda path: path.chmod(0o666)), False)
    return found


def rewritten(path: Path, change: Callable[[Path], None]) -> None:
    """Turn the rows of an array round, or put a zero into another file, and then change who may write it."""
    if path.suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, np.zeros((3, 3), np.float32))
    else:
        path.write_bytes(path.read_bytes().replace(b"1", b"2", 3))
    change(path)


def foreign(path: Path, *_: Path) -> None:
    """Turn the rows of an array round and give the file to another user, who may write it."""
    if path.suffix == ".npy":
        array = np.load(path)[::-1].copy()
        with path.open("wb") as file:
            np.save(file, array)
    path.chmod(0o666)
    if os.getuid() == 0:
        os.chown(path, ANYBODY, ANYBODY)


def cases_of(
    kind: str, folder: str, honest: Honest, command: list[str], rng: random.Random, limits: dict[str, int]
) -> Iterator[Case]:
    """Yield the cases of one kind of cache."""

    def case(name: str, change: Callable[[Place, Path], object]) -> Case:
        def make(place: Place) -> None:
            copied(honest.cache, place.folder / "cache")
            change(place, place.folder / "cache")

        return Case(f"{kind}/{name}", kind, make, [command], cache="cache", limits=limits)

    if command[0] != "plan":  # what it prints are times
        yield case("honest", lambda *_: None)
    files = entries(honest.cache / folder)
    for number, file in enumerate(files):
        for name, (change, _) in changes_of(honest.cache / file, rng).items():
            yield case(
                f"{number} {name}",
                lambda place, cache, file=file, change=change: change(cache / file, place.marker, place.victim),
            )
    one = files[0]
    whole: dict[str, Callable[[Place, Path], object]] = {
        "another entry's content": lambda place, cache: swapped(cache, files),
        "a folder of others": lambda place, cache: given_away(cache / folder, 0o777),
        "a folder that all may write": lambda place, cache: (cache / folder).chmod(0o777),
        "a cache of others": lambda place, cache: given_away(cache, 0o777),
        "a link to a folder elsewhere": lambda place, cache: cleared(cache / folder).symlink_to(place.victim / "folder"),
        "a file in the place of the folder": lambda place, cache: put(cache / folder, b"x"),
        "a pipe in the place of the folder": lambda place, cache: os.mkfifo(cleared(cache / folder)),
        "a dangling link in the place of the folder": lambda place, cache: cleared(cache / folder).symlink_to("nowhere"),
        "all gone": lambda place, cache: shutil.rmtree(cache),
        "links of a foreseen name": lambda place, cache: planted(cache, files, place),
        "links of a foreseen name, entries gone": lambda place, cache: planted(cache, files, place, gone=True),
        "entries are links elsewhere": lambda place, cache: [
            cleared(cache / file).symlink_to(place.victim / "letter.txt") for file in files
        ],
        "strange files beside": lambda place, cache: [
            put(cache / folder / file, b"x") for file in (".partial-x", "x.npy", "a" * 200, "\udcff.npy")
        ],
        "20,000 files beside": lambda place, cache: [(cache / folder / f"{number}.npy").touch() for number in range(20_000)],
        "pipes beside": lambda place, cache: [os.mkfifo(cache / folder / file) for file in ("x.npy", "y.json", ".partial-1-x")],
        "all zeros": lambda place, cache: [zeros(cache / file) for file in files],
        "all turned round": lambda place, cache: [foreign(cache / file) for file in files],
        "one of others": lambda place, cache: foreign(cache / one),
    }
    for name, change in whole.items():
        yield case(name, change)


def zeros(path: Path) -> None:
    if path.suffix == ".npy":
        array = np.zeros_like(np.load(path))
        with path.open("wb") as file:
            np.save(file, array)


def swapped(cache: Path, files: list[Path]) -> None:
    """Give each entry the content of the next one of its kind; features and their maps take turns."""
    step = 2 if len(files) > 2 else 1
    content = [(cache / file).read_bytes() for file in files]
    for file, new in zip(files, [*content[step:], *content[:step]], strict=True):
        (cache / file).write_bytes(new)


def given_away(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    if os.getuid() == 0:
        os.chown(folder, ANYBODY, ANYBODY)


def planted(cache: Path, files: list[Path], place: Place, *, gone: bool = False) -> None:
    """Put links where temporary files will be, if their names can be foreseen."""
    for file in files:
        (cache / file).with_name(f".partial-{place.pid}-{file.name}").symlink_to(place.victim / "letter.txt")
        if gone:
            (cache / file).unlink()


def features(honest: Honest, rng: random.Random) -> Iterator[Case]:
    return cases_of(FEATURES, "features", honest, honest.options("out"), rng, {})


def images(honest: Honest, rng: random.Random) -> Iterator[Case]:
    yield from cases_of(IMAGES, "images", honest, ["load_data", str(honest.data)], rng, IN_THE_CACHE)


def plans(honest: Honest, rng: random.Random) -> Iterator[Case]:
    return cases_of(PLANS, "plan", honest, ["plan", *honest.options("")[1:-2]], rng, {})
