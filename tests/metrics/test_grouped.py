import numpy as np
import pytest

from headstart.metrics.grouped import error_between_groups


def test_the_error_between_groups_of_one_image_each_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(size=50)
    expected = values.std(ddof=1) / 50**0.5
    assert error_between_groups(values, np.arange(50)) == pytest.approx(expected)
    # The same values ten times over, which are alike within their groups, tell no more; numbers of groups may be left out.
    assert error_between_groups(np.repeat(values, 10), np.repeat(3 * np.arange(50), 10)) == pytest.approx(expected)


def test_a_single_group_says_nothing_of_others():
    assert error_between_groups(np.array([0.0, 1.0]), np.zeros(2, int)) == np.inf
