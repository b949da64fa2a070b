"""Archives, as `.keras` files are, that are none or that unpack to gigabytes."""

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from case import Place, payloads
from tamper import flipped

CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"


def archives(members: dict[str, bytes]) -> dict[str, Callable[[Place], bytes | None]]:
    """Return hostile `.keras` files by name. Some make what is no file at all, and return nothing."""
    whole = archive(members)

    def special(make: Callable[[Path], Any]) -> Callable[[Place], None]:
        def made(place: Place) -> None:
            for name in ("backbone.keras", "model.keras"):  # in the folder of a case, or of a run
                path = place.folder / name
                if path.exists() or name == "backbone.keras":
                    path.unlink(missing_ok=True)
                    make(path)

        return made

    def info(change: Callable[[zipfile.ZipInfo], Any]) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            for name, content in members.items():
                one = zipfile.ZipInfo(name)
                change(one)
                file.writestr(one, content)
        return stream.getvalue()

    def link(one: zipfile.ZipInfo) -> None:
        one.external_attr = 0o120777 << 16

    made: dict[str, bytes] = {
        "empty": b"",
        "rubbish": b"x" * 5000,
        "cut": whole[: len(whole) // 2],
        "end alone": whole[-22:],
        "rubbish before": b"x" * 999 + whole,
        "rubbish behind": whole + b"x" * 999,
        "compressed": archive(members, zipfile.ZIP_DEFLATED),
        "lzma": archive(members, zipfile.ZIP_LZMA),
        "bzip2": archive(members, zipfile.ZIP_BZIP2),
        "no members": archive({}),
        "of nothing we know": archive({"x": b""}),
        "names above": archive({f"../../{name}": content for name, content in members.items()} | members),
        "absolute names": archive({"/tmp/evil": b"x"} | members),
        "a name of zero bytes": whole.replace(b"config.json", b"config\0json"),
        "names that are no UTF-8": whole.replace(b"config.json", b"config\xffjson"),
        "all links": info(link),
        "encrypted": whole.replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\x01").replace(
            b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\x01"
        ),
        "an unknown method": whole.replace(b"PK\x01\x02\x14\x03\x14\0\0\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0c\0"),
        "50,000 members": pairs([(f"x{number}", b"") for number in range(50_000)] + list(members.items())),
        "a comment of 60 KB": whole[:-2] + struct.pack("<H", 60_000) + b"x" * 60_000,
        "a wrong count": whole[:-14] + b"\xff\xff\xff\xff" + whole[-10:],
        "a wrong offset": whole[:-6] + b"\xff\xff\xff\x7f" + whole[-2:],
        "a huge offset": whole[:-6] + b"\xff\xff\xff\xff" + whole[-2:],
        "an HDF5 file": members[WEIGHTS],
        "a configuration": members[CONFIG],
        "2 GB of configuration": joined(bomb(CONFIG, 2048, b" ", members[CONFIG]), members, CONFIG),
        "2 GB of brackets": joined(bomb(CONFIG, 2048, b"["), members, CONFIG),
        "4 GB of weights": joined(bomb(WEIGHTS, 4095, b"\0", members[WEIGHTS]), members, WEIGHTS),
        "1 GB of metadata": joined(bomb(METADATA, 1024, b" ", b"{}"), members, METADATA),
        "4 GB of something else": joined(bomb("assets/x", 4095, b"\0"), members, "assets/x"),
        "files beside": archive(members | {"assets/evil.py": b"x", "evil/../../evil": b"x"}),
    }
    for name, content in members.items():
        others = {other: value for other, value in members.items() if other != name}
        made |= {
            f"{name} missing": archive(others),
            f"{name} empty": archive(others | {name: b""}),
            f"{name} twice": pairs([*members.items(), (name, b"x")]),
            f"{name} twice, first wrong": pairs([(name, b"x"), *members.items()]),
            f"{name} a folder": archive(others | {f"{name}/": b""}),
            f"{name} zeros": archive(others | {name: bytes(len(content))}),
            f"{name} with a wrong sum": whole.replace(content, flipped(content, 5)),
        }
    for name, content in (
        ("version 99", '{"keras_version": "99.0"}'),
        ("no version", "{}"),
        ("a version of numbers", '{"keras_version": 3}'),
        ("deep", "[" * 100_000),
        ("no JSON", "}"),
        ("a list", "[]"),
    ):
        made[f"metadata, {name}"] = archive(members | {METADATA: content.encode()})
    made["configuration in UTF-16"] = archive(members | {CONFIG: members[CONFIG].decode().encode("utf-16")})
    made["configuration with a mark"] = archive(members | {CONFIG: b"\xef\xbb\xbf" + members[CONFIG]})
    found: dict[str, Callable[[Place], bytes | None]] = {
        name: (lambda place, content=content: content) for name, content in made.items()
    }
    return found | {
        "a pickle": lambda place: payloads(place.marker)["exec"],
        "a pipe": special(os.mkfifo),
        "a folder": special(os.mkdir),
        "/dev/zero": special(lambda path: path.symlink_to("/dev/zero")),
        "a link to itself": special(lambda path: path.symlink_to(path.name)),
        "10 GB of nothing": special(lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 10 << 30)),
        "nothing": special(lambda path: None),
    }


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of members; more pairs may have the same name, see `pairs`."""
    return pairs(list(members.items()), compression)


def pairs(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in members:
            file.writestr(name, content)
    return stream.getvalue()


def bomb(name: str, megabytes: int, filling: bytes, before: bytes = b"") -> bytes:
    """Return a zip of one member that is long and compresses well; its stream repeats a compressed megabyte."""
    once = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = once.compress(before) + once.flush(zlib.Z_FULL_FLUSH)
    block = once.compress(filling * ((1 << 20) // len(filling))) + once.flush(zlib.Z_FULL_FLUSH)
    stream = start + block * megabytes + b"\x03\x00"
    size, crc = len(before) + megabytes * ((1 << 20) // len(filling)) * len(filling), 0
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(stream), size, len(name), 0)
    local = b"PK\x03\x04" + common + name.encode() + stream
    central = b"PK\x01\x02\x14\0" + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    return local + central + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


def joined(bombs: bytes, members: dict[str, bytes], without: str) -> bytes:
    """Return a zip with a bomb and the other members behind it."""
    stream = io.BytesIO(bombs)
    with zipfile.ZipFile(stream, "a") as file:
        for name, content in members.items():
            if name != without:
                file.writestr(name, content)
    return stream.getvalue()
