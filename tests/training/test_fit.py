import keras
import numpy as np
import pytest

from headstart.record.history import FROZEN
from headstart.system.kernels import without_autotuning
from headstart.training.batches import Batches
from headstart.training.checkpoint import Checkpoint
from headstart.training.fit import Training, fit_stage, kept_row


def rows(*accuracies: float, loss: float = 0.5) -> list[dict]:
    return [{"epoch": epoch, "val_accuracy": value, "val_loss": loss} for epoch, value in enumerate(accuracies, start=1)]


@pytest.mark.parametrize(
    ("accuracies", "images", "kept"),
    [
        ((0.8, 0.9, 0.92, 0.915), 1000, 4),  # 0.5 points behind, where a standard error is 0.86
        ((0.8, 0.9, 0.92, 0.915), 10_000, 3),  # where it is 0.27
        ((0.8, 0.92, 0.9, 0.7), 1000, 2),
        ((0.9, 1.0, 1.0, 0.99), 100, 3),
        ((0.0, 0.0), 100, 2),
    ],
)
def test_the_last_epoch_that_only_chance_put_behind_the_best_is_kept(accuracies, images, kept):
    assert kept_row(rows(*accuracies), images)["epoch"] == kept


def test_an_epoch_must_be_better_than_what_the_stage_began_with():
    start = {"epoch": 0, "val_accuracy": 0.9, "val_loss": 0.5}
    assert kept_row(rows(0.8, 0.9), 1000, start) is start
    assert kept_row(rows(0.8, 0.9, loss=0.4), 1000, start)["epoch"] == 2
    assert kept_row(rows(0.901, 0.9), 1000, start)["epoch"] == 1


def test_no_epochs_keep_nothing():
    assert kept_row([], 1000) is None


def problem(seed: int = 0, rare: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that overlap, of which the second has `rare` of 400 rows."""
    labels = np.repeat([0, 1], [400 - rare, rare])
    return np.random.default_rng(seed).normal(size=(400, 2)).astype(np.float32) + labels[:, None], labels


def training(optimizer: keras.optimizers.Optimizer, rare: int = 100, **options) -> Training:
    keras.utils.set_random_seed(0)
    learner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    learner.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    (rows, labels), (others, answers) = problem(0, rare), problem(1, rare)
    everything = np.arange(400)
    validation = Batches(others, answers, everything, 100)
    return Training(FROZEN, learner, Batches(rows, labels, everything, 100, seed=0), validation, validation, **options)


def test_class_weights_find_more_of_a_rare_class(tmp_path):
    rows, labels = problem(1, rare=20)
    recalls = []
    for weights in (None, {0: 400 / 380 / 2, 1: 400 / 20 / 2}):
        one = training(keras.optimizers.Adam(0.1), rare=20, epochs=8, class_weight=weights)
        fit_stage(one, Checkpoint(tmp_path / f"checkpoint-{len(recalls)}"))
        recalls.append((one.learner.predict(rows, verbose=0).argmax(axis=1) == labels)[labels == 1].mean())
    assert recalls[1] > recalls[0] + 0.3


def test_the_weights_that_are_kept_are_their_average(tmp_path):
    averaged = training(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.8), epochs=1)
    plain = training(keras.optimizers.Adam(0.1), epochs=1)
    average: list[np.ndarray] = []
    for step in range(plain.batches.num_batches):
        plain.learner.train_on_batch(*plain.batches[step])
        now = plain.learner.get_weights()
        average = [0.8 * before + 0.2 * one for before, one in zip(average, now, strict=True)] if average else now
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    fit_stage(averaged, checkpoint)
    for kept, expected, last in zip(averaged.learner.get_weights(), average, plain.learner.get_weights(), strict=True):
        np.testing.assert_allclose(kept, expected, rtol=1e-4, atol=1e-5)
        assert not np.allclose(kept, last, rtol=1e-3)
    # It was validated, too.
    found = averaged.learner.evaluate(without_autotuning(averaged.validation), verbose=0, return_dict=True)
    assert checkpoint.history[0]["val_loss"] == pytest.approx(found["loss"], rel=1e-5)


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 2), (3, 4)])
def test_patience_ends_a_stage_that_learns_nothing_more(patience, epochs, tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    fit_stage(training(keras.optimizers.SGD(0.0), epochs=6), checkpoint, patience)
    assert [row["epoch"] for row in checkpoint.history] == list(range(1, epochs + 1))


def test_a_stage_that_is_interrupted_goes_on_as_if_it_had_not_been(tmp_path):
    def stop(history: list) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    whole, again = training(keras.optimizers.Adam(0.1), epochs=4), training(keras.optimizers.Adam(0.1), epochs=4)
    fit_stage(whole, Checkpoint(tmp_path / "whole"))
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.watchers = [stop]
    with pytest.raises(KeyboardInterrupt):
        fit_stage(training(keras.optimizers.Adam(0.1), epochs=4), checkpoint)
    fit_stage(again, Checkpoint(tmp_path / "checkpoint"))
    for one, other in zip(again.learner.get_weights(), whole.learner.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_log_has_a_line_for_each_epoch_and_for_each_of_a_few_of_many(tmp_path, caplog):
    with caplog.at_level("INFO", "headstart"):
        for epochs in (2, 130):
            fit_stage(training(keras.optimizers.SGD(0.1), epochs=epochs), Checkpoint(tmp_path / f"{epochs}"))
    lines = [message.partition(":")[0] for message in caplog.messages if " epoch " in message.partition(":")[0]]
    assert lines[:2] == ["frozen epoch 1/2", "frozen epoch 2/2"]
    assert lines[2:4] == ["frozen epoch 3/130", "frozen epoch 6/130"]
    assert lines[-1] == "frozen epoch 130/130"
    assert len(lines) < 2 + 50
