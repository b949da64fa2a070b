"""The charts and sheets of images of a result: one drawing of each, for the PNG and for the page."""

import functools
import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from headstart.data.dataset import Dataset
from headstart.metrics.calibration import calibration_in_words, is_applied, probabilities, reliability
from headstart.metrics.claim import known_images
from headstart.metrics.classification import wilson_interval
from headstart.metrics.figures import Figures, Metrics, RejectionFigures
from headstart.metrics.rejection import risk_by_coverage
from headstart.record.folder import RunFolder
from headstart.record.history import FROZEN, STAGES, EpochRow
from headstart.report.pages import percent, points
from headstart.system.files import written_whole
from headstart.system.text import count, printable, shortened

# The colours of the light page, by their names in style.css; in a page's charts they become these names, and so follow the
# page into the dark. The first two differ for the colour-blind too.
COLOURS = {"first": "#b8704d", "second": "#2b6a99", "ink": "#1f2328", "muted": "#646b73", "line": "#e3dfd6"}
FIRST, SECOND, INK, MUTED, LINE = COLOURS.values()
STYLE: Any = {
    "font.size": 12, "text.color": INK, "text.parse_math": False, "axes.titlesize": 12, "axes.titlecolor": MUTED,
    "axes.titlelocation": "left", "axes.labelcolor": MUTED, "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE,
    "grid.linewidth": 1, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.major.size": 0, "ytick.major.size": 0,
    "axes.spines.left": False, "axes.spines.bottom": False, "axes.spines.top": False, "axes.spines.right": False,
    "figure.constrained_layout.h_pad": 0.06, "figure.constrained_layout.w_pad": 0.06, "svg.fonttype": "none",
}  # fmt: skip
# Size of a page's chart in points: half a desktop's column, or a phone's whole one.
WIDTH, HEIGHT, SQUARE = 420, 260, 340
# What the steps between a scale's numbers begin with.
ROUND = (1, 2, 2.5, 5, 10)
# With more epochs than this, dots would hide the line.
MOST_DOTS = 40
# Classes whose names and numbers fit into a matrix.
MOST_LABELLED = 20
MISTAKES = (3, 6)  # rows and columns
TITLE_INCHES = 0.4
# Points of a risk-coverage curve that are drawn, and where it begins: of the surest few, one mistake is a large share.
MOST_POINTS, LEAST_COVERAGE = 200, 0.02
# Columns of a name that fit beside a chart's row, into a matrix's margin, and above an image on a sheet.
ROW_NAME, MARGIN_NAME, SHEET_NAME = 14, 24, 14
# It has a glyph for everything: a box. matplotlib takes it by itself where no font will do.
LAST_RESORT = "Last Resort"


def draw_plots(run: RunFolder, data: Dataset, history: list[EpochRow], metrics: Metrics) -> None:
    """Draw all plots of a run into its folder `images`."""
    folder = run.path / "images"
    folder.mkdir(exist_ok=True)
    stage, kept = list(metrics["test"].items())[-1]
    logits = run.test_logits(stage)
    with figure(folder / "history.png", (11, 3.6)) as canvas:
        for axes, quantity in zip(canvas.subplots(1, 2), ("accuracy", "loss"), strict=True):
            draw_history(axes, history, quantity)
            axes.legend(frameon=False)
    with figure(folder / "gain.png", (5.8, 1.6 + 0.5 * len(metrics["test"]))) as canvas:
        draw_intervals(canvas.subplots(), accuracies(metrics["test"]))
        canvas.suptitle(gained(metrics["test"]))
        canvas.supxlabel(textwrap.fill(known_images(kept), 64), fontsize=9)
    side = 4 + 0.3 * min(len(data.class_names), 40)
    with figure(folder / "confusion.png", (side, side)) as canvas:
        draw_confusion(canvas.subplots(), kept["confusion"], data.class_names)
    with figure(folder / "calibration.png", (5.8, 5.8)) as canvas:
        axes = canvas.subplots()
        draw_reliability(axes, confidences(logits, data.labels(data.test), kept))
        axes.legend(frameon=False, loc="upper left", markerscale=0.5)
        canvas.suptitle(textwrap.fill(calibration_in_words(kept), 66), fontsize=10)
    of_classes = probabilities(logits, kept["temperature"])
    with figure(folder / "rejection.png", (5.8, 4)) as canvas:
        right = of_classes.argmax(axis=1) == data.labels(data.test)
        draw_risk(canvas.subplots(), of_classes.max(axis=1), right, kept["rejection"])
        canvas.suptitle("wanted precisions, by thresholds that validation chose", fontsize=10)
    with figure(folder / "samples.png", (9, 4.4)) as canvas:
        draw_samples(canvas, data)
    with figure(folder / "mistakes.png", (9, 6.5)) as canvas:
        draw_mistakes(canvas, data, of_classes)


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure of `size` inches; write it as a PNG at the end, whole or not at all.

    Dollars in its texts are no mathematics, and letters that the standard font lacks come from a font of this machine.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Figure(size, layout="constrained")
        yield canvas
        with written_whole(path) as partial:
            save(canvas, partial, dpi=120)


def svg(label: str, height: float, draw: Callable[..., None], *content: Any) -> Markup:
    """Return a chart as an SVG element for a page, whose colours follow the page.

    Args:
        label: what the chart shows, for those who do not see it.
        height: in points; the width is 420.
        draw: a function of this file that draws `content` on axes.
    """
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": printable(label)}):
        canvas = Figure((WIDTH / 72, height / 72), layout="constrained")
        draw(canvas.subplots(), *content)
        save(canvas, file, format="svg", transparent=True)
    return for_page(file.getvalue(), printable(label))


def for_page(drawn: bytes, label: str) -> Markup:
    """Return matplotlib's SVG as a part of a page: it scales, has the page's font and colours, and says what it shows."""
    root = ElementTree.fromstring(drawn)
    referenced = set(re.findall(rb'href="#(\w+)"', drawn))
    names = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: " ".join(value.split()) for name, value in element.attrib.items()}
        attributes.pop("clip-path", None)  # nothing is drawn outside the axes
        if attributes.get("id", "").encode() not in referenced:
            attributes.pop("id", None)
        if "style" in attributes:
            style = re.sub("#[0-9a-f]{6}", lambda found: names[found[0]], attributes["style"])
            # matplotlib 3.10 writes the size and the family as one.
            style = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style)
            attributes["style"] = re.sub(r"font-family: [^;]*(; |$)", "", style)
        element.attrib = attributes
    drawing = root.find("g")
    assert drawing is not None
    root[:] = [ElementTree.Element("title"), drawing]
    root[0].text = label
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def save(canvas: Figure, file: Any, **options: Any) -> None:
    """Save a figure with fonts that have its letters."""
    choose_fonts(canvas)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # no font of this machine has it: the plot shows a box
        canvas.savefig(file, **options)


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


def draw_history(axes: Axes, history: list[EpochRow], quantity: str) -> None:
    """Accuracy or loss over the epochs, in training and in validation, and where fine-tuning began.

    A loss that is not finite is left out.

    Args:
        quantity: "accuracy" or "loss".
    """
    boundary, epochs = sum(row["stage"] == FROZEN.key for row in history), len(history)
    scale = 100 if quantity == "accuracy" else 1
    rows: list[Any] = list(history)
    series = {name: scale * np.array([row[prefix + quantity] for row in rows], float)
              for name, prefix in (("training", ""), ("validation", "val_"))}  # fmt: skip
    for colour, (name, values) in zip((FIRST, SECOND), series.items(), strict=True):
        values[~np.isfinite(values)] = np.nan
        axes.plot(range(1, epochs + 1), values, "o-" if epochs <= MOST_DOTS else "-", color=colour, linewidth=2, markersize=5.5,
                  label=name)  # fmt: skip
    seen = np.concatenate(list(series.values()))
    seen = seen[np.isfinite(seen)] if np.isfinite(seen).any() else np.zeros(1)
    margin = 0.06 * (np.ptp(seen) or 1)
    if 0 < boundary < epochs:
        right = boundary + 0.5 > 0.7 * epochs
        axes.axvline(boundary + 0.5, color=MUTED, linestyle=(0, (4, 4)), linewidth=1)
        axes.annotate("fine-tuning", (boundary + 0.5, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
                      xytext=(-6 if right else 6, -12), ha="right" if right else "left", color=MUTED)  # fmt: skip
        margin_above = 3 * margin  # the word stands above the lines
    else:
        margin_above = margin
    axes.set(xlim=(0.7, max(epochs, 1) + 0.3), ylim=(seen.min() - margin, seen.max() + margin_above), xlabel="epoch",
             title="accuracy in %" if scale == 100 else "loss")  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=ROUND))
    low, high = axes.get_ylim()
    high = min(high, 100) if scale == 100 else high
    axes.set_yticks([tick for tick in MaxNLocator(5, steps=ROUND).tick_values(low, high) if low <= tick <= high])
    axes.grid(False, axis="x")


def accuracies(test: dict[str, Figures]) -> dict[str, tuple[float, float, float]]:
    """Return for each stage, by its name, the low end of its 95 % interval, its accuracy and the high end, in 0..1."""
    return {STAGES[stage].name: (one["interval"][0], one["accuracy"], one["interval"][1])
            for stage, one in test.items()}  # fmt: skip


def gained(test: dict[str, Figures]) -> str:
    """Return what fine-tuning changed, for a chart's title."""
    both = len(test) == 2
    return f"fine-tuning: {points(test['fine_tuned']['accuracy'] - test['frozen']['accuracy'], 2)}" if both else ""


def rows_height(rows: Mapping[str, Any]) -> float:
    """Return the height in points of a chart of `draw_intervals`."""
    return 44 + 42 * len(rows)


def draw_intervals(
    axes: Axes, rows: Mapping[str, tuple[float, float, float]], scale: str = "test accuracy in %, 95 % interval",
    marks: Sequence[Sequence[float]] = (),
) -> None:  # fmt: skip
    """A dot and its interval a row, in %; the last one stands out.

    Args:
        rows: name, and low end, value and high end in 0..1.
        marks: for each row, single values in 0..1 to mark on its interval.
    """
    ends = 100 * np.array(list(rows.values()))
    shown = np.concatenate([ends.ravel(), 100 * np.ravel(marks or [])])
    margin = 0.15 * max(np.ptp(shown), 1.0)
    for row, (low, middle, high) in enumerate(ends):
        colour = SECOND if row == len(ends) - 1 else FIRST
        axes.plot([low, high], [row, row], color=colour, linewidth=2.5, solid_capstyle="round")
        axes.plot(middle, row, "o", color=colour, markersize=10)
        axes.annotate(percent(middle / 100), (middle, row), xytext=(0, 9), textcoords="offset points", ha="center")
        for value in marks[row] if marks else ():
            axes.plot(100 * value, row, "|", color=colour, markersize=13, markeredgewidth=1.5)
    axes.set(xlim=(max(0.0, shown.min() - margin), min(100.0, shown.max() + margin)), ylim=(len(ends) - 0.5, -0.8), xlabel=scale,
             yticks=range(len(ends)))  # fmt: skip
    axes.set_yticklabels([shortened(name, ROW_NAME) for name in rows], color=INK, fontsize=13)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=ROUND))
    axes.grid(False, axis="y")


# The marks of backbones in `draw_trials`, and the colours of its rungs.
MARKS = "os^DvP*X"
RUNG_COLOURS = (MUTED, FIRST, SECOND)


def draw_trials(axes: Axes, trials: Sequence[Mapping[str, Any]], backbones: Sequence[str]) -> None:
    """Validation accuracy of each trial of a search over the time: a line from its beginning to its end, and a mark there.

    Args:
        trials: each with `rung`, `backbone`, `began` and `ended` in minutes, `accuracy` in 0..1, and `winner`.
        backbones: their names, each of which has its own mark.
    """
    for trial in trials:
        colour, value = RUNG_COLOURS[trial["rung"]], 100 * trial["accuracy"]
        axes.plot([trial["began"], trial["ended"]], [value, value], color=colour, linewidth=1.5, alpha=0.6)
        mark = MARKS[backbones.index(trial["backbone"]) % len(MARKS)]
        axes.plot(trial["ended"], value, mark, color=colour, markersize=7)
        if trial["winner"]:
            axes.plot(trial["ended"], value, "o", color=INK, markersize=14, fillstyle="none", markeredgewidth=1.5)
            axes.annotate("winner", (trial["ended"], value), xytext=(0, 11), textcoords="offset points", ha="center")
    values = np.array([100 * trial["accuracy"] for trial in trials])
    margin = max(0.12 * np.ptp(values), 1.0)
    axes.set(xlim=(0, 1.04 * max(trial["ended"] for trial in trials)), xlabel="minutes since the search began",
             ylim=(max(0.0, values.min() - margin), min(100.0, values.max() + margin)),
             title="validation accuracy in %")  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axes.grid(False, axis="x")


def draw_confusion(axes: Axes, matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> None:
    """Given class by predicted class, in % of the given one.

    Args:
        matrix: `confusion` of `metrics.json`.
    """
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(class_names) <= MOST_LABELLED
    # Blue is right, the other colour is wrong; as transparency they suit any paper.
    colours = np.where(
        np.eye(len(class_names), dtype=bool)[..., None], *(matplotlib.colors.to_rgb(one) for one in (SECOND, FIRST))
    )
    axes.imshow(np.dstack([colours, shares if few else np.sqrt(shares)]), interpolation="none")
    axes.set(xlabel="predicted class", ylabel="given class", title="in % of the given class")
    axes.grid(False)
    if not few:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=LINE)
        return
    names = [shortened(name, MARGIN_NAME) for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation="vertical")
    axes.set_yticks(range(len(names)), names)
    for row, column in np.argwhere(shares >= 0.0005):
        value = 100 * shares[row, column]
        axes.text(column, row, f"{value:.1f}" if value < 99.95 else "100", ha="center", va="center", fontsize=8,
                  color="white" if value > 50 else INK)  # fmt: skip


Bins = tuple[np.ndarray, np.ndarray, np.ndarray]


def confidences(logits: np.ndarray, labels: np.ndarray, figures: Figures, plain: str = "without scaling") -> dict[str, Bins]:
    """Return the bins of `reliability` before and, where a temperature is applied, after temperature scaling, by name.

    Args:
        plain: the name of the bins where none is applied.
    """
    divisors = {"before scaling": 1.0, f"with temperature {figures['temperature']:.2f}": figures["temperature"]}
    chosen = list(divisors.items()) if is_applied(figures) else [(plain, 1.0)]
    return {name: reliability(probabilities(logits, divisor), labels) for name, divisor in chosen}


def draw_reliability(axes: Axes, series: Mapping[str, Bins]) -> None:
    """Accuracy over confidence, with 95 % intervals: on the diagonal, 90 % means 90 %. A dot's area is its share of images."""
    axes.plot([0, 100], [0, 100], color=MUTED, linestyle=(0, (4, 4)), linewidth=1)
    for colour, (name, (counts, sure, right)) in zip((FIRST, SECOND), series.items(), strict=False):
        ends = np.array(
            [wilson_interval(round(total * share), total) for total, share in zip(counts.tolist(), right, strict=True)]
        )
        axes.errorbar(100 * sure, 100 * right, 100 * np.abs(ends - right[:, None]).T, fmt="none", ecolor=colour, alpha=0.5,
                      elinewidth=1)  # fmt: skip
        axes.scatter(100 * sure, 100 * right, (4 + 40 * np.sqrt(counts / counts.sum())) ** 2, color=colour, alpha=0.6,
                     linewidth=0, clip_on=False, label=name)  # fmt: skip
    axes.set(xlim=(0, 106), ylim=(0, 106), xlabel="confidence in %", title="accuracy in %", xticks=range(0, 101, 20),
             yticks=range(0, 101, 20))  # fmt: skip
    axes.grid(False, axis="x")


def draw_risk(axes: Axes, confidences: np.ndarray, correct: np.ndarray, rejection: RejectionFigures) -> None:
    """The share of wrong answers over the share of images that are answered, from the surest on; and what was promised of it.

    Args:
        confidences, correct: float and bool (N,), of the test images.
        rejection: what the thresholds of validation reach there.
    """
    coverage, risk = risk_by_coverage(confidences, correct)
    rows = np.unique(np.linspace(len(risk) * LEAST_COVERAGE, len(risk) - 1, MOST_POINTS).astype(int))
    axes.plot(100 * coverage[rows], 100 * risk[rows], color=SECOND, linewidth=2)
    highest = 100 * max(risk[rows].max(), 0.001)
    for point in rejection["points"]:
        if "precision" in point:
            place = (100 * point["coverage"], 100 * (1 - point["precision"]))
            axes.plot(*place, "o", color=FIRST, markersize=8)
            axes.annotate(f"{100 * point['wanted']:g} %", place, xytext=(-4, 8), textcoords="offset points", ha="right")
    axes.set(xlim=(0, 103), ylim=(-0.03 * highest, 1.15 * highest), xlabel="answered images in %", title="wrong among them in %",
             xticks=range(0, 101, 20))  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axes.grid(False, axis="x")


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
        title(grid[0, column], shortened(data.class_names[label], SHEET_NAME))


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


def title(axes: Axes, words: str, size: float = 8) -> None:
    """Write what an image of a sheet is above it."""
    axes.set_title(words, fontsize=size, loc="center", color=INK)


def draw_mistakes(canvas: Figure, data: Dataset, probabilities: np.ndarray) -> None:
    """The mistakes on the test split that the network was most confident of."""
    labels = data.labels(data.test)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    rows, columns = MISTAKES
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][: rows * columns]
    canvas.suptitle(
        f"most confident of {count(len(wrong), 'mistake')} on the test split" if len(wrong) else "no mistake on the test split"
    )
    for axes, index in zip(sheet(canvas, rows, columns, len(surest)), surest, strict=True):
        show(axes, data.images(data.test[[index]])[0])
        said, given = (shortened(data.class_names[label], SHEET_NAME) for label in (predicted[index], labels[index]))
        sure = probabilities[index, predicted[index]]
        # The number first: after a name that is read from right to left it would be read as a part of this.
        title(axes, f"{100 * sure:.0f} %: {said}\nlabel: {given}")
