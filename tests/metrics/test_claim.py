import pytest

from headstart.metrics.claim import known_images, what_it_holds_for

PLAIN = {"accuracy": 0.95, "interval": [0.9, 0.98], "images": 200}


def figures(known: int, accuracy: float | None = None, **changes):
    """Of 200 test images, of which some have a near-duplicate in training, with the accuracy on the others."""
    new = {"accuracy": accuracy, "interval": [accuracy - 0.05, accuracy + 0.05], "images": 200 - known} if accuracy else None
    return PLAIN | {"near_duplicates_in_training": known} | ({"without_near_duplicates": new} if new else {}) | changes


@pytest.mark.parametrize("one", [PLAIN, figures(0), figures(7, 0.94), figures(20, 0.91)])
def test_a_few_near_duplicates_that_change_nothing_leave_the_claim(one):
    assert known_images(one) == ""


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (figures(21, 0.95), "21 of 200 test images have a near-duplicate in training"),  # too many
        (figures(7, 0.85), "7 of 200 test images have a near-duplicate in training"),  # they make the figure
        (figures(1, 0.85), "1 of 200 test images has a near-duplicate in training"),
        (figures(200), "200 of 200 test images have a near-duplicate in training"),
        (figures(200, images_alike=True), "most images of this data set resemble each other"),
    ],
)
def test_what_the_audit_contradicts_is_said(one, said):
    assert said in known_images(one)


def test_the_accuracy_on_new_images_is_given_where_they_suffice():
    assert "On the other 100 the accuracy is 60.0 %, with 95 % confidence between 55.0 % and 65.0 %." in what_it_holds_for(
        figures(100, 0.6)
    )
    assert "Only 2 have none: too few to tell." in what_it_holds_for(figures(198, 0.5))
    assert "Only 1 has none" in what_it_holds_for(figures(199, 0.5))
    assert "None is left" in what_it_holds_for(figures(200))
    for one in (figures(100, 0.6), figures(200)):
        assert "not for new ones" in what_it_holds_for(one)
        assert "one of the folders train, val and test" in what_it_holds_for(one)


def test_where_all_images_are_alike_the_interval_stands_under_a_condition():
    said = what_it_holds_for(figures(200, images_alike=True))
    assert "If every image was taken by itself, the true figure lies with 95 % confidence between 90.0 % and 98.0 %." in said
    assert "If images come in series" in said


def test_groups_that_given_splits_tear_apart_are_said():
    one = figures(0) | {"of_known_groups": 50}
    assert known_images(one) == "50 of 200 test images are of groups that training has images of"
    assert "not for new groups" in what_it_holds_for(one)
    assert known_images(figures(0) | {"of_known_groups": 5}) == ""


def test_where_groups_are_whole_nobody_is_told_to_group_images():
    for one in (figures(100, 0.6), figures(200, images_alike=True)):
        said = what_it_holds_for(one | {"groups": 12})
        assert "patient or place" not in said
        assert "--group" in said
