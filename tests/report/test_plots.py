import dataclasses
import shutil
import warnings

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
                            "suspects.png"}  # fmt: skip


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


@pytest.mark.parametrize("applied", [True, False])
def test_the_plot_of_calibration_says_on_how_many_images_and_whether_it_is_applied(applied, small_run, digits, tmp_path):
    figures = small_run.metrics["test"]["fine_tuned"] | {
        "calibration": {"images": 77, "fitted": 1.5, "applied": applied, "gain": 0.1, "standard_error": 0.1, "reason": "chance"}
    }
    with plots.figure(tmp_path / "calibration.png", (5, 5)) as canvas:
        plots.draw_calibration(canvas, digits.labels(digits.test), small_run.test_logits("fine_tuned"), figures)
    assert len(canvas.axes) == 1 + applied
    assert "fitted on 77 validation images" in canvas.get_suptitle().replace("\n", " ")


def test_the_plot_of_the_gain_claims_nothing_that_the_audit_contradicts(small_run, tmp_path):
    test = {stage: one | {"near_duplicates_in_training": one["images"]} for stage, one in small_run.metrics["test"].items()}
    with plots.figure(tmp_path / "gain.png", (5, 4)) as canvas:
        plots.draw_gain(canvas, test)
    assert "near-duplicate in training" in canvas.get_supxlabel()
