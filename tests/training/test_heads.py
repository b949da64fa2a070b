import json

import pytest

import headstart as hs
from helpers import SMALL

AUTO = SMALL | {"head": "auto", "epochs": 1, "image_size": 8, "recipe": "starter"}


def trained(folder, **options) -> hs.Run:
    return hs.train(hs.Config(**AUTO | {"backbone": "starter", "out": str(folder)} | options))


def test_few_images_get_a_linear_head_that_is_plain_dense_layers_in_the_model(tmp_path):
    run = trained(tmp_path / "run")
    found = json.loads((run.path / "head.json").read_text())
    assert found["chosen"] == "linear"
    assert found["candidates"].keys() == {"linear", "dense"}
    after = [layer.name for layer in run.model.layers]
    assert after[after.index("features") + 1 :] == ["standardise", "logits"]
    frozen = [row for row in run.history if row["stage"] == "frozen"]
    assert [(row["epoch"], row["val_accuracy"]) for row in frozen] == [
        (1, pytest.approx(found["candidates"]["linear"]["accuracy"]))
    ]
    assert len(run.history) == 2
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "The head was fitted at once, by logistic regression, then the whole network for 1 epoch" in " ".join(page.split())
    assert run.evaluate()["accuracy"] == pytest.approx(run.metrics["test"]["fine_tuned"]["accuracy"])


def test_a_head_that_was_asked_for_is_taken(tmp_path):
    dense = trained(tmp_path / "dense", head="dense", epochs=0, limit=100)
    assert not (dense.path / "head.json").exists()
    assert "hidden" in [layer.name for layer in dense.model.layers]
    linear = trained(tmp_path / "linear", head="linear", epochs=0, limit=100)
    assert json.loads((linear.path / "head.json").read_text())["why"] == "it was asked for"


def test_where_classes_are_weighted_heads_are_compared_by_the_macro_recall(tmp_path):
    run = trained(tmp_path / "run", class_weights="balanced", epochs=0, limit=200)
    found = json.loads((run.path / "head.json").read_text())
    kept = run.history[-1]["val_macro_recall"]
    assert found["candidates"][found["chosen"]]["macro_recall"] == pytest.approx(kept)
    assert "macro recall on validation" in (run.path / "log.txt").read_text()


def test_a_linear_head_without_features_is_refused():
    with pytest.raises(hs.HeadstartError, match="--head linear learns from cached features"):
        hs.Config(head="linear", cache_features=False)
