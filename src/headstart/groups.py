"""What several seeds say together: mean, deviation and range of every figure."""

import logging
from typing import Any

import numpy as np

from headstart.metrics.claim import known_images, what_it_holds_for
from headstart.metrics.classification import single_figures
from headstart.record.folder import Run
from headstart.report.seeds import write_seeds_report
from headstart.system.files import write_json

logger = logging.getLogger("headstart")


def write_seeds(run: Run, runs: list[Run]) -> None:
    """Write `report.html` and `seeds.json` into the folder that holds several finished runs; the latter marks all as finished.

    `seeds.json` has `seeds`, `test.<stage>.<figure>` and, with both stages, `gain`, the accuracy of fine-tuning less that of
    the frozen stage; each with `mean`, sample standard `deviation`, `range` [lowest, highest] and `values` by seed.
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
            "test, %s, %d seeds: %.2f %% in the mean, standard deviation %.2f, from %.2f to %.2f", stage.replace("_", "-"),
            len(runs), 100 * accuracy["mean"], 100 * accuracy["deviation"], *(100 * end for end in accuracy["range"]),
        )  # fmt: skip
    first = list(tests[0].values())[-1]
    if known := known_images(first):
        logger.warning("%s. Seed %d: %s", known, runs[0].config.seed, what_it_holds_for(first))
    if "gain" in summary:
        logger.info("fine-tuning: %+.2f points in the mean, from %+.2f to %+.2f", 100 * summary["gain"]["mean"],
                    *(100 * end for end in summary["gain"]["range"]))  # fmt: skip


def summaries(figures: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Return mean, deviation, range and values of each figure over at least two runs."""
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
