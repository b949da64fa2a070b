"""How far a model's answers can be trusted travels with the model, and is said of each image."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import headstart as hs
from headstart.inference import classifier
from headstart.inference.limits import FILE, Limits, read_limits, write_limits
from headstart.metrics.rejection import promised_threshold
from headstart.results import answers
from helpers import change_manifest, mend_checksum


def made_up(images: int = 400) -> Limits:
    random = np.random.default_rng(0)
    confidences = np.linspace(0.5, 1, images, dtype=np.float32)
    return Limits(
        confidences, random.random(images) < confidences, random.random(images).astype(np.float32),
        np.eye(8, dtype=np.float16),
    )  # fmt: skip


def copied(run: hs.Run, folder) -> hs.Classifier:
    """The model alone, as it is sent on."""
    folder.mkdir()
    for name in ("manifest.json", "network.json", "weights.safetensors", "model.xml", "model.bin", FILE):
        shutil.copy(run.path / name, folder)
    return hs.Classifier(folder)


def test_they_are_read_as_they_were_written(tmp_path):
    limits = made_up()
    assert write_limits(tmp_path, limits) == FILE
    found = read_limits(tmp_path)
    for name in ("confidences", "correct", "distances", "references"):
        np.testing.assert_array_equal(getattr(found, name), getattr(limits, name))


def test_groups_travel_along_and_say_what_counts(tmp_path):
    groups = np.arange(400, dtype=np.int32) // 20
    write_limits(tmp_path, dataclasses.replace(made_up(), correct=np.ones(400, bool), groups=groups))
    found = read_limits(tmp_path)
    np.testing.assert_array_equal(found.groups, groups)
    with pytest.raises(hs.HeadstartError, match=r"400 validation images of 20 groups, which count here, .*; more groups"):
        found.threshold(0.95)
    assert dataclasses.replace(found, groups=None).threshold(0.95) == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": np.zeros(3, np.int32)}, {"groups": np.zeros(400)},
        {"correct": None}, {"more": np.zeros(3, np.float32)}, {"confidences": np.zeros(400, np.float64)},
        {"confidences": np.zeros(3, np.float32)}, {"distances": np.full(400, np.nan, np.float32)},
        {"references": np.zeros(8, np.float16)}, {"references": np.zeros((0, 8), np.float16)},
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(changes, tmp_path):
    write_limits(tmp_path, made_up())
    arrays = {name: array for name, array in (load_file(tmp_path / FILE) | changes).items() if array is not None}
    save_file(arrays, tmp_path / FILE)
    with pytest.raises(hs.HeadstartError, match="damaged"):
        read_limits(tmp_path)


def test_garbage_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"no arrays")
    with pytest.raises(hs.HeadstartError, match="damaged"):
        read_limits(tmp_path)


@pytest.mark.parametrize("wanted", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_precision_that_is_none_is_refused(wanted):
    with pytest.raises(hs.HeadstartError, match="above 0 and below 1"):
        made_up().threshold(wanted)


def test_what_validation_does_not_support_is_refused_with_the_best_that_it_does():
    with pytest.raises(hs.HeadstartError, match=r"400 validation images .* of 99\.5 % .* --reject 0\.\d+"):
        made_up().threshold(0.995)


def test_features_of_another_network_are_refused():
    with pytest.raises(hs.HeadstartError, match="8 channels"):
        made_up().outsiders(np.zeros((2, 9), np.float32))


def test_answers_that_are_not_sure_enough_are_rejected(small_run, digits, tmp_path):
    model = copied(small_run, tmp_path / "model")
    images, wanted = digits.images(digits.test), 0.3
    predictions = model.predict(images, reject=wanted)
    validated = answers(small_run.array("validation_fine_tuned"), digits.labels(digits.validation), model.temperature)
    assert predictions.threshold == promised_threshold(*validated, wanted)
    plain = model.predict(images)
    assert not plain.rejected.any()
    assert "rejected" not in plain.marks
    np.testing.assert_array_equal(predictions.rejected, plain.confidences < predictions.threshold)
    for label, likeliest, rejected in zip(predictions.labels, plain.labels, predictions.rejected, strict=True):
        assert label == ("none of these" if rejected else likeliest)
    np.testing.assert_array_equal(predictions.probabilities, plain.probabilities)


def test_an_older_run_can_neither_reject_nor_mark(small_run, digits, tmp_path):
    model = copied(small_run, tmp_path / "model")
    sums = {name: value for name, value in model.manifest["sha256"].items() if name != FILE}
    change_manifest(model.path, sha256=sums)
    older = hs.Classifier(model.path)
    predictions = older.predict(digits.images(digits.test[:3]))
    assert predictions.outsiders is None
    assert predictions.marks == {}
    with pytest.raises(hs.HeadstartError, match=r"older version.*train again"):
        older.predict(digits.images(digits.test[:3]), reject=0.5)


def test_mirror_images_have_other_confidences_than_validation(small_run, digits, tmp_path):
    model = copied(small_run, tmp_path / "model")
    with pytest.raises(hs.HeadstartError, match="--mirror"):
        model.predict(digits.images(digits.test[:3]), reject=0.5, mirror=True)


def test_a_changed_file_is_refused(small_run, digits, tmp_path):
    model = copied(small_run, tmp_path / "model")
    write_limits(model.path, made_up())
    with pytest.raises(hs.HeadstartError, match=FILE):
        model.predict(digits.images(digits.test[:3]))
    mend_checksum(model.path, FILE)
    with pytest.raises(hs.HeadstartError, match="does not fit the network"):
        hs.Classifier(model.path).predict(digits.images(digits.test[:3]))


@pytest.mark.parametrize("by_openvino", [True, False])
def test_images_unlike_the_training_images_are_marked_by_either_engine(by_openvino, small_run, digits, tmp_path, monkeypatch):
    if not by_openvino:
        monkeypatch.setattr(classifier, "compiled_file", lambda *_: None)
    model = copied(small_run, tmp_path / "model")
    figures = small_run.metrics["test"]["fine_tuned"]["outsiders"]
    flagged = model.predict(digits.images(digits.test)).outsiders
    assert flagged.dtype == bool
    assert flagged.mean() == pytest.approx(figures["flagged"], abs=0.03)  # engines round in their own ways
    assert (small_run.array("distances_validation") > figures["distance"]).mean() <= 0.06
    assert figures["images"] == len(model.limits.references) == len(digits.train)
    colours = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    assert model.predict(colours).outsiders.mean() > 0.8


def test_they_do_not_depend_on_how_many_are_asked(small_run, digits):
    images = digits.images(digits.test[:20])
    np.testing.assert_array_equal(small_run.predict(images).outsiders, small_run.predict(images, batch_size=3).outsiders)


def test_the_models_of_folds_answer_together_and_name_one_for_a_promise(small_run, digits, tmp_path):
    members = [copied(small_run, tmp_path / name).path for name in ("fold-0", "fold-1")]
    together, images = classifier.Ensemble(tmp_path, members), digits.images(digits.test[:3])
    assert not together.predict(images).outsiders.any()
    with pytest.raises(hs.HeadstartError, match=r"holds 2 models.*fold-0"):
        together.predict(images, reject=0.5)
