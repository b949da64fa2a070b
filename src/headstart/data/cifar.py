"""CIFAR-10 and CIFAR-100 as their authors distribute them: a folder or a tar archive of batches."""

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headstart.data.source import TEST, TRAIN, Source
from headstart.errors import HeadstartError

# The largest file of a real distribution has 155 MB; a larger file is not CIFAR.
MOST_BYTES = 1 << 28


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
        HeadstartError: the archive or one of its files is damaged or incomplete.
    """
    if path.is_dir():
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.name in FILE_NAMES and file.is_file()}
        return read_files(path, files)
    try:
        with tarfile.open(path) as archive:
            return read_files(path, archive_files(archive))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        # The first line has the reason; the others list each compression that tarfile tried.
        reason = str(error).partition(":\n")[0]
        raise HeadstartError(f"{path} is not a readable tar archive ({reason}); download it again") from None


def archive_files(archive: tarfile.TarFile) -> dict[str, bytes]:
    """Return the content of the CIFAR files, by bare name, in one pass. Nothing is unpacked to the disk."""
    contents = {}
    for member in archive:
        name = Path(member.name).name
        if name in FILE_NAMES and member.size <= MOST_BYTES and (file := archive.extractfile(member)):
            contents[name] = file.read()
    # gzip checks its checksum only at the end of the file, after the last member.
    while archive.fileobj and archive.fileobj.read(1 << 20):
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
    if layout.label_bytes:
        return tuple(content.decode("utf-8", "replace").split())
    meta = unpickle(path / layout.meta, content)
    try:
        names = meta.get(b"label_names") or meta.get(b"fine_label_names") or ()
        return tuple(name.decode("utf-8", "replace") for name in names)
    except (AttributeError, ValueError, TypeError) as error:
        raise HeadstartError(f"{path / layout.meta} is damaged ({error}); download it again") from None


def read_batch(path: Path, layout: Layout, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (N, 32, 32, 3), and labels, int32 (N,)."""
    try:
        if layout.label_bytes:
            records = np.frombuffer(content, np.uint8).reshape(-1, layout.label_bytes + 3072)
            # CIFAR-100 writes the coarse label before the fine one.
            labels, planes = records[:, layout.label_bytes - 1], records[:, layout.label_bytes :]
        else:
            batch = unpickle(path, content)
            planes = np.asarray(batch[b"data"], dtype=np.uint8)
            labels = np.asarray(batch[b"labels"] if b"labels" in batch else batch[b"fine_labels"])
        labels = np.ravel(labels).astype(np.int32)
        images = planes.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
        if not len(images):
            raise ValueError("it holds no image")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise HeadstartError(f"{path} is damaged ({error}); download it again") from None
    return np.ascontiguousarray(images), labels


class ArrayUnpickler(pickle.Unpickler):
    """Opens pickles of numbers and NumPy arrays. Any other name in a pickle could run code, and is refused."""

    allowed = {("ndarray", "numpy"), ("dtype", "numpy")} | {
        ("_reconstruct", f"numpy.{core}.multiarray") for core in ("core", "_core")
    }

    def find_class(self, module: str, name: str) -> Any:
        if (name, module) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        # NumPy 2 moved the module that old pickles name.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def unpickle(path: Path, content: bytes) -> dict[bytes, Any]:
    """Return the dictionary in a pickle. Only arrays, lists, text and numbers are allowed in it.

    Raises:
        HeadstartError: it is damaged, holds something else, or is no dictionary.
    """
    try:
        batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    # A damaged pickle raises almost anything (IndexError, MemoryError, AttributeError, ...).
    except Exception as error:
        raise HeadstartError(f"{path} is not a CIFAR batch ({error}); download it again") from None
    if not isinstance(batch, dict):
        raise HeadstartError(f"{path} is not a CIFAR batch: it holds {type(batch).__name__}, not a dictionary")
    return batch
