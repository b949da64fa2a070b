"""Distances to neighbours among the training images."""

import numpy as np
import pytest

from headstart.metrics import outsiders
from headstart.metrics.outsiders import NEIGHBOUR, directions, neighbour_distances, passing_distance


def test_the_distance_is_that_to_the_fifth_neighbour_in_direction(monkeypatch):
    monkeypatch.setattr(outsiders, "ROWS", 7)  # in several pieces
    random = np.random.default_rng(0)
    references, features = directions(random.normal(size=(50, 8))), random.normal(size=(30, 8)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.sort(np.linalg.norm(unit[:, None] - references[None], axis=2), axis=1)[:, NEIGHBOUR - 1]
    np.testing.assert_allclose(neighbour_distances(features, references), expected, rtol=1e-4)
    np.testing.assert_allclose(neighbour_distances(1000 * features, references), expected, rtol=1e-4)


def test_with_few_references_the_farthest_counts():
    references = directions(np.eye(3))
    assert neighbour_distances(np.array([[1.0, 0, 0]]), references) == pytest.approx([2**0.5])


def test_features_without_a_direction_are_no_error():
    assert np.isfinite(neighbour_distances(np.zeros((2, 4)), directions(np.eye(4)))).all()
    assert len(neighbour_distances(np.zeros((0, 4)), directions(np.eye(4)))) == 0


def test_nineteen_of_twenty_images_pass():
    distances = np.random.default_rng(0).random(1000)
    assert (distances > passing_distance(distances)).mean() == pytest.approx(0.05, abs=0.002)
    assert passing_distance(np.array([0.5])) == 0.5
