"""Whether mirroring contradicts the labels: over all, in a few classes only, or not at all."""

import json

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.audit.mirror import judge, mirror_answers, sample

NAMES = ("left", "right", "stop", "go")


def test_answers_on_features_that_mirroring_changes():
    """Features of left are those of right mirrored; the classifier has seen none mirrored."""
    random, labels = np.random.default_rng(0), np.arange(80) % 2
    plain = random.normal(size=(80, 5)) + 4 * labels[:, None] * [1, 0, 0, 0, 0]
    plain_answers, mirrored_answers = mirror_answers(plain, plain[np.arange(80) ^ 1], labels)
    assert (plain_answers == labels).mean() > 0.95
    assert (mirrored_answers == 1 - labels).mean() > 0.95


def test_classes_that_mirroring_swaps():
    labels = np.repeat(np.arange(2), 30)
    found = judge(labels, 1 - labels, labels, NAMES)
    assert found == {
        "images": 60, "accuracy": 1.0, "mirrored_accuracy": 0.0, "contradicts": True, "swapped": ["left", "right"],
    }  # fmt: skip


def test_two_of_many_classes_suffice():
    """As with traffic signs: nearly all may be mirrored, and two become each other."""
    names = tuple(f"sign {number}" for number in range(40))
    labels = np.repeat(np.arange(40), 25)
    mirrored = np.where(labels == 7, 8, np.where(labels == 8, 7, labels))
    found = judge(labels, mirrored, labels, names)
    assert found["contradicts"]
    assert found["swapped"] == ["sign 7", "sign 8"]


def test_classes_that_become_nothing_in_particular():
    """As letters do."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(4), 50)
    found = judge(labels, np.where(random.random(200) < 0.5, random.integers(0, 4, 200), labels), labels, NAMES)
    assert found["contradicts"]
    assert "swapped" not in found


def test_two_classes_that_are_hard_to_tell_apart_and_swap():
    """Quarter turns: two thirds are right, and of the mirror images one third."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(4), 60)
    hard = np.where((labels < 2) & (random.random(240) < 0.3), 1 - labels, labels)
    found = judge(hard, np.where(labels < 2, 1 - hard, labels), labels, NAMES)
    assert found["swapped"] == ["left", "right"]


def test_answers_that_mirroring_changes_by_chance():
    random, labels = np.random.default_rng(0), np.repeat(np.arange(4), 50)
    noisy = [np.where(random.random(200) < 0.2, random.integers(0, 4, 200), labels) for _ in range(2)]
    assert not judge(*noisy, labels, NAMES)["contradicts"]
    assert not judge(labels[:4], 1 - labels[:4], labels[:4], NAMES)["contradicts"], "four images prove nothing"


def test_images_that_are_looked_at():
    assert len(sample(np.arange(60_000), 10)) == 1000
    assert len(sample(np.arange(60_000), 100)) == 2500
    assert sample(np.arange(60), 10).tolist() == list(range(60))


@pytest.fixture(scope="module")
def arrows(tmp_path_factory):
    """Wedges that point to the left and to the right."""
    root, random = tmp_path_factory.mktemp("arrows"), np.random.default_rng(0)
    for number in range(120):
        image = random.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        for column in range(16):
            image[16 - column // 2 : 17 + column // 2, 8 + column] = 220
        left = number % 2 == 0
        folder = root / ("left" if left else "right")
        folder.mkdir(exist_ok=True)
        Image.fromarray(image if left else image[:, ::-1]).save(folder / f"{number}.png")
    return root


OPTIONS = {"image_size": 32, "epochs": 0, "head_epochs": 5, "hidden_units": 0, "head_learning_rate": 0.01, "views": 1,
           "precision": "float32"}  # fmt: skip


def test_a_run_on_arrows_does_not_flip_them(arrows, tmp_path):
    run = hs.train(hs.recipe("starter", data=str(arrows), out=str(tmp_path / "run"), **OPTIONS))
    assert not run.config.flip
    assert not hs.Run(run.path).config.flip
    assert run.mirror["contradicts"]
    assert run.metrics["test"]["frozen"]["accuracy"] == 1
    log = (run.path / "log.txt").read_text()
    assert "mirror images contradict the labels" in log
    assert "flipping is switched off, as by --no-flip" in log
    with pytest.raises(hs.HeadstartError, match="leave out --mirror"):
        run.predict(arrows, mirror=True)


def test_too_few_images_tell_nothing_of_mirroring(arrows, tiny, tmp_path):
    """Three of each class, of which one is for training."""
    for path in sorted(arrows.rglob("*.png")):
        target = tmp_path / "few" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if len(list(target.parent.iterdir())) < 3:
            target.write_bytes(path.read_bytes())
    options = tiny | {"flip": True, "limit": 0}
    run = hs.train(hs.recipe("starter", **options | {"data": str(tmp_path / "few"), "out": str(tmp_path / "run")}))
    assert run.config.flip
    assert "was not tested: that needs two training images of two classes" in (run.path / "log.txt").read_text()


def test_flipping_that_was_asked_for_stays_on(arrows, tmp_path):
    config = hs.recipe("starter", data=str(arrows), out=str(tmp_path / "run"), **OPTIONS | {"head_epochs": 1})
    run = hs.train(config, explicit={"flip"})
    assert run.config.flip
    assert json.loads((run.path / "mirror.json").read_text())["contradicts"]
    assert "flipping stays on, since --flip was given" in (run.path / "log.txt").read_text()
