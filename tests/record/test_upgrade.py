"""A run of the digits by the version before images were called images; its backbone is tiny, so that its model is too."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import headstart as hs
from headstart.record.upgrade import upgraded

OLD_RUN = Path(__file__).parents[1] / "data_files" / "old_run"


@pytest.fixture(scope="module")
def old_run() -> hs.Run:
    return hs.Run(OLD_RUN)


@pytest.fixture(scope="module")
def data(old_run) -> hs.Dataset:
    return old_run.load_data()


def test_the_files_have_the_old_names():
    """Else the other tests prove nothing."""
    assert "pictures" in json.loads((OLD_RUN / "metrics.json").read_text())["test"]["frozen"]
    assert "picture_shape" in json.loads((OLD_RUN / "data.json").read_text())
    assert "accuracy_without_twins" in json.loads((OLD_RUN / "audit.json").read_text())


def test_its_figures_have_todays_names(old_run):
    assert old_run.metrics["test"]["frozen"]["images"] == 60
    assert old_run.read_json("data.json")["images"] == {"training": 60, "validation": 60, "test": 60}
    assert {"split", "given"} <= old_run.audit["suspects"][0].keys()
    assert old_run.audit["accuracy_without_near_duplicates"]["frozen"]["images"] == 60
    assert old_run.summary() == "frozen 53.33 %, fine-tuned 55.00 %"


def test_it_classifies_by_openvino_and_by_keras(old_run, data):
    images, expected = data.images(data.test), old_run.test_logits("fine_tuned").argmax(axis=1)
    by_keras = old_run.model.predict(images, verbose=0)
    assert (by_keras.argmax(axis=1) == expected).mean() > 0.95
    assert (old_run.predict(images).probabilities.argmax(axis=1) == expected).mean() > 0.95


def test_it_is_evaluated_on_its_own_split(old_run, data):
    assert [len(rows) for rows in (data.train, data.validation, data.test)] == [60, 60, 60]
    found, told = old_run.evaluate(), old_run.metrics["test"]["fine_tuned"]
    assert (found["images"], found["left_out"]) == (60, {"training": 0, "validation": 0})
    assert found["accuracy"] == pytest.approx(told["accuracy"], abs=0.03)  # whose model was computed on another machine


def test_it_is_explained(old_run, data):
    explained = old_run.explain(data.images(data.test[:3]))
    assert explained.method.startswith("HiResCAM, 8 x 8")
    assert explained.maps.shape == (3, 8, 8)
    np.testing.assert_allclose(explained.maps.max(axis=(1, 2)), 1)


def test_it_is_compared_with_itself(old_run, tmp_path):
    comparison = hs.Comparison(old_run, hs.Run(shutil.copytree(OLD_RUN, tmp_path / "other")))
    assert comparison.verdict().startswith("The difference could be chance: 0 images are right only in")
    assert ("test images", "60", "60", "") in [tuple(row) for row in comparison.rows()]


def test_classes_may_be_called_like_an_old_name():
    classes = {"pictures": {"support": 1}, "part": {"support": 2}}
    counts = {"training": {"pictures": 3, "part": 4}}
    old = {
        "test": {"frozen": {"pictures": 7, "per_class": classes}},
        "pictures_by_class": counts, "classes": counts,
        "near_duplicates": [{"first": "pictures", "parts": ["test", "training"], "labels": ["part", "pictures"]}],
        "suspects": [{"part": "test", "given": "part"}],
    }  # fmt: skip
    assert upgraded(old) == {
        "test": {"frozen": {"images": 7, "per_class": classes}},
        "images_by_class": counts, "classes": counts,
        "near_duplicates": [{"first": "pictures", "splits": ["test", "training"], "labels": ["part", "pictures"]}],
        "suspects": [{"split": "test", "given": "part"}],
    }  # fmt: skip


def test_todays_files_stay_as_they_are(small_run):
    for name in ("metrics.json", "data.json", "audit.json"):
        assert small_run.read_json(name) == json.loads((small_run.path / name).read_text())
