import dataclasses
import os

import pytest

import headstart as hs
from headstart.plan.costs import NotMeasured, costs_at
from headstart.plan.estimate import fit_memory, predict
from headstart.system.memory import available_memory
from helpers import COSTS


def seconds(data: hs.Dataset, missing: list[int] | None = None, **changes) -> dict[str, float]:
    return predict(hs.recipe("quick", **{"fewest_steps": 0, "batch_size": 32} | changes), data, COSTS, missing=missing).seconds


def test_every_stage_costs_its_parts_times_their_number(digits):
    train, validation, test = map(len, (digits.train, digits.validation, digits.test))
    everything = train + validation + test
    once = seconds(digits, epochs=1)
    assert once["preparation"] == 3.0
    assert once["features"] == pytest.approx(5.0 + 0.01 * everything)
    assert once["audit"] == pytest.approx(1.0 + 0.001 * everything + 1e-8 * everything**2 / 2)
    assert once["fine_tuning"] == pytest.approx(4.0 + train // 32 * 32 * 0.02 + 0.01 * validation + 1.0)
    assert once["results"] == pytest.approx(0.01 * (validation + test))
    assert seconds(digits, epochs=3)["fine_tuning"] - 4.0 == pytest.approx(3 * (once["fine_tuning"] - 4.0))
    assert seconds(digits, epochs=1, fewest_steps=train // 32 + 1) == seconds(digits, epochs=2)
    assert seconds(digits, epochs=0).keys() == once.keys() - {"fine_tuning"}


def test_features_that_are_cached_cost_nothing(digits):
    assert seconds(digits, missing=[])["features"] == 0
    assert seconds(digits, missing=[len(digits.test)])["features"] == pytest.approx(5.0 + 0.01 * len(digits.test))


def test_all_seeds_share_the_features(digits):
    one, three = seconds(digits), seconds(digits, seeds=3)
    assert three["features"] == one["features"]
    assert three["head"] == pytest.approx(3 * one["head"])


def test_all_folds_share_the_features_of_all_images(digits):
    one, five = seconds(digits, epochs=1), seconds(digits, epochs=1, folds=5)
    assert five["features"] == pytest.approx(one["features"])  # one view
    assert five["head"] == pytest.approx(5 * one["head"])
    assert seconds(digits, epochs=1, folds=5, fold=2)["head"] == pytest.approx(one["head"])
    both = seconds(digits, views=2, flip=True, folds=5)
    assert both["features"] - 5.0 == pytest.approx(2 * (five["features"] - 5.0))


def test_a_network_from_scratch_has_one_stage(digits):
    assert seconds(digits, weights="none", fine_tune_from="all").keys() == {"preparation", "training", "results"}


def test_maps_that_the_cache_cannot_hold_are_not_foretold(digits):
    with pytest.raises(NotMeasured, match="maps would take 7440"):
        predict(hs.recipe("quick"), digits, COSTS | {"disk_image": 1e10})


def test_costs_between_and_beyond_two_sizes_follow_their_pixels():
    def cost(size: int) -> dict[str, float]:
        return COSTS | {"image": 0.001 + 1e-6 * size**2}

    measured = {64: cost(64), 128: cost(128)}
    for size in (32, 64, 96, 128, 224):
        assert costs_at(measured, size)["image"] == pytest.approx(cost(size)["image"])
        assert costs_at(measured, size)["start"] == COSTS["start"]
    # A steeper line than the pixels themselves would foretell negative times.
    steep = {64: COSTS | {"image": 0.001}, 128: COSTS | {"image": 0.01}}
    assert costs_at(steep, 32)["image"] == pytest.approx(0.001 / 4)


def test_a_batch_that_does_not_fit_is_halved_and_its_rate_with_it(digits, monkeypatch):
    monkeypatch.setattr("headstart.plan.estimate.available_memory", lambda: 2e9)
    config = hs.recipe("quick", batch_size=128, learning_rate=1e-3)
    assert fit_memory(config, digits, COSTS) == config
    fitted = fit_memory(config, digits, COSTS | {"memory_image": 2e7})
    assert (fitted.batch_size, fitted.learning_rate) == (32, 2.5e-4)
    assert predict(fitted, digits, COSTS | {"memory_image": 2e7}).memory < 2e9
    on_a_gpu = fit_memory(config, digits, COSTS | {"largest_batch": 64.0})
    assert on_a_gpu == dataclasses.replace(config, batch_size=64, learning_rate=5e-4)


def test_the_memory_that_is_available_lies_between_what_is_held_and_what_there_is():
    held, everything = 50e6, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert held < available_memory() <= everything
