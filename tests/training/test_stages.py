"""Each option of the stages does what it says: to what learns, from which batches, and for how long."""

import math

import keras
import numpy as np
import pytest

import headstart as hs
from headstart.config import replace
from headstart.model.network import Network, build_network
from headstart.record.history import FINE_TUNED, FROZEN, SCRATCH
from headstart.training import stages
from headstart.training.checkpoint import Checkpoint
from headstart.training.features import FrozenLayers
from headstart.training.fit import Training, kept_row
from headstart.training.stages import fine_tuning_stage, frozen_stage, stages_of
from helpers import tiny_backbone


@pytest.fixture
def prepared(digits, tmp_path, monkeypatch):
    """A function that returns the parts of a stage for some options, with a cache of its own."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))

    def make(**options) -> tuple[Network, FrozenLayers, hs.Dataset, hs.Config, Checkpoint]:
        options = {"backbone": "starter", "image_size": 8, "hidden_units": 0, "fewest_steps": 0, "batch_size": 32} | options
        config = hs.recipe("quick", **{"fine_tune_from": "all"} | options)
        keras.utils.set_random_seed(0)
        network = build_network(tiny_backbone(), "unit", digits.image_shape, 10, config, "float32")
        return network, FrozenLayers(network, digits, config), digits, config, Checkpoint(tmp_path / "checkpoint")

    return make


def tuning(parts: tuple) -> Training:
    return fine_tuning_stage(*parts)


@pytest.mark.parametrize(
    ("options", "stages"),
    [({}, [FROZEN, FINE_TUNED]), ({"epochs": 0}, [FROZEN]), ({"weights": "none", "fine_tune_from": "all"}, [SCRATCH])],
)
def test_which_stages_there_are(options, stages):
    assert stages_of(hs.recipe("quick", **options)) == stages


@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_head_learns_on_features_of_all_views(prepared, digits, views):
    parts = prepared(views=views)
    training = frozen_stage(*parts)
    assert training.stage == FROZEN
    assert training.learner is parts[0].head
    assert len(training.batches.indices) == views * len(digits.train)
    assert sorted(training.batches.labels[training.batches.indices]) == sorted(np.tile(digits.labels(digits.train), views))
    first, labels = training.validation[0]
    np.testing.assert_array_equal(labels, digits.labels(digits.validation)[: len(labels)])
    expected = parts[0].feature_extractor().predict(digits.images(digits.validation[: len(labels)]), verbose=0)
    np.testing.assert_allclose(first, expected, rtol=2e-3, atol=1e-3)


def test_without_the_cache_the_head_learns_on_images_that_are_augmented_anew(prepared, digits):
    network, *others = prepared(cache_features=False, views=1)
    training = frozen_stage(network, *others)
    images, _ = training.batches[0]
    assert images.shape == (32, 8, 8, 3)
    assert images.dtype == np.uint8
    augmented = network.augmented()
    assert [layer.name for layer in training.learner.layers] == [layer.name for layer in augmented.layers]
    assert not any(weight.path.startswith("stage") for weight in training.learner.trainable_weights)


def test_images_are_mixed_in_fine_tuning_and_only_in_training(prepared):
    plain, mixed = tuning(prepared()), tuning(prepared(mix="mixup"))
    for split in (plain.batches, mixed.validation, mixed.test):
        assert set(np.unique(split[0][1])) == {0.0, 1.0}
    labels = mixed.batches[0][1]
    assert ((labels > 0) & (labels < 1)).any()
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
    assert not np.array_equal(mixed.batches[0][0], plain.batches[0][0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_labels_give_the_loss_of_smoothed_labels(prepared, smoothing):
    training = tuning(prepared(label_smoothing=smoothing))
    labels, logits = np.eye(10, dtype=np.float32)[:3], np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    given = labels * (1 - smoothing) + smoothing / 10
    expected = -(given * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1).mean()
    assert float(training.learner.loss(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_smoothed_labels_do_not_lose_a_tie_by_their_loss(prepared):
    row = {"stage": "frozen", "epoch": 3, "val_accuracy": 0.5, "val_loss": 1.0}
    tie = {"stage": "fine_tuned", "epoch": 1, "val_accuracy": 0.5, "val_loss": 1.5}
    for smoothing, kept in ((0.2, 1), (0.0, 0)):
        parts = prepared(label_smoothing=smoothing)
        parts[-1].history = [row]
        training = tuning(parts)
        assert training.start["epoch"] == 0
        assert kept_row([tie], 144, training.start)["epoch"] == kept


@pytest.mark.parametrize(("asked", "epochs"), [(0, 1), (9, 1), (10, 2), (12, 2), (28, 4)])
def test_few_images_get_more_epochs(prepared, asked, epochs):
    training = tuning(prepared(epochs=1, fewest_steps=asked))
    assert training.batches.num_batches == 9
    assert training.epochs == epochs == max(1, math.ceil(asked / 9))


def test_layers_learn_at_rates_of_their_own(prepared):
    """At the same gradient, as Adam's first step has it, the first layer moves by a tenth of the last one's."""
    training = tuning(prepared(layer_decay=0.1, warmup_steps=0, weight_decay=0.0))
    optimizer, variables = training.learner.optimizer, training.learner.trainable_variables
    before = [np.array(variable.numpy()) for variable in variables]
    optimizer.apply([keras.ops.ones(variable.shape) for variable in variables], variables)
    moved = [float(np.abs(variable.numpy() - start).mean()) for variable, start in zip(variables, before, strict=True)]
    assert moved[0] / moved[-1] == pytest.approx(0.1, rel=0.02)
    assert moved == sorted(moved)


def test_an_average_of_the_weights_is_kept_where_it_is_asked_for(prepared):
    assert not tuning(prepared()).learner.optimizer.use_ema
    optimizer = tuning(prepared(ema=0.9)).learner.optimizer
    assert (optimizer.use_ema, optimizer.ema_momentum) == (True, 0.9)


@pytest.mark.parametrize("stage", [frozen_stage, fine_tuning_stage])
def test_classes_are_weighed_inversely_to_their_frequency(prepared, digits, stage):
    assert stage(*prepared()).class_weight is None
    weights = stage(*prepared(class_weights=True)).class_weight
    counts = np.bincount(digits.labels(digits.train))
    np.testing.assert_allclose([weights[label] for label in range(10)], counts.sum() / 10 / counts)


@pytest.mark.parametrize(("options", "learned"), [({}, False), ({"batch_norm": "training"}, True)])
def test_batch_norm_learns_only_where_it_is_told_to(prepared, options, learned):
    training = tuning(prepared(**options))
    assert any(weight.path.endswith("gamma") for weight in training.learner.trainable_weights) == learned


def test_fine_tuning_starts_from_maps_where_the_network_has_a_cut(prepared, digits):
    parts = prepared(fine_tune_from="stage1", views=2)
    parts[0].cut = "stage0_relu"
    parts = (parts[0], FrozenLayers(parts[0], digits, parts[3]), *parts[2:])
    training = tuning(parts)
    assert training.batches[0][0].shape == (32, 8, 8, 8)
    assert len(training.batches.indices) == 2 * len(digits.train)
    assert not any("stage0" in weight.path for weight in training.learner.trainable_weights)


def test_images_on_the_device_train_to_the_same_weights(monkeypatch, tmp_path, digits, tiny):
    """As on a GPU: a step is sent the numbers of its images, and three steps are one call."""

    def train(name):
        changes = {"weights": "none", "rotation": 0.05, "epochs": 2, "precision": "float32", "fine_tune_from": "all"}
        options = tiny | changes | {"fewest_steps": 12}  # the recipe asks for 300
        return hs.train(hs.recipe("quick", out=str(tmp_path / name), **options), digits)

    host = train("host")
    monkeypatch.setattr(stages, "device_memory", lambda: 1 << 40)
    if keras.backend.backend() != "torch":  # there, Keras allows one step alone
        monkeypatch.setattr(stages, "steps_per_call", lambda: 3)
    device = train("device")
    np.testing.assert_allclose(device.test_logits("scratch"), host.test_logits("scratch"), atol=1e-4)
    assert [row["loss"] for row in device.history] == pytest.approx([row["loss"] for row in host.history], rel=1e-4)


def test_what_changes_on_the_host_does_not_stay_on_the_device(monkeypatch):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    config = hs.recipe("quick", fine_tune_from="all")
    assert stages.resident_images(images, config) is None  # on a CPU
    monkeypatch.setattr(stages, "device_memory", lambda: 4 * images.nbytes)
    assert stages.resident_images(images, config) is images
    assert stages.resident_images(images, replace(config, mix="cutmix")) is None
    monkeypatch.setattr(stages, "device_memory", lambda: images.nbytes)
    assert stages.resident_images(images, config) is None


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the other backends do not compile steps on CPUs")
def test_on_jax_a_step_with_augmentation_is_compiled(prepared):
    """A layer that cannot be compiled would make Keras run every step operation by operation."""
    network, _, _, config, _ = prepared(rotation=0.1)
    assert stages.tuning_learner(network, config, 10).jit_compile is True
