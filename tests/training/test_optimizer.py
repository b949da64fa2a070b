import keras
import numpy as np
import pytest

import headstart as hs
from headstart.training.optimizer import LayerwiseAdamW, fine_tuning_optimizer


def rates(config: hs.Config, steps: int) -> list[float]:
    optimizer = fine_tuning_optimizer(config, steps)
    return [float(keras.ops.convert_to_numpy(optimizer._learning_rate(step))) for step in range(steps + 1)]


def test_the_rate_rises_to_the_given_one_and_falls_to_zero():
    curve = rates(hs.recipe("quick", learning_rate=1e-3, warmup_steps=100), 1000)
    assert np.isclose(max(curve), 1e-3)
    assert np.isclose(curve[50], 5e-4)
    assert curve[-1] < 1e-8


def test_few_steps_lower_the_rate():
    assert np.isclose(max(rates(hs.recipe("quick", learning_rate=1e-3, warmup_steps=100), 50)), 1e-4)


def test_the_first_layer_moves_by_its_part_of_the_last_ones_step():
    variables = [keras.Variable(np.ones(3, np.float32)) for _ in range(3)]
    optimizer = LayerwiseAdamW(0.1, weight_decay=0.0, first_layer_rate=0.01)
    optimizer.apply([keras.ops.ones(3)] * 3, variables)
    steps = [float(1 - keras.ops.convert_to_numpy(variable)[0]) for variable in variables]
    np.testing.assert_allclose(np.array(steps) / steps[-1], [0.01, 0.1, 1], rtol=1e-2)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_in_one_pass_are_those_of_keras(decay):
    rng, steps = np.random.default_rng(0), 5
    ours, theirs = (keras.Variable(np.ones((3, 4), np.float32)) for _ in range(2))
    mine, keras_own = LayerwiseAdamW(0.01, weight_decay=decay or None), keras.optimizers.Adam(0.01, weight_decay=decay or None)
    for _ in range(steps):
        gradient = keras.ops.convert_to_tensor(rng.normal(size=(3, 4)).astype(np.float32))
        mine.apply([gradient], [ours])
        keras_own.apply([gradient], [theirs])
    for variable, expected in zip([ours, *mine.variables], [theirs, *keras_own.variables], strict=True):
        np.testing.assert_allclose(np.array(variable), np.array(expected), rtol=1e-5, atol=1e-7)
