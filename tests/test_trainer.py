import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import headstart as hs
from headstart import trainer
from headstart.metrics.calibration import fit_temperature
from headstart.metrics.classification import measure
from headstart.metrics.comparison import compare_stages, verdict
from headstart.model.backbones import load_backbone
from headstart.model.network import Network, build_network
from headstart.record.folder import RunFolder
from headstart.record.history import FINE_TUNED, FROZEN
from headstart.training.checkpoint import Checkpoint
from headstart.training.fit import Training, fit_stage
from helpers import SMALL, save_images, uneven


def comparable(run: hs.Run) -> tuple:
    """What must not depend on whether a run was interrupted: everything but times and memory."""
    figures = run.metrics["test"], run.metrics["comparison"], run.classifier.temperature
    return (run.path / "history.csv").read_bytes(), figures, run.classifier.manifest["sha256"].keys()


def test_a_run_holds_what_it_promises(small_run):
    names = {str(path.relative_to(small_run.path)) for path in small_run.path.rglob("*") if path.is_file()}
    assert names == {
        "config.toml", "data.json", "environment.json", "history.csv", "log.txt", "manifest.json", "metrics.json", "network.json",
        "weights.safetensors", "model.xml", "model.bin", "limits.safetensors", "distances_test.npy", "distances_validation.npy",
        "test_frozen.npy", "test_fine_tuned.npy", "validation_frozen.npy", "validation_fine_tuned.npy", "labels_test.npy",
        "labels_validation.npy", "images/history.png", "images/gain.png", "images/confusion.png", "images/samples.png",
        "images/mistakes.png", "report.html", "images/calibration.png", "images/rejection.png",
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
        assert figures.keys() - expected.keys() <= {
            "near_duplicates_in_training", "without_near_duplicates", "rejection", "outsiders",
        }  # fmt: skip
    comparison = compare_stages(small_run.test_logits("frozen"), small_run.test_logits("fine_tuned"), labels)
    assert small_run.metrics["comparison"] == comparison
    assert small_run.classifier.temperature == small_run.metrics["test"]["fine_tuned"]["temperature"]
    assert verdict(comparison) in (small_run.path / "log.txt").read_text()


def test_an_existing_run_is_not_overwritten_unasked(small_run):
    with pytest.raises(hs.HeadstartError, match="--overwrite"):
        hs.train(small_run.config)


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(hs.HeadstartError, match="not a run"):
        hs.train(hs.recipe("starter", out=str(tmp_path), **SMALL), overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def trained(out: Path, data: hs.Dataset, options: dict, **changes: object) -> hs.Run:
    """Return a run with some of the options changed."""
    return hs.train(hs.recipe("starter", out=str(out), **options | changes), data)


def test_a_recipe_is_trained_by_its_name_with_options(tiny, folder_of_digits, tmp_path):
    options = {name: value for name, value in tiny.items() if name not in ("data", "limit")}
    run = hs.train("quick", data=folder_of_digits, out=str(tmp_path / "run"), **options)
    assert (run.config.recipe, run.config.data, run.config.views) == ("quick", str(folder_of_digits), 1)
    assert run.config.batch_size == tiny["batch_size"] != hs.recipe("quick").batch_size
    assert run.class_names == tuple("0123456789")


def test_a_training_can_be_watched_step_by_step(tiny, digits, tmp_path):
    steps = hs.steps(hs.recipe("starter", out=str(tmp_path / "run"), **tiny | {"epochs": 1}), digits)
    network = next(steps)
    assert not network.backbone.trainable_weights
    frozen = next(steps)
    assert frozen.stage == FROZEN
    before = frozen.learner.get_weights()
    tuning = next(steps)
    assert tuning.stage == FINE_TUNED
    assert network.backbone.trainable_weights
    assert not all(map(np.array_equal, frozen.learner.get_weights(), before))
    (run,) = steps
    assert run.finished
    assert run.metrics["test"].keys() == {"frozen", "fine_tuned"}


def test_several_seeds_do_not_go_step_by_step(digits, tmp_path):
    with pytest.raises(hs.HeadstartError, match="--seeds 2 makes a run for each seed"):
        next(hs.steps("starter", digits, seeds=2, out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("quik", {}, "did you mean quick"),
        ("quick", {"epoch": 3}, "did you mean epochs"),
        ("quick", {"epochs": -1}, "--epochs is -1"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_starts(name, options, message):
    with pytest.raises(hs.HeadstartError, match=message):
        hs.train(name, data="digits", **options)


def backbone_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the weights of the backbone within a saved model, by their paths."""
    return {weight.path: np.array(weight) for weight in Network.of_saved(model).backbone.weights}


@pytest.fixture(scope="module")
def folder_of_digits(digits, tmp_path_factory) -> Path:
    root, rows = tmp_path_factory.mktemp("digits"), digits.train[:80]
    save_images(digits.images(rows), digits.labels(rows), root, digits.class_names)
    return root


@pytest.fixture(scope="module")
def frozen_alone(digits, tiny, tmp_path_factory) -> hs.Run:
    return trained(tmp_path_factory.mktemp("runs") / "frozen", digits, tiny)


def test_without_fine_tuning_the_backbone_stays_as_it_came(frozen_alone, digits):
    assert frozen_alone.metrics["test"].keys() == {"frozen"}
    assert "comparison" not in frozen_alone.metrics
    network = build_network(*load_backbone(frozen_alone.config), digits.image_shape, 10, frozen_alone.config, "float32")
    came = {weight.path: np.array(weight) for weight in network.backbone.weights}
    assert all(np.array_equal(came[path], weight) for path, weight in backbone_of(frozen_alone.model).items())


def test_a_run_without_cached_features_keeps_none_and_is_not_audited(digits, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    run = trained(tmp_path / "run", digits, tiny, cache_features=False)
    assert run.metrics["seconds"].keys() == {"preparation", "head", "total"}
    assert not list((tmp_path / "cache").rglob("*.npy"))
    assert not (run.path / "audit.json").exists()
    assert "no audit" in (run.path / "log.txt").read_text()
    assert np.isclose(run.evaluate(digits)["loss"], run.metrics["test"]["frozen"]["loss"], rtol=1e-2)


def test_from_scratch_there_is_one_stage_and_batch_norm_learns(frozen_alone, digits, tiny, tmp_path):
    run = trained(tmp_path / "run", digits, tiny, weights="none", fine_tune_from="all", rand_augment=True, epochs=2)
    assert run.metrics["test"].keys() == {"scratch"}
    assert run.metrics["seconds"].keys() == {"preparation", "training", "total"}
    assert [(row["stage"], row["epoch"]) for row in run.history] == [("scratch", 1), ("scratch", 2)]
    weights = backbone_of(run.model)
    learned = [path for path in weights if "moving_mean" in path]
    assert len(learned) == 3
    assert all(weights[path].any() for path in learned)  # they began at 0
    came = backbone_of(frozen_alone.model)
    assert not np.allclose(weights["stage0_conv/kernel"], came["stage0_conv/kernel"], atol=0.01)


def test_the_last_stage_in_bfloat16_learns_and_the_others_stay(digits, tmp_path):
    # The head learns nothing before, so that fine-tuning the starter is better by far, and kept, on any processor.
    learning = {"head_learning_rate": 1e-7, "learning_rate": 1e-3, "warmup_steps": 0, "epochs": 3}
    run = trained(tmp_path / "run", digits, SMALL, fine_tune_from="last-stage", precision="bfloat16", **learning)
    assert run.classifier.manifest["precision"] == "bfloat16"
    network = build_network(*load_backbone(run.config), digits.image_shape, 10, run.config, "float32")
    came = {weight.path: np.array(weight) for weight in network.backbone.weights}
    after = backbone_of(run.model)
    changed = {path.split("_")[0] for path in after if not np.array_equal(after[path], came[path])}
    assert changed == {"stage3", "top"}  # the last stage, and what follows it


@pytest.mark.slow
def test_fine_tuning_on_cached_maps_is_fine_tuning_of_the_saved_model(digits, tmp_path):
    run = trained(tmp_path / "run", digits, SMALL, fine_tune_from="last-stage", views=2)
    figures = run.evaluate(digits)
    assert np.isclose(figures["loss"], run.metrics["test"]["fine_tuned"]["loss"], rtol=1e-2)
    assert figures["accuracy"] > run.metrics["test"]["frozen"]["accuracy"]


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


def test_a_run_with_data_of_its_own_keeps_their_split(tiny, tmp_path):
    """Seed, fractions and source differ from those of the configuration, which would draw another split."""
    data = hs.load_data("digits", limit=200, seed=3, test_fraction=0.4)
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **tiny | {"data": "cifar10"}), data)
    assert run.config.data == "digits"
    own = run.load_data()
    assert np.array_equal(own.test, data.test)
    assert np.isclose(run.evaluate(own)["loss"], run.metrics["test"]["frozen"]["loss"], rtol=1e-2)


def test_running_out_of_memory_suggests_a_batch_size(digits, tiny, tmp_path, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("headstart.trainer.fit_stage", exhausted)
    with pytest.raises(hs.HeadstartError, match="--batch-size 8"):
        hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **tiny), digits)


def command(out: Path) -> list[str]:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items() if key != "flip"]
    return [sys.executable, "-m", "headstart", "train", "--recipe", "starter", "--no-flip", *options, "--out", str(out)]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(small_run, tmp_path):
    """Killed in fine-tuning, and so trained by two processes, it ends as one in a single process; `kills.py` kills anywhere."""
    out = tmp_path / "killed"
    kill_in("fine_tuned", command(out), out)
    assert not (out / "manifest.json").exists(), "the run ended before it was killed"
    arguments = [sys.executable, "-m", "headstart", "train", "--resume", str(out)]
    resumed = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=True)
    assert "Traceback" not in resumed.stderr
    assert comparable(hs.Run(out)) == comparable(small_run)
    assert not (out / "checkpoint").exists()


def kill_in(stage: str, arguments: list[str], out: Path) -> None:
    """Start a training and kill it once its checkpoint has an epoch of a stage."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = out / "checkpoint" / "state.json"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if state.exists() and Checkpoint(state.parent).epochs_of(stage):
            break
        time.sleep(0.005)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_batch_norm_that_was_adapted_to_the_images_is_so_again_when_a_run_goes_on(digits, tiny, tmp_path, monkeypatch):
    def interrupted(training: Training, checkpoint: Checkpoint, patience: int) -> None:
        fit_stage(training, checkpoint, patience)
        raise KeyboardInterrupt

    options = {"batch_norm": "training", "epochs": 1, "head_epochs": 2}
    whole, out = trained(tmp_path / "whole", digits, tiny, **options), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("headstart.trainer.fit_stage", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(out, digits, tiny, **options)
    assert comparable(hs.resume(out, digits)) == comparable(whole)


def test_the_environment_lies_beside_the_result(small_run):
    environment = json.loads((small_run.path / "environment.json").read_text())
    assert {"keras", "numpy", "backend", "precision", "command", "cores"} <= environment.keys()


def test_a_trained_network_can_be_exported_for_openvino(digits, tmp_path, monkeypatch):
    """Though the head was compiled before: a copy of the network takes no optimizer along, which it could not build."""
    monkeypatch.setattr("headstart.inference.engine.FEWEST_IMAGES", 1)
    run = trained(tmp_path / "run", digits, SMALL, head_epochs=1, epochs=1)
    assert "instantiating a `Variable`" not in (run.path / "log.txt").read_text()


def test_uneven_classes_are_weighted_and_judged_by_macro_recall(tiny, tmp_path):
    data = uneven((100, 100, 12))
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **tiny | {"limit": 0, "head": "dense"}), data)
    choice = run.read_json("weighting.json")
    assert run.config.class_weights == "auto"
    assert choice["chosen"] in ("none", "root", "balanced")
    assert "weighting.json" in run.classifier.manifest["sha256"]
    assert f"class weights: {choice['chosen']}" in (run.path / "log.txt").read_text()
    assert all(("val_macro_recall" in row) == (choice["chosen"] != "none") for row in run.history)
    balanced = trained(tmp_path / "balanced", data, tiny, limit=0, head="dense", class_weights="balanced")
    recalls = [one["recall"] for one in balanced.metrics["test"]["frozen"]["per_class"].values()]
    assert balanced.metrics["test"]["frozen"]["macro"]["recall"] == pytest.approx(np.mean(recalls))
    assert 0 <= balanced.history[-1]["val_macro_recall"] <= 1
    assert not (balanced.path / "weighting.json").exists()


def test_even_classes_are_left_alone(tiny, tmp_path):
    run = trained(tmp_path / "run", uneven((40, 40, 20)), tiny, limit=0, class_weights="auto")
    assert not (run.path / "weighting.json").exists()
    assert "val_macro_recall" not in run.history[0]


def test_a_run_that_was_stopped_before_its_features_were_kept_measures_them_again(tiny, digits, tmp_path, monkeypatch):
    """As one of an earlier version, which has logits but no distances."""
    monkeypatch.setattr(trainer, "write_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    options = hs.recipe("starter", out=str(tmp_path / "run"), **tiny)
    with pytest.raises(KeyboardInterrupt):
        hs.train(options, digits)
    monkeypatch.undo()
    (tmp_path / "run" / "checkpoint" / "references.npy").unlink()
    for split in ("test", "validation"):
        (tmp_path / "run" / f"distances_{split}.npy").unlink()
    run = hs.resume(tmp_path / "run", digits)
    assert run.predict(digits.images(digits.test[:3])).outsiders is not None
