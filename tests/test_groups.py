import csv
import re
import shutil

import numpy as np
import pytest

import headstart as hs
from headstart import trainer
from headstart.cli.commands import print_result
from headstart.groups import write_seeds
from headstart.record.history import write_history
from headstart.training.checkpoint import Checkpoint
from helpers import stopped_and_gone_on_with

# Without flips the second view is drawn at random, and batch norm that will learn starts from images drawn at random:
# the seeds must agree on both.
OPTIONS = {"epochs": 1, "head_epochs": 3, "seeds": 2, "seed": 5, "views": 2, "batch_norm": "training"}


@pytest.fixture(scope="module")
def seeds(tiny, tmp_path_factory):
    """A folder of two seeds, stopped before the last and gone on with, and what was extracted meanwhile."""
    out = tmp_path_factory.mktemp("runs") / "seeds"
    return stopped_and_gone_on_with("seed-6", out=str(out), **tiny | OPTIONS)


def test_features_are_extracted_once_for_all_seeds(seeds):
    names = [name for *_, name in seeds[1]]
    assert len(names) == len(set(names)) == 4  # two views, validation, test


def test_each_seed_is_a_whole_run_of_its_own_on_the_same_images(seeds):
    runs = [hs.Run(seeds[0].path / f"seed-{seed}") for seed in (5, 6)]
    assert all(run.finished and run.config.seeds == 1 for run in runs)
    assert len({run.array("labels_validation").tobytes() for run in runs}) == 1
    assert len({run.test_logits("fine_tuned").tobytes() for run in runs}) == 2
    runs[1].model  # noqa: B018


def test_the_first_seed_is_what_a_single_run_would_be(seeds, tiny, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    single, first = tmp_path / "single", hs.Run(seeds[0].path / "seed-5")
    monkeypatch.setattr(trainer, "write_results", stopped)  # all results follow from the history and the logits
    with pytest.raises(KeyboardInterrupt):
        hs.train(hs.recipe("starter", out=str(single), **tiny | OPTIONS | {"seeds": 1}))
    write_history(single, Checkpoint(single / "checkpoint").history)
    assert (single / "history.csv").read_bytes() == (first.path / "history.csv").read_bytes()
    for stage in ("frozen", "fine_tuned"):
        assert np.array_equal(np.load(single / f"test_{stage}.npy"), first.test_logits(stage))


def test_mean_deviation_and_range_are_those_of_the_runs(seeds, capsys):
    summary = seeds[0].read_json("seeds.json")
    accuracies = [hs.Run(seeds[0].path / f"seed-{seed}").metrics["test"]["fine_tuned"]["accuracy"] for seed in summary["seeds"]]
    figures = summary["test"]["fine_tuned"]["accuracy"]
    assert summary["seeds"] == [5, 6]
    assert figures["values"] == accuracies
    assert figures["range"] == [min(accuracies), max(accuracies)]
    assert (figures["mean"], figures["deviation"]) == (np.mean(accuracies), np.std(accuracies, ddof=1))
    assert {"frozen", "fine_tuned"} == summary["test"].keys()
    assert len(summary["gain"]["values"]) == 2
    print_result(seeds[0])
    printed = list(csv.reader(capsys.readouterr().out.splitlines(), delimiter=" "))
    assert printed[1][:2] == ["fine_tuned", f"{figures['mean']:.4f}"]


def test_the_page_of_the_seeds_has_their_figures_and_links_to_theirs(seeds):
    run = seeds[0]
    page = (run.path / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    summary = run.read_json("seeds.json")
    accuracy, gain = summary["test"]["fine_tuned"]["accuracy"], summary["gain"]
    for value in (*accuracy["range"], *accuracy["values"], *summary["test"]["frozen"]["accuracy"]["values"]):
        assert f"{100 * value:.2f} %" in page
    assert f"{100 * gain['mean']:+.2f} points".replace("-", "\N{MINUS SIGN}") in page
    for value in gain["values"]:
        assert f"{100 * value:+.2f}</td>".replace("-", "\N{MINUS SIGN}") in page
    assert f"deviation of {100 * accuracy['deviation']:.2f} points" in page
    links = re.findall(r'href="([^#"][^"]*)"', page)
    assert links == [f"seed-{seed}/report.html" for seed in (5, 6)]
    assert all((run.path / link).is_file() for link in links)
    assert "--seeds 2" in re.sub("<[^>]*>", "", page)
    assert "Mean and range of the test accuracy of 2 seeds" in page


def test_the_page_of_seeds_without_fine_tuning_speaks_of_no_gain(seeds, tmp_path):
    runs = [hs.Run(shutil.copytree(seeds[0].path / f"seed-{seed}", tmp_path / f"seed-{seed}")) for seed in (5, 6)]
    for run in runs:
        run.metrics.pop("comparison")
        run.metrics["test"].pop("fine_tuned")
    shutil.copy(seeds[0].path / "config.toml", tmp_path)
    write_seeds(hs.Run(tmp_path), runs)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "on average over 2 seeds" in page
    assert "Fine-tun" not in re.sub("<details>.*</details>", "", page, flags=re.DOTALL)


def test_seeds_that_were_tested_on_known_images_say_so(seeds, tmp_path, caplog):
    runs = [hs.Run(shutil.copytree(seeds[0].path / f"seed-{seed}", tmp_path / f"seed-{seed}")) for seed in (5, 6)]
    for run in runs:
        run.metrics["test"]["fine_tuned"]["near_duplicates_in_training"] = run.metrics["test"]["fine_tuned"]["images"] - 1
    shutil.copy(seeds[0].path / "config.toml", tmp_path)
    write_seeds(hs.Run(tmp_path), runs)
    page = re.sub("<[^>]*>", "", (tmp_path / "report.html").read_text(encoding="utf-8"))
    for said in (page, caplog.text):
        assert "test images have a near-duplicate in training" in said
        assert "not for new ones" in said
    assert "95 % interval over images" not in page


def test_a_finished_folder_is_left_alone_and_says_which_runs_it_holds(seeds):
    assert trainer.resume(seeds[0].path).finished
    with pytest.raises(hs.HeadstartError, match=r"holds 2 runs: name one, such as .*seed-5"):
        seeds[0].predict(np.zeros((8, 8, 3), np.uint8))


def test_seeds_beyond_the_largest_are_refused():
    with pytest.raises(hs.HeadstartError, match="lower --seed"):
        hs.Config(seed=2**31 - 1, seeds=2)
