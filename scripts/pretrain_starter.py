"""Make the weights of the starter backbone: train it from scratch on CIFAR-100.

    python scripts/pretrain_starter.py                      # CIFAR-100 as Keras downloads it
    python scripts/pretrain_starter.py cifar-100.npz        # x uint8 (N, 32, 32, 3), y (N,)

Training and test images are used together, since no CIFAR-100 accuracy is claimed; CIFAR-10 plays no
part, so that it stays an honest target. Any option of `headstart.Config` may follow: epochs=20.
"""

import ast
import logging
import sys

import numpy as np

import headstart as hs
from headstart.data.load import read_source
from headstart.data.source import TRAIN, Source
from headstart.model import starter
from headstart.model.network import Network

# Small, since these parts only watch the training; the rest learns.
HELD_OUT = {"validation_fraction": 0.02, "test_fraction": 0.01}


def main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    file = next((word for word in arguments if word.endswith(".npz")), None)
    options = dict(word.split("=", 1) for word in arguments if "=" in word)
    config = hs.recipe(
        "scratch", **{"out": "runs/starter-pretraining"} | HELD_OUT | {k: ast.literal_eval(v) for k, v in options.items()}
    )
    run = hs.train(config, hs.Dataset.of(read_cifar100(file), **HELD_OUT))
    backbone = starter.build()
    backbone.set_weights(Network.of_saved(run.model).backbone.get_weights())
    starter.save_weights(backbone)
    print(f"wrote {starter.WEIGHTS}, {starter.WEIGHTS.stat().st_size / 1e6:.1f} MB")


def read_cifar100(file: str | None) -> Source:
    """Return all 60,000 images as one training split."""
    if file is None:
        source = read_source("cifar100", 32)
        images, labels = source.images, source.labels
    else:
        with np.load(file) as arrays:
            images, labels = arrays["x"], arrays["y"].astype(np.int32)
    names = tuple(f"class {label}" for label in range(100))
    return Source(images, labels, names, np.full(len(labels), TRAIN, np.int8), "cifar100")


if __name__ == "__main__":
    main(sys.argv[1:])
