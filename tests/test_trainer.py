import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import headstart as hs
from headstart.metrics.calibration import fit_temperature
from headstart.metrics.classification import measure
from headstart.metrics.comparison import compare_stages, verdict
from headstart.record.folder import RunFolder
from headstart.training.checkpoint import Checkpoint
from helpers import SMALL


def comparable(run: hs.Run) -> tuple:
    """What must not depend on whether a run was interrupted: everything but times and memory."""
    figures = run.metrics["test"], run.metrics["comparison"], run.classifier.temperature
    return (run.path / "history.csv").read_bytes(), figures, run.classifier.manifest["sha256"].keys()


def test_a_run_holds_what_it_promises(small_run):
    names = {str(path.relative_to(small_run.path)) for path in small_run.path.rglob("*") if path.is_file()}
    assert names == {
        "config.toml", "data.json", "environment.json", "history.csv", "log.txt", "manifest.json", "metrics.json", "model.keras",
        "model.xml", "model.bin",
        "test_frozen.npy", "test_fine_tuned.npy", "validation_frozen.npy", "validation_fine_tuned.npy", "labels_test.npy",
        "labels_validation.npy", "images/history.png", "images/gain.png", "images/confusion.png", "images/samples.png",
        "images/mistakes.png", "report.html", "images/calibration.png",
        "split.csv", "audit.json", "near_duplicates.csv", "suspects.csv", "images/near_duplicates.png", "images/suspects.png",
    }  # fmt: skip
    assert set(small_run.metrics["seconds"]) == {"preparation", "features", "audit", "head", "fine_tuning", "total"}
    assert small_run.metrics["memory_mb"].keys() == small_run.metrics["seconds"].keys() - {"total"}
    assert min(small_run.metrics["memory_mb"].values()) > 100
    assert small_run.metrics["peak_memory_mb"] >= max(small_run.metrics["memory_mb"].values())
    assert [(row["stage"], row["epoch"]) for row in small_run.history] == [
        *(("frozen", epoch) for epoch in (1, 2, 3)), *(("fine_tuned", epoch) for epoch in (1, 2, 3, 4)),
    ]  # fmt: skip


def test_both_stages_learn(small_run):
    assert small_run.metrics["test"]["frozen"]["accuracy"] > 0.3
    assert small_run.metrics["test"]["fine_tuned"]["accuracy"] > small_run.metrics["test"]["frozen"]["accuracy"]


def test_the_figures_are_those_of_the_saved_model(small_run, digits):
    figures = small_run.evaluate(digits)
    assert figures["accuracy"] == small_run.metrics["test"]["fine_tuned"]["accuracy"]
    assert np.isclose(figures["loss"], small_run.metrics["test"]["fine_tuned"]["loss"], rtol=1e-3)


def test_every_figure_can_be_computed_again_from_the_runs_own_files(small_run):
    labels = small_run.array("labels_test")
    for stage, figures in small_run.metrics["test"].items():
        found = fit_temperature(small_run.array(f"validation_{stage}"), small_run.array("labels_validation"))
        expected = measure(small_run.test_logits(stage), labels, small_run.class_names, found.temperature)
        expected |= {"calibration": dataclasses.asdict(found)}
        assert {name: figures[name] for name in expected} == expected
        assert figures.keys() - expected.keys() <= {"near_duplicates_in_training", "without_near_duplicates"}
    comparison = compare_stages(small_run.test_logits("frozen"), small_run.test_logits("fine_tuned"), labels)
    assert small_run.metrics["comparison"] == comparison
    assert small_run.classifier.temperature == small_run.metrics["test"]["fine_tuned"]["temperature"]
    assert verdict(comparison) in (small_run.path / "log.txt").read_text()


def test_the_same_seed_gives_the_same_run(small_run, digits, tmp_path):
    again = hs.train(hs.recipe("starter", out=str(tmp_path / "again"), **SMALL), digits)
    assert comparable(again) == comparable(small_run)


def test_an_existing_run_is_not_overwritten_unasked(small_run):
    with pytest.raises(hs.HeadstartError, match="--overwrite"):
        hs.train(small_run.config)


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(hs.HeadstartError, match="not a run"):
        hs.train(hs.recipe("starter", out=str(tmp_path), **SMALL), overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"cache_features": False, "head_epochs": 1},
        {"class_weights": True, "label_smoothing": 0.1, "mix": "mixup", "ema": 0.9, "layer_decay": 0.1, "patience": 1},
        {"weights": "none", "rand_augment": True},
        {"fine_tune_from": "stage3", "hidden_units": 0, "precision": "bfloat16"},
        {"batch_norm": "training"},
        {"epochs": 0},
    ],
    ids=["plain frozen stage", "all of fine-tuning", "from scratch", "last stage in bfloat16", "norm learns", "frozen only"],
)
def test_options_lead_to_a_finished_run(options, digits, tmp_path):
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **SMALL | options), digits)
    assert run.finished
    assert np.isfinite([row["loss"] for row in run.history]).all()


def test_fine_tuning_on_cached_maps_is_fine_tuning_of_the_saved_model(digits, tmp_path):
    options = SMALL | {"fine_tune_from": "last-stage", "views": 2}
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **options), digits)
    figures = run.evaluate(digits)
    assert np.isclose(figures["loss"], run.metrics["test"]["fine_tuned"]["loss"], rtol=1e-2)
    assert figures["accuracy"] > run.metrics["test"]["frozen"]["accuracy"]


def test_few_images_get_more_epochs(digits, tmp_path):
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **SMALL | {"epochs": 1, "fewest_steps": 12}), digits)
    steps = len(digits.train) // SMALL["batch_size"]
    assert sum(row["stage"] == "fine_tuned" for row in run.history) == -(-12 // steps)


def test_smoothed_labels_do_not_lose_a_tie_by_their_loss(digits, tmp_path):
    options = SMALL | {"label_smoothing": 0.5, "learning_rate": 1e-8, "epochs": 1}
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **options), digits)
    *_, frozen, fine_tuned = run.history
    assert fine_tuned["val_accuracy"] == frozen["val_accuracy"]
    assert fine_tuned["val_loss"] > frozen["val_loss"]
    assert "fine_tuned: kept epoch 1" in (run.path / "log.txt").read_text()


def test_an_unknown_layer_to_unfreeze_from_is_refused(digits, tmp_path):
    with pytest.raises(hs.HeadstartError, match="did you mean stage3"):
        hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **SMALL | {"fine_tune_from": "stage3_conv"}), digits)


def test_resuming_on_other_images_is_refused(digits, tmp_path):
    run = RunFolder.create(hs.recipe("starter", out=str(tmp_path / "run"), **SMALL), digits)
    with pytest.raises(hs.HeadstartError, match="split in another way"):
        hs.resume(run.path, hs.load_data("digits", limit=300, seed=1))
    changed = digits.source.images.copy()
    changed[digits.train[0]] = 0
    images = dataclasses.replace(digits.source, images=changed)
    with pytest.raises(hs.HeadstartError, match="1 image with other pixels"):
        hs.resume(run.path, dataclasses.replace(digits, source=images))


def test_a_run_with_data_of_its_own_keeps_their_split(tmp_path):
    """Seed, fractions and source differ from those of the configuration, which would draw another split."""
    data = hs.load_data("digits", limit=200, seed=3, test_fraction=0.4)
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **SMALL | {"data": "cifar10", "epochs": 0}), data)
    assert run.config.data == "digits"
    own = run.load_data()
    assert np.array_equal(own.test, data.test)
    assert run.evaluate(own)["accuracy"] == run.metrics["test"]["frozen"]["accuracy"]


def test_running_out_of_memory_suggests_a_batch_size(digits, tmp_path, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("headstart.trainer.fit_stage", exhausted)
    with pytest.raises(hs.HeadstartError, match="--batch-size 8"):
        hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **SMALL), digits)


def command(out: Path, *extra: str) -> list[str]:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items() if key != "flip"]
    return [sys.executable, "-m", "headstart", "train", "--recipe", "starter", "--no-flip", *options, "--out", str(out), *extra]


@pytest.mark.parametrize(
    ("stage", "batch_norm"), [("frozen", "auto"), ("fine_tuned", "auto"), ("frozen", "training")],
    ids=["frozen stage", "fine-tuning", "batch norm adapted to the images"],
)  # fmt: skip
def test_a_killed_run_goes_on_as_if_it_had_not_been(stage, batch_norm, small_run, digits, tmp_path):
    undisturbed = small_run
    if batch_norm != "auto":
        undisturbed = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **SMALL | {"batch_norm": batch_norm}), digits)
    out = tmp_path / "killed"
    process = subprocess.Popen(command(out, f"--batch-norm={batch_norm}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = out / "checkpoint" / "state.json"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if state.exists() and Checkpoint(state.parent).epochs_of(stage):
            break
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (out / "manifest.json").exists(), "the run ended before it was killed"
    resumed = subprocess.run(
        [sys.executable, "-m", "headstart", "train", "--resume", str(out)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "Traceback" not in resumed.stderr
    assert comparable(hs.Run(out)) == comparable(undisturbed)
    assert not (out / "checkpoint").exists()


def test_the_environment_lies_beside_the_result(small_run):
    environment = json.loads((small_run.path / "environment.json").read_text())
    assert {"keras", "numpy", "backend", "precision", "command", "cores"} <= environment.keys()
