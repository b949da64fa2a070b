"""A run as its user holds it: its own data, and other images only as far as it has not learned from them."""

import base64
import dataclasses
import logging
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli.main import main
from helpers import SMALL, save_images


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """160 of the digits as files of 16 px."""
    root = tmp_path_factory.mktemp("digits") / "data"
    images = digits.images(digits.train[:160]).repeat(2, axis=1).repeat(2, axis=2)
    save_images(images, digits.labels(digits.train[:160]), root, digits.class_names)
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run of the frozen stage on them."""
    options = SMALL | {"data": str(folder), "limit": 0, "epochs": 0}
    return hs.train(hs.recipe("starter", out=str(tmp_path_factory.mktemp("runs") / "run"), **options))


def test_images_that_were_learned_from_are_left_out_and_counted(run, folder, caplog):
    """All images of the folder are given: only its test split says anything."""
    with caplog.at_level(logging.INFO, "headstart"):
        figures = run.evaluate(folder)
    counts = run.read_json("data.json")["images"]
    assert figures["images"] == counts["test"]
    assert figures["left_out"] == {"training": counts["training"], "validation": counts["validation"]}
    assert np.isclose(figures["loss"], run.metrics["test"]["frozen"]["loss"], rtol=1e-2)
    left_out = counts["training"] + counts["validation"]
    assert f"{left_out} of 160 images are left out: the run was trained on {counts['training']}" in caplog.text


def test_other_images_are_all_measured(run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    save_images(noise, np.arange(40) % 10, tmp_path, run.class_names)
    figures = run.evaluate(tmp_path)
    assert figures["images"] == 40
    assert figures["left_out"] == {"training": 0, "validation": 0}
    assert "without_near_duplicates" not in figures


def test_near_duplicates_of_what_was_learned_from_are_reported_apart(run, digits, tmp_path):
    """Brighter copies of training images beside images that are new."""
    known = [row for row in run.split if row["split"] == "training"][:20]
    for number, row in enumerate(known):
        path = tmp_path / row["class"] / f"copy-{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.open(f"{run.config.data}/{row['image']}").point(lambda shade: shade * 0.9).save(path)
    rows = digits.train[160:200]
    save_images(digits.images(rows).repeat(2, axis=1).repeat(2, axis=2), digits.labels(rows), tmp_path, digits.class_names)
    figures = run.evaluate(tmp_path)
    assert figures["images"] == 60
    apart = figures["without_near_duplicates"]
    assert apart["left_out"] >= 18
    assert apart["images"] + apart["left_out"] == 60


def test_nothing_is_left_where_all_was_learned_from(run, digits, tmp_path):
    for row in run.split:
        if row["split"] == "training":
            path = tmp_path / row["image"]
            path.parent.mkdir(exist_ok=True)
            Image.open(f"{run.config.data}/{row['image']}").save(path)
    with pytest.raises(hs.HeadstartError, match="none is left to measure on"):
        run.evaluate(tmp_path)


@pytest.mark.parametrize("kind", ["one class", "only test", "an empty folder", "train and val"])
def test_data_that_could_not_train(run, digits, tmp_path, kind):
    rows, names = digits.train[160:200], digits.class_names
    images, labels = digits.images(rows).repeat(2, axis=1).repeat(2, axis=2), digits.labels(rows)
    if kind == "one class":
        rows, expected = labels == labels[0], int((labels == labels[0]).sum())
        save_images(images[rows], labels[rows], tmp_path, names)
    elif kind == "only test":
        expected = 40
        save_images(images, labels, tmp_path / "test", names)
    elif kind == "an empty folder":
        expected = 40
        save_images(images, labels, tmp_path, names)
        (tmp_path / "unsure").mkdir()
    else:
        expected = 40
        save_images(images[:30], labels[:30], tmp_path / "train", names)
        save_images(images[30:], labels[30:], tmp_path / "val", names)
    assert run.evaluate(tmp_path)["images"] == expected


def test_a_run_is_evaluated_from_another_directory(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    options = tiny | {"data": "data", "limit": 0}
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **options))
    assert run.config.data == str(folder)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(hs.Run("run").load_data().test, run.load_data().test)


def test_images_are_decoded_as_the_run_decoded_its_own(tiny, tmp_path, digits):
    """Wide images, whose evidence lies at an end."""
    images = digits.images(digits.train[:80])
    wide = np.full((80, 16, 64, 3), 128, np.uint8)
    wide[:, :, :16] = images.repeat(2, axis=1).repeat(2, axis=2)
    save_images(wide, digits.labels(digits.train[:80]) % 2, tmp_path / "data", ("even", "odd"))
    options = tiny | {"data": str(tmp_path / "data"), "limit": 0}
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **options))
    assert run.decoding.fit == "squash"
    data = run.load_data(tmp_path / "data")
    assert data.source.decoding.fit == "squash"
    row = int(data.test[0])
    as_trained = run.predict(data.images(data.test[:1])).probabilities
    as_file = run.predict(tmp_path / "data" / data.source.files[row]).probabilities
    np.testing.assert_allclose(as_file, as_trained, atol=1e-5)


def test_predict_says_what_it_did_not_use(run, folder, tmp_path, capsys):
    (tmp_path / "some").mkdir()
    source = next((folder / "3").iterdir())
    (tmp_path / "some" / "no-ending").write_bytes(source.read_bytes())
    (tmp_path / "some" / "notes.txt").write_text("no image")
    (tmp_path / "some" / ".hidden").mkdir()
    main(["predict", str(run.path), str(tmp_path / "some")])
    printed = capsys.readouterr()
    assert "no-ending" in printed.out
    assert "not used: 1 x hidden or system folder, 1 x no image (.txt)" in printed.err


@pytest.mark.parametrize("use", [hs.Run.predict, hs.Run.evaluate])
def test_mirror_images_of_what_must_not_be_mirrored_are_refused(use, small_run, digits):
    with pytest.raises(hs.HeadstartError, match=r"with --no-flip.*leave out --mirror"):
        use(small_run, digits, mirror=True)


def test_other_data_are_matched_by_class_name(small_run, digits, tmp_path):
    # Only two of the classes, so that they have other numbers than in training.
    for name in ("7", "3"):
        (tmp_path / name).mkdir()
        chosen = digits.test[digits.labels(digits.test) == int(name)]
        for number, image in enumerate(digits.images(chosen)):
            Image.fromarray(image).save(tmp_path / name / f"{number}.png")
    figures = small_run.evaluate(tmp_path)
    per_class = small_run.metrics["test"]["fine_tuned"]["per_class"]
    recalls = [figures["per_class"][name]["recall"] for name in ("3", "7")]
    assert recalls == [per_class[name]["recall"] for name in ("3", "7")]


def test_a_class_that_the_model_does_not_know_is_refused(small_run, digits):
    stranger = dataclasses.replace(digits, source=dataclasses.replace(digits.source, class_names=tuple("abcdefghij")))
    with pytest.raises(hs.HeadstartError, match="does not know the class 'a'"):
        small_run.evaluate(stranger)


def test_a_run_whose_name_is_a_script_is_none_in_a_notebook(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = hs.Run(shutil.copytree(small_run.path, 'javascript:alert(1)"'))
    assert 'href="javascript%3Aalert%281%29%22/report.html"' in copy._repr_html_()


def test_a_notebook_shows_the_run_itself(small_run, tmp_path, monkeypatch):
    """Its name is escaped, its curve is there, and its report is linked."""
    monkeypatch.chdir(tmp_path)  # the link leads from here
    copy = hs.Run(shutil.copytree(small_run.path, tmp_path / "a<b"))
    shown = copy._repr_html_()
    assert "a&lt;b</b>: frozen " in shown
    assert "a<b" not in shown
    curve = re.search(r'src="data:image/png;base64,([^"]+)"', shown)
    assert base64.b64decode(curve[1]) == (copy.path / "images" / "history.png").read_bytes()
    assert 'report.html">report</a>' in shown
    assert str(tmp_path) not in shown
    (copy.path / "manifest.json").unlink()
    assert hs.Run(copy.path)._repr_html_().endswith(": not finished")
