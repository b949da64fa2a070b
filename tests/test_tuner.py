import json
import re
from collections import Counter

import numpy as np
import pytest

import headstart as hs
from headstart import tuner
from headstart.cli.main import main
from headstart.plan import budget, search
from headstart.report.tuning import effects, in_words
from headstart.trainer import resume
from headstart.training import heads
from headstart.tuner import measure, ranked_by
from helpers import COSTS, dataset, random_images, uneven

FAST = COSTS | {
    "build": 0.5,
    "start": 0.5,
    "head_start": 0.5,
    "tune_start": 0.5,
    "image": 1e-4,
    "tune_image": 1e-4,
    "tune_score": 1e-4,
}
# What a search of tiny networks varies: two image sizes, what is unfrozen, and the number of epochs.
FIXED = {"backbone", "learning_rate", "flip", "rand_augment", "views"}
# Of a trial of the finished search.
FOLDS = 2


@pytest.fixture(scope="module")
def quickly():
    """A machine that does not exist was measured; of two image sizes, the better one goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "measured", lambda config, data, sizes: dict.fromkeys(sizes, FAST))
        patch.setattr(budget, "SIZES", (32, 48))
        patch.setattr(search, "SURVIVORS", 1)
        patch.setattr(search, "ENOUGH_SCORED", 0)  # no folds, which take longer
        yield


def options(tiny, out, **changes) -> hs.Config:
    return hs.recipe("starter", out=str(out), **tiny | {"epochs": 1, "budget": "1h"} | changes)


def in_folds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(search, "ENOUGH_SCORED", 1000)
    patch.setattr(search, "FOLDS", (FOLDS,))


@pytest.fixture(scope="module")
def searched(tiny, quickly, tmp_path_factory):
    """A finished search, and the data of its trials."""
    seen, try_out = [], tuner.try_out

    def watched(config, data, *rest):
        seen.append((config, data))
        return try_out(config, data, *rest)

    out = tmp_path_factory.mktemp("runs") / "search"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "try_out", watched)
        in_folds(patch)
        winner = hs.tune(options(tiny, out), explicit=FIXED)
    return winner, seen


def tuning(winner: hs.Run) -> dict:
    return hs.Run(winner.path.parent).read_json("tuning.json")


def test_a_search_ends_with_a_whole_run_that_any_command_takes(searched):
    winner, _ = searched
    assert winner.path.name == "winner"
    assert winner.finished
    assert len(winner.predict(random_images(2, 8)).labels) == 2
    assert tuning(winner)["class_weights"] == "none"  # the classes are even
    assert tuning(winner)["test"]["accuracy"] == list(winner.metrics["test"].values())[-1]["accuracy"]
    assert tuning(winner)["seconds"].keys() == {"preparation", "measuring", "trials", "planning", "winner", "total"}


def test_trials_see_no_test_image_and_rank_on_the_same(searched):
    winner, seen = searched
    split = {row["image"]: row["split"] for row in hs.Run(winner.path.parent).split}
    assert split == {row["image"]: row["split"] for row in winner.split}
    scored = Counter()
    for _, data in seen:
        assert not np.isin(data.train, data.validation).any()
        names = {split[data.source.names[row]] for row in (*data.train, *data.validation, *data.test)}
        assert names == {"training", "validation"}
        scored.update(data.validation.tolist())
    # With so few images, each is a validation image of one of the folds of each trial.
    assert sorted(scored) == [row for row, name in enumerate(data.source.names) if split.get(name) in ("training", "validation")]
    assert len(set(scored.values())) == 1


def test_each_rung_compares_what_the_rung_before_found_best(searched):
    winner, seen = searched
    content = tuning(winner)
    first, second, third = content["rungs"]
    assert {trial["options"]["image_size"] for trial in first["trials"]} == {32, 48}
    unfrozen = {trial["choices"][search.UNFROZEN] for trial in second["trials"]}
    assert {search.NOTHING, "all layers"} <= unfrozen
    assert {trial["choices"][search.LENGTH] for trial in third["trials"]} <= {"x 1", "x 3"}
    # On no more images than before, a finalist as it was is not trained again.
    made = [result for results in content["results"] for result in results]
    assert len(seen) == FOLDS * len({(result["ended"], result["accuracy"]) for result in made}) < FOLDS * len(made)
    assert len(third["trials"]) > 1
    assert content["winner"]["rung"] == 2
    best = content["results"][2][content["winner"]["trial"]]
    highest = max(content["results"][2], key=lambda result: result["score"])
    assert best["score"] >= highest["score"] - highest["error"]
    chosen = third["trials"][content["winner"]["trial"]]["options"]
    assert {name: getattr(winner.config, name) for name in chosen} == chosen


def test_a_trial_keeps_what_it_measured(searched):
    winner, _ = searched
    folder = winner.path.parent / "trials" / "1-01"
    result = json.loads((folder / "trial.json").read_text())
    logits = np.load(folder / "validation.npy")
    assert {file.name for file in folder.iterdir()} == {"options.toml", "history.csv", "trial.json", "validation.npy"}
    assert len(logits) == tuning(winner)["rungs"][0]["validation"]
    assert 0 <= result["interval"][0] <= result["accuracy"] <= result["interval"][1] <= 1


def test_the_page_has_every_trial_and_the_winners_test_figure(searched):
    winner, _ = searched
    content = tuning(winner)
    page = (winner.path.parent / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    text = re.sub("<[^>]*>", "", page)
    assert f"{100 * content['test']['accuracy']:.1f} %" in text
    assert "optimistic, because the winner was chosen" in text
    for results in content["results"]:
        for result in results:
            assert f"{100 * result['interval'][0]:.1f} % to {100 * result['interval'][1]:.1f} %" in text
    assert re.findall(r'href="([^#"][^"]*)"', page) == ["winner/report.html"]
    assert "Validation accuracy of" in page
    assert str(winner.path.parent) not in page
    assert winner.config.backbone not in page


def test_a_finished_search_is_left_alone_and_says_where_its_model_is(searched, capsys):
    winner, _ = searched
    out = winner.path.parent
    assert hs.resume_tuning(out).path == winner.path
    with pytest.raises(hs.HeadstartError, match=r"holds a search: name its winner, .*winner"):
        hs.Run(out).predict(random_images(1, 8))
    with pytest.raises(hs.HeadstartError, match="go on with headstart tune --resume"):
        resume(out)
    with pytest.raises(hs.HeadstartError, match=r"is no search .* go on with headstart train --resume"):
        hs.resume_tuning(winner.path)
    with pytest.raises(hs.HeadstartError, match="holds a run already"):
        hs.tune(hs.Run(out).config)
    assert "its winner is winner" in repr(hs.Run(out))
    with pytest.raises(SystemExit):
        main(["predict", str(out), "a.jpg"])
    assert "name its winner" in capsys.readouterr().err


def comparable(winner: hs.Run) -> tuple:
    """Return what must not depend on interruptions."""
    content = tuning(winner)
    results = [[{**result, "seconds": 0, "ended": 0} for result in results] for results in content["results"]]
    rungs = [[(trial["choices"], trial["options"]) for trial in rung["trials"]] for rung in content["rungs"]]
    return rungs, results, content["winner"], content["test"], (winner.path / "history.csv").read_bytes()


@pytest.mark.slow
def test_a_search_that_is_stopped_again_and_again_ends_as_one_that_was_not(searched, tiny, quickly, tmp_path, monkeypatch):
    out, try_out, train = tmp_path / "search", tuner.try_out, tuner.train
    made = []

    def stopping(config, data, *rest):
        if len(made) in (1, 4) and made[-1] != "stopped":
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(config)
        return try_out(config, data, *rest)

    def stopped(*arguments, **changes):
        raise KeyboardInterrupt

    in_folds(monkeypatch)
    monkeypatch.setattr(tuner, "try_out", stopping)
    monkeypatch.setattr(tuner, "train", stopped)
    with pytest.raises(KeyboardInterrupt) as end:
        hs.tune(options(tiny, out), explicit=FIXED)
    assert end.value.__notes__ == [f"go on with headstart tune --resume {out}"]
    spent = []
    for _ in range(2):
        spent.append(sum(json.loads((out / "checkpoint" / "state.json").read_text())["seconds"].values()))
        with pytest.raises(KeyboardInterrupt):
            hs.resume_tuning(out)
    monkeypatch.setattr(tuner, "train", train)
    winner = hs.resume_tuning(out)
    assert comparable(winner) == comparable(searched[0])
    assert made.count("stopped") == 2
    assert spent[0] < spent[1] < tuning(winner)["seconds"]["total"]
    assert not (out / "checkpoint").exists()


def test_a_budget_that_is_too_short_is_refused_with_what_would_do(tiny, quickly, tmp_path):
    with pytest.raises(hs.HeadstartError, match=r"--budget 20s is too short: the shortest training takes .* give --budget \dm"):
        hs.tune(options(tiny, tmp_path / "a", budget="20s"), explicit=FIXED)


def test_trials_that_would_not_end_in_time_are_not_begun(tiny, quickly, tmp_path, monkeypatch, caplog):
    slow = FAST | {"tune_start": 250.0}  # as it is foreseen: each fine-tuning takes a seventh of the budget
    monkeypatch.setattr(search, "measured", lambda config, data, sizes: dict.fromkeys(sizes, slow))
    in_folds(monkeypatch)
    explicit = FIXED - {"learning_rate"} | {"image_size", "epochs"}
    with caplog.at_level("INFO", "headstart"):
        winner = hs.tune(options(tiny, tmp_path / "search", budget="30m"), explicit=explicit)
    second = tuning(winner)["rungs"][1]
    (left,) = second["not_tried"]
    assert left["why"] == tuner.NO_TIME
    assert second["folds"] == 1  # in two folds, not even the likeliest trial would
    assert 2 <= len(second["trials"]) == 6 - left["trials"] < 6  # how many depends on what the winner's training was seen to take
    assert f"not tried: {tuner.NO_TIME}" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "none", "fine_tune_from": "all"}, "--weights none leaves no pretrained backbone"),
        ({"cache_features": False}, "leave out --no-cache-features"),
        ({"seeds": 2}, "trains its winner once"),
        ({"folds": 5}, "compares trials on one split"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, message, tiny, tmp_path):
    with pytest.raises(hs.HeadstartError, match=message):
        hs.tune(options(tiny, tmp_path / "search", **changes))


def test_a_backbone_that_takes_no_such_images_is_refused_and_leaves_no_folder(tmp_path):
    with pytest.raises(hs.HeadstartError, match="smallest is 32"):
        hs.tune("quick", data="digits", out=str(tmp_path / "search"), image_size=8, backbone="resnet50")
    assert not list((tmp_path / "search").iterdir())


def test_trials_of_uneven_classes_are_ranked_by_macro_recall():
    images = random_images(100)
    uneven = np.array([0] * 90 + [1] * 10)
    assert ranked_by(dataset(images, np.random.default_rng(0).permutation(uneven), ["a", "b"])) == "macro recall"
    assert ranked_by(dataset(images, np.arange(100) % 2, ["a", "b"])) == "accuracy"
    logits = np.tile([1.0, 0.0], (100, 1))
    result = measure(logits, uneven, "macro recall", 1.0, 2.0)
    assert (result["accuracy"], result["macro_recall"], result["score"]) == (0.9, 0.5, 0.5)
    assert measure(logits, uneven, "accuracy", 1.0, 2.0)["score"] == 0.9


def test_a_trial_that_is_right_of_few_images_may_be_lucky():
    logits = np.tile([1.0, 0.0], (14, 1))
    for figure in ("accuracy", "macro recall"):
        assert measure(logits, np.zeros(14, int), figure, 1.0, 2.0)["error"] == pytest.approx(0.074, abs=0.001)
        videos = measure(logits, np.zeros(14, int), figure, 1.0, 2.0, np.arange(14) // 7)
        assert videos["error"] > 0.15  # the images of two videos say less
    many = measure(np.tile([1.0, 0.0], (5000, 1)), np.repeat([0, 1], [4500, 500]), "accuracy", 1.0, 2.0)
    assert many["error"] == pytest.approx(np.sqrt(0.9 * 0.1 / 5000), rel=0.01)


def test_a_trial_on_all_images_does_what_training_does(tiny, tmp_path, monkeypatch):
    """It chooses head and class weights in the same way, so that what is ranked is what the winner's training makes."""
    data = uneven((60, 60, 8))
    config = hs.recipe("starter", out=str(tmp_path / "run"), **tiny | {"limit": 0, "head": "auto"})
    run = hs.train(config, data)
    monkeypatch.setattr(heads, "usual_strength", lambda images: run.head["strength"])  # the training's audit has found it
    logits, history, used = tuner.try_out(config, data, "float32", lambda: False)
    assert used.head == run.head["chosen"]
    assert used.class_weights == run.read_json("weighting.json")["chosen"] != "auto"
    np.testing.assert_allclose(logits, run.array("validation_frozen"), atol=1e-4)
    assert [row["val_accuracy"] for row in history] == [row["val_accuracy"] for row in run.history]


def test_which_choices_mattered_is_said_of_trials_that_differ_in_nothing_else():
    def trial(size: str, rate: str, score: float) -> dict:
        return {"rung": 0, "choices": {"image size": size, "learning rate": rate}, "score": score, "error": 0.01}

    found = effects(
        [trial("32 px", "x 1", 0.7), trial("64 px", "x 1", 0.9), trial("64 px", "x 3", 0.9), trial("96 px", "x 9", 0.1)]
    )
    assert [(one["what"], one["matters"]) for one in found] == [("Image size", True), ("Learning rate", False)]
    assert found[0]["spread"] == pytest.approx(0.2)
    assert "64 px is 20.0 points above 32 px" in in_words(found)
    assert "For learning rate, the difference may be chance" in in_words(found)
    assert in_words([]).startswith("No two trials")


@pytest.mark.slow
def test_photographs_are_searched_at_several_sizes_with_one_split(photos, quickly, tiny, tmp_path, monkeypatch):
    def stopped(*arguments, **changes):
        raise KeyboardInterrupt

    out, explicit = tmp_path / "search", FIXED | {"fine_tune_from", "epochs"}
    with monkeypatch.context() as patch:
        patch.setattr(tuner, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            hs.tune(options(tiny, out, limit=0, data=str(photos)), explicit=explicit)
    winner = hs.resume_tuning(out)
    sizes = {trial["options"]["image_size"] for trial in tuning(winner)["rungs"][0]["trials"]}
    assert sizes == {32, 48}
    rows = {row["image"]: row["split"] for row in winner.split}
    assert rows == {row["image"]: row["split"] for row in hs.Run(winner.path.parent).split}
