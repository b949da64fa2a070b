import numpy as np
import pytest

from headstart.metrics.heads import decide, even_shares, head_in_words


def correct(linear: float, dense: float, images: int = 1000) -> dict[str, np.ndarray]:
    """Two heads that are right on these shares of the validation images, on the same ones as far as possible."""
    return {name: np.arange(images) < share * images for name, share in (("linear", linear), ("dense", dense))}


@pytest.mark.parametrize(
    ("linear", "dense", "images", "chosen"),
    [(0.8, 0.7, 50_000, "linear"), (0.7, 0.8, 100, "dense"), (0.8, 0.8, 100, "linear"), (0.8, 0.8, 50_000, "dense")],
)
def test_validation_decides_and_where_it_cannot_the_number_of_images_does(linear, dense, images, chosen):
    assert decide(correct(linear, dense), images, 10)["chosen"] == chosen


def test_the_choice_in_words_has_both_figures():
    found = {"chosen": "linear", "why": "it is better", "candidates": {"linear": {"accuracy": 0.8}, "dense": {"accuracy": 0.75}}}
    assert head_in_words(found) == "head: linear, since it is better (on validation: linear 80.0 %, dense 75.0 %)"


def test_with_even_shares_a_rare_class_counts_as_much_as_a_common_one():
    labels = np.repeat([0, 1], [900, 100])
    # The linear head is right on 60 common images more, the dense one on 40 rare ones more.
    found = {"linear": np.arange(1000) < 950, "dense": (np.arange(1000) < 840) | (np.arange(1000) >= 910)}
    shares = even_shares(labels)
    assert decide(found, 50_000, 2)["chosen"] == "linear"
    assert decide(found, 50_000, 2, shares)["chosen"] == "dense"
    assert shares.mean() == pytest.approx(1)
    assert shares[labels == 1].sum() == pytest.approx(500)


def test_what_weighted_classes_are_judged_by_is_said():
    candidates = {"linear": {"accuracy": 0.8, "macro_recall": 0.6}, "dense": {"accuracy": 0.75, "macro_recall": 0.7}}
    found = {"chosen": "dense", "why": "it is better", "candidates": candidates}
    assert head_in_words(found).endswith("(macro recall on validation: linear 60.0 %, dense 70.0 %)")


def test_heads_are_told_apart_by_groups_and_not_by_their_images():
    """Ten groups of 20 images: the linear head is right on 6 of them, the dense one on 4 others."""
    groups = np.repeat(np.arange(10), 20)
    found = {"linear": groups < 6, "dense": groups >= 6}
    assert "it is better on validation" in decide(found, 50_000, 2)["why"]
    assert "validation cannot tell" in decide(found, 50_000, 2, groups=groups)["why"]
    assert "validation cannot tell" in decide(found, 50_000, 2, groups=np.zeros(200, int))["why"]
