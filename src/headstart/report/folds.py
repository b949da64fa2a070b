"""`report.html` of several folds: how good the models are on all images, each tested once by a model that has not seen it."""

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from headstart.data.dataset import Dataset
from headstart.metrics.calibration import is_applied, probabilities
from headstart.record.folder import RunFolder
from headstart.report import plots
from headstart.report.gallery import choose, thumbnail
from headstart.report.pages import embedded, percent, write_page
from headstart.report.plots import svg
from headstart.report.run_page import again, calibration, claim, class_rows, confusions, gain, trained
from headstart.report.seeds import columns, figure_tables, row_of


def write_folds_report(run: RunFolder, data: Dataset, runs: list[RunFolder], summary: Any) -> None:
    """Write `report.html` into the folder that holds a finished run for each fold, with links to theirs.

    Args:
        run: with the logits and labels of all images.
        data: with its folds.
        summary: content of `folds.json`.

    Raises:
        UnwritableError: the file cannot be written.
    """
    stage, figures = list(summary["test"].items())[-1]
    labels, logits = run.array("labels_test"), run.test_logits(stage)
    accuracy, images = figures["accuracy"], figures["images"]
    scaled = sum(is_applied(one.metrics["test"][stage]) for one in runs)
    write_page(
        run.path / "report.html",
        "folds.html.j2",
        trained=trained(run.config),
        recipe=run.config.recipe,
        folds=len(runs),
        figures=figures,
        spread=summary["by_fold"][stage]["accuracy"],
        # Of the accuracies of folds, if all images were equally hard, and independent.
        chance=math.sqrt(accuracy * (1 - accuracy) * len(runs) / images),
        **claim(figures),
        accuracy_chart=accuracy_chart(summary),
        comparison=summary.get("comparison"),
        gain=gain(summary),
        fold_columns=columns("Fold", summary),
        fold_rows=[row_of(one, f"fold {number}") for number, one in enumerate(runs)],
        figure_tables=figure_tables(summary["by_fold"], runs, "folds"),
        class_rows=class_rows(figures),
        **confusions(figures),
        **calibration(figures, logits, labels, "each by its model")
        | {"calibration_words": f"each model's own temperature is applied, if it has one, as {scaled} of {len(runs)} have"},
        mistakes=mistakes(data, probabilities(logits)),
        seconds=summary["seconds"]["total"],
        again=again(runs[0], run),
    )


def accuracy_chart(summary: Any) -> Markup:
    """Return the accuracy of each stage on all images, its interval, and the accuracies of the folds as a chart."""
    rows = plots.accuracies(summary["test"])
    marks = [summary["by_fold"][stage]["accuracy"]["values"] for stage in summary["test"]]
    words = ", ".join(
        f"{name} {percent(middle)} ({percent(low)} to {percent(high)})" for name, (low, middle, high) in rows.items()
    )
    label = f"Test accuracy on all images of {len(marks[0])} folds, with 95 % intervals: {words}"
    scale = "test accuracy in %: all images with 95 % interval, folds"
    return svg(label, plots.rows_height(rows), plots.draw_intervals, rows, scale, marks)


def mistakes(data: Dataset, of_classes: np.ndarray) -> list[dict[str, Any]]:
    """Return the most confident mistakes of all folds, as the page shows them.

    Args:
        of_classes: float (N, classes), of all images, by the model that has not seen the image.
    """
    labels, shown = data.labels(data.test), []
    for row in choose(of_classes, labels)[0].rows:
        name, said = data.source.names[data.test[row]], of_classes[row].argmax()
        shown.append({
            "name": name, "image": embedded(thumbnail(data.source.images[data.test[row]]), f"image {name}"),
            "said": data.class_names[said], "probability": float(of_classes[row, said]), "label": data.class_names[labels[row]],
            "fold": int(data.folds[data.test[row]]),
        })  # fmt: skip
    return shown
