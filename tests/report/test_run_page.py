import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

import headstart as hs
from headstart.config import read_toml
from headstart.model.network import Network
from headstart.report.run_page import again, command, write_report
from helpers import mend_checksum
from pages import Tags


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the run whose files a test may change; what its audit found differs between machines, and is left out."""
    run = hs.Run(shutil.copytree(small_run.path, tmp_path / "copy"))
    changed(run, "audit.json", lambda audit: audit.update(near_duplicates=[], suspects=[]))
    return run


def changed(run: hs.Run, name: str, change) -> None:
    content = run.read_json(name)
    change(content)
    (run.path / name).write_text(json.dumps(content))
    mend_checksum(run.path, name)


def rewritten(run: hs.Run, data: hs.Dataset) -> Tags:
    run = hs.Run(run.path)
    write_report(run, Network.of_saved(run.model), data)
    return Tags((run.path / "report.html").read_text(encoding="utf-8"))


def test_the_page_stands_alone_and_its_figures_are_the_runs(small_run):
    page = (small_run.path / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in tags.addresses)
    assert not re.search(r"https?://", page)
    assert "url(" not in page
    assert page.count("<svg") == 5
    assert len(page) < 5_000_000
    figures = small_run.metrics["test"]["fine_tuned"]
    low, high = figures["interval"]
    plain = tags.text
    for value in (figures["accuracy"], low, high, figures["macro"]["f1-score"], figures["per_class"]["8"]["recall"]):
        assert f"{100 * value:.1f} %" in plain
    assert small_run.read_json("data.json")["fingerprint"] in plain
    for heading in ("What to do next", "Most confident mistakes", "Least confident", "Typical of each class", "Calibration"):
        assert heading in plain


def test_names_cannot_break_out_of_the_page(copy, digits):
    evil = {"3": "<script>alert(1)</script>&\udcff", "4": "a\x00\n\x1b[31m\u202eb", "5": 255 * "x"}

    def rename(metrics):
        for figures in metrics["test"].values():
            figures["per_class"] = {evil.get(name, name): one for name, one in figures["per_class"].items()}

    changed(copy, "metrics.json", rename)
    names = tuple(evil.get(name, name) for name in digits.class_names)
    files = tuple(f'"><img src=x onerror=alert({index})>\udcff\n' for index in range(len(digits.source.labels)))
    data = dataclasses.replace(digits, source=dataclasses.replace(digits.source, class_names=names, files=files))
    with (copy.path / "config.toml").open("ab") as file:
        file.write(b"# caf\xe9\n")
    tags = rewritten(copy, data)
    assert tags.counts["script"] == 1
    assert "<script>alert(1)</script>&\N{REPLACEMENT CHARACTER}" in tags.text
    assert r"a\x00\n\x1b[31m\u202eb" in tags.text
    assert "xxxxx…xxxxx" in tags.text
    assert 60 * "x" not in tags.text, "a long name fills the tables"
    assert "x" not in tags.addresses
    page = (copy.path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]|&#(0|27|5[56]\d{3});", page), "no valid HTML"
    assert f'title="{evil["5"]}"' in page, "the whole name is nowhere"


def test_the_headline_claims_nothing_that_the_audit_contradicts(copy, digits):
    def known(metrics):
        metrics["test"]["fine_tuned"] |= {
            "accuracy": 0.9, "interval": [0.876, 0.934], "near_duplicates_in_training": 40, "images": 60,
            "without_near_duplicates": {"accuracy": 0.4321, "interval": [0.3, 0.5], "images": 20, "left_out": 40},
        }  # fmt: skip

    assert "the true accuracy lies" in rewritten(copy, digits).text
    changed(copy, "metrics.json", known)
    tags = rewritten(copy, digits)
    said = tags.text
    headline = said[: said.index("What to do next")]
    assert "classified correctly, but 40 of 60 test images have a near-duplicate in training" in headline
    assert "On the other 20 the accuracy is 43.2 %, with 95 % confidence between 30.0 % and 50.0 %" in headline
    assert "one of the folders train, val and test" in headline
    assert "true accuracy" not in said
    assert "93.4" not in headline.replace("fine-tuned 90.0 % (87.6 % to 93.4 %)", "")  # which the chart's description has
    assert "Test on more" not in said


def test_a_few_near_duplicates_leave_the_claim_and_are_named(copy, digits):
    def known(metrics):
        metrics["test"]["fine_tuned"] |= {
            "interval": [0.8, 0.99], "near_duplicates_in_training": 2, "images": 60,
            "without_near_duplicates": {"accuracy": 0.9123, "interval": [0.8, 0.98], "images": 58, "left_out": 2},
        }  # fmt: skip

    changed(copy, "metrics.json", known)
    said = rewritten(copy, digits).text
    assert "the true accuracy lies between 80.0 % and 99.0 %" in said
    assert "2 of them have a near-duplicate in training; on the others, the accuracy is 91.2 %." in said


@pytest.mark.parametrize("applied", [True, False])
def test_the_page_says_whether_a_temperature_is_applied_and_on_how_many_images_it_was_fitted(applied, copy, digits):
    def fitted(metrics):
        metrics["test"]["fine_tuned"]["temperature"] = 1.5 if applied else 1.0
        metrics["test"]["fine_tuned"]["calibration"] = {
            "images": 77, "fitted": 1.5, "applied": applied, "gain": 0.1, "standard_error": 0.01, "reason": "so it is",
        }  # fmt: skip

    changed(copy, "metrics.json", fitted)
    text = rewritten(copy, digits).text
    assert f"Temperature 1.50, fitted on 77 validation images, {'is' if applied else 'is not'} applied: so it is." in text
    assert ("% before scaling" in text) == ("with temperature 1.50" in text) == ("Before After" in text) == applied
    assert ("no temperature is applied" in text) != applied


def test_the_data_are_shown_with_what_the_audit_found(copy, digits):
    figures = {"accuracy": 0.4321, "interval": [0.4, 0.5], "images": 58, "left_out": 1}
    changed(copy, "audit.json", lambda audit: audit.update(accuracy_without_near_duplicates={"fine_tuned": figures}))
    text = rewritten(copy, digits).text
    assert "43.21" in text
    assert "Labels that may be wrong" in text
    (copy.path / "audit.json").unlink()
    text = rewritten(copy, digits).text
    assert "Images of each split" in text
    assert "Labels that may be wrong" not in text


def test_the_confusions_of_many_classes_are_drawn(copy, digits):
    names = [f"class {label}" for label in range(25)]

    def many(metrics):
        for figures in metrics["test"].values():
            figures["per_class"] = dict.fromkeys(names, figures["per_class"]["3"])
            figures["confusion"] = (5 * np.eye(25, dtype=int) + 1).tolist()

    changed(copy, "metrics.json", many)
    page = rewritten(copy, digits)
    assert page.counts["svg"] == 6
    assert "Of the class" in page.text


def test_the_command_gives_the_configuration_again():
    config = hs.recipe("starter", data="my photos/", flip=False, epochs=3, out="elsewhere")
    assert command(config) == ["headstart train", "--recipe starter", "--data 'my photos'", "--no-flip", "--epochs 3"]


def test_the_options_are_a_file_of_options(small_run, tmp_path):
    """Whoever copies them from the page can train by them: `trust`, which no file may set, is not among them."""
    (tmp_path / "options.toml").write_text(again(small_run)["options"], encoding="utf-8")
    assert read_toml(tmp_path / "options.toml")["recipe"] == "starter"
