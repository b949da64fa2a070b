import numpy as np
import pytest

from headstart.metrics.comparison import compare_stages, mcnemar, verdict


def logits_right_on(right: list[bool]) -> np.ndarray:
    return np.eye(2)[[0 if one else 1 for one in right]]


def test_mcnemars_exact_test():
    # 1 against 8 of 9 that differ: 2 * (1 + 9) / 2**9.
    frozen, fine_tuned = logits_right_on([True] + 8 * [False] + 5 * [True]), logits_right_on([False] + 13 * [True])
    comparison = compare_stages(frozen, fine_tuned, np.zeros(14, int))
    assert comparison == {"only_frozen_right": 1, "only_fine_tuned_right": 8, "p_value": pytest.approx(20 / 512)}
    assert verdict(comparison).startswith("fine-tuning helped: 8 ")
    backwards = compare_stages(fine_tuned, frozen, np.zeros(14, int))
    assert verdict(backwards).startswith("fine-tuning did harm: 1 ")


def test_stages_that_agree_cannot_be_told_apart():
    comparison = compare_stages(np.eye(2), np.eye(2), np.array([0, 0]))
    assert comparison["p_value"] == 1.0
    assert "cannot be told" in verdict(comparison)


def test_with_each_image_a_group_it_is_mcnemars_test():
    random = np.random.default_rng(1)
    first, second = random.random((2, 40)) < [[0.6], [0.8]]
    assert mcnemar(first, second, np.arange(40)) == pytest.approx(mcnemar(first, second))


def test_groups_change_sides_as_a_whole():
    first, second = np.zeros(30, bool), np.ones(30, bool)
    assert mcnemar(first, second)[2] < 1e-8
    assert mcnemar(first, second, np.repeat(np.arange(3), 10)) == (0, 30, 0.25)  # 2 of 8 ways to choose signs
    assert mcnemar(first, first, np.repeat(np.arange(3), 10))[2] == 1
    logits = np.eye(2)[second.astype(int)]
    found = compare_stages(1 - logits, logits, np.ones(30, int), np.repeat(np.arange(3), 10))
    assert found["groups"] == 3
    assert "exact McNemar test of 3 whole groups, p = 0.25" in verdict(found)
