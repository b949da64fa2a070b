import dataclasses
import json
import re
import shutil

import pytest

import headstart as hs
from headstart.cli.main import main
from headstart.report.compare import Comparison
from helpers import SMALL, mend_checksum


@pytest.fixture(scope="module")
def other_run(tmp_path_factory, digits):
    """A run on the same images that learned less."""
    return hs.train(hs.recipe("starter", out=str(tmp_path_factory.mktemp("other") / "other"), **SMALL | {"epochs": 0}), digits)


def test_two_runs_on_the_same_images_get_a_paired_test(small_run, other_run, capsys, tmp_path):
    main(["compare", str(other_run.path), str(small_run.path), "--out", str(tmp_path / "compare.html")])
    printed = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    accuracies = [other_run.metrics["test"]["frozen"]["accuracy"], small_run.metrics["test"]["fine_tuned"]["accuracy"]]
    for value in accuracies:
        assert f"{100 * value:.2f} %" in printed
    assert f"{100 * (accuracies[1] - accuracies[0]):+.2f} points" in printed
    assert "exact McNemar test" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("--")] == [["--epochs", "0", "4"]]
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "Recall of each class" in page
    assert "exact McNemar test" in page


def test_the_paired_test_is_that_of_the_images_that_both_were_tested_on(small_run, digits, tmp_path, capsys):
    """In whatever order, and with whatever else."""
    few = dataclasses.replace(digits, test=digits.test[40:10:-1])
    options = SMALL | {"epochs": 0, "head_epochs": 1}
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "few"), **options), few)
    main(["compare", str(run.path), str(small_run.path)])
    assert "Of the test images, 30 are the same in both runs, and on these the difference" in capsys.readouterr().out
    labels = digits.labels(digits.test)[11:41]
    right = [small_run.test_logits("fine_tuned")[11:41].argmax(axis=1), run.test_logits("frozen").argmax(axis=1)] == labels
    won, lost = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert f"{won} images are right only in {small_run.path.name}, {lost} only in few" in Comparison(run, small_run).verdict()


def test_other_test_images_get_no_paired_test(small_run, tmp_path, capsys):
    other = shutil.copytree(small_run.path, tmp_path / "other")
    rows = (other / "split.csv").read_text()
    (other / "split.csv").write_text(re.sub(",test,.", lambda found: ",test,0" if found[0][-1] != "0" else ",test,1", rows))
    mend_checksum(other, "split.csv")
    main(["compare", str(small_run.path), str(other)])
    assert "not tested on the same images" in capsys.readouterr().out


def test_an_accuracy_on_known_images_is_not_compared_without_a_word(small_run, tmp_path, capsys):
    other = shutil.copytree(small_run.path, tmp_path / "other")
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["test"]["fine_tuned"] |= {
        "near_duplicates_in_training": 50, "images": 60,
        "without_near_duplicates": {"accuracy": 0.4321, "interval": [0.2, 0.6], "images": 10, "left_out": 50},
    }  # fmt: skip
    (other / "metrics.json").write_text(json.dumps(metrics))
    mend_checksum(other, "metrics.json")
    main(["compare", str(small_run.path), str(other)])
    said = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    assert "Of other, 50 of 60 test images have a near-duplicate in training" in said
    assert "Of small" not in said
    assert "43.21 %" in said


def test_a_run_against_itself_is_equal(small_run, tmp_path, capsys):
    same = shutil.copytree(small_run.path, tmp_path / small_run.path.name)
    main(["compare", str(small_run.path), str(same)])
    printed = capsys.readouterr().out
    assert "no option differs" in printed
    assert "p = 1)" in printed
    assert f"{tmp_path.name}/{same.name}" in printed  # both folders have one name


def test_an_unfinished_run_is_refused(small_run, tmp_path):
    unfinished = shutil.copytree(small_run.path, tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    with pytest.raises(hs.HeadstartError, match="not finished"):
        Comparison(small_run, hs.Run(unfinished))


def test_a_page_that_cannot_be_written_is_said(small_run, other_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", str(small_run.path), str(other_run.path), "--out", str(tmp_path / "missing" / "compare.html")])
    assert "compare.html cannot be written" in capsys.readouterr().err
