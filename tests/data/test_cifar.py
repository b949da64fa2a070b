"""CIFAR in its four layouts, as folder and archive; damaged and malicious files are refused."""

import bz2
import gzip
import lzma
import os
import pickle
import resource
import shutil
import struct
import tarfile
from io import BytesIO

import numpy as np
import pytest

from headstart.data.cifar import read_cifar
from headstart.data.source import TEST, TRAIN
from headstart.errors import HeadstartError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
CLASSES = {10: [f"class_{i}" for i in range(10)], 100: [f"class_{i}" for i in range(100)]}
IMAGES = 24
PLANES = np.random.default_rng(0).integers(0, 256, (IMAGES, 3072), dtype=np.uint8)
LABELS = np.arange(IMAGES) % 10


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2, which pickled the real files, wrote its text."""

    dispatch = pickle._Pickler.dispatch | {bytes: lambda self, text: self.write(b"T" + struct.pack("<i", len(text)) + text)}


def pickled(content):
    file = BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def write_python(folder, classes):
    folder.mkdir()
    names = [name.encode() for name in CLASSES[classes]]
    if classes == 10:
        (folder / "batches.meta").write_bytes(pickled({b"label_names": names, b"num_vis": 3072}))
        for name, rows in zip(BATCHES, np.split(np.arange(IMAGES), 6), strict=True):
            batch = {b"batch_label": name.encode(), b"labels": LABELS[rows].tolist(), b"data": PLANES[rows]}
            (folder / name).write_bytes(pickled(batch))
    else:
        (folder / "meta").write_bytes(pickled({b"fine_label_names": names, b"coarse_label_names": [b"all"]}))
        for name, rows in (("train", slice(0, 20)), ("test", slice(20, IMAGES))):
            labels = LABELS[rows].tolist()
            batch = {b"fine_labels": labels, b"coarse_labels": [0] * len(labels), b"data": PLANES[rows]}
            (folder / name).write_bytes(pickled(batch))


def write_binary(folder, classes):
    folder.mkdir()
    names = "\n".join(CLASSES[classes]) + "\n\n"
    if classes == 10:
        (folder / "batches.meta.txt").write_text(names)
        records = np.hstack([LABELS[:, None].astype(np.uint8), PLANES])
        for name, rows in zip(BATCHES, np.split(records, 6), strict=True):
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
    else:
        (folder / "fine_label_names.txt").write_text(names)
        (folder / "coarse_label_names.txt").write_text("all\n")
        records = np.hstack([np.zeros((IMAGES, 1), np.uint8), LABELS[:, None].astype(np.uint8), PLANES])
        (folder / "train.bin").write_bytes(records[:20].tobytes())
        (folder / "test.bin").write_bytes(records[20:].tobytes())


WRITERS = {"python": write_python, "binary": write_binary}


def archive(folder, suffix=".tar.gz"):
    path = folder.with_name(f"{folder.name}{suffix}")
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as file:
        file.add(folder, folder.name)
    return path


@pytest.fixture(params=WRITERS)
def layout(request):
    return request.param


@pytest.fixture
def cifar10(tmp_path, layout):
    """A whole CIFAR-10 folder in one of the two layouts, for a test to damage."""
    WRITERS[layout](tmp_path / "cifar", 10)
    return tmp_path / "cifar"


def batch_file(folder, name):
    return folder / name if (folder / name).exists() else folder / f"{name}.bin"


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("suffix", ["", ".tar", ".tar.gz"])
def test_folder_and_archive_of_both_layouts(tmp_path, layout, classes, suffix):
    folder = tmp_path / "cifar"
    WRITERS[layout](folder, classes)
    path = archive(folder, suffix) if suffix else folder
    source = read_cifar(path)
    assert np.array_equal(source.images, PLANES.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert source.images.dtype == np.uint8
    assert source.labels.tolist() == LABELS.tolist()
    assert source.labels.dtype == np.int32
    assert source.class_names == tuple(CLASSES[classes])
    assert source.splits.tolist() == [TRAIN] * 20 + [TEST] * 4
    assert source.name == str(path)


@pytest.mark.parametrize("classes", [10, 100])
def test_layouts_have_equal_fingerprints(tmp_path, classes):
    write_python(tmp_path / "python", classes)
    write_binary(tmp_path / "binary", classes)
    assert read_cifar(tmp_path / "python").fingerprint == read_cifar(archive(tmp_path / "binary")).fingerprint


def test_real_data_in_both_layouts(real_data):
    layouts = [real_data / "cifar-10-batches-py", real_data / "cifar-10-batches-bin"]
    python, binary = (read_cifar(layout) for layout in layouts)
    assert python.class_names[3] == "cat"
    assert python.class_names == binary.class_names
    assert np.array_equal(python.labels, binary.labels)
    assert np.array_equal(python.splits, binary.splits)
    assert np.array_equal(python.images, binary.images)


def test_folder_without_cifar_files(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"")
    assert read_cifar(tmp_path) is None


def test_archive_without_cifar_files(tmp_path):
    (tmp_path / "other").mkdir()
    assert read_cifar(archive(tmp_path / "other")) is None


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3"])
@pytest.mark.parametrize("packed", [False, True])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, name, packed):
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path}/marker'",)

    folder = tmp_path / "cifar"
    write_python(folder, 10)
    (folder / name).write_bytes(pickled({b"labels": [0], b"data": Malicious()}))
    with pytest.raises(HeadstartError, match=rf"{name} is not a CIFAR batch \(it asks for \w+\.system\)"):
        read_cifar(archive(folder) if packed else folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["numpy.load", "numpy._core.multiarray.fromfile", "builtins.eval", "codecs.encode"])
def test_other_names_in_a_pickle_are_refused(tmp_path, name):
    module, _, function = name.rpartition(".")
    write_python(tmp_path / "cifar", 10)
    (tmp_path / "cifar" / "test_batch").write_bytes(f"\x80\x02c{module}\n{function}\n.".encode("latin1"))
    with pytest.raises(HeadstartError, match=f"test_batch is not a CIFAR batch .it asks for {name}"):
        read_cifar(tmp_path / "cifar")


@pytest.mark.parametrize("kept", [0, 1, 700, -1])
def test_truncated_batch(cifar10, kept):
    path = batch_file(cifar10, "data_batch_2")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(HeadstartError, match=r"data_batch_2.*download it again"):
        read_cifar(cifar10)


def test_missing_batch(cifar10):
    batch_file(cifar10, "data_batch_4").unlink()
    for path in (cifar10, archive(cifar10)):
        with pytest.raises(HeadstartError, match=f"{path.name} is an incomplete .*data_batch_4.* is missing"):
            read_cifar(path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {b"labels": [0]},
        {b"data": PLANES[:1]},
        {b"labels": [0, 1], b"data": PLANES[:1]},
        {b"labels": [0], b"data": PLANES[:1, :-1]},
        {b"labels": [0], b"data": b"text"},
        {b"labels": [b"cat"], b"data": PLANES[:1]},
        {b"labels": [[0, 1]], b"data": PLANES[:1]},
        {b"labels": [0], b"data": [300] * 3072},
        {b"labels": [], b"data": PLANES[:0]},
    ],
)
def test_batch_with_the_wrong_content(tmp_path, content):
    write_python(tmp_path / "cifar", 10)
    (tmp_path / "cifar" / "test_batch").write_bytes(pickled(content))
    with pytest.raises(HeadstartError, match="test_batch is"):
        read_cifar(tmp_path / "cifar")


@pytest.mark.parametrize(
    "content",
    [b"", pickled([b"cat"]), pickled({b"label_names": [0, 1]}), pickled({b"label_names": 3})],
    ids=["empty", "list", "numbers", "number"],
)
def test_meta_with_the_wrong_content(tmp_path, content):
    write_python(tmp_path / "cifar", 10)
    (tmp_path / "cifar" / "batches.meta").write_bytes(content)
    with pytest.raises(HeadstartError, match=r"batches\.meta is"):
        read_cifar(tmp_path / "cifar")


def test_labels_out_of_range(cifar10):
    path = batch_file(cifar10, "data_batch_1")
    if path.suffix:
        content = bytearray(path.read_bytes())
        content[0] = 10
        path.write_bytes(content)
    else:
        path.write_bytes(pickled({b"labels": [10], b"data": PLANES[:1]}))
    with pytest.raises(HeadstartError, match=f"{cifar10.name}: labels reach from 0 to 10, for 10 class names"):
        read_cifar(cifar10)


def test_negative_labels(tmp_path):
    write_python(tmp_path / "cifar", 10)
    (tmp_path / "cifar" / "test_batch").write_bytes(pickled({b"labels": [-1], b"data": PLANES[:1]}))
    with pytest.raises(HeadstartError, match="labels reach from -1 to 9"):
        read_cifar(tmp_path / "cifar")


def damage_middle(content):
    return content[: len(content) // 2] + bytes(100) + content[len(content) // 2 + 100 :]


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: b"no archive", lambda content: content[: len(content) // 2], damage_middle],
    ids=["empty", "text", "truncated", "overwritten"],
)
def test_corrupt_archive(cifar10, damage):
    path = archive(cifar10)
    shutil.rmtree(cifar10)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(HeadstartError, match=r"cifar\.tar\.gz is .*download it again"):
        read_cifar(path)


DOUBLED = b"".join(b"q" + bytes([i]) + b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(60))
KEY = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
ARRAY = b"cnumpy\nndarray\n"
COSTLY = {
    "lists that mean 2**60 lists": b"\x80\x02}U\x04data]" + DOUBLED + b"s.",
    "a key that means 2**60 numbers": b"\x80\x02}K\x01" + KEY + b"K\x01s.",
    "copies of the top": b"\x80\x02](" + 100 * b"2" + b"e.",
    "an array of stride 0": b"\x80\x02}U\x04data" + ARRAY + b"(J\x00\xca\x9a;\x85U\x02u1U\x01aK\x00K\x00\x85tRs.",
    "an array of 10**9 numbers": b"\x80\x02}U\x04data" + ARRAY + b"J\x00\xca\x9a;\x85\x85Rs.",
    "reconstructed with 10**9 numbers": b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n" + ARRAY
    + b"J\x00\xca\x9a;\x85U\x01b\x87Rs.",
    "a memory of 2**31 places": b"\x80\x02}r\xff\xff\xff\x7f.",
    "2,000,001 lists": b"\x80\x02(" + 2_000_001 * b"]" + b"t.",
    "3,000,000 numbers": b"\x80\x02](" + 3_000_000 * b"K\x01" + b"e.",
    "a number of 10**8 digits": b"\x80\x02\x8b\x00\x00\x00\x03" + bytes(50_331_648) + b".",
    "a text that is longer than the file": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "an endless frame": b"\x80\x04\x95" + 8 * b"\x7f" + b"].",
    "an array of objects": b"\x80\x02}U\x04datacnumpy\ndtype\nU\x02O8K\x00K\x01\x87Rs.",
    "a type with fields": b"\x80\x02}U\x04datacnumpy\ndtype\nU\x03V99K\x00K\x01\x87Rs.",
    "an attribute of a type": b"\x80\x02cnumpy\ndtype\nU\x02u1\x85R}U\x05dtypeK\x01sb.",
    "no number at its place": b"\x80\x02h\x05.",
}  # fmt: skip


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
@pytest.mark.parametrize("costly", COSTLY)
def test_a_pickle_that_means_more_than_it_holds_is_refused_at_once(tmp_path, costly, name):
    write_python(tmp_path / "cifar", 10)
    (tmp_path / "cifar" / name).write_bytes(COSTLY[costly])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HeadstartError, match=name):
        read_cifar(tmp_path / "cifar")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # in kB


def state(shape, kind=b"u1", content=b"", fortran=False):
    """Return a pickle as NumPy writes an array, with whatever shape, type and content."""

    class Pickled:
        def __reduce__(self):
            dtype = Typed()
            return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, shape, dtype, fortran, content)

    class Typed:
        def __reduce__(self):
            return np.dtype, (kind.decode(), False, True), (3, "|", None, None, None, -1, -1, 0)

    return Pickled()


@pytest.mark.parametrize(
    "data",
    [state((10**9, 3072)), state((-1, 3072), content=bytes(3072)), state((1, 3071), content=bytes(3072)), state((2**62, 4)),
     state((1, 3072), b"f8", bytes(8 * 3072)), state((1, 384), b"O8", bytes(3072)), state((1, 192), b"M8[s]", bytes(1536)),
     state((), content=b"a"), state(5 * (1,), content=b"a"), state((1, 3072.0), content=bytes(3072))],
)  # fmt: skip
def test_an_array_whose_shape_or_type_is_not_that_of_its_bytes_is_refused(tmp_path, data):
    write_python(tmp_path / "cifar", 10)
    (tmp_path / "cifar" / "test_batch").write_bytes(pickled({b"labels": [0], b"data": data}))
    with pytest.raises(HeadstartError, match="test_batch is"):
        read_cifar(tmp_path / "cifar")


@pytest.mark.parametrize("kind", [np.int64, np.dtype(">i2"), np.uint8])
@pytest.mark.parametrize("order", "CF")
def test_arrays_of_any_whole_numbers_and_order_are_read(tmp_path, kind, order):
    write_python(tmp_path / "cifar", 10)
    batch = {b"labels": LABELS[:4].astype(kind), b"data": np.array(PLANES[:4], order=order)}
    (tmp_path / "cifar" / "test_batch").write_bytes(pickled(batch))
    source = read_cifar(tmp_path / "cifar")
    assert source.labels[-4:].tolist() == LABELS[:4].tolist()
    assert np.array_equal(source.images[-4:], PLANES[:4].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_batches_that_were_pickled_anew_are_read(tmp_path, protocol):
    write_python(tmp_path / "cifar", 10)
    before = read_cifar(tmp_path / "cifar").fingerprint
    for name in BATCHES:
        batch = {b"labels": pickle.loads((tmp_path / "cifar" / name).read_bytes(), encoding="bytes")[b"labels"]}
        rows = np.split(PLANES, 6)[BATCHES.index(name)]
        content = pickled(batch | {b"data": rows}) if protocol == 2 else pickle.dumps(batch | {b"data": rows}, min(protocol, 4))
        (tmp_path / "cifar" / name).write_bytes(content)
    assert read_cifar(tmp_path / "cifar").fingerprint == before


def test_a_pipe_or_a_large_file_in_the_place_of_a_batch(cifar10, monkeypatch):
    path = batch_file(cifar10, "data_batch_1")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(HeadstartError, match=r"data_batch_1.* is missing"):
        read_cifar(cifar10)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(HeadstartError, match=r"data_batch_1.* is larger than 268,435,456 bytes"):
        read_cifar(cifar10)


def test_more_class_names_than_there_can_be(cifar10):
    meta = next(cifar10.glob("batches.meta*"))
    names = [b"%d" % i for i in range(100_000)]
    meta.write_bytes(b"\n".join(names) if meta.suffix == ".txt" else pickled({b"label_names": names}))
    with pytest.raises(HeadstartError, match=r"batches\.meta.* is damaged .it holds no list of 1 to 1000 names"):
        read_cifar(cifar10)


def member(name, **changes):
    made = tarfile.TarInfo(f"cifar/{name}")
    for key, value in changes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_and_devices_in_an_archive_are_no_files(tmp_path, kind):
    write_python(tmp_path / "cifar", 10)
    path = tmp_path / "c.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as file:
        for name in ("batches.meta", *BATCHES[1:]):
            file.add(tmp_path / "cifar" / name, f"cifar/{name}")
        file.addfile(member("data_batch_1", type=kind, linkname="cifar/data_batch_2"))
    with pytest.raises(HeadstartError, match="data_batch_1 is missing"):
        read_cifar(path)


@pytest.mark.parametrize("name", ["readme", "data_batch_1", "after"])
@pytest.mark.parametrize("opened", [gzip.open, bz2.open, lzma.open])
def test_an_archive_that_unpacks_to_anything_is_refused_at_once(tmp_path, name, opened):
    path = tmp_path / "c.tar.gz"
    header = b"" if name == "after" else member(name, size=20 << 30).tobuf()
    with opened(path, "wb") as file:
        file.write(header + (bytes(1024) if name == "after" else b""))
        for _ in range(20):
            file.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HeadstartError, match=r"c\.tar\.gz is no archive of CIFAR files: more than 16,777,216 bytes"):
        read_cifar(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_an_archive_of_a_million_members_is_refused_at_once(tmp_path):
    path = tmp_path / "c.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(40_000 * member("x").tobuf())
    with pytest.raises(HeadstartError, match="is no archive of CIFAR files"):
        read_cifar(path)


@pytest.mark.parametrize("name", ["batches.meta", "other"])
def test_a_member_that_claims_to_end_far_beyond_the_archive_is_not_waited_for(name, tmp_path):
    (tmp_path / "c.tar").write_bytes(member(name, size=2**80).tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(HeadstartError, match=r"is not a readable tar archive|is no archive of CIFAR files"):
        read_cifar(tmp_path / "c.tar")


def test_a_sparse_member_is_no_file(tmp_path):
    write_python(tmp_path / "cifar", 10)
    path = tmp_path / "c.tar"
    with tarfile.open(path, "w") as file:
        for name in ("batches.meta", *BATCHES[1:]):
            file.add(tmp_path / "cifar" / name, f"cifar/{name}")
        sparse = member("data_batch_1", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 27)}, size=1)
        file.addfile(sparse, BytesIO(b"x"))
    with pytest.raises(HeadstartError, match="data_batch_1 is missing"):
        read_cifar(path)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", ""])
def test_archives_of_each_compression_are_read(cifar10, suffix):
    path = cifar10.with_name("packed.tar")
    with tarfile.open(path, f"w:{suffix}") as file:
        file.add(cifar10, "cifar")
    assert read_cifar(path).fingerprint == read_cifar(cifar10).fingerprint


def test_archive_member_that_claims_too_much(cifar10, monkeypatch):
    monkeypatch.setattr("headstart.data.cifar.MOST_BYTES", 1000)
    with pytest.raises(HeadstartError, match=r"data_batch_1.* is missing"):
        read_cifar(archive(cifar10))
