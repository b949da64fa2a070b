import dataclasses
import json
import subprocess

import numpy as np
import pytest

import headstart as hs
from headstart.config import read_toml
from headstart.plan import budget
from headstart.plan.budget import own_way, prepare, worth_measuring
from headstart.plan.costs import NotMeasured, costs_at, load_costs, measured, save_costs
from headstart.plan.estimate import MARGIN, predict
from helpers import COSTS, SMALL

LARGER = COSTS | {name: 4 * COSTS[name] for name in ("image", "tune_image", "tune_score", "disk_image")}


@pytest.fixture
def known(digits, tmp_path, monkeypatch):
    """A configuration whose costs on 64 and 128 px are known, though of a machine that does not exist."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", None)  # nothing is measured
    config = hs.recipe("quick", batch_size=32, fewest_steps=0)
    save_costs(config, digits, {64: COSTS, 128: LARGER})
    return config


def test_a_budget_is_spent_on_size_then_epochs_then_views(known, digits):
    def chosen(budget: str, *explicit: str) -> tuple[int, int, int]:
        config = prepare(dataclasses.replace(known, budget=budget), digits, explicit)
        return config.image_size, config.epochs, config.views

    assert chosen("1h") == (64, 3, 2)  # digits are 8 px: nothing is known of enlarging them more than 8 times
    for size, epochs, views in [(48, 1, 1), (48, 2, 1), (64, 1, 1), (64, 1, 2), (64, 2, 1)]:
        config = dataclasses.replace(known, image_size=size, epochs=epochs, views=views)
        needed = predict(config, digits, costs_at(load_costs(known, digits), size)).total
        found = chosen(f"{needed / MARGIN + 0.5:.2f}s")
        assert (size, epochs, views) <= found < (64, 3, 2)
        assert chosen(f"{needed / MARGIN - 0.5:.2f}s") < found or found != (size, epochs, views)
    assert chosen("1h", "image_size", "views") == (64, 3, 1)
    assert chosen("1h", "epochs") == (64, known.epochs, 2)


def test_a_budget_that_is_too_short_is_refused_with_what_the_least_takes(known, digits):
    with pytest.raises(hs.HeadstartError, match=r"--budget 1s is too short: .* takes about \d+ s here; give --budget 1m"):
        prepare(dataclasses.replace(known, budget="1s"), digits)


def test_without_a_budget_nothing_but_the_batch_is_changed(known, digits):
    assert prepare(known, digits) == known


def test_a_training_that_is_shorter_than_the_measurement_does_not_wait_for_it(digits):
    assert not worth_measuring(hs.recipe("starter", **SMALL), digits)
    assert worth_measuring(hs.recipe("best"), digits)


def test_a_failed_measurement_does_not_stop_a_training(digits, tmp_path, monkeypatch, caplog):
    def killed(*args, **kwargs):
        return subprocess.CompletedProcess(args, -9, "", "")

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", killed)
    config = hs.recipe("best")
    with caplog.at_level("WARNING", "headstart"):
        assert prepare(config, digits) == config
    assert "ended with status -9" in caplog.text
    with pytest.raises(NotMeasured):
        prepare(dataclasses.replace(config, budget="1h"), digits)


@pytest.mark.slow
def test_a_run_within_a_budget_records_choice_prediction_and_reality(digits, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    asked = hs.recipe("starter", out=str(tmp_path / "run"), budget="1h", **tiny | {"epochs": 1})
    run = hs.train(asked, digits, explicit={"views", "image_size"})
    assert read_toml(run.path / "config.toml")["epochs"] == 3
    content = json.loads((run.path / "plan.json").read_text())
    assert content["chosen"] == {"epochs": 3}
    assert content["asked"] == {"epochs": 1}
    predicted, took = content["predicted"]["seconds"], content["took"]["seconds"]
    assert predicted.keys() == took.keys() == {*run.metrics["seconds"], "results"}
    assert took["total"] == pytest.approx(run.metrics["seconds"]["total"] + took["results"], abs=0.1)
    assert np.isfinite(list(predicted.values())).all()
    assert all(value > 0 for value in content["costs"].values() if value != content["costs"]["largest_batch"])
    assert "predicted" in (run.path / "log.txt").read_text().splitlines()[-1]

    # What was measured is kept, and the report's seconds have been learned.
    monkeypatch.setattr(subprocess, "run", None)
    again = measured(run.config, digits, [run.config.image_size])
    assert again == load_costs(run.config, digits)
    assert again[run.config.image_size]["report"] > 0


def test_on_a_gpu_a_recipe_trains_every_layer_and_the_run_says_so(digits, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "has_gpu", lambda: True)
    # The recipe asks for 300 steps, which would be 150 epochs here.
    options = {name: value for name, value in tiny.items() if name != "epochs"} | {"batch_size": 64, "fewest_steps": 0}
    run = hs.train(hs.recipe("quick", out=str(tmp_path / "run"), **options), digits)
    assert (run.config.fine_tune_from, run.config.epochs, run.config.learning_rate) == ("all", 5, 3e-4)
    plan = run.read_json("plan.json")
    assert plan["asked"] == {"fine_tune_from": "last-stage", "epochs": 2, "learning_rate": 1e-3}
    assert plan["chosen"] == {"fine_tune_from": "all", "epochs": 5, "learning_rate": 3e-4}
    assert "--fine-tune-from all instead of last-stage, since a GPU" in (run.path / "log.txt").read_text()


def test_what_somebody_gave_stays_as_it_is_on_a_gpu(monkeypatch):
    monkeypatch.setattr(budget, "has_gpu", lambda: True)
    config = hs.recipe("quick", learning_rate=1e-4)
    assert own_way(config, ["learning_rate"]) == own_way(config, []) == config
    explicit = hs.recipe("quick", fine_tune_from="last-stage")
    assert own_way(explicit, ["fine_tune_from"]) == explicit
    assert own_way(hs.recipe("starter"), []) == hs.recipe("starter")
