"""How the other processes of a cluster take part in what the first one trains; see `headstart.system.cluster`."""

import dataclasses
import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.data.decode import Decoding
from headstart.data.labels import Labelling
from headstart.data.load import read_source
from headstart.errors import HeadstartError
from headstart.model.network import Network
from headstart.record.folder import RunFolder
from headstart.record.history import FROZEN, Stage
from headstart.system import cluster
from headstart.system.backend import keras, seed_everything
from headstart.system.remote import KEPT
from headstart.training.checkpoint import Checkpoint, Followed, assign, values
from headstart.training.features import FrozenLayers
from headstart.training.fit import fit_stage
from headstart.training.stages import fine_tuning_stage, frozen_stage

logger = logging.getLogger("headstart")


def report(run: RunFolder, doing: str) -> None:
    """Let all processes of a cluster, if there is one, know what is being done, for the line that says that one has ended."""
    if others := cluster.first():
        path = shlex.quote(str(run.path.absolute()))
        others.report(f" in {doing}", f"; go on with headstart train --resume {path} --devices cluster")


def share(stage: Stage, network: Network, data: Dataset, config: Config, checkpoint: Checkpoint) -> None:
    """Send the other processes of a cluster, if there is one, what they need to take part in a stage.

    Args:
        config: with its precision resolved.
    """
    others = cluster.first()
    if not others or (stage == FROZEN and config.cache_features):  # a head alone is too small to be shared
        return
    task = {
        "config": dataclasses.asdict(config), "stage": stage.key, "history": checkpoint.history, "side": data.image_shape[0],
        "decoding": dataclasses.asdict(data.source.decoding), "duplicates": data.duplicates,
    }  # fmt: skip
    arrays = {
        "splits": [data.train, data.validation, data.test, data.left_out], "images": fingerprints(data),
        "weights": values(weights(network)),
    }  # fmt: skip
    others.send("task", task, arrays)


def follow(others: cluster.Cluster, data: Dataset | str | Path, trust: bool, networks: Callable[..., Any]) -> NoReturn:
    """Take part in what the first process of a cluster trains, and end this process when nothing is left to do.

    Args:
        data: the data set, or where it lies on this machine; "" for the same place as in the first process.
        trust: load layers that may run code, see `headstart.Config`.
        networks: `headstart.trainer.networks`.

    Raises:
        HeadstartError: the data of this process are not those of the first one.
    """
    level = logger.level
    logger.setLevel(logging.WARNING)  # the first process says the same
    while (task := others.receive()).kind != "done":
        content = task.content
        config = Config(**content["config"] | {"trust": trust})
        data = same_data(data or config.data, content, task.arrays, config)
        keras.utils.clear_session()
        seed_everything(config.seed, config.deterministic)
        network, _, _ = networks(data, config, config.precision)
        assign(weights(network), task.arrays["weights"])
        checkpoint = Followed(content["stage"], content["history"], lambda: others.receive().arrays)
        prepare = frozen_stage if content["stage"] == FROZEN.key else fine_tuning_stage
        training = prepare(network, FrozenLayers(network, data, config), data, config, checkpoint)
        fit_stage(training, checkpoint, config.patience)
    logger.setLevel(level)
    logger.info("process %d is done; process 0 has written the run", others.process)
    sys.exit(0)


def same_data(
    data: Dataset | str | Path, content: dict[str, Any], arrays: dict[str, list[np.ndarray]], config: Config
) -> Dataset:  # fmt: skip
    """Return this process's data with the splits of the first process."""
    if not isinstance(data, Dataset):
        span = content["decoding"]["grey_range"]
        decoding = Decoding(content["decoding"]["fit"], (span[0], span[1]) if span else None)
        KEPT.limit(config.remote_cache)
        source = read_source(
            str(data), content["side"], Labelling.of(config), decoding=decoding, often=config.learns_on_images
        )  # fmt: skip
        nothing = np.array([], dtype=np.int64)
        data = Dataset(source, nothing, nothing, nothing)
    if not all(map(np.array_equal, fingerprints(data), arrays["images"])):
        raise HeadstartError(f"the images of {data.source.name} are not those of process 0: all need the same data")
    train, validation, test, left_out = arrays["splits"]
    return Dataset(data.source, train, validation, test, tuple(content["duplicates"]), left_out)


def fingerprints(data: Dataset) -> list[np.ndarray]:
    """Return what two data sets have in common only if they have the same images with the same labels in the same order."""
    digests = np.ascontiguousarray(data.source.digests).tobytes()
    return [np.frombuffer(digests, np.uint8), data.source.labels]


def weights(network: Network) -> list[Any]:
    return [*network.backbone.variables, *network.head.variables]
