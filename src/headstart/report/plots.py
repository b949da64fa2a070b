"""The images of a result."""

import functools
import math
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from sklearn.metrics import ConfusionMatrixDisplay

from headstart.data.dataset import Dataset
from headstart.metrics.calibration import CALIBRATION_BINS, calibration_in_words, is_applied, probabilities, reliability
from headstart.metrics.claim import known_images
from headstart.metrics.classification import wilson_interval
from headstart.record.folder import RunFolder
from headstart.system.files import written_whole
from headstart.system.text import count, shortened

TRAINING, VALIDATION, GREY = "#4477aa", "#ee6677", "#777777"  # Paul Tol's bright scheme: safe for the colour-blind
STAGE_NAMES = {"frozen": "frozen backbone", "fine_tuned": "fine-tuned", "scratch": "from scratch"}
MOST_LABELLED_CELLS = 20
MISTAKES = (3, 6)  # rows and columns
TITLE_INCHES = 0.4
# Columns of a class's name that fit into a matrix's margin, and above an image on a sheet.
MARGIN_NAME, SHEET_NAME = 24, 14
# It has a glyph for everything: a box. matplotlib takes it by itself where no font will do.
LAST_RESORT = "Last Resort"


def draw_plots(run: RunFolder, data: Dataset, history: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
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
    with figure(folder / "calibration.png", (9 if is_applied(kept) else 5, 5.8)) as canvas:
        draw_calibration(canvas, labels, logits, kept)
    with figure(folder / "samples.png", (9, 4.4)) as canvas:
        draw_samples(canvas, data)
    with figure(folder / "mistakes.png", (9, 6.5)) as canvas:
        draw_mistakes(canvas, data, probabilities(logits, kept["temperature"]))


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure of `size` inches; write it as a PNG at the end, whole or not at all.

    Dollars in its texts are no mathematics, and letters that the standard font lacks come from a font of this machine.
    """
    options: Any = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "text.parse_math": False}
    with matplotlib.rc_context(options):
        canvas = Figure(size, layout="constrained")
        yield canvas
        choose_fonts(canvas)
        with written_whole(path) as partial, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # no font of this machine has it: the plot shows a box
            canvas.savefig(partial, dpi=120)


def choose_fonts(canvas: Figure) -> None:
    """Give the texts of a figure further fonts where the standard one lacks their letters."""
    texts = canvas.findobj(Text)
    for axes in canvas.axes:  # whose numbers and names are texts only once they are asked for
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    letters = {letter for text in texts for letter in text.get_text() if not letter.isspace()}
    if lacking := frozenset(map(ord, letters)) - letters_of(findfont(FontProperties())):
        for text in texts:
            text.set_fontfamily([*matplotlib.rcParams["font.family"], *fonts_for(lacking)])


@functools.cache
def fonts_for(letters: frozenset[int]) -> list[str]:
    """Return families of this machine's fonts that have the letters (code points), as far as any has; plain ones first."""
    families: list[str] = []
    fonts = [font for font in fontManager.ttflist if LAST_RESORT not in font.name]
    for font in sorted(fonts, key=lambda font: (font.style != "normal", font.weight != 400, "Sans" not in font.name, font.name)):
        if not letters:
            break
        if found := letters & letters_of(font.fname):
            families.append(font.name)
            letters -= found
    return families


@functools.cache
def letters_of(path: str) -> frozenset[int]:
    """Return the code points that a font file has glyphs for; nothing of a file that cannot be read."""
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


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
    canvas.supxlabel(textwrap.fill(known_images(list(test.values())[-1]), 64), fontsize=8)


def draw_confusion(canvas: Figure, labels: np.ndarray, predicted: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Given class by predicted class, in % of the given one."""
    few, names = len(class_names) <= MOST_LABELLED_CELLS, [shortened(name, MARGIN_NAME) for name in class_names]
    display = ConfusionMatrixDisplay.from_predictions(
        labels, predicted, labels=range(len(class_names)), display_labels=names if few else None, normalize="true",
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
    """Accuracy by confidence with 95 % intervals, and the share of images, before and, if applied, after scaling."""
    columns = [(1.0, figures["ece"], TRAINING)]
    if is_applied(figures):
        columns.append((figures["temperature"], figures["calibrated"]["ece"], VALIDATION))
    panels = canvas.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    canvas.suptitle(textwrap.fill(calibration_in_words(figures), 52 * len(columns)), fontsize=9)
    for axes, (temperature, ece, colour) in zip(panels, columns, strict=True):
        chances = probabilities(logits, temperature)
        counts, confidences, accuracies = reliability(chances, labels)
        intervals = [
            wilson_interval(round(count * accuracy), count) for count, accuracy in zip(counts.tolist(), accuracies, strict=True)
        ]
        errors = np.abs(np.array(intervals) - accuracies[:, None]).T
        axes.hist(100 * chances.max(axis=1), np.linspace(0, 100, CALIBRATION_BINS + 1), color="#dddddd",
                  weights=np.full(len(labels), 100 / len(labels)), label="share of the images")  # fmt: skip
        axes.plot([0, 100], [0, 100], "--", color=GREY, linewidth=1, label="as sure as right")
        axes.errorbar(100 * confidences, 100 * accuracies, 100 * errors, fmt="o", markersize=4, capsize=3, color=colour,
                      label="accuracy, 95 % interval")  # fmt: skip
        axes.set(xlabel="confidence in %", xlim=(0, 102), ylim=(0, 102),
                 title=f"temperature {temperature:.2f}: calibration error {100 * ece:.1f} %")  # fmt: skip
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14))
    panels[0].set_ylabel("%")


def draw_samples(canvas: Figure, data: Dataset) -> None:
    """Two training images of each of the first ten classes."""
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
        grid[0, column].set_title(shortened(data.class_names[label], SHEET_NAME), fontsize=8)


def sheet(canvas: Figure, rows: int, columns: int, count: int) -> list[Axes]:
    """Return places for `count` images, row by row, in a figure that is cut to the rows that they fill, and to its title."""
    filled, (width, height) = math.ceil(count / columns), canvas.get_size_inches()
    canvas.set_size_inches(width, TITLE_INCHES + (height - TITLE_INCHES) * filled / rows)
    return [canvas.add_subplot(filled, columns, place) for place in range(1, count + 1)]


def show(axes: Axes, image: np.ndarray) -> None:
    """Show a uint8 (H, W, 3) image without scales."""
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])  # which would be laid out, unseen, in most of the time of a sheet of images
    axes.axis("off")


def draw_mistakes(canvas: Figure, data: Dataset, probabilities: np.ndarray) -> None:
    """The mistakes on the test split that the network was surest of."""
    labels = data.labels(data.test)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    rows, columns = MISTAKES
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][: rows * columns]
    canvas.suptitle(
        f"the surest of {count(len(wrong), 'mistake')} on the test split" if len(wrong) else "no mistake on the test split"
    )
    for axes, index in zip(sheet(canvas, rows, columns, len(surest)), surest, strict=True):
        show(axes, data.images(data.test[[index]])[0])
        said, given = (shortened(data.class_names[label], SHEET_NAME) for label in (predicted[index], labels[index]))
        sure = probabilities[index, predicted[index]]
        # The number first: after a name that is read from right to left it would be read as a split of this.
        axes.set_title(f"{100 * sure:.0f} %: {said}\nlabel: {given}", fontsize=8)
