"""The audit as a part of a run."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import headstart as hs
from headstart.audit.of_run import audit_run, finish_audit
from headstart.system.files import write_json
from helpers import dataset, photo_options, save, scene


def test_a_run_says_how_accurate_it_is_without_near_duplicates(photo_run):
    content = photo_run.read_json("audit.json")
    assert content["accuracy_without_near_duplicates"].keys() == {"frozen", "fine_tuned"}
    for stage, figures in content["accuracy_without_near_duplicates"].items():
        assert (figures["images"], figures["left_out"]) == (9, 1)
        low, high = figures["interval"]
        assert low <= figures["accuracy"] <= high
        right = photo_run.test_logits(stage).argmax(axis=1) == np.array([0] * 5 + [1] * 5)
        assert figures["accuracy"] == pytest.approx(np.delete(right, 5).mean())  # 050.png is the first of the red ones


def test_dropping_duplicates_leaves_them_out_of_training_alone(photos, photo_run, tmp_path):
    run = hs.train(photo_options(photos, tmp_path / "run", drop_duplicates=True, head_epochs=1, epochs=0))
    assert photo_run.read_json("data.json")["images"] == {"training": 43, "validation": 10, "test": 10}
    assert run.read_json("data.json")["images"] == {"training": 41, "validation": 10, "test": 10}
    assert run.read_json("audit.json")["accuracy_without_near_duplicates"]["frozen"]["left_out"] == 0


def test_a_class_of_nothing_but_near_duplicates_cannot_be_dropped(tmp_path):
    for seed in range(12):
        save(scene(seed), tmp_path / "photos" / "train" / ("blue" if seed % 2 else "red") / f"{seed}.png")
    for seed in range(6):
        save(scene(2 * seed + 1).crop((1, 1, 39, 39)), tmp_path / "photos" / "val" / "blue" / f"{seed}.png")
        save(scene(100 + 2 * seed), tmp_path / "photos" / "val" / "red" / f"{seed}.png")
        save(scene(200 + seed), tmp_path / "photos" / "test" / ("blue" if seed % 2 else "red") / f"{seed}.png")
    with pytest.raises(hs.HeadstartError, match="'blue' has no training image left"):
        hs.train(photo_options(tmp_path / "photos", tmp_path / "run", drop_duplicates=True))


def test_held_out_labels_are_judged_again_by_the_fine_tuned_network(small_run, digits, tmp_path):
    """A network that is right and sure of all but one test image leaves that one suspect, and training's as they were."""
    run = hs.Run(shutil.copytree(small_run.path, tmp_path / "run"))
    (run.path / "manifest.json").unlink()  # as before the results are written
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


def scenes(count: int) -> np.ndarray:
    return np.stack([np.asarray(scene(seed).resize((32, 32))) for seed in range(count)])


@pytest.mark.parametrize("flip", [True, False])
def test_mirror_images_are_near_duplicates_only_where_a_run_flips(flip, tmp_path, monkeypatch):
    images, features = scenes(40), np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    images[39], features[39] = images[0][:, ::-1], features[0]
    run = SimpleNamespace(path=tmp_path, config=hs.recipe("starter", flip=flip))
    monkeypatch.setattr("headstart.audit.of_run.all_features", lambda frozen, data: features)
    clock = SimpleNamespace(start_clock=lambda: None, stop_clock=lambda name: None)
    audit_run(run, None, dataset(images, np.arange(40) % 2, "ab"), clock)
    content = json.loads((tmp_path / "audit.json").read_text())
    assert len(content["near_duplicates"]) == flip
