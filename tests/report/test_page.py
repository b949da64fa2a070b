import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

import headstart as hs
from headstart.report.page import command, write_report


class Tags(HTMLParser):
    """What a browser would see of a page: how often each tag opens, every address, all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag in ("img", "svg"):
            alternative = dict(attributes).get("alt" if tag == "img" else "aria-label")
            assert alternative, f"a {tag} has no alternative text"

    def handle_data(self, text):
        self.text += text


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


def rewritten(run: hs.Run, data: hs.Dataset) -> Tags:
    run = hs.Run(run.path)
    write_report(run, run.model, data)
    return Tags((run.path / "report.html").read_text(encoding="utf-8"))


def test_the_page_stands_alone_and_its_figures_are_the_runs(small_run):
    page = (small_run.path / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in tags.addresses)
    assert not re.search(r"https?://", page)
    assert "url(" not in page
    assert len(page) < 5_000_000
    figures = small_run.metrics["test"]["fine_tuned"]
    low, high = figures["interval"]
    plain = tags.text.replace("\N{NO-BREAK SPACE}", " ")
    for value in (figures["accuracy"], low, high, figures["macro"]["f1-score"], figures["per_class"]["8"]["recall"]):
        assert f"{100 * value:.1f} %" in plain
    assert small_run.read_json("data.json")["fingerprint"] in plain
    for heading in ("What to do next", "Surest mistakes", "Least sure", "Typical of each class", "Calibration"):
        assert heading in plain


def test_names_cannot_break_out_of_the_page(copy, digits):
    evil = "<script>alert(1)</script>&\udcff"

    def rename(metrics):
        for figures in metrics["test"].values():
            figures["per_class"] = {evil if name == "3" else name: one for name, one in figures["per_class"].items()}

    changed(copy, "metrics.json", rename)
    names = tuple(evil if name == "3" else name for name in digits.class_names)
    files = tuple(f'"><img src=x onerror=alert({index})>' for index in range(len(digits.pictures.labels)))
    data = dataclasses.replace(digits, pictures=dataclasses.replace(digits.pictures, class_names=names, files=files))
    tags = rewritten(copy, data)
    assert tags.counts["script"] == 1
    assert "<script>alert(1)</script>&" in tags.text
    assert "x" not in tags.addresses


def test_what_an_older_run_does_not_know_is_left_out(copy, digits):
    def age(metrics):
        metrics.pop("comparison")
        for figures in metrics["test"].values():
            for name in ("macro", "confusion", "temperature", "calibrated", "brier", "ece"):
                figures.pop(name)

    changed(copy, "metrics.json", age)
    text = rewritten(copy, digits).text
    assert "of the test pictures are named right" in text
    assert "Calibration error" not in text
    assert "McNemar" not in text


def test_the_audit_is_shown_with_its_pictures(copy, digits):
    audit = {
        "imbalance": 1.2,
        "near_duplicates": [{"first": "training 1", "second": "training 0", "parts": ["test", "training"], "similarity": 0.97}],
        "suspects": [{"name": "training 5", "part": "training", "given": "5", "suggested": "6", "given_probability": 0.01,
                      "suggested_probability": 0.95}],
        "accuracy_without_twins": {"fine_tuned": {"accuracy": 0.4321, "interval": [0.4, 0.5], "pictures": 58, "left_out": 1}},
    }  # fmt: skip
    without = rewritten(copy, digits)
    (copy.path / "audit.json").write_text(json.dumps(audit))
    tags = rewritten(copy, digits)
    for words in ("43.21", "Labels that may be wrong", "Near-duplicates", "Look at 1 label", "1 pair, 1 of them across"):
        assert words in tags.text.replace("\N{NO-BREAK SPACE}", " ")
    assert tags.counts["img"] == without.counts["img"] + 3  # a pair and a suspect
    pair = audit["near_duplicates"][0] | {"labels": ["0", "8"]}
    suspect = audit["suspects"][0] | {"rank": 1, "certainty": "surely"}
    newer = {"near_duplicates": [pair], "label_conflicts": [pair], "suspects": [suspect], "suspects_note": "labels, some"}
    (copy.path / "audit.json").write_text(json.dumps(newer | {"alike": False}))
    text = rewritten(copy, digits).text.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("1 strong suspect (“surely”) and 0 more", "1, surely: 6?", "Labels, some.", "after 58 labels",
                  "1 pair of nearly the same image with different labels", "training 1 (0), training 0 (8)"):  # fmt: skip
        assert words in text
    (copy.path / "audit.json").write_text(json.dumps(newer | {"alike": True, "suspects": []}))
    text = rewritten(copy, digits).text
    assert "alike by kind" in text
    assert "different labels" not in text
    assert "strong suspect" not in text


def test_the_command_gives_the_configuration_again():
    config = hs.recipe("starter", data="my photos/", flip=False, epochs=3, out="elsewhere")
    assert command(config) == ["headstart train", "--recipe starter", "--data 'my photos/'", "--no-flip", "--epochs 3"]
