"""CIFAR-10 and CIFAR-100 as their authors distribute them: a folder or a tar archive of batches."""

import bz2
import gzip
import io
import lzma
import math
import pickle
import pickletools
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from headstart.data.source import TEST, TRAIN, Source
from headstart.errors import HeadstartError
from headstart.system.files import open_regular, read_bytes
from headstart.system.remote import RemotePath

# The files of a real distribution have 187 MB together; the one that names the classes has 2 kB, and 100 of them.
MOST_BYTES, MOST_META, MOST_CLASSES = 1 << 28, 1 << 20, 1000
# How much else is read of an archive, unpacked: headers, a readme, the coarse labels.
MOST_ELSE = 1 << 24


class Layout(NamedTuple):
    """File names of one distribution, and how many label bytes stand before a binary record."""

    train: tuple[str, ...]
    test: str
    meta: str
    label_bytes: int  # 0 means that the batches are pickles


LAYOUTS = (
    Layout(tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta", 0),
    Layout(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt", 1),
    Layout(("train",), "test", "meta", 0),
    Layout(("train.bin",), "test.bin", "fine_label_names.txt", 2),
)
FILE_NAMES = {name for layout in LAYOUTS for name in (*layout.train, layout.test, layout.meta)}


def read_cifar(path: Path) -> Source | None:
    """Read a CIFAR folder or tar archive, in the Python or the binary layout.

    Returns:
        The source, with images uint8 (N, 32, 32, 3); None if the folder or archive holds no CIFAR files.

    Raises:
        NotCifarError: much of the archive is something else.
        HeadstartError: the archive or one of its files is damaged or incomplete.
    """
    if path.is_dir():
        children = path.iterdir() if isinstance(path, RemotePath) else (path / name for name in sorted(FILE_NAMES))
        named = {child.name: child for child in children if child.name in FILE_NAMES and child.is_file()}
        return read_files(path, {name: read_bytes(file, MOST_BYTES) for name, file in named.items()})
    try:
        with open_regular(path) as packed:
            files = archive_files(Limited(unpacked(packed)))
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, RecursionError, ValueError) as error:
        raise HeadstartError(f"{path} is not a readable tar archive ({error}); download it again") from None
    except TooMuchElse:
        raise NotCifarError(
            f"{path} is no archive of CIFAR files: more than {MOST_ELSE:,} bytes of it are something else; "
            "unpack images, and give their folder"
        ) from None
    return read_files(path, files)


def unpacked(packed: BinaryIO) -> BinaryIO:
    """Return what a file holds once it is unpacked, by gzip, bzip2 or xz."""
    begin = packed.read(6)
    packed.seek(0)
    for magic, opened in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
        if begin.startswith(magic):
            return cast(BinaryIO, opened(packed))
    return packed


class NotCifarError(HeadstartError):
    """An archive holds something else than CIFAR files."""


class TooMuchElse(Exception):
    """An archive holds more than what is wanted."""


class Limited:
    """A stream that ends in `TooMuchElse`: a few bytes can be packed that unpack to any number.

    Attributes:
        done: how many bytes have been read.
        left: how many may still be read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.done, self.left = stream, 0, MOST_ELSE

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.done, self.left = self.done + len(content), self.left - len(content)
        if self.left < 0:
            raise TooMuchElse
        return content


def archive_files(stream: Limited) -> dict[str, bytes]:
    """Return the content of the CIFAR files, by bare name, in one pass. Nothing is unpacked to the disk."""
    contents, most = {}, MOST_BYTES
    # Read as a stream, an archive cannot send the reader back, and links in it lead nowhere.
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive:
        for member in archive:
            name = Path(member.name).name
            if name in FILE_NAMES and member.isfile() and not member.issparse() and 0 <= member.size <= most:
                most -= member.size
                stream.left += member.size
                if file := archive.extractfile(member):
                    contents[name] = file.read()
            elif archive.offset > stream.done + stream.left:  # to pass over 2**80 bytes, tarfile would read on for ever
                raise TooMuchElse
    # gzip checks its checksum only at the end of the file, after the last member.
    while stream.read(1 << 20):
        pass
    return contents


def read_files(path: Path, files: dict[str, bytes]) -> Source | None:
    """Read the batches in the layout that the file names show; None if they show none."""
    layout = next((layout for layout in LAYOUTS if files.keys() & {layout.meta}), None)
    if layout is None:
        return None
    missing = [name for name in (*layout.train, layout.test) if name not in files]
    if missing:
        raise HeadstartError(f"{path} is an incomplete CIFAR data set: {missing[0]} is missing; download it again")
    names = read_class_names(path, layout, files[layout.meta])
    batches = [read_batch(path / name, layout, files[name]) for name in (*layout.train, layout.test)]
    counts = [len(labels) for _, labels in batches]
    labels = np.concatenate([labels for _, labels in batches])
    if labels.min() < 0 or labels.max() >= len(names):
        raise HeadstartError(f"{path}: labels reach from {labels.min()} to {labels.max()}, for {len(names)} class names")
    return Source(
        images=np.concatenate([images for images, _ in batches]),
        labels=labels,
        class_names=names,
        splits=np.repeat(np.array([TRAIN, TEST], np.int8), [sum(counts[:-1]), counts[-1]]),
        name=str(path),
    )


def read_class_names(path: Path, layout: Layout, content: bytes) -> tuple[str, ...]:
    file = path / layout.meta
    if len(content) > MOST_META:
        raise HeadstartError(f"{file} is damaged (it is larger than {MOST_META:,} bytes); download it again")
    if layout.label_bytes:
        names: Any = content.split()
    else:
        meta = unpickle(file, content)
        names = meta.get(b"label_names") or meta.get(b"fine_label_names") or []
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names) or not 0 < len(names) <= MOST_CLASSES:
        raise HeadstartError(f"{file} is damaged (it holds no list of 1 to {MOST_CLASSES} names); download it again")
    return tuple(name.decode("utf-8", "replace") for name in names)


def read_batch(path: Path, layout: Layout, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (N, 32, 32, 3), and labels, int32 (N,)."""
    try:
        if layout.label_bytes:
            records = np.frombuffer(content, np.uint8).reshape(-1, layout.label_bytes + 3072)
            # CIFAR-100 writes the coarse label before the fine one.
            labels, planes = records[:, layout.label_bytes - 1], records[:, layout.label_bytes :]
        else:
            batch = unpickle(path, content)
            planes, labels = batch[b"data"], batch[b"labels" if b"labels" in batch else b"fine_labels"]
            if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8:
                raise ValueError("its images are no array of bytes")
            if isinstance(labels, list) and not all(type(label) is int for label in labels):
                raise ValueError("its labels are no whole numbers")
        labels = np.ravel(np.asarray(labels)).astype(np.int32)
        images = planes.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
        if not len(images):
            raise ValueError("it holds no image")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise HeadstartError(f"{path} is damaged ({error}); download it again") from None
    return np.ascontiguousarray(images), labels


# The opcodes of a pickle that stand for one number or text; those that arrange them; and those of which a batch has a few.
# No other is allowed, above all none that copies what is there already: a few bytes could mean any number of lists.
VALUES = {
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
REMEMBER = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
ARRANGE = REMEMBER | {"PROTO", "FRAME", "STOP", "MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS"}
OBJECTS = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
RECALL = {"BINGET", "LONG_BINGET"}
FEW = OBJECTS | RECALL | {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
# The largest real batch has about 250,000 opcodes, and 18 of the few.
MOST_OPCODES, MOST_FEW = 2_000_000, 200


def refuse_costly(content: bytes) -> None:
    """Refuse a pickle that is more than lists of numbers, names and arrays, before it is loaded.

    Raises:
        pickle.UnpicklingError: it is; or another error, if it is damaged.
    """
    few, last = 0, ""
    plain: dict[int, bool] = {}  # whether what was remembered under a number is a value, or an object without parts
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if name in REMEMBER:
            place = len(plain) if argument is None else argument
            if place > number:
                raise pickle.UnpicklingError("its numbering is wrong")
            plain[place] = last in VALUES or last in OBJECTS
            continue
        if name in FEW:
            few += 1
        elif name not in VALUES and name not in ARRANGE:
            raise pickle.UnpicklingError(f"it uses {name}")
        if few > MOST_FEW or number > MOST_OPCODES:
            raise pickle.UnpicklingError("it has too many parts")
        if name in RECALL and not plain.get(argument):
            raise pickle.UnpicklingError("it repeats a part")
        last = name


class StoredType:
    """What stands for a NumPy type in a pickle."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not re.fullmatch("[iu][1248]", code):
            raise pickle.UnpicklingError("it has an array of something else than whole numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|"):
            raise pickle.UnpicklingError("it has numbers of an unknown byte order")
        self.dtype = np.dtype(order + self.dtype.str[1:])


class StoredNumbers:
    """What stands for a NumPy array in a pickle. NumPy would believe any shape and type that stand there."""

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, StoredType) or not isinstance(content, bytes) or not all(type(side) is int for side in shape):
            raise pickle.UnpicklingError("it has an array of something else than whole numbers")
        if len(shape) > 4 or min(shape, default=0) < 0 or math.prod(shape) * kind.dtype.itemsize != len(content):
            raise pickle.UnpicklingError("it has an array whose shape does not fit its length")
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if fortran is True else "C")


class ArrayUnpickler(pickle.Unpickler):
    """Opens pickles of numbers and NumPy arrays. Any other name in a pickle could run code, and is refused."""

    allowed = {("numpy", "ndarray"): StoredNumbers, ("numpy", "dtype"): StoredType} | {
        (f"numpy.{core}.multiarray", "_reconstruct"): StoredNumbers for core in ("core", "_core")
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.allowed[module, name]


def unpickle(path: Path, content: bytes) -> dict[Any, Any]:
    """Return the dictionary in a pickle. Only arrays of whole numbers, lists, text and numbers are allowed in it.

    Raises:
        HeadstartError: it is damaged, holds something else, or is no dictionary.
    """
    try:
        refuse_costly(content)
        batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    # A damaged pickle raises almost anything (IndexError, MemoryError, AttributeError, ...).
    except Exception as error:
        raise HeadstartError(f"{path} is not a CIFAR batch ({error}); download it again") from None
    if not isinstance(batch, dict):
        raise HeadstartError(f"{path} is not a CIFAR batch: it holds {type(batch).__name__}, not a dictionary")
    return {key: value.array if isinstance(value, StoredNumbers) else value for key, value in batch.items()}
