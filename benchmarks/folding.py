"""Folded batch norm against batch norm that stands by itself: the same function, and what training makes of it.

python -m benchmarks.folding
"""

import dataclasses
import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
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
    from headstart.inference.engine import relative_difference
    from headstart.metrics.classification import measure
    from headstart.metrics.comparison import compare_stages
    from headstart.system.backend import seed_everything
    from headstart.system.memory import keep_freed_memory

    data = common.load(config, images)
    labels = data.labels(data.test)
    keep_freed_memory()
    seed_everything(config.seed, deterministic=False)
    networks = {name: network(data, config, name == "folded") for name in ("standing", "folded")}
    train_head(networks["folded"], data, config)
    networks["standing"].head.set_weights(networks["folded"].head.get_weights())
    before = {name: test_logits(one, data, config) for name, one in networks.items()}
    seconds = {name: fine_tune(one, data, config) for name, one in networks.items()}
    after = {name: test_logits(one, data, config) for name, one in networks.items()}
    return {
        "logits differ by": relative_difference(before["folded"], before["standing"]),
        "at most": float(np.abs(before["folded"] - before["standing"]).max()),
        "before": common.accuracy(measure(before["folded"], labels, data.class_names)),
        **{f"{name}, fine-tuned": common.accuracy(measure(after[name], labels, data.class_names)) for name in networks},
        "p": compare_stages(after["standing"], after["folded"], labels)["p_value"],
        **{f"{name}, s": seconds[name] for name in networks},
    }  # fmt: skip


def network(data: Any, config: Config, folded: bool) -> Any:
    """Return the network in parts; without folding it is built as for batch norm that learns, and never unfrozen so."""
    from headstart.model.backbones import load_backbone
    from headstart.model.network import build_network

    built_as = config if folded else dataclasses.replace(config, batch_norm="training")
    return build_network(*load_backbone(config), data.image_shape, len(data.class_names), built_as, "float32")


def train_head(network: Any, data: Any, config: Config) -> None:
    """Train the head on features of the training split."""
    from headstart.model.head import standardise
    from headstart.training.batches import Batches
    from headstart.training.stages import head_learner

    images = data.images(data.train)
    features = network.feature_extractor().predict(images, config.batch_size, verbose=0)
    standardise(network.head, [features])
    batches = Batches(features, data.labels(data.train), np.arange(len(features)), config.batch_size, config.seed)
    learner = head_learner(network, config, config.head_epochs * batches.num_batches)
    learner.fit(batches, epochs=config.head_epochs, shuffle=False, verbose=0)


def test_logits(network: Any, data: Any, config: Config) -> np.ndarray:
    return network.classifier().predict(data.images(data.test), config.batch_size, verbose=0)


def fine_tune(network: Any, data: Any, config: Config) -> float:
    """Fine-tune all layers by the learner of `headstart.training.stages`, and return the seconds."""
    from headstart.system.backend import seed_everything
    from headstart.training.batches import Batches
    from headstart.training.stages import tuning_learner

    seed_everything(config.seed + 1, deterministic=False)
    classes, source = len(data.class_names), data.source
    batches = Batches(source.images, source.labels, data.train, config.batch_size, config.seed + 1, classes)
    learner = tuning_learner(network, config, config.epochs * batches.num_batches)
    begin = time.perf_counter()
    learner.fit(batches, epochs=config.epochs, shuffle=False, verbose=0)
    seconds = time.perf_counter() - begin
    network.take(learner)
    return seconds


if __name__ == "__main__":
    main(tyro.cli(Options))
