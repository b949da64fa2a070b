import pytest

import headstart as hs
from headstart.report.advice import advice

ROW = {"stage": "fine_tuned", "accuracy": 0.9, "val_accuracy": 0.9}
CLASSES = {"cat": {"recall": 0.9, "support": 100}, "dog": {"recall": 0.9, "support": 100}}


def figures(**changes):
    return {"accuracy": 0.9, "interval": [0.89, 0.91], "images": 10_000, "per_class": CLASSES, "ece": 0.01, "loss": 0.3,
            "calibrated": {"ece": 0.005, "loss": 0.29}, "calibration": {"applied": True},
            "confusion": [[90, 10], [10, 90]]} | changes  # fmt: skip


HELPED = {"only_frozen_right": 10, "only_fine_tuned_right": 90, "p_value": 1e-9}


def given(config=None, history=(ROW,), audit=None, positions=7, comparison=None, **changes) -> str:
    """The advice for a run that has nothing to be said about, but for the changes."""
    metrics = {"test": {"frozen": figures(accuracy=0.8), "fine_tuned": figures(**changes)}, "comparison": comparison or HELPED}
    return " ".join(
        f"{what} {why}" for what, why in advice(config or hs.recipe("quick"), metrics, list(history), audit or {}, positions)
    )


def test_a_good_run_gets_no_advice():
    assert given() == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"comparison": HELPED | {"p_value": 0.3}}, "Do not count on fine-tuning yet"),
        ({"comparison": HELPED, "accuracy": 0.7}, "Fine-tune more gently"),
        ({"comparison": {"only_frozen_right": 0, "only_fine_tuned_right": 0, "p_value": 1.0}}, "--learning-rate 0.001"),
        ({"positions": 2}, "--image-size 128"),
        ({"history": [ROW | {"val_accuracy": 0.8}, ROW]}, "--epochs 4"),
        ({"history": [ROW | {"accuracy": 0.99, "val_accuracy": 0.8}]}, "--rand-augment"),
        ({"per_class": CLASSES | {"cat": {"recall": 0.5, "support": 100}}}, "Add images of cat"),
        ({"per_class": CLASSES | {"cat": {"recall": 0.5, "support": 100}}}, "10 are taken for dog"),
        ({"per_class": CLASSES | {"cat": {"recall": 0.0, "support": 0}}}, ""),
        ({"ece": 0.08}, "Use the calibrated probabilities"),
        # A temperature that made the test figures worse, or that validation does not support, is not praised.
        ({"ece": 0.08, "calibrated": {"ece": 0.1, "loss": 0.29}}, "Do not rely on the probabilities"),
        ({"ece": 0.08, "calibrated": {"ece": 0.06, "loss": 0.31}}, "a temperature did not help"),
        (
            {"ece": 0.08, "calibrated": {"ece": 0.08, "loss": 0.3}, "calibration": {"applied": False}},
            "validation supports no temperature",
        ),
        ({"calibrated": {"ece": 0.01, "loss": 0.3}, "calibration": {"applied": False}}, ""),
        # Of 50 images a calibration error of 8 % may be chance.
        (
            {
                "interval": [0.8, 0.98],
                "ece": 0.08,
                "calibrated": {"ece": 0.08, "loss": 0.3},
                "calibration": {"applied": False},
                "near_duplicates_in_training": 9_000,
            },
            "",
        ),
        ({"interval": [0.8, 0.95]}, "Test on more images"),
        # More images of the same kind would say nothing about new ones.
        ({"interval": [0.8, 0.95], "near_duplicates_in_training": 9_000}, ""),
        (
            {"per_class": {"x" * 255: {"recall": 0.5, "support": 100}, "dog": CLASSES["dog"]}},
            "Add images of xxxxxxxxxxxxxxxxxxxx…",
        ),
        ({"audit": {"suspects": [{}, {}]}}, "2 labels that may be wrong"),
        ({"audit": {"near_duplicates": [{"splits": ["training", "test"]}]}}, "1 near-duplicate of test images"),
        ({"audit": {"near_duplicates": [{"splits": ["test", "test"]}]}}, ""),
        ({"audit": {"suspects": [{"certainty": "surely"}, {"certainty": "perhaps"}]}}, "1 of them strongly suspect"),
        ({"audit": {"label_conflicts": [{}]}}, "1 pair of nearly the same image with different labels"),
        ({"audit": {"alike": True, "label_conflicts": [{}]}}, "Test on images of another source"),
        ({"audit": {"imbalance": 5.0}, "config": hs.recipe("quick", class_weights="none")}, "--class-weights"),
        ({"audit": {"imbalance": 5.0}}, ""),  # the default has seen to it
    ],
)
def test_a_figure_that_calls_for_something_gets_it(changes, words):
    said = given(**changes)
    assert words in said if words else said == ""


@pytest.mark.parametrize(("found", "advised"), [({}, True), ({"classes_emptied": ["cat"]}, False), ({"alike": True}, False)])
def test_what_would_be_refused_or_would_not_help_is_not_advised(found, advised):
    said = given(audit={"near_duplicates": [{"splits": ["training", "test"]}], "label_conflicts": [{}]} | found)
    assert ("--drop-duplicates" in said) == advised
    assert ("different labels" in said) == (found != {"alike": True})
