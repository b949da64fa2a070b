"""From a name or path to a data set, with downloads from a server on this machine."""

import functools
import hashlib
import inspect
import io
import os
import pickle
import tarfile
import threading
import time
from http.client import IncompleteRead, RemoteDisconnected
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from headstart.data import builtin
from headstart.data.load import load_data
from headstart.errors import HeadstartError
from headstart.system.download import explained_download
from helpers import free_port

ABSENT_HASH = "0" * 64


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; of `/cut` only the beginning arrives, of `/silent` nothing, and `/stalled` does not even hang up."""

    def do_GET(self):
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"too little")
        elif self.path == "/stalled":
            time.sleep(2)
        elif self.path != "/silent":
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a server for tmp_path."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Let Keras fetch both CIFAR from another address, and keep them below tmp_path."""
    import keras

    monkeypatch.setenv("no_proxy", "*")
    get_file = keras.utils.get_file
    monkeypatch.setattr(keras.utils, "get_file", lambda *wanted, **more: get_file(*wanted, **more, cache_dir=str(tmp_path)))

    def fetch(address, file_hash):
        for name in ("cifar10", "cifar100"):
            monkeypatch.setitem(builtin.ARCHIVES, name, builtin.Archive(address, file_hash))

    return fetch


def write_archive(path, folder, files):
    """Write a .tar.gz of pickles as the authors of CIFAR distribute them, and return its SHA-256."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            # Keras and Headstart read NumPy arrays, text and numbers from a pickle, and nothing else.
            data = pickle.dumps(content, protocol=3)
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def planes(start, count):
    """Source that are black but for their number, so that they compress well and all differ."""
    data = np.zeros((count, 3072), np.uint8)
    data[:, :4] = np.arange(start, start + count, dtype=np.uint32)[:, None].view(np.uint8)
    return data


def write_cifar100(path):
    names = [f"class_{i}".encode() for i in range(100)]
    files = {"meta": {b"fine_label_names": names, b"coarse_label_names": [b"all"]}}
    for name, start, count in (("train", 0, 400), ("test", 400, 100)):
        labels = [i % 100 for i in range(count)]
        files[name] = {b"fine_labels": labels, b"coarse_labels": [0] * count, b"data": planes(start, count)}
    return write_archive(path, "cifar-100-python", files)


def test_digits():
    data = load_data("digits")
    assert data.source.images.shape == (1797, 8, 8, 3)
    assert data.source.images.dtype == np.uint8
    assert (data.source.images.min(), data.source.images.max()) == (0, 255)
    assert np.ptp(data.source.images, axis=-1).max() == 0
    assert data.class_names == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)


def test_options_reach_the_split():
    data = load_data("digits", validation_fraction=0.2, test_fraction=0.5, seed=1, limit=50)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 50, 50)


def test_image_folder(tmp_path):
    for red, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (20, 30), (100 * red, 0, 20 * number)).save(tmp_path / name / f"{number}.png")
    data = load_data(tmp_path, image_size=12)
    assert data.image_shape == (12, 12, 3)
    assert data.class_names == ("cat", "dog")
    assert load_data(str(tmp_path)).image_shape == (64, 64, 3)


@pytest.mark.parametrize(("name", "hint"), [("cifr10", "did you mean cifar10?"), ("zebra", "known: cifar10, cifar100, digits")])
def test_unknown_name(name, hint):
    with pytest.raises(HeadstartError) as caught:
        load_data(name)
    assert str(caught.value).endswith(f"no data set of that name; {hint}")


def test_missing_folder(tmp_path):
    with pytest.raises(HeadstartError, match=f"there is no folder {tmp_path}/images"):
        load_data(tmp_path / "images")


def test_file_that_is_no_data_set(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("1,2,3")
    with pytest.raises(
        HeadstartError, match=r"data\.txt is no data set: give a folder, a table of files and labels \(.csv, .*zip"
    ):
        load_data(path)


@pytest.mark.parametrize("name", ["images.tar.gz", "images.tgz", "images.tar"])
def test_archive_that_is_no_cifar(tmp_path, name):
    write_archive(tmp_path / name, "images", {"cat.png": b"an image"})
    with pytest.raises(HeadstartError, match="images is no data set: it needs a subfolder of images for each class"):
        load_data(tmp_path / name)


def test_empty_folder(tmp_path):
    with pytest.raises(HeadstartError, match="is no data set"):
        load_data(tmp_path)


def test_cifar10_is_downloaded(tmp_path, server, fetch):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    labels = [i % 10 for i in range(10_000)]
    files = {name: {b"labels": labels, b"data": planes(10_000 * i, 10_000)} for i, name in enumerate(names)}
    words = b"airplane automobile bird cat deer dog frog horse ship truck".split()
    files["batches.meta"] = {b"label_names": words}
    fetch(f"{server}/c.tar.gz", write_archive(tmp_path / "c.tar.gz", "cifar-10-batches-py", files))
    data = load_data("cifar10")
    assert data.source.images.shape == (60_000, 32, 32, 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert data.test.min() == 50_000
    assert " ".join(data.class_names) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert data.duplicates == ()


def test_cifar100_after_failed_downloads_and_then_without_a_network(tmp_path, server, fetch):
    path = tmp_path / "c.tar.gz"
    file_hash = write_cifar100(path)
    whole = path.read_bytes()
    fetch(f"{server}/cut", file_hash)
    with pytest.raises(HeadstartError):
        load_data("cifar100")
    path.write_bytes(whole[:-1])
    fetch(f"{server}/c.tar.gz", file_hash)
    with pytest.raises(HeadstartError, match="Incomplete or corrupted"):
        load_data("cifar100")
    path.write_bytes(whole)
    downloaded = load_data("cifar100")
    assert downloaded.source.class_names[99] == "class_99"
    assert downloaded.source.fingerprint == load_data(path).source.fingerprint
    fetch(f"{server}/silent", file_hash)
    assert load_data("cifar100").source.fingerprint == downloaded.source.fingerprint


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_archives_are_those_that_keras_names(name):
    """By the source of its loader, which also names the folder where an archive lies that it has downloaded."""
    import keras

    loader = inspect.getsource(getattr(keras.datasets, name).load_data)
    assert all(f'"{part}"' in loader for part in builtin.ARCHIVES[name])
    assert f'dirname = "{builtin.NAMES[name].removesuffix("_archive")}"' in loader


def test_what_lies_unpacked_beside_the_archive_is_not_read(tmp_path, server, fetch):
    """Keras' own loader runs what is pickled there."""

    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path}/marker'",)

    fetch(f"{server}/c.tar.gz", write_cifar100(tmp_path / "c.tar.gz"))
    beside = tmp_path / "datasets" / "cifar-100-python-target" / "cifar-100-python"
    beside.mkdir(parents=True)
    for file in ("train", "test", "meta"):
        (beside / file).write_bytes(pickle.dumps(Malicious()))
    assert load_data("cifar100").source.class_names[99] == "class_99"
    assert not (tmp_path / "marker").exists()


def test_real_images_order_and_labels_are_those_of_keras(tmp_path, server, fetch, real_data):
    import keras

    with tarfile.open(tmp_path / "c.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(real_data / "cifar-10-batches-py", "cifar-10-batches-py")
    digest = hashlib.sha256((tmp_path / "c.tar.gz").read_bytes()).hexdigest()
    fetch(f"{server}/c.tar.gz", digest)
    source = builtin.downloaded("cifar10")
    batches = [
        keras.src.datasets.cifar.load_batch(str(real_data / "cifar-10-batches-py" / f"data_batch_{i}")) for i in range(1, 6)
    ]
    batches.append(keras.src.datasets.cifar.load_batch(str(real_data / "cifar-10-batches-py" / "test_batch")))
    assert np.array_equal(source.images, np.concatenate([images for images, _ in batches]).transpose(0, 2, 3, 1))
    assert np.array_equal(source.labels, np.concatenate([labels for _, labels in batches]))
    assert source.class_names[::9] == ("airplane", "truck")
    assert np.bincount(source.splits).tolist() == [50_000, 0, 10_000]


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
@pytest.mark.parametrize("problem", ["refused", "absent", "cut", "silent", "stalled", "corrupted"])
def test_failed_download_says_how_to_go_on_without_a_network(tmp_path, server, fetch, monkeypatch, source, problem):
    monkeypatch.setattr("headstart.system.download.PATIENCE", 0.5)
    (tmp_path / "corrupted").write_bytes(b"not what the hash says")
    address = f"http://127.0.0.1:{free_port()}/c.tar.gz" if problem == "refused" else f"{server}/{problem}"
    fetch(address, ABSENT_HASH)
    with pytest.raises(HeadstartError) as caught:
        load_data(source)
    first, second = str(caught.value).splitlines()
    archive = source.replace("cifar", "cifar-") + "-python.tar.gz"
    assert second == f"Without a network, bring {archive} from another machine and give --data {archive}"
    if problem in ("refused", "absent", "cut"):
        assert address in first
    assert {
        "refused": "refused",
        "absent": "404",
        "cut": "got only 10 out of 1000 bytes",
        "silent": "the download broke off",
        "stalled": "timed out",
        "corrupted": "Incomplete or corrupted file",
    }[problem] in first


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(104, "reset by peer"), TimeoutError("timed out"), RemoteDisconnected("gone"), IncompleteRead(b"")],
)
def test_connection_that_breaks_off(error):
    with pytest.raises(HeadstartError, match=r"the download broke off .*\nWithout a network, walk"), explained_download("walk"):
        raise error


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(28, os.strerror(28)), KeyboardInterrupt()])
def test_other_errors_are_not_taken_for_a_failed_download(error):
    with pytest.raises(type(error)) as caught, explained_download("walk"):
        raise error
    assert caught.value is error
