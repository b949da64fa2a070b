import dataclasses

import numpy as np
import pytest

from headstart.inference.predictions import Predictions


def predictions(*names: str) -> Predictions:
    sure = np.float32([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4], [0.5, 0.5]])[: len(names)]
    return Predictions(list(names), sure, ("cat", "dog"), ["broken.jpg: no image"])


def test_each_image_has_a_name_a_label_and_a_confidence():
    found = predictions("a.jpg", "b.jpg")
    assert len(found) == 2
    assert [(one.name, one.label) for one in found] == [("a.jpg", "cat"), ("b.jpg", "dog")]
    np.testing.assert_allclose([one.confidence for one in found], [0.9, 0.75])
    assert found.labels == ["cat", "dog"]
    np.testing.assert_allclose(found.confidences, [0.9, 0.75])


def test_none_are_none():
    assert (len(predictions()), list(predictions())) == (0, [])


def test_a_data_frame_has_a_row_for_each_image_and_a_column_for_each_class():
    pytest.importorskip("pandas")
    frame = predictions("a.jpg", "b.jpg").to_frame()
    assert list(frame.columns) == ["image", "class", "confidence", "cat", "dog"]
    assert list(frame["image"]) == ["a.jpg", "b.jpg"]
    assert list(frame["class"]) == ["cat", "dog"]
    np.testing.assert_allclose(frame[["cat", "dog"]], [[0.9, 0.1], [0.25, 0.75]])


def test_they_are_shown_in_a_line():
    assert repr(predictions("a.jpg", "b.jpg")) == "Predictions(2: a.jpg: cat 90 %, b.jpg: dog 75 %)"
    long = repr(predictions(*["/" + "photos" * 100 + "\n.jpg"] * 4))
    assert len(long) < 300
    assert long.isprintable()
    assert long.endswith(", ...)")


def test_what_is_rejected_has_no_class_and_outsiders_are_marked():
    found = predictions("a.jpg", "b.jpg", "c.jpg")
    assert found.marks == {}
    doubtful = dataclasses.replace(found, threshold=0.75, outsiders=np.array([True, False, False]))
    assert doubtful.labels == ["cat", "dog", "none of these"]
    assert [one.label for one in doubtful] == doubtful.labels
    assert {name: marks.tolist() for name, marks in doubtful.marks.items()} == {
        "rejected": [False, False, True], "unlike": [True, False, False],
    }  # fmt: skip
    pytest.importorskip("pandas")
    assert list(doubtful.to_frame().columns) == ["image", "class", "confidence", "rejected", "unlike", "cat", "dog"]
