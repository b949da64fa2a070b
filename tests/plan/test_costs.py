"""Costs that are kept: those that do not fit are measured again."""

import os

import pytest

import headstart as hs
from headstart.plan.costs import costs_file, load_costs, save_costs
from headstart.system.entries import write_sealed
from helpers import COSTS


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    return hs.recipe("starter")


def test_costs_come_back_as_they_were_saved(config, digits, caplog):
    known = {32: COSTS, 64: COSTS | {"report": 1.5, "tune_memory": -1e6}}
    assert load_costs(config, digits) == {}
    save_costs(config, digits, known)
    assert load_costs(config, digits) == known
    assert not caplog.messages


def without(name):
    return {key: value for key, value in COSTS.items() if key != name}


@pytest.mark.parametrize(
    "content",
    [{"32": COSTS | {"image": float("nan")}}, {"32": COSTS | {"image": float("inf")}}, {"32": COSTS | {"image": -1.0}},
     {"32": COSTS | {"image": 1e300}}, {"32": COSTS | {"image": "1"}}, {"32": without("image")}, {"32": without("tune_start")},
     {"32": COSTS | {"else": 1.0}}, {"0": COSTS}, {"-1": COSTS}, {"x": COSTS}, {"9" * 5000: COSTS}, {"32": None}, {"32": {}}],
)  # fmt: skip
def test_costs_that_cannot_be_are_not_used(content, config, digits, caplog):
    file = costs_file(config, digits)
    write_sealed(file, content)
    assert load_costs(config, digits) == {}
    assert len(caplog.messages) == 1
    assert "it is made again" in caplog.text
    assert not file.exists()


@pytest.mark.parametrize("harm", ["{}", "[]", "9" * 10_000, 100_000 * "[", "pipe"])
def test_files_that_are_no_costs_are_not_used(harm, config, digits, caplog):
    file = costs_file(config, digits)
    if harm == "pipe":
        os.mkfifo(file)
    else:
        file.write_text(harm)
    assert load_costs(config, digits) == {}
    assert len(caplog.messages) == 1
    save_costs(config, digits, {32: COSTS})
    assert load_costs(config, digits) == {32: COSTS}
