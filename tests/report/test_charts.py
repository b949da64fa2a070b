import numpy as np
import pytest

from headstart.report import charts


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [1.0, float("nan"), float("inf")], [float("nan")]])
def test_curves_of_any_history_can_be_drawn(values):
    drawn = charts.curves("a label", {"training": values, "validation": values}, 1, "loss")
    dots = list(drawn.iter("circle"))
    assert len(dots) == 2 * np.isfinite(values).sum()
    assert all(np.isfinite([float(dot.get("cx")), float(dot.get("cy"))]).all() for dot in dots)
    assert drawn.get("aria-label") == "a label"


def test_intervals_of_one_figure_at_the_end_of_the_scale_can_be_drawn():
    drawn = charts.intervals("a label", {"frozen": (1.0, 1.0, 1.0)})
    assert "nan" not in [value for element in drawn.iter() for value in element.attrib.values()]
