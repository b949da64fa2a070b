"""How many images are held: in memory, in a file of the cache, or decoded on demand."""

import json
import os
from types import SimpleNamespace as Usage

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.audit.duplicates import near_duplicates
from headstart.data import store
from headstart.data.folder import read_folder
from headstart.data.on_demand import OnDemand
from headstart.data.store import IN_CACHE, IN_MEMORY, ON_DEMAND, held_in_words, way_to_hold
from headstart.errors import HeadstartError
from helpers import save, scene


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no memory for images."""
    monkeypatch.setattr("headstart.data.store.MOST_BYTES_IN_MEMORY", 0)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path):
    for number in range(40):
        save(scene(number), tmp_path / "data" / ("blue" if number % 2 else "red") / f"{number:03}.png")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, in a list that grows."""
    names = []

    def counted(path, *others, original=store.decode):
        names.append(path.name)
        return original(path, *others)

    monkeypatch.setattr("headstart.data.store.decode", counted)
    monkeypatch.setattr("headstart.data.decode.decode", counted)
    return names


def test_what_fits_chooses_the_way(monkeypatch):
    assert way_to_hold(1000, 300, often=True) == IN_MEMORY
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(free=200 * 10**9))
    assert way_to_hold(200_000, 300, often=True) == IN_CACHE
    assert way_to_hold(200_000, 300, often=False) == ON_DEMAND, "looked at once or twice"
    assert way_to_hold(400_000, 300, often=True) == ON_DEMAND, "more than half of the disk"


def test_a_second_reading_decodes_nothing(data, cache, decoded):
    for often, files in ((False, 3), (True, 4)):
        first = read_folder(data, 16, often=often)
        assert sorted(decoded) == sorted(path.name for path in data.rglob("*.png"))
        decoded.clear()
        assert read_folder(data, 16, often=often).fingerprint == first.fingerprint
        assert decoded == []
        assert len(list((cache / "images").iterdir())) == files
    assert read_folder(data, 16, often=False).fingerprint == first.fingerprint


def test_the_log_says_how_images_are_held():
    """What the docs say of 200,000 images."""
    words = [held_in_words(way, 200_000, 300) for way in (IN_MEMORY, IN_CACHE, ON_DEMAND)]
    assert words == [
        "", "decoded, the images take 54.0 GB: they are in a file of the cache (54.8 GB of disk)",
        "decoded, the images take 54.0 GB: they are decoded on demand (0.8 GB of disk)",
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["time", "size", "gone"])
def test_a_file_that_changes_after_the_first_pass_is_named(change, data, cache):
    images = read_folder(data, 16, often=False).images
    file = data / "blue" / "003.png"
    if change == "gone":
        file.unlink()
    elif change == "size":
        Image.new("RGB", (40, 40)).save(file)
    else:
        os.utime(file, ns=(0, 0))
    assert images[[0]].shape == (1, 16, 16, 3)
    with pytest.raises(HeadstartError, match=r"003\.png has changed or is gone since it was read first: start again"):
        images[:]


def test_a_file_that_cannot_be_read_any_more_is_named(data, cache, monkeypatch):
    images = read_folder(data, 16, often=False).images
    file = data / "blue" / "003.png"
    before = file.stat()
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(HeadstartError, match=r"003\.png could be read before, and cannot be read now"):
        images[:]


@pytest.mark.parametrize("often", [False, True])
def test_a_first_pass_that_is_killed_goes_on_at_its_block(often, data, cache, decoded, monkeypatch):
    (data / "red" / "002.png").write_bytes(b"no image")
    save(scene(50).resize((60, 20)), data / "red" / "050.png")
    whole = read_folder(data, 16, often=often)
    monkeypatch.setattr(store, "ROWS_OF_BLOCK", 8)
    for file in (cache / "images").iterdir():
        file.unlink()
    decoded.clear()

    def killed(path, *others, original=store.decode):
        if len(decoded) >= 20:
            raise KeyboardInterrupt
        return original(path, *others)

    with monkeypatch.context() as patch:
        patch.setattr(store, "decode", killed)
        with pytest.raises(KeyboardInterrupt):
            read_folder(data, 16, often=often)
    decoded.clear()
    found = read_folder(data, 16, often=often)
    assert len(decoded) == 41 - 16  # two blocks of 8 were whole
    assert found.fingerprint == whole.fingerprint
    assert (found.sizes, found.unreadable, found.remarks) == (whole.sizes, whole.unreadable, whole.remarks)
    rows = np.arange(40)
    np.testing.assert_array_equal(found.images[:], whole.images[:])
    np.testing.assert_array_equal(found.grey(rows), whole.grey(rows))


def test_nothing_stays_of_a_folder_that_is_refused(data, cache, monkeypatch):
    monkeypatch.setattr(store, "ROWS_OF_BLOCK", 8)
    for file in sorted(data.rglob("*.png"))[:30]:
        file.write_bytes(b"no image")
    with pytest.raises(HeadstartError, match="30 of 40 image files cannot be read"):
        read_folder(data, 16)
    assert list((cache / "images").iterdir()) == []


def test_unreadable_files_are_left_out_once_and_for_all(data, cache):
    (data / "red" / "002.png").write_bytes(b"no image")
    for often in (False, True):
        source = read_folder(data, 16, often=often)
        assert len(source.images) == len(source.files) == len(source.digests) == 39
        assert source.files.index("red/004.png") == 21
        assert np.array_equal(source.images[21], np.asarray(Image.open(data / "red" / "004.png").resize((16, 16), Image.BICUBIC)))


def test_findings_do_not_serve_other_images(data, cache):
    read_folder(data, 16, often=False)
    (findings,) = cache.rglob("*.json")
    assert set(json.loads(findings.read_text())["content"]["seals"]) == {"digests", "grey"}
    os.utime(data / "red" / "002.png", ns=(0, 0))
    assert isinstance(read_folder(data, 16, often=False).images, OnDemand)
    assert len(list(cache.rglob("*.json"))) == 2


def test_near_duplicates_are_those_of_images_in_memory(photos, cache):
    source = read_folder(photos, 32, often=False)
    features = np.random.default_rng(0).random((len(source.labels), 8))
    rows = np.arange(len(source.labels))
    found = near_duplicates(source.images[:], rows, features)
    assert len(found[0])
    grey = source.grey(rows)
    expected = hs.audit.duplicates.near_duplicates_of_grey(lambda places: grey[places], source.images.shape, features)
    assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("maps", [False, True])
def test_a_training_on_demand_is_the_training_in_memory(maps, photos, tiny, tmp_path, monkeypatch, decoded):
    """And it decodes each file as often as is said: once at first, and once for its features; or in every epoch."""
    options = tiny | {"data": str(photos), "image_size": 32, "epochs": 2, "views": 1}
    options["fine_tune_from"] = "stage1" if maps else "all"
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "first"))
    expected = hs.train("starter", **options, out=str(tmp_path / "in-memory"))
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr("headstart.data.store.MOST_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr("headstart.data.store.MOST_OF_DISK", 0)
    decoded.clear()
    run = hs.train("starter", **options, out=str(tmp_path / "on-demand"))
    assert "they are decoded on demand" in (run.path / "log.txt").read_text()
    for name in ("test_frozen.npy", "test_fine_tuned.npy", "validation_fine_tuned.npy", "near_duplicates.csv", "split.csv"):
        assert (run.path / name).read_bytes() == (expected.path / name).read_bytes(), name
    files = list(photos.rglob("*.png"))
    if maps:
        assert 2 * len(files) <= len(decoded) <= 3 * len(files), "two passes, and the examples of the report"
