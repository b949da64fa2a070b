import logging
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.data.folder import read_folder
from headstart.data.walk import walk, walk_images
from headstart.errors import HeadstartError, UnreachableError
from headstart.system import remote
from headstart.system.cache import cache_folder, usage
from headstart.system.remote import KEPT, RemotePath, below, is_address, located, public
from helpers import random_images, save, scene

fsspec = pytest.importorskip("fsspec")
SECRETS = ("secret", "abcdef", "0123456789abcdef0123")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Wait for milliseconds where users wait for minutes, and forget all credentials and the log's warnings."""
    monkeypatch.setattr(remote, "WAITS", (0.01,) * 5)
    monkeypatch.setattr(remote, "STOPPED", threading.Event())  # another test may have been told to stop
    for known in ("USERS", "QUERIES", "SILENT", "ASKED", "ANSWERED"):
        monkeypatch.setattr(remote, known, {})
    monkeypatch.setattr(remote, "DEAD", set())


@pytest.fixture
def store():
    """The file system of memory://, empty."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    return found


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    remote.arrivals.cache_clear()
    yield
    remote.arrivals.cache_clear()


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    """A list that gets the path of each file that is fetched from memory://."""
    names, get = [], fsspec.get_filesystem_class("memory").get_file

    def counted(self, path, *others, **options):
        names.append(path)
        return get(self, path, *others, **options)

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "get_file", counted)
    return names


def upload(folder: Path, store, name: str) -> RemotePath:
    store.put(str(folder) + "/", f"/{name}/", recursive=True)
    return located(f"memory://{name}")


@pytest.mark.parametrize("text", ["s3://bucket/photos", "S3://bucket", "https://host/x.zip", "az://c/x", "hdfs:///x"])
def test_an_address_is_told_from_a_path(text):
    assert is_address(text)
    assert isinstance(located(text), RemotePath)
    assert str(located(text)).lower() == text.lower()


@pytest.mark.parametrize(
    "text", ["C:/photos", "C:\\photos", "c://photos", "s3:/bucket", "./s3://bucket", "s3:", "a/b://c", "/s3://x"]
)
def test_a_path_stays_a_path(text):
    assert not is_address(text)
    assert located(text) == Path(text)


def test_a_folder_that_is_called_as_a_scheme_is_a_folder(tmp_path, monkeypatch, digits):
    for number in range(8):
        save(scene(number), tmp_path / "s3:" / "bucket" / "ab"[number % 2] / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    assert hs.load_data("s3:/bucket", image_size=8).source.name == str(tmp_path / "s3:" / "bucket")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://user:secret@host/x.zip?X-Amz-Signature=abcdef", "https://host/x.zip"),
        ("https://secret@host/x.zip", "https://host/x.zip"),
        ("sftp://user:sec@ret@host/x", "sftp://host/x"),
        ("sftp://user@host/x", "sftp://user@host/x"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("https://host/x.zip?sv=1&se=2&sig=abcdef", "https://host/x.zip"),
        ("https://host/x.zip?unheard=0123456789abcdef0123", "https://host/x.zip"),
        ("https://host/x.zip?download=1", "https://host/x.zip?download=1"),
        ("s3://bucket/a b@c/what?.jpg", "s3://bucket/a b@c/what?.jpg"),
    ],
)
def test_credentials_are_taken_out_of_addresses_and_still_used(given, shown):
    assert public(f"--data={given}") == f"--data={shown}"
    path = located(given)
    assert (str(path), path.whole) == (shown, given)
    assert str((path / "y").parent) == shown
    assert hs.Config(data=given).data == shown
    assert not any(secret in repr(hs.Config(data=given)) for secret in SECRETS)


def test_a_query_is_no_part_of_a_name():
    path = located("https://host/photos.zip?download=1")
    assert (path.name, path.suffix) == ("photos.zip", ".zip")
    assert located("s3://bucket/what?.jpg").name == "what?.jpg"


def test_names_in_a_table_are_addresses_or_lie_beside_it():
    folder = located("s3://bucket/data/lists")
    assert str(below(folder, "images/1.jpg")) == "s3://bucket/data/lists/images/1.jpg"
    assert str(below(folder, "../images/1.jpg")) == "s3://bucket/data/images/1.jpg"
    assert str(below(folder, "../../../../1.jpg")) == "s3://bucket/1.jpg"
    assert str(below(folder, "gs://other/1.jpg")) == "gs://other/1.jpg"
    assert below(folder, "/images/1.jpg") == Path("/images/1.jpg")
    assert below(Path("lists"), "../1.jpg") == Path("lists/../1.jpg")
    assert str(below(Path("lists"), "s3://bucket/1.jpg")) == "s3://bucket/1.jpg"


def test_a_tree_is_walked_and_counted_as_a_local_one(store, tmp_path):
    root = tmp_path / "photos"
    for name in ("cat/1.png", "cat/b/2.png", "dog/3", "dog/thumbs/4.png", "run/images/5.png", ".hidden/6.png"):
        path = root / name
        save(scene(1), path.with_suffix(".png"))
        path.with_suffix(".png").rename(path)
    Image.fromarray(random_images(1, 900)[0]).save(root / "dog" / "wide.tif.part", "TIFF")
    for name in ("run/config.toml", "run/split.csv", "cat/notes.txt", "Thumbs.db", "dog/7.nef", "a.json"):
        (root / name).write_bytes(b"{}")
    far = upload(root, store, "walked")

    def contents(folder):
        tree, skipped = walk(folder), Counter[str]()
        listed = list(walk_images(folder, skipped))
        assert listed == tree.all_images()
        assert skipped == tree.all_skipped()
        return [str(path.relative_to(folder)) for path in listed], skipped

    assert contents(far) == contents(root)
    assert contents(root)[0] == ["cat/1.png", "cat/b/2.png", "dog/3", "dog/wide.tif.part"]


def test_files_are_fetched_once_and_again_when_they_change(store, tmp_path, fetched, empty_cache):
    for number in range(12):
        save(scene(number), tmp_path / "x" / ("red", "blue")[number % 2] / f"{number:02}.png")
    far = upload(tmp_path / "x", store, "once")
    first = read_folder(far, 32)
    assert len(fetched) == len(set(fetched)) == 12
    assert first.fingerprint == read_folder(tmp_path / "x", 32).fingerprint
    assert first.files == read_folder(far, 32).files
    assert len(fetched) == 12
    store.put(str(tmp_path / "x" / "red" / "02.png"), "/once/red/00.png")
    assert np.array_equal(read_folder(far, 32).images[list(first.files).index("red/00.png")], first.images[7])
    assert len(fetched) == 13


def test_copies_take_no_more_than_they_may(store, fetched, empty_cache, monkeypatch):
    monkeypatch.setattr(KEPT, "most", 10_000)
    for number in range(30):
        store.pipe(f"/many/{number:02}", bytes([number]) * 1000)
    for _ in range(2):
        for path in located("memory://many").iterdir():
            with path.fetched() as file:
                assert file.read() == bytes([int(path.name)]) * 1000
            assert usage("remote").size <= 10_000
    assert len(fetched) == 60  # none of them lasted for a round
    *_, last = located("memory://many").iterdir()
    last.fetched().close()
    assert len(fetched) == 60
    monkeypatch.setattr(KEPT, "most", 0)
    last.fetched().close()
    assert len(fetched) == 61


def test_what_was_not_listed_is_not_kept(store, fetched, empty_cache):
    store.pipe("/single/1.bin", b"content")
    for _ in range(2):
        with located("memory://single/1.bin").fetched() as file:
            assert file.read() == b"content"
    assert len(fetched) == 2
    assert usage("remote").files == 0
    assert [path for path in cache_folder("remote").iterdir() if any(path.iterdir())] == []


def failing(monkeypatch, *errors: Exception, name: str = "get_file"):
    """Let the next calls of a function of memory:// fail."""
    cls, left = fsspec.get_filesystem_class("memory"), list(errors)
    plain = getattr(cls, name)

    def call(self, *arguments, **options):
        if left:
            raise left.pop(0)
        return plain(self, *arguments, **options)

    monkeypatch.setattr(cls, name, call)


def test_a_broken_connection_is_tried_again_with_one_warning(store, monkeypatch, caplog):
    for number in range(4):
        store.pipe(f"/broken/{number}", b"content")
    failing(monkeypatch, *[ConnectionResetError()] * 6, TimeoutError())
    paths = [located(f"memory://broken/{number}") for number in range(4)]
    with caplog.at_level(logging.WARNING, "headstart"):
        assert list(remote.ahead(lambda path: path.fetched().read(), paths)) == [b"content"] * 4
    assert [record.getMessage() for record in caplog.records] == [
        "memory://broken does not answer (ConnectionResetError): it is tried again, for up to 2 minutes"
    ]


def test_a_store_that_stays_silent_is_an_error_and_no_unreadable_image(store, monkeypatch, small_run):
    store.pipe("/silent/1.png", b"content")
    store.pipe("/silent/no_ending", b"content")
    failing(monkeypatch, *[ConnectionResetError("https://user:secret@host")] * 100)
    with pytest.raises(
        UnreachableError, match=r"memory://silent/\S+ could not be reached for 2 minutes \(ConnectionResetError\)"
    ):
        small_run.predict("memory://silent/1.png")
    with pytest.raises(UnreachableError, match="could not be reached"):
        walk(located("memory://silent"))


def test_one_file_that_is_never_given_is_one_unreadable_image(store, monkeypatch, small_run):
    get = type(store).get_file

    def call(self, path, *others, **options):
        if "broken" in path:
            next(located("memory://one").iterdir())  # others are answered meanwhile
            raise TimeoutError
        return get(self, path, *others, **options)

    monkeypatch.setattr(type(store), "get_file", call)
    for name in ("1", "broken", "2"):
        with store.open(f"/one/{name}.png", "wb") as file:
            scene(1).save(file, "PNG")
    found = list(small_run.stream("memory://one"))
    assert [bool(one.error) for one in found] == [False, False, True]
    assert "could not be fetched for 2 minutes (TimeoutError), and others could" in found[2].error


def test_a_host_of_the_web_that_is_gone_stops_nothing(store, monkeypatch, small_run, tmp_path):
    with store.open("/alive/1.png", "wb") as file:
        scene(1).save(file, "PNG")
    (tmp_path / "list.csv").write_text("file\nhttp://127.0.0.1:1/1.png\nmemory://alive/1.png\nhttp://127.0.0.1:1/2.png\n")
    found = list(small_run.stream(tmp_path / "list.csv"))
    assert [bool(one.error) for one in found] == [True, False, True]


def test_a_file_that_is_denied_or_gone_is_one_unreadable_image(store, monkeypatch, small_run):
    with store.open("/denied/1.png", "wb") as file:
        scene(1).save(file, "PNG")
    failing(monkeypatch, PermissionError("https://user:secret@host says no"))
    paths = [located("memory://denied/1.png"), located("memory://denied/1.png"), located("memory://denied/2.png")]
    found = list(small_run.stream(iter([paths[1]])))
    assert "access is denied (PermissionError)" in found[0].error
    assert "secret" not in found[0].error
    assert not next(small_run.stream([paths[0]])).error
    with pytest.raises(HeadstartError, match=r"there is nothing at memory://denied/2.png"):
        list(small_run.stream([paths[2]]))


def test_images_that_change_under_way_are_not_mixed(store, tmp_path, empty_cache, monkeypatch):
    monkeypatch.setattr("headstart.data.store.MOST_BYTES_IN_MEMORY", 1)
    monkeypatch.setattr(KEPT, "most", 0)
    for number in range(6):
        save(scene(number), tmp_path / "x" / ("red", "blue")[number % 2] / f"{number}.png")
    far = upload(tmp_path / "x", store, "changing")
    source = read_folder(far, 32, often=False)
    near = read_folder(tmp_path / "x", 32, often=False)
    assert np.array_equal(source.images[np.arange(6)], near.images[np.arange(6)])
    content = store.cat("/changing/red/0.png")
    store.pipe("/changing/red/0.png", content[:-1])
    with pytest.raises(UnreachableError, match=r"memory://changing/red/0.png has changed"):
        source.images[list(source.files).index("red/0.png")]
    other = tmp_path / "other.png"
    save(scene(8), other)
    store.pipe("/changing/red/0.png", other.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    with pytest.raises(HeadstartError, match=r"memory://changing/red/0.png"):
        source.images[list(source.files).index("red/0.png")]


def test_archives_and_tables_at_addresses_are_read(store, tmp_path, empty_cache):
    for number in range(12):
        save(scene(number), tmp_path / "x" / ("red", "blue")[number % 2] / f"{number:02}.png")
    near = hs.load_data(tmp_path / "x", image_size=32).source
    for kind, ending in (("zip", "zip"), ("gztar", "tar.gz")):
        store.put(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "x"), f"/packed/photos.{ending}")
        far = hs.load_data(f"memory://packed/photos.{ending}", image_size=32).source
        assert (far.name, far.fingerprint) == (f"memory://packed/photos.{ending}", near.fingerprint)
    upload(tmp_path / "x", store, "tables/images")
    lines = [f"../images/{name},{name.split('/')[0]}" for name in near.files]
    store.pipe("/tables/lists/labels.csv", "\n".join(["file,label", *lines, "../images/none.png,red"]).encode())
    far = hs.load_data("memory://tables/lists/labels.csv", image_size=32).source
    assert (far.fingerprint, far.name) == (near.fingerprint, "memory://tables/lists/labels.csv")
    assert [line.split(":")[2] for line in far.unreadable] == [" FileNotFoundError"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *(one.replace("../", "memory://tables/") for one in lines)]))
    local = hs.load_data(tmp_path / "labels.csv", image_size=32).source
    assert local.fingerprint == near.fingerprint
    assert local.files[0] == f"memory://tables/images/{near.files[0]}"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("memory://nothing/here", "there is no memory://nothing: check the address"),
        ("htp://bucket/photos", "fsspec knows no htp://"),
    ],
)
def test_what_is_not_there_is_said(store, address, said):
    with pytest.raises(HeadstartError, match=said):
        hs.load_data(address)


def test_a_missing_package_is_named(monkeypatch):
    remote.store_of.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(HeadstartError, match="gs:// needs a package that is not installed: pip install gcsfs"):
        hs.load_data("gs://bucket/photos")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(HeadstartError, match=r"s3:// needs a package .* pip install 'headstart\[remote\]'"):
        hs.load_data("s3://bucket/photos")


def test_local_files_are_read_without_fsspec(tmp_path):
    save(scene(1), tmp_path / "1.png")
    code = (
        "import sys; from headstart.inference.inputs import *; from headstart.data.decode import read_image; "
        "[read_image(path, 8, 8) for _, path in named_images(sys.argv[1], Inputs())]; assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
