import dataclasses
import re
import shutil
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image

import headstart as hs
from headstart.report import plots
from headstart.report.sheets import draw_suspects

NAMES = (
    "$0_to_$20", "$20_to_$50", "a\nb\x1b[31m\x00", "x" * 255, "\udcff", "猫", "חתול", "<b>&", "\U0010fffd", "100 % \\frac{",
)  # fmt: skip


@pytest.fixture
def renamed(digits):
    """The digits, with classes whose names are trouble."""
    return dataclasses.replace(digits, source=dataclasses.replace(digits.source, class_names=NAMES))


def test_names_of_any_kind_can_be_drawn_without_a_word(small_run, renamed, tmp_path):
    run = hs.Run(shutil.copytree(small_run.path, tmp_path / "copy"))
    shutil.rmtree(run.path / "images")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.draw_plots(run, renamed, run.history, run.metrics)
        with plots.figure(run.path / "images" / "suspects.png", (10, 6.5)) as canvas:
            rest = {"suggested": NAMES[0], "suggested_probability": 0.5, "rank": 1, "certainty": "surely"}
            found = [rest | {"given": given} for given in NAMES]
            draw_suspects(canvas, renamed, renamed.train[: len(NAMES)], found)
    sizes = {file.name: Image.open(file).size for file in (run.path / "images").iterdir()}
    assert sizes.keys() == {"history.png", "gain.png", "confusion.png", "calibration.png", "samples.png", "mistakes.png",
                            "rejection.png", "suspects.png"}  # fmt: skip


def test_dollars_stay_and_letters_come_from_a_font_that_has_them(tmp_path):
    standard = plots.letters_of(findfont(FontProperties()))
    other = findfont(FontProperties(family=["STIXGeneral"]))  # comes with matplotlib
    letter = chr(max(plots.letters_of(other) - standard))
    with plots.figure(tmp_path / "plot.png", (3, 2)) as canvas:
        axes = canvas.subplots()
        axes.set(xticks=[0, 1], xticklabels=["$0_to_$20", letter], title="plain")
    text = axes.get_xticklabels()[1]
    assert any(ord(letter) in plots.letters_of(findfont(FontProperties(family=[name]))) for name in text.get_fontfamily())
    assert axes.get_xticklabels()[0].get_text() == "$0_to_$20"
    assert axes.get_xticklabels()[0].get_parse_math() is False


def test_without_strange_letters_no_further_font_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "fontManager", None)
    with plots.figure(tmp_path / "plot.png", (3, 2)) as canvas:
        canvas.suptitle("plain, bär, 1 %")


def history(*losses: float) -> list[dict]:
    row = {"stage": "fine_tuned", "accuracy": 0.5, "val_accuracy": 0.75}
    rows = [row | {"loss": loss, "val_loss": loss} for loss in losses]
    return [rows[0] | {"stage": "frozen"}, *rows[1:]]


BINS = {"without scaling": (np.array([3, 7]), np.array([0.6, 1.0]), np.array([1 / 3, 1.0]))}


@pytest.mark.parametrize(
    ("draw", "content", "words"),
    [
        (plots.draw_history, (history(1.0), "accuracy"), {"epoch", "accuracy in %"}),
        (plots.draw_history, (history(2.0, 2.0, 2.0), "loss"), {"loss", "fine-tuning"}),
        (plots.draw_history, (history(1.0, float("nan"), float("inf")), "loss"), {"fine-tuning"}),
        (plots.draw_history, (history(float("nan")), "loss"), {"epoch"}),
        (plots.draw_intervals, ({"frozen": (1.0, 1.0, 1.0)},), {"frozen", "100.0\N{NO-BREAK SPACE}%"}),
        (plots.draw_intervals, ({"<b>&$x$": (0.1, 0.2, 0.3), "猫\n\udcff": (0.2, 0.3, 0.4)}, "%", [[0.15], [0.3]]),
         {"<b>&$x$", "猫\\n\N{REPLACEMENT CHARACTER}"}),
        (plots.draw_reliability, (BINS,), {"confidence in %"}),
        (plots.draw_confusion, (np.eye(30, dtype=int) + 1, [str(label) for label in range(30)]), {"given class"}),
    ],
)  # fmt: skip
def test_a_chart_for_a_page_is_well_formed_says_what_it_shows_and_has_the_pages_colours(draw, content, words):
    drawn = plots.svg("a <label>\x00", 260, draw, *content)
    root = ElementTree.fromstring(drawn)
    assert root.attrib == {"viewBox": "0 0 420 260", "role": "img", "aria-label": r"a <label>\x00"}
    assert root.findtext("title") == r"a <label>\x00"
    assert words <= {text.text for text in root.iter("text")}
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert "var(--" in styles
    assert not re.search("#[0-9a-f]{3}|rgb|font-family|url", styles)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {use.get("href") for use in root.iter("use")} <= {f"#{one}" for one in ids}
    assert "nan" not in " ".join(value for element in root.iter() for value in element.attrib.values())
    assert plots.svg("a <label>\x00", 260, draw, *content) == drawn
    other = set(re.findall(' id="([^"]*)"', plots.svg("another", 260, draw, *content)))
    assert other.isdisjoint(ids), "two charts of a page share an id"


def test_the_colours_of_the_charts_are_those_of_the_light_page():
    style = Path(plots.__file__).with_name("templates").joinpath("style.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", style[: style.index("@media")]))
    assert {name: light[name] for name in plots.COLOURS} == plots.COLOURS
