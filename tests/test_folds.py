import re
import shutil

import numpy as np
import pytest

import headstart as hs
from headstart import trainer
from headstart.cli.commands import print_result
from headstart.groups import on_new_images
from headstart.metrics.calibration import probabilities
from headstart.metrics.classification import wilson_interval
from headstart.record.split import FOLD
from headstart.serve.measures import Measures
from headstart.serve.models import Served
from helpers import change_manifest, random_images, stopped_and_gone_on_with

# Without flips the second view is drawn at random: the folds must agree on it.
OPTIONS = {"epochs": 1, "head_epochs": 3, "folds": 3, "seed": 5, "views": 2}


@pytest.fixture(scope="module")
def folds(tiny, tmp_path_factory):
    """A folder of three folds, stopped before the last and gone on with, and what was extracted meanwhile."""
    out = tmp_path_factory.mktemp("runs") / "folds"
    return stopped_and_gone_on_with("fold-2", out=str(out), **tiny | OPTIONS)


def runs_of(run):
    return [hs.Run(member) for member in run.members]


def new_images(count=7):
    return random_images(count, 8)


def test_every_image_is_tested_once(folds):
    run = folds[0]
    tested = [row["digest"] for one in runs_of(run) for row in one.split if row["split"] == "test"]
    used = [row for row in run.split if row["split"] != "unused"]
    assert len(used) == 100
    assert sorted(tested) == sorted(row["digest"] for row in used)
    for number, one in enumerate(runs_of(run)):
        in_fold = {row["digest"] for row in used if row["split"] == f"{FOLD}{number}"}
        assert in_fold == {row["digest"] for row in one.split if row["split"] == "test"}
        assert one.read_json("data.json")["images_by_class"]["test"].keys() == set(one.class_names)


def test_the_figures_are_those_of_all_images_together(folds, capsys):
    run, runs = folds[0], runs_of(folds[0])
    summary = run.read_json("folds.json")
    for stage in ("frozen", "fine_tuned"):
        figures, spread = summary["test"][stage], summary["by_fold"][stage]["accuracy"]
        tests = [one.metrics["test"][stage] for one in runs]
        correct = sum(round(one["accuracy"] * one["images"]) for one in tests)
        assert figures["images"] == sum(one["images"] for one in tests) == 100
        assert figures["accuracy"] == correct / 100
        assert figures["interval"] == wilson_interval(correct, 100)
        np.testing.assert_array_equal(figures["confusion"], np.sum([one["confusion"] for one in tests], axis=0))
        assert spread["values"] == [one["accuracy"] for one in tests]
        # The probabilities are those that the models give, each with its own temperature.
        losses = [one["calibrated"]["loss"] * one["images"] for one in tests]
        assert figures["loss"] == pytest.approx(sum(losses) / 100, rel=1e-5)
    assert "comparison" in summary
    assert run.metrics["test"]["fine_tuned"]["accuracy"] == summary["test"]["fine_tuned"]["accuracy"]
    assert run.summary().startswith("3 folds, frozen ")
    print_result(run)
    printed = capsys.readouterr().out.splitlines()[1].split()
    low, high = summary["test"]["fine_tuned"]["interval"]
    assert printed[:5] == ["fine_tuned", f"{figures['accuracy']:.4f}", "interval", f"{low:.4f}", f"{high:.4f}"]


def test_features_are_extracted_once_for_all_folds(folds):
    assert [images for images, _ in folds[1]] == [100, 100]  # two views


def test_a_fold_can_be_trained_alone_by_its_own_configuration(folds, tmp_path):
    one = hs.Run(folds[0].path / "fold-1")
    assert (one.config.folds, one.config.fold) == (3, 1)
    again = hs.train(hs.Config(**vars(one.config) | {"out": str(tmp_path / "again")}))
    assert (again.path / "split.csv").read_bytes() == (one.path / "split.csv").read_bytes()
    assert (again.path / "history.csv").read_bytes() == (one.path / "history.csv").read_bytes()
    assert again.metrics["test"] == one.metrics["test"]


def test_the_folder_answers_by_the_mean_of_its_models_probabilities(folds):
    run, images = folds[0], new_images()
    each = [one.predict(images).probabilities for one in runs_of(run)]
    assert not np.allclose(each[0], each[1], atol=1e-3)
    np.testing.assert_allclose(run.predict(images).probabilities, np.mean(each, axis=0), atol=2e-6)
    np.testing.assert_allclose(run.predict(images, batch_size=2).probabilities, np.mean(each, axis=0), atol=1e-4)
    assert run.predict(images).class_names == runs_of(run)[0].class_names


def test_the_folder_marks_what_most_of_its_models_mark(folds, digits):
    run, images = folds[0], [*new_images(3), *digits.images(digits.train[:40])]
    each = np.array([one.predict(images).outsiders for one in runs_of(run)])
    found = run.predict(images, batch_size=16)
    assert found.outsiders.tolist() == (each.sum(axis=0) >= 2).tolist()
    assert 0 < found.outsiders.sum() < len(images)
    assert [one.unlike for one in run.stream(images)] == found.outsiders.tolist()
    with pytest.raises(hs.HeadstartError, match="no threshold was chosen for the mean of their answers"):
        run.predict(images, reject=0.9)


def test_keras_and_openvino_give_the_same_mean(folds):
    run = folds[0]
    (logs,) = zip(*run.classifier.keras_outputs([new_images()], 7), strict=True)
    np.testing.assert_allclose(probabilities(logs[0]), run.predict(new_images()).probabilities, atol=1e-4)


def test_the_folder_is_measured_on_other_images_alone(folds, digits):
    run = folds[0]
    with pytest.raises(hs.HeadstartError, match="all but one have learned from each image"):
        run.evaluate()
    known = {row["digest"] for row in run.split if row["split"] != "unused"}
    new = [row for row in digits.test if bytes(digits.source.digests[row]).hex() not in known]
    figures = run.evaluate(digits)
    assert figures["images"] == len(new)
    assert figures["left_out"] == {"training": len(digits.test) - len(new), "validation": 0}
    expected = run.predict(digits.images(np.array(new))).probabilities.argmax(axis=1) == digits.labels(np.array(new))
    assert figures["accuracy"] == expected.mean()
    used = np.flatnonzero([row["split"] != "unused" for row in run.split])
    seen = hs.Dataset(digits.source, used[:0], used[:0], used)
    with pytest.raises(hs.HeadstartError, match=r"none is left to measure on$"):
        run.evaluate(seen)


def test_heat_maps_are_the_mean_of_those_of_the_models(folds, tmp_path):
    found = folds[0].explain(new_images(2))
    assert found.maps.shape == (2, 8, 8)
    assert np.isfinite(found.maps).all()
    assert len(found.save(tmp_path)) == 2


def test_what_takes_one_model_alone_says_which_there_are(folds):
    run = folds[0]
    for use in (lambda: run.export("keras"), lambda: run.model, lambda: Served(run.path, False, Measures())):
        with pytest.raises(hs.HeadstartError, match=r"holds 3 \w+: name one, such as .*fold-0"):
            use()


def test_two_folders_of_folds_are_compared_over_all_images(folds, tmp_path):
    run = folds[0]
    other = shutil.copytree(run.path, tmp_path / "other")
    comparison = hs.Comparison(run, hs.Run(other))
    assert comparison.verdict().startswith("The difference could be chance: 0 images are right only in ")
    assert ("test images", "100", "100", "") in comparison.rows()
    one = hs.Comparison(run, hs.Run(run.path / "fold-0"))
    assert "Of the test images, 34 are the same in both runs" in one.verdict()
    comparison.write_page(tmp_path / "page.html")
    assert (tmp_path / "page.html").is_file()


def test_models_of_another_training_do_not_answer_together(folds, tmp_path):
    mixed = shutil.copytree(folds[0].path, tmp_path / "mixed")
    change_manifest(mixed / "fold-1", classes=list("9876543210"))
    with pytest.raises(hs.HeadstartError, match="fold-1 is of another training"):
        hs.Run(mixed).predict(new_images(1))


def test_the_page_has_the_figures_and_links_to_the_folds(folds):
    run = folds[0]
    page = (run.path / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    summary = run.read_json("folds.json")
    figures = summary["test"]["fine_tuned"]
    low, high = figures["interval"]
    assert f"{100 * figures['accuracy']:.1f} %" in page
    assert f"between {100 * low:.1f} % and {100 * high:.1f} %" in page
    for value in summary["by_fold"]["fine_tuned"]["accuracy"]["values"]:
        assert f"{100 * value:.2f} %" in page
    links = re.findall(r'href="([^#"][^"]*)"', page)
    assert links == [f"fold-{fold}/report.html" for fold in range(3)]
    assert all((run.path / link).is_file() for link in links)
    assert "--folds 3" in re.sub("<[^>]*>", "", page)
    assert "Most confident mistakes" in page


def test_a_finished_folder_is_left_alone(folds):
    before = (folds[0].path / "folds.json").stat().st_mtime_ns
    assert trainer.resume(folds[0].path).finished
    assert (folds[0].path / "folds.json").stat().st_mtime_ns == before


def test_images_that_have_changed_are_refused_before_the_next_fold(folds, tmp_path):
    begun = shutil.copytree(folds[0].path, tmp_path / "begun")
    for name in ("fold-2", "folds.json", "report.html"):
        shutil.rmtree(begun / name) if (begun / name).is_dir() else (begun / name).unlink()
    rows = (begun / "split.csv").read_text(encoding="utf-8")
    digest = hs.Run(begun).split[3]["digest"]
    (begun / "split.csv").write_text(rows.replace(digest, "0" * 32), encoding="utf-8")
    with pytest.raises(hs.HeadstartError, match="1 image with other pixels"):
        trainer.resume(begun)
    (begun / "split.csv").write_text(rows.replace("fold-2", "fold-1"), encoding="utf-8")
    with pytest.raises(hs.HeadstartError, match="its images are not divided into 3 folds"):
        trainer.resume(begun)


def test_arrays_are_divided_whatever_split_they_came_with(tiny, tmp_path, digits):
    arrays = hs.Dataset.from_arrays(digits.images(digits.train[:60]), digits.labels(digits.train[:60]) % 2, seed=3)
    run = hs.train(hs.recipe("starter", out=str(tmp_path / "run"), **tiny | {"folds": 2, "limit": 0}), arrays)
    assert run.metrics["test"]["frozen"]["images"] == 60
    one = next(hs.steps(hs.recipe("starter", out=str(tmp_path / "one"), **tiny | {"folds": 2, "fold": 1, "limit": 0}), arrays))
    assert one is not None
    (run.path / "folds.json").unlink()
    shutil.rmtree(run.path / "fold-1")
    assert hs.resume(run.path, arrays).finished


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 1}, "--folds 1 leaves nothing to train on"),
        ({"folds": 5, "seeds": 2}, "leave one of them out"),
        ({"folds": 5, "fold": 5}, "none of --folds 5, which are counted from 0"),
        ({"fold": 2}, "say of how many with --folds"),
    ],
)
def test_folds_that_cannot_be_are_refused_at_once(options, said):
    with pytest.raises(hs.HeadstartError, match=said):
        hs.Config(**options)


def test_folds_cannot_be_trained_step_by_step(digits, tmp_path):
    with pytest.raises(hs.HeadstartError, match="name one with --fold to go step by step"):
        next(hs.steps("starter", digits, folds=3, out=str(tmp_path / "run")))


def test_data_sets_with_a_test_split_are_refused_before_they_are_downloaded():
    with pytest.raises(hs.HeadstartError, match="cifar10 has a test split of its own"):
        trainer.configured_data(hs.Config(folds=5))


def test_figures_without_near_duplicates_are_added_up():
    folds = [
        {"near_duplicates_in_training": 0, "images": 10, "accuracy": 0.9},
        {"near_duplicates_in_training": 4, "images": 10, "accuracy": 0.8,
         "without_near_duplicates": {"accuracy": 0.5, "interval": [0, 1], "images": 6, "left_out": 4}},
        {"near_duplicates_in_training": 10, "images": 10, "accuracy": 1.0},
    ]  # fmt: skip
    found = on_new_images(folds)
    assert found["near_duplicates_in_training"] == 14
    assert found["without_near_duplicates"] == {
        "accuracy": 12 / 16, "interval": wilson_interval(12, 16), "images": 16, "left_out": 14,
    }  # fmt: skip
    assert on_new_images([{"images": 10, "accuracy": 0.9}]) == {}
