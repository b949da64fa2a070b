"""What an audit finds in images and features that are made up."""

import csv
import logging

import numpy as np
import pytest

from headstart.audit.data import examine
from headstart.training.linear import cross_validate
from helpers import dataset, scene


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


def test_labels_are_judged_by_the_components_as_they_are(tmp_path):
    labels = np.arange(60) % 2
    # Of the 6 that are used, the last ones tell the classes, and are small beside the first.
    components = noise(60) * np.array([9, 9, 9, 1, 1, 1, 1, 1], np.float32)
    components[:, 5] += 4 * labels
    given = components.copy()
    content = examine(dataset(scenes(range(60)), labels, "ab"), components, tmp_path)
    np.testing.assert_array_equal(components, given)
    assert content["strength"] == cross_validate(given[:48, :6], labels[:48]).strength


@pytest.mark.parametrize(("others", "checked"), [(40, True), (1, False)])
def test_the_only_image_of_a_class_is_left_out_of_the_label_check(others, checked, tmp_path):
    labels = np.repeat([0, 1, 2], [others, others, 1])
    components = noise(len(labels)) * 0.1
    components[:, 0] += 10 * labels
    if checked:
        labels[3] = 1
    content = examine(dataset(scenes(range(len(labels))), labels, "abc"), components, tmp_path)
    assert [entry["given"] for entry in content["suspects"]] == (["b"] if checked else [])
    assert ("fewer than two training images are not checked: c" in content["suspects_note"]) == checked
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
