"""Folders and archives of CIFAR files that harm: pickles, tar archives and binary records."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from case import Case, Place, chosen, payloads, put
from honest import Honest
from pickles import dumped, honest_files, pickles, python2
from tamper import flipped

ARCHIVES = "CIFAR pickles and archives"
FILES = ("train", "test", "meta")
GIGABYTES = 10


def archive_cases(honest: Honest, count: int, seed: int) -> list[Case]:
    """Return data sets in the layouts of CIFAR-10 and CIFAR-100, of which almost all are hostile."""
    return chosen([*folders(), *archives(seed), *records()], count, seed)


def case(name: str, make: Callable[[Place], None], data: str = "data") -> Case:
    return Case(f"{ARCHIVES}/{name}", ARCHIVES, make, [["load_data", data]], compared=False)


def folders() -> Iterator[Case]:
    """Yield folders of three files, of which one is hostile."""

    def with_file(name: str, content: bytes | Callable[[Place], bytes]) -> Callable[[Place], None]:
        def make(place: Place) -> None:
            for file, honest in honest_files().items():
                put(place.folder / "data" / file, honest)
            put(place.folder / "data" / name, content(place) if callable(content) else content)

        return make

    yield case("honest", with_file("meta", honest_files()["meta"]))
    for kind in ("os.system", "exec", "eval", "open", "mkdir"):
        for file in FILES:
            yield case(f"{file} {kind}", with_file(file, lambda place, kind=kind: payloads(place.marker)[kind]))
        # As an entry of an honest dictionary, before and behind the others.
        inner = lambda place, kind=kind: payloads(place.marker)[kind]  # noqa: E731
        yield case(f"data {kind}", with_file("train", lambda place, inner=inner: b"}(U\x04data" + inner(place)[2:-1] + b"u."))
    for name, content in pickles().items():
        yield case(f"train {name}", with_file("train", content))
        if name.startswith("label"):
            yield case(f"test {name}", with_file("test", content))
    for name, names in [
        ("numbers", [1, 2, 3]),
        ("none", []),
        ("text", b"abc"),
        ("a number", 3),
        ("a dictionary", {b"a": 1}),
        ("nested", [[b"a"]] * 3),
        ("control characters", [b"\x1b[2J\a", b"\n", b"../../x"]),
        ("the same", [b"a"] * 3),
        ("empty", [b""] * 3),
        ("not UTF-8", [b"\xff", b"\xfe", b"\xfd"]),
        ("a million", [b"x"] * 1_000_000),
        ("long", [b"x" * 10_000_000, b"b", b"c"]),
        ("too few", [b"a"]),
    ]:
        yield case(
            f"names {name}",
            with_file("meta", dumped({b"fine_label_names": names}) if name != "long" else python2({b"fine_label_names": names})),
        )
        if isinstance(names, list) and name not in ("a million", "long"):
            yield case(f"names {name}, as Python 2", with_file("meta", python2({b"fine_label_names": names})))
    for name, change in {
        "a pipe": lambda path: os.mkfifo(path),
        "a folder": lambda path: path.mkdir(),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "10 GB of nothing": sparse,
        "not to be read": lambda path: unreadable(path),
    }.items():
        for file in ("train", "meta"):

            def make(place: Place, file: str = file, change: Callable[[Path], Any] = change) -> None:
                with_file("meta", honest_files()["meta"])(place)
                (place.folder / "data" / file).unlink()
                change(place.folder / "data" / file)

            yield case(f"{file} {name}", make)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIGABYTES << 30)


def unreadable(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0)


# Archives


def tar(files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None, **options: Any) -> bytes:
    """Return a tar archive; `change` may tamper with the description of each member."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change:
                change(member)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def header(name: str, size: int, kind: bytes = b"0", link: str = "") -> bytes:
    """Return the description of a member, without its content."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member.tobuf(tarfile.GNU_FORMAT)


def with_wrong(place: slice, new: bytes, *, sum_fits: bool = True) -> bytes:
    """Return an archive in whose first description some bytes are others."""
    content = bytearray(tar(honest_files()))
    content[place] = new
    if sum_fits:
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def bomb(compressed: Callable[[bytes], bytes], megabytes: int, name: str = "train") -> bytes:
    """Return an archive of a member of zeros. The same compressed megabyte is repeated."""
    start, zeros = compressed(header(name, megabytes << 20)), compressed(bytes(1 << 20))
    return start + zeros * megabytes


def archives(seed: int) -> Iterator[Case]:
    """Yield archives, almost all of them hostile, in files of an honest name."""
    honest = honest_files()
    whole = tar(honest)

    def named(name: str) -> Callable[[tarfile.TarInfo], None]:
        return lambda member: setattr(member, "name", name + member.name)

    def kind(kind: bytes, link: str = "") -> Callable[[tarfile.TarInfo], None]:
        def change(member: tarfile.TarInfo) -> None:
            if member.name == "train":
                member.type, member.linkname, member.size = kind, link, 0

        return change

    def packed(entries: dict[str, str]) -> Callable[[tarfile.TarInfo], None]:
        return lambda member: member.pax_headers.update(entries)

    pax = {"format": tarfile.PAX_FORMAT}
    many = [f"x{number}" for number in range(20_000)]
    batches = {f"data_batch_{number}": 0 for number in range(1, 6)} | {"test_batch": 0}
    found: dict[str, bytes] = {
        "gzip": gzip.compress(whole),
        "xz": lzma.compress(whole),
        "bzip2": bz2.compress(whole),
        "twice gzip": gzip.compress(gzip.compress(whole)),
        "cut": gzip.compress(whole)[:-200],
        "cut tar": whole[:5000],
        "gzip, wrong sum": gzip.compress(whole)[:-8] + bytes(8),
        "rubbish behind": gzip.compress(whole) + b"rubbish",
        "no tar": gzip.compress(b"x" * 5000),
        "empty": b"",
        "zeros": bytes(10240),
        "a zip": b"PK\x03\x04" + bytes(100),
        "absolute names": tar(honest, named("/")),
        "names above": tar(honest, named("../../../")),
        "names with zero bytes": tar(honest, named("a\0b/")),
        "long names": tar(honest, named("a/" * 5000), format=tarfile.GNU_FORMAT),
        "links": tar(honest, kind(tarfile.SYMTYPE, "/etc/passwd")),
        "hard links": tar(honest, kind(tarfile.LNKTYPE, "train")),
        "links to the next": tar(honest, kind(tarfile.SYMTYPE, "test")),
        "devices": tar(honest, kind(tarfile.CHRTYPE)),
        "block devices": tar(honest, kind(tarfile.BLKTYPE)),
        "pipes": tar(honest, kind(tarfile.FIFOTYPE)),
        "folders": tar(honest, kind(tarfile.DIRTYPE)),
        "unknown kind": tar(honest, kind(b"Z")),
        "sparse, old": tar(honest, kind(tarfile.GNUTYPE_SPARSE)),
        "wrong sum": with_wrong(slice(0, 2), b"xx", sum_fits=False),
        "size of text": with_wrong(slice(124, 136), b"zzzzzzzzzzz\0"),
        "negative size": with_wrong(slice(124, 136), b"\xff" * 11 + b"\xf0"),
        "size 2**80": with_wrong(slice(124, 136), b"\x80" + b"\x7f" * 11),
        "size of 8 GB": with_wrong(slice(124, 136), b"77777777777\0"),
        "time 2**80": with_wrong(slice(136, 148), b"\x80" + b"\x7f" * 11),
        "user 2**50": with_wrong(slice(108, 116), b"\x80" + b"\x7f" * 7),
        "name that is no UTF-8": with_wrong(slice(0, 4), b"\xff\xfe\xfd/"),
        "pax size -1": tar(honest, packed({"size": "-1"}), **pax),
        "pax size x": tar(honest, packed({"size": "x"}), **pax),
        "pax size 10**30": tar(honest, packed({"size": "1" + "0" * 30}), **pax),
        "pax path long": tar(honest, packed({"path": "a" * 5_000_000}), **pax),
        "pax time NaN": tar(honest, packed({"mtime": "nan"}), **pax),
        "pax charset": tar(honest, packed({"hdrcharset": "BINARY"}), **pax),
        "pax sparse": tar(honest, packed({"GNU.sparse.map": "0,1," * 10_000, "GNU.sparse.size": str(10**12)}), **pax),
        "pax sparse 1.0": tar(
            honest, packed({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**11)}), **pax
        ),
        "pax sparse of text": tar(honest, packed({"GNU.sparse.map": "x,y", "GNU.sparse.size": "z"}), **pax),
        "pax global": tar(honest, pax_headers={"comment": "x" * 1_000_000}, **pax),
        "pax of 8 GB": header("././@PaxHeader", 8**11 - 1, b"x"),
        "pax that is none": header("x", 512, b"x") + b"99999999999 a=b\n".ljust(512, b"\0") + whole,
        "long link of 8 GB": header("././@LongLink", 8**11 - 1, b"L"),
        "long links": header("././@LongLink", 512, b"L") * 4000,
        "long link of long links": (header("././@LongLink", 512, b"L") + bytes(512)) * 3000 + whole,
        "the same names": tar({**honest})[:-10240] + whole,
        "20,000 members": gzip.compress(tar(dict.fromkeys(many, b""))[:-10240] + whole, 1),
        "200,000 copies of train": gzip.compress(header("train", 0) * 200_000 + whole, 1),
        "of nothing we know": tar({"a": b"x"}),
        "meta alone": tar({"meta": honest["meta"]}),
        "no meta": tar({"train": honest["train"], "test": honest["test"]}),
        "256 MB of zeros": bomb(gzip.compress, 256),
        "1 GB of zeros": bomb(gzip.compress, 1024),
        "1 GB of zeros, xz": bomb(lzma.compress, 1024),
        "4 GB of zeros that nobody reads": bomb(gzip.compress, 4096, "other"),
        "8 times 255 MB": b"".join(bomb(gzip.compress, 255, name) for name in [*batches, "batches.meta", "train"]),
        "8 times 255 MB of one name": b"".join(bomb(gzip.compress, 255) for _ in range(8)),
    }
    for name, content in found.items():
        yield case(f"tar {name}", lambda place, content=content: put(place.folder / "data.tar.gz", content), "data.tar.gz")
    rng = random.Random(seed)
    for number in range(12):
        content = flipped(whole if number % 2 else gzip.compress(whole), rng.randrange(10**6))
        yield case(
            f"tar flipped {number}", lambda place, content=content: put(place.folder / "data.tar.gz", content), "data.tar.gz"
        )
    for name in FILES:
        for number in range(4):
            files = honest | {name: flipped(honest[name], rng.randrange(10**6))}
            yield case(
                f"tar, {name} flipped {number}", lambda place, files=files: put(place.folder / "data.tar", tar(files)), "data.tar"
            )
    for kind_of in ("os.system", "exec"):
        yield case(
            f"tar with {kind_of}",
            lambda place, kind_of=kind_of: put(
                place.folder / "data.tar", tar(honest | {"train": payloads(place.marker)[kind_of]})
            ),
            "data.tar",
        )
    yield case("tar that is a pipe", lambda place: os.mkfifo(place.folder / "data.tar"), "data.tar")
    yield case("tar that is a folder", lambda place: (place.folder / "data.tar").mkdir(), "data.tar")
    yield case("tar that is /dev/zero", lambda place: (place.folder / "data.tar").symlink_to("/dev/zero"), "data.tar")
    yield case("tar of 10 GB of nothing", lambda place: sparse(place.folder / "data.tar"), "data.tar")


# Binary records


def records() -> Iterator[Case]:
    """Yield folders in the binary layout of CIFAR-100."""
    record = bytes([0, 1]) + bytes(3072)
    honest = {
        "train.bin": record * 30 + bytes([0, 0]) + bytes(3072),
        "test.bin": record * 6,
        "fine_label_names.txt": b"blue\nred\n",
    }
    for name, file, content in [
        ("half a record", "train.bin", record[:-1]),
        ("no record", "train.bin", b""),
        ("no test", "test.bin", b""),
        ("a byte", "test.bin", b"x"),
        ("labels of 255", "train.bin", b"\xff" * 3074 * 10),
        ("no names", "fine_label_names.txt", b""),
        ("one name", "fine_label_names.txt", b"x"),
        ("zero bytes in names", "fine_label_names.txt", b"a\0\nb\0\n"),
        ("names not UTF-8", "fine_label_names.txt", b"\xff\n\xfe\n"),
        ("control characters", "fine_label_names.txt", b"\x1b[2J\n\a\n"),
        ("the same names", "fine_label_names.txt", b"a a\n"),
        ("a million names", "fine_label_names.txt", b"a\n" * 1_000_000),
        ("names of paths", "fine_label_names.txt", b"../../x\n/etc/passwd\n"),
        ("a long name", "fine_label_names.txt", b"a" * 10_000_000 + b" b"),
        ("formulas", "fine_label_names.txt", b"=1+1\n@x\n"),
    ]:

        def make(place: Place, file: str = file, content: bytes = content) -> None:
            for name, old in (honest | {file: content}).items():
                put(place.folder / "data" / name, old)

        yield case(f"binary {name}", make)
    for file in honest:

        def make_sparse(place: Place, file: str = file) -> None:
            for name, old in honest.items():
                put(place.folder / "data" / name, old)
            sparse(place.folder / "data" / file)

        yield case(f"binary {file} of 10 GB", make_sparse)
