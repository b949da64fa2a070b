"""Several runs in one folder, one for each seed or fold, and their summary."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.data.load import one_fold
from headstart.metrics.claim import known_images, what_it_holds_for
from headstart.metrics.classification import measure, single_figures, wilson_interval, wilson_of
from headstart.metrics.comparison import compare_stages, verdict
from headstart.metrics.figures import Figures, SubsetFigures
from headstart.metrics.grouped import effective_images
from headstart.record.folder import RunFolder, empty, locked
from headstart.record.history import shown
from headstart.record.split import recorded_data
from headstart.report.folds import write_folds_report
from headstart.report.seeds import write_seeds_report
from headstart.system.backend import keras
from headstart.system.files import write_json
from headstart.training.checkpoint import Checkpoint

logger = logging.getLogger("headstart")


def carry_out_several(run: RunFolder, data: Dataset, train_one: Callable[[RunFolder, Dataset], object]) -> None:
    """Carry out the runs of all seeds or folds that are not done, and write their summary.

    The runs of all seeds have the same split, that of the first seed. So they share the frozen features and the test images, and
    differ only by what is random in training (head, dropout, shuffling, augmentation). Folds differ by their splits alone; they
    share the frozen features too, see `headstart.training.features.FrozenLayers`.

    Args:
        data: with the folds or, for seeds, the splits that the run's folder records.
        train_one: carries out one run, from where it stands.
    """
    with run.log():
        checkpoint = Checkpoint(run.path / "checkpoint")
        checkpoint.write()
        runs = []
        for number, path in enumerate(run.members):
            with locked(path):
                one, own = begin_one(run, data, number, path)
                logger.info("%s", path.name.replace("-", " "))
                keras.utils.clear_session()  # frees memory, and resets the numbers in layer names, which are in the cache key
                if not one.done:
                    train_one(one, own)
            runs.append(RunFolder(path))
        if run.config.divided:
            write_folds(run, data, runs)
        else:
            write_seeds(run, runs)
        checkpoint.remove()


def begin_one(run: RunFolder, data: Dataset, number: int, path: Path) -> tuple[RunFolder, Dataset]:
    """Return one of several runs, which is made if it is missing, and its data.

    Args:
        number: of the seed or fold, from 0.
        path: its folder.
    """
    config, own = config_of_one(run.config, number, path), data
    if (path / "config.toml").exists():
        one = RunFolder(path, trust=config.trust, devices=config.devices, ray=config.ray)
        if config.folds and not one.done:
            own = recorded_data(path, one.config, data)
        return one, own
    empty(path)  # what a killed process left
    if config.folds:
        own = one_fold(data, config, number)
    one = RunFolder.create(config, own)
    if run.mirror:
        write_json(one.path / "mirror.json", run.mirror)
    return one, own


def config_of_one(config: Config, number: int, path: Path) -> Config:
    """Return the configuration of one of the runs that a configuration asks for."""
    if config.divided:
        return dataclasses.replace(config, out=str(path), fold=number)
    return dataclasses.replace(config, out=str(path), seed=config.seed + number, split_seed=config.data_seed, seeds=1)


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
        summary |= summaries(gains(tests))
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


def write_folds(run: RunFolder, data: Dataset, runs: list[RunFolder]) -> None:
    """Write the test logits of all folds together, `report.html` and `folds.json`. The last marks the whole as finished.

    `folds.json` has the entries of `metrics.json`, but of all images, each tested once, by the run of its fold. Logits are
    divided by the temperature of their run, as `predict` does. `by_fold.<stage>.<figure>` is as in `seeds.json`.

    Args:
        run: the folder that holds the runs.
        data: with its folds.
        runs: the finished runs, in the order of their folds.
    """
    labels, fold_of_image = data.labels(data.test), data.folds[data.test]
    groups = data.groups(data.test)
    run.save_array("labels_test", labels)
    tests = [one.metrics["test"] for one in runs]
    by_fold = {stage: summaries([single_figures(test[stage]) for test in tests]) for stage in tests[0]}
    pooled: dict[str, np.ndarray] = {}
    figures: dict[str, Any] = {}
    for stage in tests[0]:
        pooled[stage] = np.empty((len(labels), len(data.class_names)), np.float32)
        for fold, (one, test) in enumerate(zip(runs, tests, strict=True)):
            pooled[stage][fold_of_image == fold] = one.test_logits(stage) / test[stage]["temperature"]
        run.save_array(f"test_{stage}", pooled[stage])
        figures[stage] = measure(pooled[stage], labels, data.class_names, groups=groups)
        share = effective_images(pooled[stage].argmax(axis=1) == labels, groups) / len(labels) if groups is not None else 1.0
        figures[stage] |= on_new_images([test[stage] for test in tests], share)
    seconds = [one.metrics["seconds"] for one in runs]
    summary: dict[str, Any] = {
        "folds": len(runs),
        "test": figures,
        "by_fold": by_fold,
        "seconds": {name: round(sum(one.get(name, 0.0) for one in seconds), 2) for name in seconds[0]},
        "peak_memory_mb": max(one.metrics["peak_memory_mb"] for one in runs),
        "parameters": runs[0].metrics["parameters"],
    }
    if len(pooled) == 2:
        summary["comparison"] = compare_stages(pooled["frozen"], pooled["fine_tuned"], labels, groups)
        summary |= summaries(gains(tests))
    write_folds_report(run, data, runs, summary)
    write_json(run.path / "folds.json", summary)
    for stage, all_images in figures.items():
        spread, (low, high) = by_fold[stage]["accuracy"], all_images["interval"]
        logger.info(
            "%s, each of %s images tested once in %d folds: %.2f %% (%s); folds from %.2f to %.2f, standard deviation %.2f",
            shown(stage), f"{len(labels):,}", len(runs), 100 * all_images["accuracy"],
            known_images(all_images) or f"95 % interval {100 * low:.2f} to {100 * high:.2f}",
            *(100 * end for end in spread["range"]), 100 * spread["deviation"],
        )  # fmt: skip
    if "comparison" in summary:
        logger.info("%s", verdict(summary["comparison"]))
    last = list(figures.values())[-1]
    if known := known_images(last):
        logger.warning("%s. %s", known, what_it_holds_for(last))
    logger.info("%.0f seconds; the runs are in %s", summary["seconds"]["total"], run.path)


def on_new_images(folds: list[Figures], share: float = 1.0) -> dict[str, Any]:
    """Return how many images have a near-duplicate among those that their fold's run was trained on, and the figures on others.

    Args:
        folds: the test figures of each fold. The result is empty if the runs have no audit.
        share: how many of all images count, see `headstart.metrics.grouped.effective_images`; 1 without groups.
    """
    if "near_duplicates_in_training" not in folds[0]:
        return {}
    known = sum(one["near_duplicates_in_training"] for one in folds)
    hits = images = 0
    for one in folds:
        new: Any = one.get("without_near_duplicates") or ({} if one["near_duplicates_in_training"] else one)
        hits += round(new.get("accuracy", 0.0) * new.get("images", 0))
        images += new.get("images", 0)
    found: dict[str, Any] = {"near_duplicates_in_training": known}
    if any(one.get("images_alike") for one in folds):
        found["images_alike"] = True
    if known and images:
        interval = wilson_interval(hits, images) if share == 1 else wilson_of(hits / images, images * share)
        found["without_near_duplicates"] = SubsetFigures(accuracy=hits / images, interval=interval, images=images, left_out=known)
    return found


def gains(tests: list[dict[str, Figures]]) -> list[dict[str, float]]:
    """Return the accuracy after fine-tuning minus that of the frozen stage, of each run."""
    return [{"gain": test["fine_tuned"]["accuracy"] - test["frozen"]["accuracy"]} for test in tests]


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
