"""What a run keeps of its data: its split comes back, and changed data are refused with what changed."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.config import Config
from headstart.data.decode import Decoding
from headstart.data.load import configured_data, resolved
from headstart.record.split import differences, read_split, recorded_data, write_split


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes of 20 images each, whose names are no UTF-8 or hold a comma."""
    for red, name in enumerate(("cat, tame", "dog\udcff")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8), (100 * red, number, 0)).save(tmp_path / "data" / name / f"{number:02d}.png")
    return tmp_path / "data"


def kept(tmp_path, data):
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    write_split(run, data)
    return run


def splits(data):
    return [data.train.tolist(), data.validation.tolist(), data.test.tolist()]


def test_the_split_comes_back_whatever_the_configuration_would_draw(folder, tmp_path):
    data = hs.load_data(folder, image_size=8, seed=5, test_fraction=0.3, limit=9)
    run = kept(tmp_path, data)
    again = recorded_data(run, Config(data=str(folder), image_size=64))
    assert splits(again) == splits(data) != splits(configured_data(Config(data=str(folder), image_size=8)))
    assert again.image_shape == (8, 8, 3)
    rows = read_split(run)
    assert [row["image"] for row in rows] == list(data.source.names)
    assert {row["split"] for row in rows} == {"training", "validation", "test", "unused"}


def test_groups_come_back_and_others_are_refused(folder, tmp_path):
    table = folder / "labels.csv"

    def write(groups):
        files = [path.relative_to(folder) for path in sorted(folder.rglob("*.png")) if path.parent.name == "cat, tame"]
        rows = (f'"{file}",{number % 2},{groups[number]}' for number, file in enumerate(files))
        table.write_text("\n".join(["file,label,patient", *rows]))

    write(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] * 2)
    data = hs.load_data(table, image_size=8)
    run = kept(tmp_path, data)
    assert [row["group"] for row in read_split(run)] == list(data.source.groups)
    config = Config(data=str(table), image_size=8)
    again = recorded_data(run, config)
    assert splits(again) == splits(data)
    assert again.source.groups == data.source.groups
    write(["x", "b", "c", "d", "e", "f", "g", "h", "i", "j"] * 2)
    with pytest.raises(hs.HeadstartError, match=r"2 images of another group \(such as cat, tame/00.png\)"):
        recorded_data(run, config)
    with pytest.raises(hs.HeadstartError, match="20 images of another group"):
        recorded_data(run, dataclasses.replace(config, group="none"))


def test_what_was_left_out_as_near_duplicate_stays_out(folder, tmp_path):
    data = hs.load_data(folder, image_size=8)
    data = dataclasses.replace(data, train=data.train[2:], left_out=data.train[:2])
    again = recorded_data(kept(tmp_path, data), Config(data=str(folder)))
    assert splits(again) == splits(data)
    assert again.left_out.tolist() == data.left_out.tolist()


def test_images_are_decoded_again_as_they_were(folder, tmp_path):
    data = hs.load_data(folder, image_size=8, fit="pad")
    data = dataclasses.replace(data, source=dataclasses.replace(data.source, decoding=Decoding("pad", (3.0, 9.5))))
    run = kept(tmp_path, data)
    assert recorded_data(run, Config(data=str(folder))).source.decoding == Decoding("pad", (3.0, 9.5))


def change(folder, how):
    cat, dog = sorted(folder.iterdir())
    if how == "gone":
        (cat / "03.png").unlink()
        (cat / "04.png").unlink()
    elif how == "new":
        Image.new("RGB", (8, 8), "white").save(cat / "new.png")
    elif how == "pixels":
        Image.new("RGB", (8, 8), "white").save(cat / "03.png")
    else:
        (cat / "03.png").rename(dog / "moved.png")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("gone", "2 images gone (such as cat, tame/03.png)"),
        ("new", "1 image new (such as cat, tame/new.png)"),
        ("pixels", "1 image with other pixels (such as cat, tame/03.png)"),
        ("moved", "1 image gone (such as cat, tame/03.png), 1 image new"),
    ],
)
def test_changed_data_are_refused_with_what_changed(folder, tmp_path, how, said):
    run = kept(tmp_path, hs.load_data(folder, image_size=8))
    change(folder, how)
    with pytest.raises(hs.HeadstartError) as caught:
        recorded_data(run, Config(data=str(folder)))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_changed_class_is_said(digits):
    rows = [
        {"image": name, "digest": bytes(digest).hex(), "class": digits.class_names[label], "split": "test"}
        for name, digest, label in zip(digits.source.names, digits.source.digests, digits.source.labels, strict=True)
    ]
    assert differences(rows, digits.source) == ""
    rows[7]["class"] = "another"
    assert differences(rows, digits.source) == "1 image of another class (such as training 7)"
    assert differences([*rows[:7], *rows[8:], rows[7] | {"class": "7"}], digits.source) == "the images have another order"


def test_data_that_are_split_in_another_way_are_refused(folder, tmp_path):
    run = kept(tmp_path, hs.load_data(folder, image_size=8))
    with pytest.raises(hs.HeadstartError, match="split in another way"):
        recorded_data(run, Config(data=str(folder)), hs.load_data(folder, image_size=8, seed=1))
    data = hs.load_data(folder, image_size=8)
    assert splits(recorded_data(run, Config(data=str(folder)), data)) == splits(data)


def test_a_damaged_record_is_refused_in_one_line(folder, tmp_path):
    run = kept(tmp_path, hs.load_data(folder, image_size=8))
    (run / "split.csv").write_text("image,class\na,b\n")
    with pytest.raises(hs.HeadstartError, match=r"split\.csv is damaged"):
        read_split(run)


def test_paths_hold_in_every_directory(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved(Config(data="data", backbone="mine.keras")).backbone == str(tmp_path / "mine.keras")
    config = resolved(Config(data="data", weights="mine.weights.h5"))
    assert (config.data, config.backbone, config.weights) == (str(folder), "resnet50", str(tmp_path / "mine.weights.h5"))
    assert resolved(Config()) == Config()


def test_a_folder_that_is_called_like_a_data_set_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved(Config(data="digits")).data == "digits"
    (tmp_path / "digits" / "genuine").mkdir(parents=True)
    with pytest.raises(hs.HeadstartError, match=r"type --data builtin:digits or --data \./digits"):
        hs.load_data("digits")
    assert resolved(Config(data="builtin:digits")).data == "digits"
    assert resolved(Config(data="./digits")).data == str(tmp_path / "digits")
    assert np.array_equal(hs.load_data("builtin:digits", limit=20).test, hs.load_data("builtin:digits", limit=20).test)


def test_data_that_were_moved(folder, tmp_path):
    run = kept(tmp_path, hs.load_data(folder, image_size=8))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(hs.HeadstartError, match=r"no longer in .*/data: bring them back, or set data in .*config\.toml"):
        recorded_data(run, Config(data=str(folder)))
    assert len(recorded_data(run, Config(data=str(tmp_path / "elsewhere"))).source.labels) == 40
