"""Archives are unpacked safely, whole or not at all, and once."""

import io
import json
import os
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from PIL import Image

import headstart as hs
from headstart.data import archive
from headstart.errors import HeadstartError
from headstart.system.cache import cache_folder


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


IMAGES = {f"{kind}/{number}.png": png(10 * number + 100 * (kind == "bee")) for kind in ("ant", "bee") for number in range(4)}


def pack(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{path.suffix[1:] if path.suffix != '.tar' else ''}") as packed:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                packed.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("wrapper", ["", "photos/", "one/two/"])
def test_folders_of_classes(tmp_path, name, wrapper, caplog):
    path = pack(tmp_path / name, {wrapper + file: content for file, content in IMAGES.items()} | {"__MACOSX/x": b"1"})
    caplog.set_level("INFO", logger="headstart")
    data = hs.load_data(path, image_size=8)
    assert data.source.name == str(path)
    assert data.source.files == tuple(IMAGES)
    assert f"{path} is unpacked to" in caplog.text
    assert data.source.fingerprint == hs.load_data(path, image_size=8).source.fingerprint
    assert "is unpacked in" in caplog.text


def test_a_table_with_its_images(tmp_path):
    rows = "".join(f"{name},{name[0]}\n" for name in IMAGES)
    path = pack(
        tmp_path / "a.zip", {"set/" + name: content for name, content in (IMAGES | {"l.csv": f"file,label\n{rows}"}).items()}
    )
    assert hs.load_data(path, image_size=8).source.class_names == ("a", "b")
    assert hs.load_data(path, image_size=8, layout="classes").source.class_names == ("ant", "bee")
    assert hs.load_data(path, image_size=8, label_pattern="(?P<label>an|be)").source.class_names == ("an", "be")


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "metadata.csv"])
@pytest.mark.parametrize("file", ["../../outside.png", "/etc/passwd", "ant/../../../x.png", "{}/outside.png"])
def test_a_table_that_leads_out_of_its_archive_is_refused(tmp_path, name, file):
    file = file.format(tmp_path)
    (tmp_path / "outside.png").write_bytes(png(1))
    rows = [*IMAGES, file]
    if name == "l.jsonl":
        table = "".join(json.dumps({"file_name": one, "label": one[0]}) + "\n" for one in rows)
    else:
        table = "file_name,label\n" + "".join(f"{one},{one[0]}\n" for one in rows)
    path = pack(tmp_path / "a.zip", IMAGES | {name: table})
    line = len(rows) + (name != "l.jsonl")
    with pytest.raises(HeadstartError, match=f"{name}, line {line}: .* lies outside of the archive"):
        hs.load_data(path, image_size=8)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, name, monkeypatch):
    path = pack(tmp_path / name, IMAGES)
    written = []
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50))
    monkeypatch.setattr(archive, "safe_name", lambda *arguments: written.append(arguments))
    with pytest.raises(HeadstartError, match=r"needs at least 0\.0 GB, and .*archives has 0\.0 GB free: make room"):
        hs.load_data(path)
    assert written == []
    assert list(cache_folder("archives").iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar.gz", IMAGES | {"cow/0.png": os.urandom(100_000)})
    room = iter([10**9] * 5 + [1000] * 10)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda folder: SimpleNamespace(free=next(room)))
    with pytest.raises(HeadstartError, match="make room"):
        archive.unpacked(path)
    assert list(cache_folder("archives").iterdir()) == []


def test_a_table_of_something_else_changes_nothing(tmp_path):
    path = pack(tmp_path / "a.zip", IMAGES | {"notes.csv": "a,b,c\n1,2,3\n"})
    assert hs.load_data(path, image_size=8).source.class_names == ("ant", "bee")


def test_a_changed_archive_is_unpacked_again(tmp_path):
    path = pack(tmp_path / "a.zip", IMAGES)
    first = archive.unpacked(path)
    pack(path, IMAGES | {"bee/9.png": png(7)})
    second = archive.unpacked(path)
    assert first != second
    assert (second / "bee" / "9.png").exists()


HOSTILE = ["/etc/x", "../x", "a/../../x", "a\\..\\x", "C:/x", "x" * 2000, "/".join("a" * 100), "."]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, kind, name):
    path = pack(tmp_path / kind, IMAGES | {name: b"evil"})
    with pytest.raises(HeadstartError, match=r"is not unpacked: .*unpack it yourself|is not a readable archive"):
        archive.unpacked(path)
    assert list(cache_folder("archives").iterdir()) == []
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        entry = tarfile.TarInfo("ant/x.png")
        entry.type, entry.linkname = kind, "/etc/passwd"
        packed.addfile(entry)
    with pytest.raises(HeadstartError, match="it holds a link or a device, ant/x"):
        archive.unpacked(tmp_path / "a.tar")


def test_links_in_a_zip_are_refused(tmp_path):
    entry = zipfile.ZipInfo("ant/x.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(entry, "/etc/passwd")
    with pytest.raises(HeadstartError, match="it holds a link or a device"):
        archive.unpacked(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_archives_that_unpack_to_anything_are_refused(tmp_path, name, monkeypatch):
    monkeypatch.setattr(archive, "MOST_UNASKED", 1000)
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a.png", bytes(10_000_000))
    else:
        pack(path, {"a.png": bytes(10_000_000)})
    with pytest.raises(HeadstartError, match="it unpacks to more than 100 times its size"):
        archive.unpacked(path)


def test_too_many_files_and_a_name_twice_are_refused(tmp_path, monkeypatch):
    pack(tmp_path / "a.zip", {"a.png": b"1", "b.png": b"2"})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"b.png", b"a.png"))
    with pytest.raises(HeadstartError, match=r"it holds a\.png twice"):
        archive.unpacked(tmp_path / "a.zip")
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(HeadstartError, match="it holds more than 3 files"):
        archive.unpacked(pack(tmp_path / "b.zip", IMAGES))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_damaged_archive_is_refused_and_nothing_stays(tmp_path, name, share):
    path = pack(tmp_path / name, {file: content + os.urandom(5000) for file, content in IMAGES.items()})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(HeadstartError, match=r"is not a readable archive|cannot be unpacked|is not a readable tar archive"):
        hs.load_data(path)
    assert list(cache_folder("archives").iterdir()) == []


def test_a_zip_with_a_password_is_refused(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(HeadstartError, match="it asks for a password"):
        archive.unpacked(path)
