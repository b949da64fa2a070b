"""Charts as small SVG drawings, whose colours follow the page from light to dark and onto paper."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from matplotlib.ticker import MaxNLocator

from headstart.report.html import E
from headstart.system.text import count as counted
from headstart.system.text import shortened

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 40
# More would hide the line.
MOST_DOTS = 40
# What fits left of a chart of intervals.
MOST_NAME = 14


class Axes:
    """A drawing with a horizontal and a vertical scale.

    Args:
        label: what the chart shows, for those who do not see it.
        x, y: lowest and highest value of each scale.
    """

    def __init__(
        self, label: str, x: tuple[float, float], y: tuple[float, float], height: int = HEIGHT, left: int = LEFT
    ) -> None:
        self.x_range, self.y_range, self.height, self.left = x, y, height, left
        self.svg = E("svg", E("title", label), viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (WIDTH - self.left - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM), 1)

    def add(self, tag: str, *content: Any, **attributes: Any) -> None:
        self.svg.append(E(tag, *content, **attributes))

    def text(self, x: float, y: float, words: str, anchor: str = "middle", class_: str = "tick") -> None:
        self.add("text", words, x=x, y=y, text_anchor=anchor, class_=class_)

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def grid(self, x_label: str, y_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        """Draw the scales with their numbers and names."""
        for value in y_ticks:
            self.line(self.left, self.y(value), WIDTH - RIGHT, self.y(value), "grid")
            self.text(self.left - 7, self.y(value) + 4, f"{value:g}", "end")
        for value in x_ticks:
            self.text(self.x(value), self.height - BOTTOM + 17, f"{value:g}")
        self.text((self.left + WIDTH - RIGHT) / 2, self.height - 5, x_label)
        self.text(self.left, TOP - 3, y_label, "start")


def ticks(low: float, high: float, count: int = 5, integer: bool = False) -> list[float]:
    """Return round numbers from `low` to `high`."""
    values = MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]


def curves(label: str, series: Mapping[str, Sequence[float]], boundary: int, y_label: str) -> Element:
    """Return lines over the epochs, dashed where fine-tuning began.

    Args:
        series: name and values, one an epoch; the second, validation's, stands out.
        boundary: epochs before fine-tuning, or 0.
    """
    values = np.concatenate([np.asarray(one, float) for one in series.values()])
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)  # a loss may have gone to infinity
    epochs, margin = len(next(iter(series.values()))), 0.06 * (np.ptp(values) or 1)
    # The name of the boundary needs room above the lines.
    above = 2.5 * margin if 0 < boundary < epochs else margin
    axes = Axes(label, (0.7, max(epochs, 1) + 0.3), (values.min() - margin, values.max() + above))
    low, high = axes.y_range
    axes.grid("epoch", y_label, ticks(1, max(epochs, 2), 8, integer=True)[: max(epochs, 1)], ticks(low, high))
    if 0 < boundary < epochs:
        axes.line(axes.x(boundary + 0.5), TOP, axes.x(boundary + 0.5), HEIGHT - BOTTOM, "boundary")
        near_right = boundary + 0.5 > 0.7 * epochs
        axes.text(axes.x(boundary + 0.5) + (-6 if near_right else 6), TOP + 12, "fine-tuning", "end" if near_right else "start")
    for class_, (name, one) in zip(("first", "second"), series.items(), strict=False):
        points = [(epoch, axes.x(epoch), axes.y(value), value) for epoch, value in enumerate(one, start=1) if np.isfinite(value)]
        axes.add("polyline", points=" ".join(f"{x},{y}" for _, x, y, _ in points), class_=f"curve {class_}")
        for epoch, x, y, value in points if epochs <= MOST_DOTS else ():
            axes.add("circle", E("title", f"{name}, epoch {epoch}: {value:.4g}"), cx=x, cy=y, r=3, class_=f"dot {class_}")
    return axes.svg


def legend(*names: str) -> Element:
    """Return the names of a chart's two series beside their colours."""
    keys = [E("span", E("i", class_=class_), name) for class_, name in zip(("first", "second"), names, strict=False)]
    return E("p", *keys, class_="legend")


def intervals(
    label: str, rows: dict[str, tuple[float, float, float]], x_label: str = "accuracy in %, 95 % interval",
    marks: Sequence[Sequence[float]] = (),
) -> Element:  # fmt: skip
    """Return a dot and its interval a row, in %.

    Args:
        rows: name, and low end, value and high end in 0..1.
        marks: for each row, single values in 0..1 to mark on its interval.
    """
    ends = 100 * np.array(list(rows.values()))
    margin = 0.15 * max(np.ptp(ends), 1.0)
    low, high = max(0.0, ends.min() - margin), min(100.0, ends.max() + margin)
    height = TOP + 34 * len(rows) + BOTTOM - 6
    axes = Axes(label, (low, high), (0, len(rows)), height, left=96)
    for value in ticks(low, high, 4):
        axes.line(axes.x(value), TOP, axes.x(value), height - BOTTOM, "grid")
        axes.text(axes.x(value), height - BOTTOM + 17, f"{value:g}")
    axes.text((96 + WIDTH - RIGHT) / 2, height - 5, x_label)
    for row, (name, values) in enumerate(rows.items()):
        class_ = "second" if row == len(rows) - 1 else "first"
        y = axes.y(len(rows) - row - 0.5)
        left, middle, right = (axes.x(100 * value) for value in values)
        axes.line(left, y, right, y, f"whisker {class_}")
        axes.add("circle", cx=middle, cy=y, r=5.5, class_=f"dot {class_}")
        for value in marks[row] if marks else ():
            axes.line(axes.x(100 * value), y - 8, axes.x(100 * value), y + 8, f"mark {class_}")
        axes.text(86, y + 4, shortened(name, MOST_NAME), "end", "name")
    return axes.svg


def reliability_diagram(label: str, series: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Element:
    """Return accuracy over confidence: on the diagonal, 90 % means 90 %. A dot's area is its share of the images.

    Args:
        series: name, and images, mean confidence and accuracy of each bin.
    """
    axes = Axes(label, (0, 100), (0, 100), height=340)
    axes.grid("confidence in %", "accuracy in %", range(0, 101, 20), range(0, 101, 20))
    axes.line(axes.x(0), axes.y(0), axes.x(100), axes.y(100), "boundary")
    for class_, (name, (counts, confidences, accuracies)) in zip(("first", "second"), series.items(), strict=False):
        for count, confidence, accuracy in zip(counts.tolist(), confidences.tolist(), accuracies.tolist(), strict=True):
            words = f"{name}: {counted(count, 'image')}, {100 * confidence:.0f} % sure, {100 * accuracy:.0f} % right"
            radius = round(2 + 20 * float(np.sqrt(count / counts.sum())), 1)
            axes.add("circle", E("title", words), cx=axes.x(100 * confidence), cy=axes.y(100 * accuracy), r=radius,
                     class_=f"bubble {class_}")  # fmt: skip
    return axes.svg
