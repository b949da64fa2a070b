"""AdamW with its own learning rate for each variable, and the learning rate schedule of fine-tuning."""

from typing import Any

from headstart.config import Config
from headstart.system.backend import keras
from headstart.system.keras_internals import adam_slots
from headstart.system.kernels import adam_in_one_pass


class LayerwiseAdamW(keras.optimizers.Adam):  # AdamW is the same class, but insists on a decay
    """AdamW whose learning rate grows geometrically from the first trained variable to the last.

    This is similar to the discriminative rates of ULMFiT (Howard and Ruder 2018): early layers hold general features and
    should change least.

    Args:
        first_layer_rate: the first variable's rate as a fraction of the last one's; 1 is plain AdamW.
    """

    def __init__(self, *args: Any, first_layer_rate: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first_layer_rate = first_layer_rate

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        slots = adam_slots(self, variable)
        rate = learning_rate * self.first_layer_rate ** (1 - slots.place)
        moments, betas = (slots.momentum, slots.velocity), (self.beta_1, self.beta_2)
        if not adam_in_one_pass(variable, *moments, gradient, rate, self.iterations, betas, self.epsilon):
            super().update_step(gradient, variable, rate)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"first_layer_rate": self.first_layer_rate}


def fine_tuning_optimizer(config: Config, steps: int) -> keras.optimizers.Optimizer:
    """Return AdamW with a linear warm-up and a cosine decay to zero, together over `steps` steps."""
    # Adam's first steps have their full size for any gradient. A small data set has few other steps, so the full rate
    # would destroy the pretrained weights.
    warmup = min(config.warmup_steps, steps // 5)
    highest = config.learning_rate * min(1.0, steps / max(1, 5 * config.warmup_steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else highest, max(1, steps - warmup), warmup_target=highest if warmup else None, warmup_steps=warmup
    )
    optimizer = LayerwiseAdamW(
        schedule, weight_decay=config.weight_decay or None, first_layer_rate=config.layer_decay,
        use_ema=config.ema > 0, ema_momentum=config.ema or 0.99,
    )  # fmt: skip
    # Weight decay is for kernels only, not for biases and the parameters of norms (He et al. 2019).
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
