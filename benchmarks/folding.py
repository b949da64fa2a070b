"""Folded batch norm against batch norm that stands by itself: the same function, and what training makes of it.

python -m benchmarks.folding
"""

import dataclasses
import itertools
import time
from dataclasses import dataclass
from typing import Any

import tyro

from benchmarks import common
from headstart.config import ALL, Config

TEXT = """The network with its batch norms folded into the convolutions against the same network with them standing, held in
inference mode. Before training, both have one head, learned on features: how far their logits on the test images are
apart, relative in the L2 norm, and at most. Then both are fine-tuned alike, everything unfrozen: the same images in the
same order, optimizer, rates and epochs. p is that of McNemar's exact test of the two on the same test images; the
seconds include compiling."""


@dataclass(frozen=True)
class Options(common.Options):
    """Measure what folding changes."""

    size: tuple[int, ...] = (64,)  # sides in pixels
    images: int = 10_000  # images in all, of training, validation and test in proportion; 0: all there are
    epochs: int = 2  # epochs of fine-tuning
    rates: tuple[float, ...] = (3e-4,)  # learning rates of fine-tuning, lowered in proportion where the steps are few
    repeats: int = 1  # the whole of it, with other seeds


def main(options: Options) -> None:
    table = common.Table("folding", "Folded batch norm", TEXT, options)
    for size, rate, seed in itertools.product(options.size, options.rates, range(options.repeats)):
        config = common.configuration(
            options, size, fine_tune_from=ALL, epochs=options.epochs, learning_rate=rate, precision="float32", seed=seed
        )
        found = common.in_own_process(compare, config, options.images)
        table.rows.append({"side, px": size, "rate": rate, "seed": seed} | found)
        table.write()


def compare(config: Config, images: int) -> dict[str, Any]:
    """Return the row of one seed."""
    from headstart.system.backend import load_keras

    load_keras()
    import numpy as np

    from headstart.inference.engine import relative_difference
    from headstart.metrics.classification import compare_stages, measure
    from headstart.system.backend import seed_everything
    from headstart.system.memory import keep_freed_memory

    data = common.load(config, images)
    labels = data.labels(data.test)
    keep_freed_memory()
    seed_everything(config.seed, deterministic=False)
    models = {name: network(data, config, name == "folded") for name in ("standing", "folded")}
    train_head(models["folded"], data, config)
    for name in ("standardise", "dropout_features", "hidden", "dropout", "logits"):
        models["standing"].get_layer(name).set_weights(models["folded"].get_layer(name).get_weights())
    before = {name: test_logits(model, data, config) for name, model in models.items()}
    seconds = {name: fine_tune(model, data, config) for name, model in models.items()}
    after = {name: test_logits(model, data, config) for name, model in models.items()}
    return {
        "logits differ by": relative_difference(before["folded"], before["standing"]),
        "at most": float(np.abs(before["folded"] - before["standing"]).max()),
        "before": common.accuracy(measure(before["folded"], labels, data.class_names)),
        **{f"{name}, fine-tuned": common.accuracy(measure(after[name], labels, data.class_names)) for name in models},
        "p": compare_stages(after["standing"], after["folded"], labels)["p_value"],
        **{f"{name}, s": seconds[name] for name in models},
    }  # fmt: skip


def network(data: Any, config: Config, folded: bool) -> Any:
    """Return the whole network; without folding it is built as for batch norm that learns, and never unfrozen so."""
    from headstart.model.backbones import load_backbone
    from headstart.model.network import build_model

    built_as = config if folded else dataclasses.replace(config, batch_norm="training")
    return build_model(*load_backbone(config), data.image_shape, len(data.class_names), built_as, "float32")


def train_head(model: Any, data: Any, config: Config) -> None:
    """Train the head on features of the training split."""
    import keras

    from headstart.model.head import head_model, standardise
    from headstart.model.network import feature_model

    learner, images = head_model(model), data.images(data.train)
    features = feature_model(model).predict(images, config.batch_size, verbose=0)
    standardise(model, [features])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(keras.optimizers.Adam(config.head_learning_rate), loss)
    learner.fit(features, data.labels(data.train), config.batch_size, config.head_epochs, verbose=0)


def test_logits(model: Any, data: Any, config: Config) -> Any:
    return model.predict(data.images(data.test), config.batch_size, verbose=0)


def fine_tune(model: Any, data: Any, config: Config) -> float:
    """Fine-tune all layers, as `headstart.trainer.fine_tuning_stage` does, and return the seconds."""
    import keras

    from headstart.model.network import unfreeze
    from headstart.system.backend import resolve_jit, seed_everything
    from headstart.training.batches import Batches
    from headstart.training.optimizer import fine_tuning_optimizer

    classes = len(data.class_names)
    seed_everything(config.seed + 1, deterministic=False)
    unfreeze(model, config)
    batches = Batches(data.source.images, data.source.labels, data.train, config.batch_size, config.seed + 1, classes)
    model.compile(
        fine_tuning_optimizer(config, config.epochs * batches.num_batches),
        keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=resolve_jit(),
    )  # fmt: skip
    begin = time.perf_counter()
    model.fit(batches, epochs=config.epochs, shuffle=False, verbose=0)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main(tyro.cli(Options))
