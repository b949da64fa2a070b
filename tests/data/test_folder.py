"""A folder of pictures: classes, parts, a fixed order, damaged files, and the memory-mapped cache."""

import warnings

import numpy as np
import pytest
from PIL import Image

from headstart.data.dataset import TEST, TRAIN, VALIDATION
from headstart.data.folder import read_folder
from headstart.errors import HeadstartError


def fill(folder, count, red=0):
    """Save pictures 0.png, 1.png, ... whose green is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (6, 4), (red, number, 0)).save(folder / f"{number}.png")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, which every read then uses."""
    monkeypatch.setattr("headstart.data.folder.MOST_BYTES_IN_MEMORY", 0)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_class_folders(tmp_path):
    fill(tmp_path / "dog", 2, red=100)
    fill(tmp_path / "cat", 3, red=200)
    fill(tmp_path / ".hidden", 1)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture, and not named one")
    pictures = read_folder(tmp_path, 5)
    assert pictures.class_names == ("cat", "dog")
    assert pictures.labels.tolist() == [0, 0, 0, 1, 1]
    assert pictures.files == ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png")
    assert pictures.images.shape == (5, 5, 5, 3)
    assert pictures.images[:, 2, 2].tolist() == [[200, 0, 0], [200, 1, 0], [200, 2, 0], [100, 0, 0], [100, 1, 0]]
    assert set(pictures.parts.tolist()) == {TRAIN}
    assert pictures.unreadable == ()
    assert pictures.source == str(tmp_path)


def test_order_and_fingerprint_do_not_depend_on_the_order_of_creation(tmp_path):
    for root, classes in (("a", ("x", "y")), ("b", ("y", "x"))):
        for name in classes:
            fill(tmp_path / root / name, 3, red=ord(name))
    first, second = read_folder(tmp_path / "a", 4), read_folder(tmp_path / "b", 4)
    assert first.files == second.files
    assert first.fingerprint == second.fingerprint


def test_subfolders_and_upper_case_endings_belong_to_their_class(tmp_path):
    fill(tmp_path / "cat" / "2024" / "may", 1)
    fill(tmp_path / "dog", 1)
    (tmp_path / "dog" / "0.png").rename(tmp_path / "dog" / "0.PNG")
    assert read_folder(tmp_path, 4).files == ("cat/2024/may/0.png", "dog/0.PNG")


@pytest.mark.parametrize("names", ["train val test", "training validation test", "train valid test", "Train VAL Test"])
def test_parts(tmp_path, names):
    train, validation, test = names.split()
    for red, name in enumerate(("cat", "dog")):
        fill(tmp_path / train / name, 3, red)
        fill(tmp_path / validation / name, 2, red)
        fill(tmp_path / test / name, 1, red)
    (tmp_path / "docs").mkdir()
    pictures = read_folder(tmp_path, 4)
    assert pictures.class_names == ("cat", "dog")
    for part, folder, count in ((TRAIN, train, 3), (VALIDATION, validation, 2), (TEST, test, 1)):
        chosen = np.flatnonzero(pictures.parts == part)
        assert {pictures.files[index].split("/")[0] for index in chosen} == {folder}
        assert np.bincount(pictures.labels[chosen]).tolist() == [count, count]


def test_class_may_be_missing_in_the_test_part(tmp_path):
    for path in ("train/cat", "train/dog", "test/cat"):
        fill(tmp_path / path, 1)
    assert read_folder(tmp_path, 4).class_names == ("cat", "dog")


def test_class_that_is_only_in_the_test_part(tmp_path):
    for path in ("train/cat", "train/dog", "test/cat", "test/fox"):
        fill(tmp_path / path, 1)
    with pytest.raises(HeadstartError, match=r"test/fox.*no pictures to train on"):
        read_folder(tmp_path, 4)


def test_parts_without_a_training_part(tmp_path):
    for part in ("val", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
    with pytest.raises(HeadstartError, match=r"has test/ and val/ and no pictures to train on: put them into .*train"):
        read_folder(tmp_path, 8)


def test_train_folder_without_class_folders(tmp_path):
    """It must not become a class beside a class `test`."""
    fill(tmp_path / "train", 3)
    fill(tmp_path / "test", 3)
    with pytest.raises(HeadstartError, match="it needs a subfolder of pictures for each class"):
        read_folder(tmp_path, 4)


def test_empty_class_folder(tmp_path):
    fill(tmp_path / "cat", 1)
    (tmp_path / "dog").mkdir()
    with pytest.raises(HeadstartError, match="dog holds no picture"):
        read_folder(tmp_path, 4)


def test_only_one_class(tmp_path):
    fill(tmp_path / "cat", 3)
    with pytest.raises(HeadstartError, match="only one class, 'cat'"):
        read_folder(tmp_path, 4)


@pytest.mark.parametrize("loose_pictures", [0, 3])
def test_root_without_class_folders(tmp_path, loose_pictures):
    fill(tmp_path, loose_pictures)
    with pytest.raises(HeadstartError, match="is no data set: it needs a subfolder of pictures for each class"):
        read_folder(tmp_path, 4)


@pytest.mark.parametrize("in_memory", [True, False])
def test_unreadable_files_are_named_and_skipped(tmp_path, monkeypatch, request, in_memory):
    if not in_memory:
        request.getfixturevalue("cache")
    data = tmp_path / "data"
    fill(data / "cat", 60)
    fill(data / "dog", 60, red=50)
    (data / "cat" / "30.png").write_text("no picture")
    pictures = read_folder(data, 4)
    assert len(pictures.images) == len(pictures.labels) == len(pictures.parts) == len(pictures.files) == 119
    assert np.bincount(pictures.labels).tolist() == [59, 60]
    assert "cat/30.png" not in pictures.files
    (line,) = pictures.unreadable
    assert line.startswith("cat/30.png: UnidentifiedImageError")
    greens = [int(file.split("/")[1].removesuffix(".png")) for file in pictures.files]
    assert pictures.images[:, 0, 0, 1].tolist() == greens


def test_more_than_one_percent_unreadable_is_an_error(tmp_path):
    fill(tmp_path / "cat", 50)
    fill(tmp_path / "dog", 50)
    (tmp_path / "cat" / "7.png").write_text("no picture")
    assert len(read_folder(tmp_path, 4).files) == 99
    (tmp_path / "dog" / "8.png").write_text("no picture")
    with pytest.raises(HeadstartError, match=r"2 of 100 files are unreadable.*the first is cat/7.png \(Unidentified"):
        read_folder(tmp_path, 4)


def test_reading_leaves_the_warning_filters_as_they_were(tmp_path):
    fill(tmp_path / "cat", 40)
    fill(tmp_path / "dog", 40)
    before = list(warnings.filters)
    read_folder(tmp_path, 4)
    assert warnings.filters == before


def test_memory_mapped_pictures_equal_those_in_memory(tmp_path, request):
    fill(tmp_path / "data" / "cat", 3, red=9)
    fill(tmp_path / "data" / "dog", 3)
    in_memory = read_folder(tmp_path / "data", 4)
    request.getfixturevalue("cache")
    mapped = read_folder(tmp_path / "data", 4)
    assert isinstance(mapped.images, np.memmap)
    assert np.array_equal(mapped.images, in_memory.images)
    assert mapped.fingerprint == in_memory.fingerprint


def test_second_read_uses_the_cache_until_a_file_changes(tmp_path, cache, monkeypatch):
    data = tmp_path / "data"
    fill(data / "cat", 3, red=9)
    fill(data / "dog", 3)
    first = read_folder(data, 4)
    with monkeypatch.context() as patch:
        patch.setattr("headstart.data.folder.read_picture", lambda *_: pytest.fail("decoded again"))
        assert read_folder(data, 4).fingerprint == first.fingerprint
    Image.new("RGB", (8, 8), "white").save(data / "dog" / "1.png")
    assert read_folder(data, 4).images[4].min() == 255
    assert read_folder(data, 2).images.shape == (6, 2, 2, 3)


def test_read_after_one_that_was_interrupted(tmp_path, cache, monkeypatch):
    data = tmp_path / "data"
    fill(data / "cat", 3, red=9)
    fill(data / "dog", 3)
    with monkeypatch.context() as patch:
        patch.setattr("headstart.data.folder.read_picture", interrupt)
        with pytest.raises(KeyboardInterrupt):
            read_folder(data, 4)
    assert read_folder(data, 4).images[:, 0, 0].tolist() == [[9, i, 0] for i in range(3)] + [[0, i, 0] for i in range(3)]


def test_read_after_the_large_files_of_the_cache_were_deleted(tmp_path, cache):
    data = tmp_path / "data"
    fill(data / "cat", 3, red=9)
    fill(data / "dog", 3)
    first = read_folder(data, 4).fingerprint
    for path in cache.rglob("*.npy"):
        path.unlink()
    assert read_folder(data, 4).fingerprint == first


def test_failed_read_leaves_nothing_large_in_the_cache(tmp_path, cache):
    data = tmp_path / "data"
    fill(data / "cat", 3)
    fill(data / "dog", 3)
    (data / "cat" / "0.png").write_text("no picture")
    with pytest.raises(HeadstartError, match="1 of 6 files are unreadable"):
        read_folder(data, 4)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    fill(data / "cat", 1)
    assert len(read_folder(data, 4).files) == 6
