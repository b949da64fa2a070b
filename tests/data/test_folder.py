"""A folder of images: classes, splits, a fixed order, damaged files, and the memory-mapped cache."""

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data.folder import read_folder
from headstart.data.source import TEST, TRAIN, VALIDATION
from headstart.data.store import IN_CACHE, IN_MEMORY, ON_DEMAND, way_of
from headstart.errors import HeadstartError
from headstart.system.entries import seal, write_sealed


def fill(folder, count, red=0):
    """Save images 0.png, 1.png, ... whose green is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (6, 4), (red, number, 0)).save(folder / f"{number}.png")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, which every read then uses."""
    monkeypatch.setattr("headstart.data.store.MOST_BYTES_IN_MEMORY", 0)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_class_folders(tmp_path):
    fill(tmp_path / "dog", 2, red=100)
    fill(tmp_path / "cat", 3, red=200)
    fill(tmp_path / ".hidden", 1)
    (tmp_path / "cat" / "notes.txt").write_text("not an image, and not named one")
    source = read_folder(tmp_path, 5)
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert source.files == ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png")
    assert source.images.shape == (5, 5, 5, 3)
    assert source.images[:][:, 2, 2].tolist() == [[200, 0, 0], [200, 1, 0], [200, 2, 0], [100, 0, 0], [100, 1, 0]]
    assert set(source.splits.tolist()) == {TRAIN}
    assert source.unreadable == ()
    assert source.name == str(tmp_path)


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
    source = read_folder(tmp_path, 4)
    assert source.class_names == ("cat", "dog")
    for split, folder, count in ((TRAIN, train, 3), (VALIDATION, validation, 2), (TEST, test, 1)):
        chosen = np.flatnonzero(source.splits == split)
        assert {source.files[index].split("/")[0] for index in chosen} == {folder}
        assert np.bincount(source.labels[chosen]).tolist() == [count, count]


def test_class_may_be_missing_in_the_test_part(tmp_path):
    for path in ("train/cat", "train/dog", "test/cat"):
        fill(tmp_path / path, 1)
    assert read_folder(tmp_path, 4).class_names == ("cat", "dog")


def test_class_that_is_only_in_the_test_part(tmp_path):
    for path in ("train/cat", "train/dog", "test/cat", "test/fox"):
        fill(tmp_path / path, 1)
    with pytest.raises(HeadstartError, match=r"test/fox: the class 'fox' has no images to train on"):
        read_folder(tmp_path, 4)


def test_parts_without_a_training_part(tmp_path):
    for split in ("val", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(HeadstartError, match=r"has test/ and val/ and no images to train on: put them into .*train"):
        read_folder(tmp_path, 8)


def test_train_folder_without_class_folders(tmp_path):
    """It must not become a class beside a class `test`."""
    fill(tmp_path / "train", 3)
    fill(tmp_path / "test", 3)
    with pytest.raises(HeadstartError, match="it needs a subfolder of images for each class"):
        read_folder(tmp_path, 4)


def test_empty_class_folder(tmp_path):
    fill(tmp_path / "cat", 1)
    (tmp_path / "dog").mkdir()
    with pytest.raises(HeadstartError, match="dog holds no image: add some"):
        read_folder(tmp_path, 4)


def test_only_one_class(tmp_path):
    fill(tmp_path / "cat", 3)
    with pytest.raises(HeadstartError, match="only one class, 'cat'"):
        read_folder(tmp_path, 4)


@pytest.mark.parametrize("loose_images", [0, 3])
def test_root_without_class_folders(tmp_path, loose_images):
    fill(tmp_path, loose_images)
    with pytest.raises(HeadstartError, match="is no data set: it needs a subfolder of images for each class"):
        read_folder(tmp_path, 4)


@pytest.mark.parametrize("in_memory", [True, False])
def test_unreadable_files_are_named_and_skipped(tmp_path, monkeypatch, request, in_memory):
    if not in_memory:
        request.getfixturevalue("cache")
    data = tmp_path / "data"
    fill(data / "cat", 60)
    fill(data / "dog", 60, red=50)
    (data / "cat" / "30.png").write_text("no image")
    source = read_folder(data, 4)
    assert len(source.images) == len(source.labels) == len(source.splits) == len(source.files) == 119
    assert np.bincount(source.labels).tolist() == [59, 60]
    assert "cat/30.png" not in source.files
    (line,) = source.unreadable
    assert line.startswith("cat/30.png: UnidentifiedImageError")
    greens = [int(file.split("/")[1].removesuffix(".png")) for file in source.files]
    assert source.images[:][:, 0, 0, 1].tolist() == greens


def break_files(folder, count):
    for path in sorted(folder.iterdir())[:count]:
        path.write_text("no image")


@pytest.mark.parametrize(("images", "broken"), [(40, 4), (40, 10), (2000, 20)])
def test_a_few_unreadable_files_are_left_out(tmp_path, images, broken):
    fill(tmp_path / "cat", images // 2)
    fill(tmp_path / "dog", images // 2)
    break_files(tmp_path / "cat", broken)
    source = read_folder(tmp_path, 4)
    assert len(source.files) == images - broken
    assert len(source.unreadable) == broken


@pytest.mark.parametrize(("images", "broken"), [(40, 11), (500, 12)])
def test_many_unreadable_files_are_refused_and_listed(tmp_path, images, broken, monkeypatch):
    """Ten by name, and all of them in a file."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    fill(data / "cat", images // 2)
    fill(data / "dog", images // 2)
    break_files(data / "dog", broken)
    with pytest.raises(HeadstartError) as caught:
        read_folder(data, 4)
    first, second = str(caught.value).splitlines()
    assert f"{broken} of {images} image files cannot be read" in first
    listed = Path(first.rpartition(" ")[2]).read_text().splitlines()
    assert len(listed) == broken
    assert all(line.startswith("dog/") and "UnidentifiedImageError" in line for line in listed)
    assert second.count("dog/") == 10
    assert f"and {broken - 10} more" in second


def test_reading_leaves_the_warning_filters_as_they_were(tmp_path):
    fill(tmp_path / "cat", 40)
    fill(tmp_path / "dog", 40)
    before = list(warnings.filters)
    read_folder(tmp_path, 4)
    assert warnings.filters == before


@pytest.mark.parametrize(("often", "way"), [(True, IN_CACHE), (False, ON_DEMAND)])
def test_images_on_disk_equal_those_in_memory(often, way, tmp_path, request):
    fill(tmp_path / "data" / "cat", 3, red=9)
    fill(tmp_path / "data" / "dog", 3)
    in_memory = read_folder(tmp_path / "data", 4)
    request.getfixturevalue("cache")
    for _ in ("made", "read again"):
        held = read_folder(tmp_path / "data", 4, often=often)
        assert (way_of(held.images), way_of(in_memory.images)) == (way, IN_MEMORY)
        assert np.array_equal(held.images[:], in_memory.images)
        assert np.array_equal(held.images[4], in_memory.images[4])
        assert held.images[[5, 0, 0]].tolist() == in_memory.images[[5, 0, 0]].tolist()
        assert (held.images.shape, held.images.nbytes) == (in_memory.images.shape, in_memory.images.nbytes)
        assert held.fingerprint == in_memory.fingerprint
        rows = np.array([3, 1])
        assert np.array_equal(held.grey(rows), in_memory.grey(rows))


def test_second_read_uses_the_cache_until_a_file_changes(tmp_path, cache, monkeypatch):
    data = tmp_path / "data"
    fill(data / "cat", 3, red=9)
    fill(data / "dog", 3)
    first = read_folder(data, 4)
    with monkeypatch.context() as patch:
        patch.setattr("headstart.data.store.decode", lambda *_: pytest.fail("decoded again"))
        assert read_folder(data, 4).fingerprint == first.fingerprint
    Image.new("RGB", (8, 8), "white").save(data / "dog" / "1.png")
    assert read_folder(data, 4).images[4].min() == 255
    assert read_folder(data, 2).images.shape == (6, 2, 2, 3)


def test_read_after_one_that_was_interrupted(tmp_path, cache, monkeypatch):
    data = tmp_path / "data"
    fill(data / "cat", 3, red=9)
    fill(data / "dog", 3)
    with monkeypatch.context() as patch:
        patch.setattr("headstart.data.store.decode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            read_folder(data, 4)
    assert read_folder(data, 4).images[:][:, 0, 0].tolist() == [[9, i, 0] for i in range(3)] + [[0, i, 0] for i in range(3)]


def test_read_after_the_large_files_of_the_cache_were_deleted(tmp_path, cache):
    data = tmp_path / "data"
    fill(data / "cat", 3, red=9)
    fill(data / "dog", 3)
    first = read_folder(data, 4).fingerprint
    for path in cache.rglob("*.npy"):
        path.unlink()
    assert read_folder(data, 4).fingerprint == first


@pytest.mark.parametrize("harm", ["other images", "other findings", "more images", "unreadable", "no sizes", "zeros", "pipe"])
def test_decoded_images_that_do_not_belong_to_their_findings_are_decoded_again(harm, tmp_path, cache, monkeypatch, caplog):
    data = tmp_path / "data"
    fill(data / "cat", 3, red=9)
    fill(data / "dog", 3)
    first = read_folder(data, 4).fingerprint
    (images,), (findings,) = cache.rglob("*-images.npy"), cache.rglob("*.json")
    content = json.loads(findings.read_text())["content"]
    if harm == "other images":
        np.save(images, np.zeros((6, 4, 4, 3), np.uint8))
        seal(images, images.name)
    elif harm == "other findings":
        write_sealed(findings, content | {"seals": content["seals"] | {"images": 64 * "0"}})
    elif harm == "more images":
        write_sealed(findings, content | {"found": content["found"] | {"sizes": [[8, 8, 7]]}})
    elif harm == "unreadable":
        write_sealed(findings, content | {"found": content["found"] | {"unreadable": {str(i): "" for i in range(6)}}})
    elif harm == "no sizes":
        write_sealed(findings, content | {"found": content["found"] | {"sizes": {}}})
    elif harm == "zeros":
        images.write_bytes(images.read_bytes()[:-100] + bytes(100))
    else:
        findings.unlink()
        os.mkfifo(findings)
    monkeypatch.setattr("headstart.system.entries.VERIFIED", set())
    caplog.clear()
    assert read_folder(data, 4).fingerprint == first
    assert len(caplog.messages) == 1
    assert " again" in caplog.text


def test_two_processes_that_decode_the_same_folder_do_not_meet(tmp_path, cache):
    data = tmp_path / "data"
    fill(data / "cat", 40, red=9)
    fill(data / "dog", 40)
    code = (
        f"import sys; from pathlib import Path; from headstart.data import folder, store; store.MOST_BYTES_IN_MEMORY = 0; "
        f"print(folder.read_folder(Path({str(data)!r}), 64).fingerprint)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate()[0].strip() for process in processes}
    assert found == {read_folder(data, 64).fingerprint}
    assert len(list(cache.rglob("*"))) == 5  # the kind's folder, images, digests, grey versions and findings


def test_failed_read_leaves_nothing_large_in_the_cache(tmp_path, cache):
    data = tmp_path / "data"
    fill(data / "cat", 3)
    fill(data / "dog", 3)
    break_files(data / "cat", 2)
    with pytest.raises(HeadstartError, match="2 of 6 image files cannot be read"):
        read_folder(data, 4)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".txt"]
    fill(data / "cat", 2)
    assert len(read_folder(data, 4).files) == 6


def test_a_full_disk_is_said_before_anything_is_decoded(tmp_path, cache, monkeypatch):
    """A map of a file with holes would end the process by a signal."""
    data = tmp_path / "data"
    fill(data / "cat", 3)
    fill(data / "dog", 3)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with pytest.raises(HeadstartError, match="the disk is full"):
            read_folder(data, 4)
    assert not list(cache.rglob("*.npy"))
    assert len(read_folder(data, 4).files) == 6


def test_what_is_no_image_is_counted_by_kind(tmp_path):
    fill(tmp_path / "cat", 2)
    fill(tmp_path / "dog", 2)
    for name in ("cat/notes.txt", "cat/more.TXT", "dog/clip.mp4", "dog/raw.nef", ".DS_Store", "dog/Thumbs.db"):
        (tmp_path / name).write_text("no image")
    fill(tmp_path / "cat" / ".ipynb_checkpoints", 1)
    fill(tmp_path / "dog" / "@eaDir", 1)
    fill(tmp_path / "dog" / "thumbnails", 3)
    source = read_folder(tmp_path, 4)
    assert len(source.files) == 4
    assert source.skipped == {
        "no image (.txt)": 2, "no image (.mp4)": 1, "camera raw (.nef)": 1, "hidden or system file": 2,
        "hidden or system folder": 2, "folder of thumbnails": 1,
    }  # fmt: skip


def test_images_by_their_content_whatever_their_ending(tmp_path):
    for number, name in enumerate(("a.jfif", "b.JPE", "c", "d.avif", "e.dat")):
        (tmp_path / "cat").mkdir(exist_ok=True)
        kind = "AVIF" if name.endswith("avif") else "JPEG"
        Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(tmp_path / "cat" / name, format=kind)
    fill(tmp_path / "dog", 1)
    Image.new("RGB", (8, 8)).save(tmp_path / "dog" / "site.jpg", format="AVIF")
    source = read_folder(tmp_path, 4)
    assert np.bincount(source.labels).tolist() == [5, 2]
    assert (source.skipped, source.unreadable) == ({}, ())


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "store" / "cats", 3)
    data = tmp_path / "data"
    fill(data / "dog", 8)
    (data / "cat").symlink_to(tmp_path / "store" / "cats")
    fill(tmp_path / "store" / "more", 2, red=9)
    (data / "dog" / "shelter").symlink_to(tmp_path / "store" / "more")
    (data / "dog" / "again").symlink_to(data)
    (data / "dog" / "gone.png").symlink_to(tmp_path / "store" / "not-mounted.png")
    source = read_folder(data, 4)
    assert np.bincount(source.labels).tolist() == [3, 10]
    assert source.skipped == {"link to a folder above": 1}
    assert source.unreadable == ("dog/gone.png: it is a link to not-mounted.png, which is missing",)


def test_links_that_can_be_followed_in_endless_ways_are_refused(tmp_path):
    """Each folder has two links to the next: 30 of them can be walked in a thousand million ways."""
    for number in range(30):
        (tmp_path / f"{number:02d}").mkdir()
        for name in ("left", "right"):
            (tmp_path / f"{number:02d}" / name).symlink_to(tmp_path / f"{number + 1:02d}")
    with pytest.raises(HeadstartError, match="in more than 16 ways"):
        read_folder(tmp_path, 4)


def test_folders_without_end_are_refused(tmp_path):
    deep = tmp_path.joinpath(*["a"] * 400)
    deep.mkdir(parents=True)
    with pytest.raises(HeadstartError, match="more than 64 folders deep"):
        read_folder(tmp_path, 4)


def test_a_link_to_itself_or_to_a_folder_above_the_data_is_no_image(tmp_path):
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        fill(data / name, 8)
    (data / "cat" / "self.png").symlink_to("self.png")
    (data / "cat" / "self").symlink_to("self")
    (data / "cat" / "top").symlink_to(tmp_path)
    (data / "cat" / "root").symlink_to("/")
    source = read_folder(data, 4)
    assert len(source.labels) == 16
    assert source.skipped == {"link to a folder above": 2, "link to nothing": 1}
    assert source.unreadable == ("cat/self.png: it is a link to self.png, which is missing",)


def test_runs_within_the_data_are_no_class(tmp_path):
    fill(tmp_path / "cat", 2)
    fill(tmp_path / "dog", 2)
    fill(tmp_path / "runs" / "first" / "images", 3)
    (tmp_path / "runs" / "first" / "config.toml").write_text("")
    (tmp_path / "runs" / "first" / "split.csv").write_text("")
    source = read_folder(tmp_path, 4)
    assert source.class_names == ("cat", "dog")
    assert len(source.files) == 4


def long_images(folder, names, size, count=4):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            wide = Image.new("RGB", size, (number, 0, 0))
            wide.paste((255, 255, 255) if name == names[0] else (0, 0, 255), (0, 0, size[0] // 8, size[1]))
            wide.save(folder / name / f"{number}.png")


def test_long_images_of_one_shape_are_squashed_and_it_is_said(tmp_path):
    long_images(tmp_path, ("a", "b"), (64, 16))
    source = read_folder(tmp_path, 16)
    assert source.decoding.fit == "squash"
    assert source.images[0, 8, 0].tolist() == [255, 255, 255]
    assert any("squashed" in line for line in source.remarks)
    cropped = read_folder(tmp_path, 16, fit="crop")
    assert cropped.images[0, 8, 0].max() <= 8
    assert any("75 % of each is cut away on average" in line for line in cropped.remarks)


def test_long_images_of_many_shapes_are_padded_and_photographs_cropped(tmp_path):
    long_images(tmp_path / "mixed", ("a", "b"), (64, 16))
    long_images(tmp_path / "mixed" / "a", ("tall",), (16, 64))
    assert read_folder(tmp_path / "mixed", 16).decoding.fit == "pad"
    long_images(tmp_path / "photos", ("a", "b"), (48, 32))
    assert read_folder(tmp_path / "photos", 16).decoding.fit == "crop"


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.float32, "tif")])
def test_deep_images_share_one_scale_that_is_found_from_them(tmp_path, dtype, suffix):
    """12 bits in 16 would become a handful of greys, and floats beyond 255 all white."""
    values = np.linspace(1000, 2000, 64 * 64).reshape(64, 64)
    for label, name in enumerate(("clear", "opaque")):
        (tmp_path / name).mkdir()
        for number in range(6):
            image = np.minimum(values + 10 * number, 2000) if label else np.minimum(values + 5 * number, 1500)
            Image.fromarray(image.astype(dtype)).save(tmp_path / name / f"{number}.{suffix}")
    source = read_folder(tmp_path, 64)
    low, high = source.decoding.grey_range
    assert 995 < low < 1010
    assert 1990 < high < 2001
    assert len(np.unique(source.images[-1])) > 200
    assert 120 < source.images[0].max() < 135, "one scale for all, so that a darker image stays darker"
    again = read_folder(tmp_path, 64, decoding=source.decoding)
    assert np.array_equal(again.images, source.images)


def test_an_unreadable_file_does_not_hide_which_images_are_deep(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"damaged")
        deep = np.linspace(1000, 2000, 64 * 64).reshape(64, 64).astype(np.uint16)
        Image.fromarray(deep).save(tmp_path / name / "1.png")
        for number in range(2, 6):
            Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(tmp_path / name / f"{number}.png")
    low, high = read_folder(tmp_path, 64).decoding.grey_range
    assert 995 < low < high < 2001
