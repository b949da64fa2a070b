import dataclasses
from collections import Counter

import numpy as np
import pytest

import headstart as hs
from headstart.data.source import VALIDATION
from headstart.plan import search
from headstart.plan.costs import NotMeasured
from headstart.plan.search import (
    NOTHING,
    RATE,
    UNFROZEN,
    Candidate,
    Prices,
    as_tried,
    best_first,
    choose_trials,
    first_candidates,
    folds_for,
    local_backbones,
    part_of,
    second_candidates,
    seen_by_trials,
    third_candidates,
    ways_to_train,
    with_backbone,
)  # fmt: skip
from helpers import COSTS


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    """The configurations that were measured, on a machine that does not exist."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    done = []

    def measured(config, data, sizes):
        done.append(config)
        return dict.fromkeys(sizes, COSTS)

    monkeypatch.setattr(search, "measured", measured)
    return done


@pytest.fixture
def quick():
    return hs.recipe("quick", backbone="starter", fine_tune_from="all")


def candidate(config: hs.Config) -> Candidate:
    return Candidate(config, {"backbone": config.backbone, "image size": f"{config.image_size} px"})


def test_backbones_are_tried_whose_weights_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    config = hs.recipe("quick")
    before, _ = local_backbones(config, [])
    assert "starter" in before
    assert "resnet50" not in before
    (tmp_path / "models").mkdir()
    for name in ("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "efficientnetv2-b0_notop.h5",
                 "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", "vgg16_notop.h5",
                 "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "resnet50v2_weights_tf_kernels.h5"):  # fmt: skip
        (tmp_path / "models" / name).touch()
    tried, lines = local_backbones(config, [])
    assert set(tried) - set(before) == {"resnet50", "efficientnetv2b0", "mobilenetv2", "mobilenetv3small"}
    assert any(line.startswith("resnet50 is tried: its weights were downloaded") for line in lines)
    assert "--backbone NAME" in lines[-1]
    assert local_backbones(config, ["backbone"])[0] == ["resnet50"]


def test_a_backbone_with_a_recipe_of_its_own_gets_its_options():
    config = hs.recipe("quick", data="photos", seed=3, learning_rate=1e-4)
    own = with_backbone(config, "starter", ["learning_rate"])
    assert (own.recipe, own.image_size, own.translation) == ("starter", 32, 0.125)
    assert (own.data, own.seed, own.learning_rate) == ("photos", 3, 1e-4)
    assert with_backbone(config, "starter", ["recipe"]).recipe == "quick"
    assert with_backbone(config, "resnet50", []) == config


def test_sizes_that_a_backbone_cannot_take_are_left_out_with_the_reason(digits, quick):
    left = Counter()
    bases = {
        "starter": hs.recipe("starter", image_size=8),
        "resnet50": dataclasses.replace(quick, backbone="resnet50", image_size=8),
    }
    found = first_candidates(bases, digits, ["image_size"], left)
    assert [one.config.backbone for one in found] == ["starter"]
    assert "smallest is 32" in next(iter(left))


def test_what_the_recipe_does_is_tried_first_and_what_is_explicit_is_not_varied(quick):
    survivors = [candidate(quick)]
    found = second_candidates(survivors, [], {str(survivors[0]): "stage2_1_conv"})
    assert found[0].choices[UNFROZEN] == "all layers"
    assert {one.config.fine_tune_from for one in found} == {"all", "last-stage", "stage2_1_conv"}
    rates = {one.choices[RATE]: one.config.learning_rate for one in found if one.choices[UNFROZEN] == "all layers"}
    assert rates == {"x 1": quick.learning_rate, "x 3": 3 * quick.learning_rate, "x 1/3": quick.learning_rate / 3}
    assert sum(one.choices[UNFROZEN] == NOTHING for one in found) == 1
    assert len(second_candidates(survivors, ["fine_tune_from", "learning_rate"], {})) == 1
    assert NOTHING not in {one.choices[UNFROZEN] for one in second_candidates(survivors, ["epochs"], {})}


def test_the_rate_of_a_last_stage_is_too_high_for_every_layer():
    config = hs.recipe("quick", backbone="starter")
    found = second_candidates([candidate(config)], [], {})
    rates = {one.config.fine_tune_from: one.config.learning_rate for one in found if one.choices[RATE] == "x 1"}
    assert rates["last-stage"] == config.learning_rate > rates["all"]


def test_views_are_varied_where_maps_are_kept_and_augmentation_where_images_are(quick):
    maps = candidate(dataclasses.replace(quick, fine_tune_from="last-stage"))
    assert [(one.config.views, one.config.flip) for one in third_candidates([maps], ["epochs"])] == [
        (1, True), (2, True), (2, False)
    ]  # fmt: skip
    images = third_candidates([candidate(quick)], [])
    assert {(one.config.epochs, one.config.flip, one.config.rand_augment) for one in images} == {
        (2, True, False), (6, True, False), (2, False, False), (2, True, True),
    }  # fmt: skip
    assert len(third_candidates([candidate(quick)], ["epochs", "flip", "rand_augment"])) == 1


def test_a_trial_has_no_test_image(digits):
    (seen,) = seen_by_trials(digits, 1, 20, 0)
    assert len(seen.validation) == pytest.approx(20, abs=10)
    part = part_of(seen, 100, 0)
    assert not np.isin(np.concatenate([part.train, part.validation, part.test]), digits.test).any()
    assert len(part.train) == pytest.approx(100, abs=10)
    assert np.isin(part.train, digits.train).all()
    assert np.isin(part.validation, digits.validation).all()
    assert (part.test == part.validation).all()
    assert (part_of(seen, 100, 0).train == part.train).all()


def test_in_folds_each_image_ranks_once_and_what_belongs_together_lies_in_one_fold(digits):
    groups = tuple(f"{place // 4}" for place in range(len(digits.source.labels)))
    data = dataclasses.replace(digits, source=dataclasses.replace(digits.source, groups=groups))
    folds = seen_by_trials(data, 3, 0, 0)
    pool = np.sort(np.concatenate([data.train, data.validation]))
    assert (np.sort(np.concatenate([one.validation for one in folds])) == pool).all()
    for one in folds:
        assert (np.sort(np.concatenate([one.train, one.validation])) == pool).all()
        assert not set(data.source.units[one.train]) & set(data.source.units[one.validation])


def test_trials_are_made_in_folds_where_few_images_validate_that_are_not_a_users_own(digits, monkeypatch):
    assert len(digits.validation) < search.ENOUGH_SCORED
    assert folds_for(digits, 0) == [3, 2, 1]
    own = digits.source.splits.copy()
    own[digits.validation] = VALIDATION
    assert folds_for(dataclasses.replace(digits, source=dataclasses.replace(digits.source, splits=own)), 0) == [1]
    # In a fold, the images of a class that lies in one group would be missing.
    groups = tuple("one" if label == 0 else f"{place}" for place, label in enumerate(digits.source.labels))
    assert folds_for(dataclasses.replace(digits, source=dataclasses.replace(digits.source, groups=groups)), 0) == [1]
    monkeypatch.setattr(search, "ENOUGH_SCORED", len(digits.validation))
    assert folds_for(digits, 0) == [1]


def test_a_trial_has_its_share_of_steps(quick):
    one = candidate(quick)
    config = as_tried(one.changed({UNFROZEN: "all layers"}), 100, 1000)
    assert (config.fewest_steps, config.warmup_steps, config.epochs) == (30, 10, quick.epochs)
    assert as_tried(one, 100, 1000).epochs == 0  # a head, as long as it is not chosen what is unfrozen
    assert as_tried(one, 100, 1000).head == "auto"
    assert as_tried(one, 1000, 100_000).head == "dense"  # as the training will choose without a look


def test_a_training_may_have_fewer_epochs_unless_they_are_explicit(quick):
    assert [(one.epochs, one.fewest_steps) for one in ways_to_train(quick, [])] == [(2, 300), (1, 150), (0, 300)]
    assert ways_to_train(quick, ["epochs"]) == [quick]


def test_of_trials_that_differ_by_chance_the_cheapest_is_first():
    scores = [(0.90, 0.01), (0.895, 0.01), (0.85, 0.01), (0.93, 0.01)]
    assert best_first(scores, [1, 2, 3, 4]) == [3, 0, 1, 2]
    assert best_first([(0.90, 0.01), (0.895, 0.01), (0.85, 0.01)], [3, 1, 0]) == [1, 0, 2]
    assert best_first([], []) == []


def test_a_backbone_is_measured_once_and_its_parts_while_there_is_time(measurements, digits, quick):
    prices = Prices(digits, {"starter": quick}, allowance=1000)
    part = dataclasses.replace(quick, fine_tune_from="last-stage")
    prices.measure(quick, [64])
    prices.measure(quick, [64])
    prices.measure(part, [64], anew=False)
    assert not prices.exact(part)
    prices.measure(part, [64])
    assert [one.fine_tune_from for one in measurements] == ["all", "last-stage"]
    assert prices.exact(part)

    other = dataclasses.replace(quick, backbone="resnet50")
    hurried = Prices(digits, {"starter": quick, "resnet50": other}, allowance=0)
    hurried.measure(quick, [64])
    hurried.measure(part, [64])  # bounded by the whole
    assert len(measurements) == 3
    assert hurried.costs(part) == hurried.costs(quick)
    with pytest.raises(NotMeasured, match="would take more than"):
        hurried.measure(other, [64])


def test_trials_correct_what_is_expected_of_the_next(measurements, digits, quick):
    prices = Prices(digits, {"starter": quick}, allowance=0)
    prices.measure(quick, [64])
    expected = prices.training(quick)
    prices.learn(quick, took=20, expected=10)
    assert prices.training(quick) == pytest.approx(2 * (expected - search.REPORT) + search.REPORT)
    prices.taken.clear()
    prices.learn(quick, took=5, expected=10)  # a short trial says nothing against it
    assert prices.training(quick) == expected


def test_there_are_fewer_images_only_where_more_trials_fit(measurements, digits, quick):
    prices = Prices(digits, {"starter": quick}, allowance=0)
    prices.measure(quick, [64])
    candidates = [candidate(quick).changed({UNFROZEN: "all layers"}, learning_rate=rate) for rate in (1e-3, 1e-4, 1e-5)]

    def chosen(seconds: float) -> tuple[int, int]:
        images, fit, _ = choose_trials(candidates, digits, seen_by_trials(digits, 1, 30, 0), 50, 3, seconds, prices)
        return images, len(fit)

    full = len(digits.train)
    assert chosen(1e6) == (full, 3)
    assert chosen(1) == (0, 0)
    images, number = chosen(500)
    assert images < full
    assert number > chosen_at(candidates, digits, full, 500, prices)


def chosen_at(candidates, data, images: int, seconds: float, prices: Prices) -> int:
    """Return how many trials fit on a number of images."""
    return len(choose_trials(candidates, data, seen_by_trials(data, 1, 30, 0), images, 3, seconds, prices)[1])
