"""Several runs in one folder, one for each seed, and their summary: mean, deviation and range of every figure."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from headstart.data.dataset import Dataset
from headstart.metrics.claim import known_images, what_it_holds_for
from headstart.metrics.classification import single_figures
from headstart.record.folder import RunFolder, empty, locked
from headstart.record.history import shown
from headstart.report.seeds import write_seeds_report
from headstart.system.backend import keras
from headstart.system.files import write_json
from headstart.training.checkpoint import Checkpoint

logger = logging.getLogger("headstart")


def carry_out_seeds(run: RunFolder, data: Dataset, train_one: Callable[[RunFolder, Dataset], object]) -> None:
    """Carry out the runs of all seeds that are not done, and write their summary.

    All runs have the same split, that of the first seed. So they share the frozen features and the test images, and differ
    only by what is random in training (head, dropout, shuffling, augmentation).

    Args:
        train_one: carries out the run of one seed, from where it stands.
    """
    with run.log():
        checkpoint = Checkpoint(run.path / "checkpoint")
        checkpoint.write()
        runs = []
        for seed in range(run.config.seed, run.config.seed + run.config.seeds):
            path = run.path / f"seed-{seed}"
            with locked(path):
                if (path / "config.toml").exists():
                    one = RunFolder(path, trust=run.config.trust, devices=run.config.devices)
                else:
                    empty(path)  # what a killed process left
                    config = dataclasses.replace(run.config, out=str(path), seed=seed, split_seed=run.config.data_seed, seeds=1)
                    one = RunFolder.create(config, data)
                    if run.mirror:
                        write_json(one.path / "mirror.json", run.mirror)
                logger.info("seed %d", seed)
                keras.utils.clear_session()  # frees memory, and resets the numbers in layer names, which are in the cache key
                if not one.done:
                    train_one(one, data)
            runs.append(RunFolder(path))
        write_seeds(run, runs)
        checkpoint.remove()


def write_seeds(run: RunFolder, runs: list[RunFolder]) -> None:
    """Write `report.html` and `seeds.json` for several finished runs. `seeds.json` is last, and marks the whole as finished.

    `seeds.json` has `seeds`, `test.<stage>.<figure>` and, with both stages, `gain`: the accuracy after fine-tuning minus that
    of the frozen stage. Each figure has `mean`, sample standard `deviation`, `range` [lowest, highest] and `values` by seed.

    Args:
        run: the folder that holds the runs.
        runs: the finished runs, in the order of their seeds.
    """
    tests = [one.metrics["test"] for one in runs]
    test = {stage: summaries([single_figures(test[stage]) for test in tests]) for stage in tests[0]}
    summary: dict[str, Any] = {"seeds": [one.config.seed for one in runs], "test": test}
    if "comparison" in runs[0].metrics:
        gains = [{"gain": test["fine_tuned"]["accuracy"] - test["frozen"]["accuracy"]} for test in tests]
        summary |= summaries(gains)
    write_seeds_report(run, runs, summary)
    write_json(run.path / "seeds.json", summary)
    for stage, figures in test.items():
        accuracy = figures["accuracy"]
        logger.info(
            "test, %s, %d seeds: mean %.2f %%, standard deviation %.2f, from %.2f to %.2f", shown(stage),
            len(runs), 100 * accuracy["mean"], 100 * accuracy["deviation"], *(100 * end for end in accuracy["range"]),
        )  # fmt: skip
    first = list(tests[0].values())[-1]
    if known := known_images(first):
        logger.warning("%s. Seed %d: %s", known, runs[0].config.seed, what_it_holds_for(first))
    if "gain" in summary:
        logger.info("fine-tuning: %+.2f points on average, from %+.2f to %+.2f", 100 * summary["gain"]["mean"],
                    *(100 * end for end in summary["gain"]["range"]))  # fmt: skip


def summaries(figures: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Return mean, sample standard deviation, range and values of each figure over at least two runs."""
    columns = {name: [row[name] for row in figures] for name in figures[0]}
    return {
        name: {
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)),
            "range": [min(values), max(values)],
            "values": values,
        }
        for name, values in columns.items()
    }
