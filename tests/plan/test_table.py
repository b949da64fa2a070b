import pytest

import headstart as hs
from headstart.plan.table import plan_table
from helpers import COSTS


def test_the_table_has_a_row_for_each_size_and_says_what_cannot_be_foretold(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    costs = {32: COSTS | {"disk_image": 1e10}, 64: COSTS}
    monkeypatch.setattr("headstart.plan.table.measured", lambda *args, **options: costs)
    config = hs.recipe("quick", batch_size=32, fewest_steps=0, data="digits")
    columns, rows, notes = plan_table(config, {"recipe", "data"})
    assert columns == [
        "recipe", "size", "preparation", "features", "audit", "head", "fine-tuning", "results", "total", "batch", "memory",
        "disk",
    ]  # fmt: skip
    assert rows[0][:2] == ["quick", "64"]
    assert notes[0].startswith("quick, 32 px: the feature maps would take")


def test_a_cluster_is_not_measured():
    with pytest.raises(hs.HeadstartError, match="leave out --devices cluster"):
        plan_table(hs.recipe("quick", devices="cluster"))


def test_on_a_gpu_the_table_says_what_a_recipe_does_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr("headstart.plan.budget.has_gpu", lambda: True)
    planned = []
    monkeypatch.setattr("headstart.plan.table.measured", lambda config, *args, **options: planned.append(config) or {64: COSTS})
    notes = plan_table(hs.recipe("quick", data="digits", image_size=64), {"recipe", "data", "image_size"}).notes
    assert "quick: --fine-tune-from all --epochs 5 --learning-rate 0.0003, since a GPU" in notes[0]
    assert {config.fine_tune_from for config in planned} == {"all"}
