"""Classify any number of images into one table, in blocks: each is written whole or not at all, so a killed run goes on.

Beside the table lies meanwhile a folder of parts, `results.csv.parts/`. It holds what was asked for (`about.json`), the list of
the images as it was found when that began (`images.jsonl`), and of each finished block its rows (`000123.csv`) and its figures
(`000123.json`). At the end the rows are joined, and the folder goes.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from msgspec import Meta

from headstart import inference
from headstart.data.archive import is_archive, key, unpacked
from headstart.errors import DamagedError, HeadstartError
from headstart.inference.inputs import Inputs, named_images, refuse_nothing
from headstart.inference.predictions import Answer
from headstart.inference.rows import REJECTED, UNLIKE, Rows, kind_of
from headstart.system.files import (
    PARTIAL,
    checksum,
    exists,
    held_folder,
    open_regular,
    refuse_unwritable,
    remove_partial,
    unwritable,
    write_json,
    written_whole,
)
from headstart.system.progress import Bar
from headstart.system.reading import Checksum, Count, Fraction, as_kind, parse_json, read_json
from headstart.system.remote import located
from headstart.system.text import count
from headstart.system.workers import EVERYWHERE, Workers, connected, wrong_address

if TYPE_CHECKING:
    from headstart.inference.classifier import Classifier

logger = logging.getLogger("headstart")

# Images in a block: what a kill costs at most. It is a multiple of the usual batch sizes, so that blocks have the batches that
# `predict` makes of the same images.
BLOCK = 1024
FORMAT, ABOUT, LIST, PARTS = 1, "about.json", "images.jsonl", ".parts"
# A line of the list: the name of an image, and the path of its file.
Listed = tuple[str, str]


class About(TypedDict):
    """Content of `about.json`: what was asked for, and what was found."""

    format: Count
    model: Checksum
    source: Checksum
    mirror: bool
    reject: Fraction
    shard: Annotated[list[Count], Meta(min_length=2, max_length=2)]
    block: Annotated[int, Meta(ge=1, le=2**31)]
    images: Count
    list: Checksum
    begun: str
    skipped: dict[str, Count]


# What must be as it was for a run to go on, in words.
ASKED = {
    "format": "another version of Headstart", "model": "another model", "source": "other images", "mirror": "another --mirror",
    "reject": "another --reject", "shard": "another --shard", "block": "another version of Headstart",
}  # fmt: skip


class Block(TypedDict):
    """What is recorded of a finished block, beside its rows."""

    images: Count
    unreadable: Count
    rejected: Count
    unlike: Count
    remarks: dict[str, Count]
    rows: Checksum


@dataclass
class Totals:
    """What became of the images, in all blocks of a table.

    Attributes:
        out: the table.
        images: how many rows it has.
        unreadable: how many of these have an error instead of a class.
        rejected: how many have no class since the confidence is too low.
        unlike: how many are unlike the training images.
        threshold: the lowest confidence that is not rejected; 0 if no rejection was asked for.
        remarks: the number of images by remark, see `headstart.inference.predictions.Answer`.
        skipped: how many files and folders in the given folders are no images, by kind.
    """

    out: Path
    threshold: float
    images: int = 0
    unreadable: int = 0
    rejected: int = 0
    unlike: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, int] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        self.images += block["images"]
        self.unreadable += block["unreadable"]
        self.rejected += block["rejected"]
        self.unlike += block["unlike"]
        self.remarks.update(block["remarks"])


def predict_to(
    classifier: "Classifier", images: Any, out: str | Path, batch_size: int = 64, *, mirror: bool = False, reject: float = 0.0,
    file_column: str = "", shard: tuple[int, int] = (1, 1), overwrite: bool = False, ray: str = "",
) -> Totals:  # fmt: skip
    """Classify files into a table; see `headstart.Run.predict_to`."""
    out = Path(out).expanduser()
    kind = kind_of(out)
    if not 1 <= shard[0] <= shard[1]:
        raise HeadstartError(f"--shard is {shard[0]}/{shard[1]}: give the number of this share and of all, such as 2/8")
    rows = kind(classifier.class_names, [REJECTED] * bool(reject) + [UNLIKE] * classifier.tells_outsiders)
    if wrong := wrong_address(ray):
        raise HeadstartError(wrong)
    totals = Totals(out, classifier.threshold(reject, mirror) if reject else 0.0)
    given = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    wanted = {
        "format": FORMAT, "model": classifier.identity, "source": source_of(given, file_column), "mirror": mirror,
        "reject": reject, "shard": list(shard), "block": BLOCK,
    }  # fmt: skip
    parts = out.with_name(out.name + PARTS)
    refuse_unwritable(parts)
    if out.is_dir():
        raise HeadstartError(f"{out} is a folder: give the name of a file")
    if out.exists() and not overwrite and not (parts / ABOUT).exists():
        raise HeadstartError(f"{out} exists: give another --out, or --overwrite")
    with held(parts):
        about = begin(parts, given, file_column, wanted, overwrite)
        for path in archives_in(given):
            unpacked(path)  # again, if the cache was cleared since the images were listed
        blocks = -(-about["images"] // about["block"])
        own = range((shard[0] - 1) * blocks // shard[1], shard[0] * blocks // shard[1])
        files = {number: parts / f"{number:06}{out.suffix.lower()}" for number in own}
        missing = {number: file for number, file in files.items() if not (file.exists() and record_of(file))}
        # A run that was killed between the last two steps, of which the first writes the table, has nothing missing.
        if out.exists() and not overwrite and missing:
            raise HeadstartError(f"{out} exists: give another --out, or --overwrite")
        if shard[1] > 1:
            logger.info(
                "share %d/%d: %s of %s; list of images %s, the same for every share",
                *shard, count(len(own), "block"), f"{blocks:,}", about["list"][:12],
            )  # fmt: skip
        if len(missing) < len(files):
            logger.info(
                "%s: %d of %s done already; the list of images is that of %s",
                parts, len(files) - len(missing), count(len(files), "block"), about["begun"],
            )  # fmt: skip
        classify(classifier, parts, about, missing, rows, batch_size, totals.threshold, ray)
        for file in files.values():
            totals.add(record_of(file))
        totals.skipped = about["skipped"]
        joined = parts / f"joined{out.suffix.lower()}"
        with written_whole(joined) as partial:
            rows.join(partial, files.values())
        try:
            os.replace(joined, out)
        except OSError as error:
            raise unwritable(out, error) from error
        remove(parts)
    return totals


def remove(parts: Path) -> None:
    """Remove the folder of parts. A process that is killed meanwhile leaves a temporary folder, and no half of this one."""
    gone = parts.with_name(f"{PARTIAL}{parts.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(parts, gone)
    shutil.rmtree(gone, ignore_errors=True)


def source_of(given: Iterable[Any], file_column: str) -> str:
    """Return a checksum of the paths of given files, folders, tables and archives; another one if an archive has changed."""
    for one in given:
        if not isinstance(one, (str, os.PathLike)):
            raise HeadstartError(f"a table of answers is made of files, folders and tables, and {type(one).__name__} is no path")
    paths = [str(located(one).absolute()) for one in given]
    paths += map(key, archives_in(given))
    return hashlib.sha256(json.dumps([paths, file_column]).encode()).hexdigest()


def archives_in(given: Iterable[Any]) -> list[Path]:
    """Return those of given files that are archives."""
    paths = map(located, given)
    return [path for path in paths if is_archive(path) and path.is_file()]


@contextmanager
def held(parts: Path) -> Iterator[None]:
    """Make the folder of parts, and hold it for this process alone.

    Raises:
        HeadstartError: another process holds it, or the folder is something else.
        UnwritableError: it cannot be made.
    """
    with held_folder(parts, f"another process works in {parts}: give another --out"):
        if not (parts / ABOUT).exists() and any(name != LIST and not name.startswith(PARTIAL) for name in os.listdir(parts)):
            raise HeadstartError(f"{parts} is needed for the parts of the table, and holds something else: give another --out")
        try:
            yield
        except BaseException:
            if not (parts / ABOUT).exists():  # nothing has begun
                shutil.rmtree(parts, ignore_errors=True)
            raise


def begin(parts: Path, given: list[Any], file_column: str, wanted: dict[str, Any], overwrite: bool) -> About:
    """Return what `about.json` says, after writing it and the list of images if they are not there.

    Raises:
        HeadstartError: what is there was asked for otherwise, and may not be overwritten; or there are no images.
    """
    remove_partial(parts)
    if (parts / ABOUT).exists():
        try:
            return begun(parts, wanted)
        except HeadstartError as error:
            if not overwrite:
                raise HeadstartError(f"{error}, or give --overwrite to begin anew") from None
        (parts / ABOUT).unlink()
        for path in parts.iterdir():
            path.unlink()
    inputs, number, digest = Inputs(), 0, hashlib.sha256()
    logger.info("listing the images")
    with written_whole(parts / LIST) as partial, partial.open("wb") as file:
        for name, path in named_images(given, inputs, file_column):
            if inputs.credentials:
                raise HeadstartError(
                    f"the address {inputs.credentials} in a table has credentials, and --out keeps a list of the images: "
                    "leave them out; without --out they can be used"
                )
            line = json.dumps([encodable(name), str(path.absolute())]).encode() + b"\n"
            digest.update(line)
            file.write(line)
            number += 1
    if not number:
        refuse_nothing([], inputs)
    logger.info("%s listed", count(number, "image"))
    found = {"images": number, "list": digest.hexdigest(), "begun": time.strftime("%Y-%m-%d %H:%M"), "skipped": inputs.skipped}
    write_json(parts / ABOUT, wanted | found)
    return begun(parts, wanted)


def begun(parts: Path, wanted: dict[str, Any]) -> About:
    """Return what `about.json` says.

    Raises:
        HeadstartError: it was begun otherwise, or is damaged.
    """
    try:
        about = read_json(parts / ABOUT, About)
        if checksum(parts / LIST) != about["list"]:
            raise DamagedError(f"{parts / LIST} is damaged")
    except FileNotFoundError:
        raise DamagedError(f"{parts / LIST} is missing: bring it back") from None
    except DamagedError as error:
        raise DamagedError(f"{error}: bring it back") from None
    if differing := dict.fromkeys(words for entry, words in ASKED.items() if about[entry] != wanted[entry]):  # type: ignore[literal-required]
        raise HeadstartError(f"{parts} was begun with {' and '.join(differing)}: repeat the command that began it")
    return about


def encodable(name: str) -> str:
    """Return a name that every kind of table can hold; only a table can name what no file is called."""
    try:
        return os.fsdecode(os.fsencode(name))
    except UnicodeEncodeError:
        return name.encode(errors="replace").decode()


def listed(parts: Path, block: int, numbers: Iterable[int]) -> Iterator[list[tuple[str, Path]]]:
    """Yield the names and paths of the images of some blocks, in order."""
    file, done = parts / LIST, 0
    with open_regular(file) as lines:
        for number in numbers:
            for _ in islice(lines, (number - done) * block):
                pass
            done = number + 1
            rows = [as_kind(parse_json(line, file), Listed, file) for line in islice(lines, block)]
            yield [(name, located(path)) for name, path in rows]


def classify(
    classifier: "Classifier", parts: Path, about: About, missing: dict[int, Path], rows: Rows, batch_size: int,
    threshold: float, ray: str,
) -> None:  # fmt: skip
    """Write the rows of the missing blocks."""
    if not missing:
        return
    taken: deque[tuple[Path, list[tuple[str, Path]]]] = deque()

    def blocks() -> Iterator[list[tuple[str, Path]]]:
        for file, block in zip(missing.values(), listed(parts, about["block"], missing), strict=True):
            taken.append((file, block))
            yield block

    rest = about["block"] * len(missing)
    if about["images"] // about["block"] in missing:  # the last, which is shorter
        rest -= about["block"] - about["images"] % about["block"]
    answers: list[Answer] = []
    with ExitStack() as stack:
        how = batch_size, about["images"], about["mirror"], threshold
        if ray:
            stack.enter_context(connected(ray))
            workers = stack.enter_context(closing(Workers(inference.shipped.opening(classifier, *how), len(missing))))
            answering = by_workers(workers, blocks(), taken)
        else:
            answering = classifier.answers(blocks(), *how)
        bar = stack.enter_context(Bar("images"))
        task = bar.add_task("classifying", total=rest, note="")
        for found in answering:
            answers += found
            bar.update(task, advance=len(found))
            if len(answers) == len(taken[0][1]):
                write_block(taken.popleft()[0], answers, rows)
                answers = []


def by_workers(workers: Workers, blocks: Iterable[list[tuple[str, Path]]], taken: deque[Any]) -> Iterator[list[Answer]]:
    """Yield the answers for each block, as the workers of a cluster give them.

    Raises:
        HeadstartError: a worker does not see a file that this process sees.
    """
    for answers, unseen in workers.results(blocks):
        block = taken[0][1]
        for path in (path for _, path in (block[place] for place in unseen) if exists(path)):
            raise HeadstartError(f"a worker of the cluster does not see {path}, which is here: {EVERYWHERE}")
        yield answers


def write_block(file: Path, answers: list[Answer], rows: Rows) -> None:
    """Write the rows of a block and, beside them, what is recorded of it. The rows come last: they mark it as finished."""
    with written_whole(file) as partial:
        rows.write(partial, answers)
        block: Block = {
            "images": len(answers),
            "unreadable": sum(bool(one.error) for one in answers),
            "rejected": sum(bool(one.rejected) for one in answers),
            "unlike": sum(bool(one.unlike) for one in answers),
            "remarks": dict(Counter(remark for one in answers for remark in one.remarks)),
            "rows": checksum(partial),
        }
        partial.with_suffix(".json").write_text(json.dumps(block), encoding="utf-8")


def record_of(file: Path) -> Block:
    """Return what is recorded of a finished block.

    Args:
        file: its rows.

    Raises:
        DamagedError: rows or record are not as they were written.
    """
    try:
        record = read_json(file.with_suffix(".json"), Block)
    except (FileNotFoundError, DamagedError):
        record = None
    if not record or checksum(file) != record["rows"]:
        raise DamagedError(f"{file} is damaged: remove it, and repeat the command")
    return record
