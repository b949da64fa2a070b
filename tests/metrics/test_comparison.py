import numpy as np
import pytest

from headstart.metrics.comparison import compare_stages, verdict


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
