import keras
import numpy as np

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
