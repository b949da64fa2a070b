import csv
import json
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.audit.data import audit_run, examine, finish_audit
from headstart.cli.main import main
from headstart.data.dataset import Images
from headstart.system.files import write_json


def scene(seed: int) -> Image.Image:
    """An image with soft shapes of its own, red for even seeds and blue for odd ones."""
    random = np.random.default_rng(seed)
    sides = [Image.fromarray(random.integers(0, 200, (size, size), np.uint8)).resize((40, 40), 3) for size in (3, 5, 9)]
    grey = np.mean([np.asarray(side, np.float32) for side in sides], axis=0)
    colours = np.stack([grey, grey, grey], axis=-1)
    colours[..., 0 if seed % 2 == 0 else 2] += 80
    return Image.fromarray(np.uint8(np.clip(colours, 0, 255)))


def write(image: Image.Image, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def photos(tmp_path):
    """Two classes with a twin across training and test, one within training, and one wrong label."""
    root = tmp_path / "photos"
    for seed in range(60):
        split = "test" if seed >= 50 else "val" if seed >= 40 else "train"
        write(scene(seed), root / split / ("blue" if seed % 2 else "red") / f"{seed:03}.png")
    write(scene(50).transpose(Image.Transpose.FLIP_LEFT_RIGHT), root / "train" / "red" / "twin_of_050.png")
    write(scene(1).crop((1, 1, 39, 39)), root / "train" / "blue" / "twin_of_001.png")
    write(scene(2000), root / "train" / "blue" / "really_red.png")
    return root


OPTIONS = {"recipe": "starter", "image_size": 32, "hidden_units": 0, "head_epochs": 2, "epochs": 1}


def config(photos, out, **changes):
    options = {key: value for key, value in OPTIONS.items() if key != "recipe"}
    return hs.recipe("starter", data=str(photos), out=str(out), **options | changes)


def pairs_of(content) -> set[frozenset[str]]:
    return {frozenset((entry["first"].split("/")[-1], entry["second"].split("/")[-1])) for entry in content["near_duplicates"]}


TWINS = {frozenset(("050.png", "twin_of_050.png")), frozenset(("001.png", "twin_of_001.png"))}


def test_an_audit_finds_twins_and_wrong_labels_and_changes_nothing(photos, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in photos.rglob("*"))
    content = hs.audit_data(config(photos, tmp_path / "audit"))
    assert sorted((path, path.stat().st_mtime_ns) for path in photos.rglob("*")) == before
    assert pairs_of(content) == TWINS
    assert [entry["name"] for entry in content["suspects"]] == ["train/blue/really_red.png"]
    assert content["suspects"][0]["suggested"] == "red"
    assert (content["suspects"][0]["rank"], content["suspects_note"]) == (1, "")
    assert (content["alike"], content["label_conflicts"], content["classes_emptied"]) == (False, [], [])
    assert content["classes"]["training"] == {"blue": 22, "red": 21}
    assert content["sizes"]["smallest"] == [38, 38]
    assert content["redundant"] == ["train/blue/twin_of_001.png", "train/red/twin_of_050.png"]
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == content
    for name, rows in (("near_duplicates", 2), ("suspects", 1)):
        with (tmp_path / "audit" / f"{name}.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == rows
        assert Image.open(tmp_path / "audit" / "images" / f"{name}.png").width > 500


def test_a_run_says_how_accurate_it_is_without_twins(photos, tmp_path):
    run = hs.train(config(photos, tmp_path / "run"))
    content = run.read_json("audit.json")
    assert content["accuracy_without_twins"].keys() == {"frozen", "fine_tuned"}
    for stage, figures in content["accuracy_without_twins"].items():
        assert (figures["images"], figures["left_out"]) == (9, 1)
        low, high = figures["interval"]
        assert low <= figures["accuracy"] <= high
        right = run.test_logits(stage).argmax(axis=1) == np.array([0] * 5 + [1] * 5)
        assert figures["accuracy"] == pytest.approx(np.delete(right, 5).mean())  # 050.png is the first of the red ones


def test_dropping_duplicates_leaves_them_out_of_training_alone(photos, tmp_path):
    run = hs.train(config(photos, tmp_path / "run", drop_duplicates=True))
    assert run.read_json("data.json")["images"] == {"training": 41, "validation": 10, "test": 10}
    assert run.read_json("audit.json")["accuracy_without_twins"]["frozen"]["left_out"] == 0


def test_a_class_of_nothing_but_twins_cannot_be_dropped(tmp_path):
    for seed in range(12):
        write(scene(seed), tmp_path / "photos" / "train" / ("blue" if seed % 2 else "red") / f"{seed}.png")
    for seed in range(6):
        write(scene(2 * seed + 1).crop((1, 1, 39, 39)), tmp_path / "photos" / "val" / "blue" / f"{seed}.png")
        write(scene(100 + 2 * seed), tmp_path / "photos" / "val" / "red" / f"{seed}.png")
        write(scene(200 + seed), tmp_path / "photos" / "test" / ("blue" if seed % 2 else "red") / f"{seed}.png")
    with pytest.raises(hs.HeadstartError, match="'blue' has no training image left"):
        hs.train(config(tmp_path / "photos", tmp_path / "run", drop_duplicates=True))


def test_held_out_labels_are_judged_again_by_the_fine_tuned_network(small_run, digits, tmp_path):
    """A network that is right and sure of all but one test image leaves that one suspect, and training's as they were."""
    run = hs.Run(shutil.copytree(small_run.path, tmp_path / "run"))
    for split, rows in (("validation", digits.validation), ("test", digits.test)):
        labels = digits.labels(rows)
        logits = 6 * np.eye(10, dtype=np.float32)[labels]
        if split == "test":
            logits[7] = 20 * np.eye(10)[(labels[7] + 1) % 10]
        run.save_array(f"{split}_fine_tuned", logits)
    audit = run.read_json("audit.json")
    of_training = [entry for entry in audit["suspects"] if entry["split"] == "training"]
    given = digits.labels(digits.test)[7]
    invented = {"name": "training 3", "split": "test", "given": "0", "suggested": "1", "given_probability": 0.0,
                "suggested_probability": 1.0}  # fmt: skip
    write_json(run.path / "audit.json", audit | {"suspects": [*of_training, invented]})
    finish_audit(run, digits, ["frozen", "fine_tuned"])
    suspects = run.read_json("audit.json")["suspects"]
    unranked = [[{**entry, "rank": 0} for entry in entries] for entries in (suspects, of_training)]
    assert [entry for entry in unranked[0] if entry["split"] == "training"] == unranked[1]
    assert [entry["rank"] for entry in suspects] == list(range(1, len(suspects) + 1))
    (found,) = [entry for entry in suspects if entry["split"] != "training"]
    assert (found["split"], found["given"], found["suggested"]) == ("test", str(given), str((given + 1) % 10))
    with (run.path / "suspects.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [entry["name"] for entry in suspects]


def dataset(images: np.ndarray, labels: np.ndarray, names: str) -> hs.Dataset:
    """A data set of which four fifths are for training and the others for the test."""
    images = Images(images, np.int32(labels), tuple(names), np.zeros(len(images), np.int8), "made up")
    edge = len(images) * 4 // 5
    nothing = np.arange(0)
    return hs.Dataset(images, np.arange(edge), nothing, np.arange(edge, len(images)))


def scenes(seeds) -> np.ndarray:
    return np.stack([np.asarray(scene(seed).resize((32, 32))) for seed in seeds])


def noise(count: int, columns: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, columns)).astype(np.float32)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "headstart")
    return caplog


def test_a_model_that_knows_too_little_doubts_no_label_and_says_so(tmp_path, log):
    data = dataset(scenes(range(60)), np.arange(60) % 2, "ab")
    content = examine(data, noise(60), tmp_path)
    assert content["suspects"] == []
    assert "too few to tell a wrong label from a hard image" in content["suspects_note"]
    assert content["suspects_note"] in log.text
    assert "no label is suspect" in log.text
    assert (tmp_path / "suspects.csv").read_text().startswith("rank,name,")


def test_the_log_counts_suspects_by_both_cuts(tmp_path, log):
    labels = np.repeat([0, 1], 40)
    components = noise(80) * 0.1
    components[:, 0] += 10 * labels
    labels[3] = 1
    content = examine(dataset(scenes(range(80)), labels, "ab"), components, tmp_path)
    (entry,) = content["suspects"]
    assert (entry["rank"], entry["certainty"], entry["suggested"]) == (1, "surely", "a")
    assert "1 label is strongly suspect, 0 more may be wrong" in log.text
    assert "1 labels" not in log.text
    with (tmp_path / "suspects.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["certainty"] == "surely"


@pytest.mark.parametrize(("others", "checked"), [(40, True), (1, False)])
def test_the_only_image_of_a_class_is_left_out_of_the_label_check(others, checked, tmp_path):
    labels = np.repeat([0, 1, 2], [others, others, 1])
    components = noise(len(labels)) * 0.1
    components[:, 0] += 10 * labels
    if checked:
        labels[3] = 1
    content = examine(dataset(scenes(range(len(labels))), labels, "abc"), components, tmp_path)
    assert [entry["given"] for entry in content["suspects"]] == (["b"] if checked else [])
    assert ("a single image are not checked: c" in content["suspects_note"]) == checked
    assert ("no label is checked" in content["suspects_note"]) != checked


def test_equal_and_similar_images_with_different_labels_are_conflicts_and_not_dropped(tmp_path, log):
    images = scenes(range(40))
    images[1], images[3] = images[0], np.roll(images[2], 1, axis=1)
    images[5], images[7] = images[4], images[6]
    labels = np.repeat(0, 40)
    labels[[1, 3, 9, 10]] = 1
    components = noise(40)
    components[[1, 3, 5, 7]] = components[[0, 2, 4, 6]]
    content = examine(dataset(images, labels, "ab"), components, tmp_path)
    conflicts = {(entry["first"], entry["second"], *entry["labels"]) for entry in content["label_conflicts"]}
    assert conflicts == {("training 0", "training 1", "a", "b"), ("training 2", "training 3", "a", "b")}
    assert content["redundant"] == ["training 5", "training 7"]
    assert [entry["labels"] for entry in content["near_duplicates"]] == [["a", "b"]]  # equal ones are exact duplicates
    assert "2 pairs of nearly the same image with different labels" in log.text


def test_images_that_are_alike_by_kind_are_said_to_be(tmp_path, log):
    """Like X-rays: the same pattern in all, whatever the class."""
    pattern = scenes([0])[0].astype(float)
    images = np.uint8(np.clip(pattern + np.random.default_rng(0).normal(scale=4, size=(40, 32, 32, 3)), 0, 255))
    content = examine(dataset(images, np.arange(40) % 2, "ab"), noise(40), tmp_path)
    assert content["alike"]
    assert "more than a third of the images have a near-duplicate" in log.text
    assert "different labels" not in log.text


def test_a_class_that_nothing_would_be_left_of_is_named(tmp_path):
    images = scenes(range(50))
    images[40:43] = np.roll(images[:3], 1, axis=1)
    components = noise(50)
    components[40:43] = components[:3]
    labels = np.repeat([0, 1, 0, 1], [3, 37, 3, 7])
    assert examine(dataset(images, labels, "ab"), components, tmp_path)["classes_emptied"] == ["a"]


@pytest.mark.parametrize("flip", [True, False])
def test_mirror_images_are_near_duplicates_only_where_a_run_flips(flip, tmp_path):
    images, features = scenes(range(40)), noise(40)
    images[39], features[39] = images[0][:, ::-1], features[0]
    run = SimpleNamespace(path=tmp_path, config=hs.recipe("starter", flip=flip))
    frozen = SimpleNamespace(features=lambda rows, view, name: features[rows])
    clock = SimpleNamespace(start_clock=lambda: None, stop_clock=lambda name: None)
    audit_run(run, frozen, dataset(images, np.arange(40) % 2, "ab"), clock)
    content = json.loads((tmp_path / "audit.json").read_text())
    assert len(content["near_duplicates"]) == flip


def test_an_audit_without_flips_finds_no_mirror_images(photos, tmp_path):
    assert pairs_of(hs.audit_data(config(photos, tmp_path / "audit", flip=False))) == {frozenset(("001.png", "twin_of_001.png"))}


def test_a_run_without_cached_features_is_not_audited(digits, tmp_path):
    from helpers import SMALL

    options = SMALL | {"cache_features": False, "head_epochs": 1, "epochs": 0}
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **options), digits)
    assert not (run.path / "audit.json").exists()
    assert "no audit" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing"),
        (["missing"], "there is no folder "),
        (["digits", "--backbone", "starter", "--weights", "none"], "--weights none"),
        (["digits", "--backbone", "startr"], "did you mean starter"),
        (["digits", "--backbone", "starter", "--out", "."], "holds something else"),
        (["digits", "--epochs", "3"], "no option --epochs"),
    ],
)
def test_bad_input_is_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit) as end:
        main(["audit", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_line_prints_the_counts(photos, tmp_path, capsys):
    main(["audit", str(photos), "--backbone", "starter", "--image-size", "32", "--out", str(tmp_path / "audit")])
    assert capsys.readouterr().out.split() == ["near_duplicates", "2", "suspects", "1"]
