"""The pictures of a result."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from headstart.data.dataset import Dataset
from headstart.files import written_whole
from headstart.run.calibration import CALIBRATION_BINS, probabilities, reliability
from headstart.run.folder import Run
from headstart.run.metrics import wilson_interval

TRAINING, VALIDATION, GREY = "#4477aa", "#ee6677", "#777777"  # Paul Tol's bright scheme: safe for the colour-blind
STAGE_NAMES = {"frozen": "frozen backbone", "fine_tuned": "fine-tuned", "scratch": "from scratch"}
MOST_LABELLED_CELLS = 20
MISTAKES = (3, 6)  # rows and columns
TITLE_INCHES = 0.4


def draw_plots(run: Run, data: Dataset, history: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
    """Draw all plots of a run into its folder `images`."""
    folder = run.path / "images"
    folder.mkdir(exist_ok=True)
    stage, kept = list(metrics["test"].items())[-1]
    labels, logits = data.labels(data.test), run.test_logits(stage)
    with figure(folder / "history.png", (10, 4)) as canvas:
        draw_history(canvas, history)
    with figure(folder / "gain.png", (5, 4)) as canvas:
        draw_gain(canvas, metrics["test"])
    side = 4 + 0.3 * min(len(data.class_names), 40)
    with figure(folder / "confusion.png", (side, side)) as canvas:
        draw_confusion(canvas, labels, logits.argmax(axis=1), data.class_names)
    with figure(folder / "calibration.png", (9, 5.4)) as canvas:
        draw_calibration(canvas, labels, logits, kept)
    with figure(folder / "samples.png", (9, 4.4)) as canvas:
        draw_samples(canvas, data)
    with figure(folder / "mistakes.png", (9, 6.5)) as canvas:
        draw_mistakes(canvas, data, probabilities(logits, kept["temperature"]))


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure of `size` inches; write it as a PNG at the end, whole or not at all."""
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}):
        canvas = Figure(size, layout="constrained")
        yield canvas
        with written_whole(path) as partial:
            canvas.savefig(partial, dpi=120)


def draw_history(canvas: Figure, history: list[dict[str, Any]]) -> None:
    """Accuracy and loss over the epochs of both stages, with the point where fine-tuning began."""
    epochs = np.arange(1, len(history) + 1)
    boundary = sum(row["stage"] == "frozen" for row in history)
    for axes, quantity, scale in zip(canvas.subplots(1, 2), ("accuracy", "loss"), (100, 1), strict=True):
        for key, name, colour in ((quantity, "training", TRAINING), (f"val_{quantity}", "validation", VALIDATION)):
            axes.plot(epochs, [scale * row[key] for row in history], "o-", markersize=4, color=colour, label=name)
        axes.set(xlabel="epoch", ylabel="accuracy in %" if scale == 100 else "loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        if 0 < boundary < len(history):
            axes.axvline(boundary + 0.5, color=GREY, linestyle="--", linewidth=1)
            # Above the axes, where no curve passes and a last epoch leaves room.
            axes.annotate("fine-tuning", (boundary + 0.5, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                          textcoords="offset points", color=GREY, horizontalalignment="center")  # fmt: skip
        axes.legend(frameon=False)


def draw_gain(canvas: Figure, test: dict[str, Any]) -> None:
    """Test accuracy of each stage with its 95 % interval, and what fine-tuning gained."""
    axes = canvas.subplots()
    accuracies = np.array([100 * figures["accuracy"] for figures in test.values()])
    intervals = np.array([np.multiply(100, figures["interval"]) for figures in test.values()])
    errors = np.abs(intervals - accuracies[:, None]).T
    bars = axes.bar([STAGE_NAMES[stage] for stage in test], accuracies, yerr=errors, color=[TRAINING, VALIDATION][: len(test)],
                    width=0.55, capsize=5, ecolor="#333333")  # fmt: skip
    axes.bar_label(bars, [f"{accuracy:.2f} %" for accuracy in accuracies], padding=4)
    if len(accuracies) == 2:
        axes.set_title(f"fine-tuning: {accuracies[1] - accuracies[0]:+.2f} points")
    # Bars start at 0, so that their lengths do not exaggerate.
    axes.set(ylabel="test accuracy in %, 95 % interval", ylim=(0, 109))


def draw_confusion(canvas: Figure, labels: np.ndarray, predicted: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Given class by predicted class, in % of the given one."""
    few = len(class_names) <= MOST_LABELLED_CELLS
    display = ConfusionMatrixDisplay.from_predictions(
        labels, predicted, labels=range(len(class_names)), display_labels=class_names if few else None, normalize="true",
        include_values=False, cmap="Blues", colorbar=False, ax=canvas.subplots(),
        xticks_rotation="vertical" if few else "horizontal",
    )  # fmt: skip
    axes, matrix = display.ax_, 100 * display.confusion_matrix
    axes.set(xlabel="predicted class", ylabel="given class", title="in % of the given class")
    if not few:
        axes.set(xticks=[], yticks=[])
        return
    for row, column in np.argwhere(matrix >= 0.05):
        value = matrix[row, column]
        axes.text(column, row, f"{value:.1f}" if value < 99.95 else "100", ha="center", va="center", fontsize=8,
                  color="white" if value > 50 else "black")  # fmt: skip


def draw_calibration(canvas: Figure, labels: np.ndarray, logits: np.ndarray, figures: dict[str, Any]) -> None:
    """Accuracy by confidence with 95 % intervals, and the share of pictures, before and after temperature scaling."""
    panels = canvas.subplots(1, 2, sharex=True, sharey=True)
    for axes, temperature, ece, colour in (
        (panels[0], 1.0, figures["ece"], TRAINING),
        (panels[1], figures["temperature"], figures["calibrated"]["ece"], VALIDATION),
    ):
        chances = probabilities(logits, temperature)
        counts, confidences, accuracies = reliability(chances, labels)
        intervals = [
            wilson_interval(round(count * accuracy), count) for count, accuracy in zip(counts.tolist(), accuracies, strict=True)
        ]
        errors = np.abs(np.array(intervals) - accuracies[:, None]).T
        axes.hist(100 * chances.max(axis=1), np.linspace(0, 100, CALIBRATION_BINS + 1), color="#dddddd",
                  weights=np.full(len(labels), 100 / len(labels)), label="share of the pictures")  # fmt: skip
        axes.plot([0, 100], [0, 100], "--", color=GREY, linewidth=1, label="as sure as right")
        axes.errorbar(100 * confidences, 100 * accuracies, 100 * errors, fmt="o", markersize=4, capsize=3, color=colour,
                      label="accuracy, 95 % interval")  # fmt: skip
        axes.set(xlabel="confidence in %", xlim=(0, 102), ylim=(0, 102),
                 title=f"temperature {temperature:.2f}: calibration error {100 * ece:.1f} %")  # fmt: skip
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14))
    panels[0].set_ylabel("%")


def draw_samples(canvas: Figure, data: Dataset) -> None:
    """Two training pictures of each of the first ten classes."""
    labels = data.labels(data.train)
    classes = range(min(10, len(data.class_names)))
    grid = canvas.subplots(2, len(classes), squeeze=False)
    for column, label in enumerate(classes):
        chosen = data.images(data.train[np.flatnonzero(labels == label)[:2]])
        for row in range(2):
            if row < len(chosen):
                show(grid[row, column], chosen[row])
            else:
                grid[row, column].axis("off")
        grid[0, column].set_title(data.class_names[label], fontsize=8)


def sheet(canvas: Figure, rows: int, columns: int, count: int) -> list[Axes]:
    """Return places for `count` pictures, row by row, in a figure that is cut to the rows that they fill, and to its title."""
    filled, (width, height) = math.ceil(count / columns), canvas.get_size_inches()
    canvas.set_size_inches(width, TITLE_INCHES + (height - TITLE_INCHES) * filled / rows)
    return [canvas.add_subplot(filled, columns, place) for place in range(1, count + 1)]


def show(axes: Axes, image: np.ndarray) -> None:
    """Show a uint8 (H, W, 3) picture without scales."""
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])  # which would be laid out, unseen, in most of the time of a sheet of pictures
    axes.axis("off")


def draw_mistakes(canvas: Figure, data: Dataset, probabilities: np.ndarray) -> None:
    """The mistakes on the test part that the network was surest of."""
    labels = data.labels(data.test)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    rows, columns = MISTAKES
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][: rows * columns]
    canvas.suptitle(f"the surest of {len(wrong)} mistakes on the test part" if len(wrong) else "no mistake on the test part")
    for axes, index in zip(sheet(canvas, rows, columns, len(surest)), surest, strict=True):
        show(axes, data.images(data.test[[index]])[0])
        said, sure = data.class_names[predicted[index]], probabilities[index, predicted[index]]
        axes.set_title(f"says {said}, {100 * sure:.0f} %\nlabel: {data.class_names[labels[index]]}", fontsize=8)
