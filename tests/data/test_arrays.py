"""Data sets of arrays, as people hold them in their hands."""

import numpy as np
import pytest

import headstart as hs
from helpers import random_images

NAMES = np.array(["cat", "dog"])
COUNT = 40


def images(count: int = COUNT, side: int = 8) -> np.ndarray:
    return random_images(count, side)


def labels(count: int = COUNT) -> np.ndarray:
    return np.arange(count) % 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (images(), images()),
        (images()[..., :1], np.repeat(images()[..., :1], 3, axis=-1)),
        (images()[..., 0], np.repeat(images()[..., :1], 3, axis=-1)),
        (np.concatenate([images(), np.full((COUNT, 8, 8, 1), 255, np.uint8)], axis=-1), images()),
        (images().tolist(), None),
        (list(images()), images()),
    ],
    ids=["RGB", "one channel", "grey", "RGBA", "numbers in lists", "arrays in a list"],
)
def test_images_of_every_shape_become_rgb(given, expected):
    if expected is None:  # integers of 64 bits
        with pytest.raises(hs.HeadstartError, match=r"numpy\.uint8\(array\)"):
            hs.Dataset.from_arrays(given, labels())
        return
    data = hs.Dataset.from_arrays(given, labels())
    assert data.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(data.source.images, expected)


@pytest.mark.parametrize(
    ("given", "options", "names"),
    [
        (labels(), {}, ("0", "1")),
        (np.uint8(labels())[:, None], {}, ("0", "1")),  # as Keras' own data sets have them
        (labels().tolist(), {"class_names": ["cat", "dog"]}, ("cat", "dog")),
        (NAMES[1 - labels()], {}, ("cat", "dog")),
        (NAMES[labels()].astype(object), {"class_names": ("dog", "cat")}, ("dog", "cat")),
        (NAMES[labels()].tolist(), {}, ("cat", "dog")),
    ],
    ids=["integers", "a column", "integers with names", "names", "names in an order of their own", "a list of names"],
)
def test_labels_are_integers_or_names(given, options, names):
    data = hs.Dataset.from_arrays(images(), given, **options)
    assert data.class_names == names
    words = [str(one) for one in np.ravel(given)]
    if options and words[0].isdigit():
        words = [names[int(one)] for one in words]
    assert [data.class_names[label] for label in data.source.labels] == words


def test_splits_that_are_not_given_are_drawn_and_those_that_are_stay():
    drawn = hs.Dataset.from_arrays(images(), labels(), validation_fraction=0.25, test_fraction=0.5)
    assert [len(rows) for rows in (drawn.train, drawn.validation, drawn.test)] == [15, 5, 20]
    other = 255 - images(10)
    tested = hs.Dataset.from_arrays(images(), labels(), x_test=other, y_test=labels(10))
    assert [len(rows) for rows in (tested.train, tested.validation, tested.test)] == [36, 4, 10]
    np.testing.assert_array_equal(tested.images(tested.test), other)
    third = np.full((6, 8, 8, 3), 7, np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
    given = hs.Dataset.from_arrays(images(), labels(), third, labels(6), other, labels(10))
    assert [len(rows) for rows in (given.train, given.validation, given.test)] == [COUNT, 6, 10]
    np.testing.assert_array_equal(given.images(given.validation), third)
    np.testing.assert_array_equal(given.labels(given.validation), labels(6))


def test_seed_and_limit_reach_the_split():
    one, other = (hs.Dataset.from_arrays(images(), labels(), seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.test, other.test)
    assert len(hs.Dataset.from_arrays(images(), labels(), limit=6).train) == 6


def test_an_image_in_two_splits_stays_in_the_test_alone():
    data = hs.Dataset.from_arrays(images(), labels(), x_test=images()[:4], y_test=labels(4))
    assert len(data.duplicates) == 4
    assert len(data.train) + len(data.validation) == COUNT - 4


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((images() / 255, labels()), {}, r"must be uint8 .* not float64 .*numpy\.uint8\(255 \* array\)"),
        ((np.float32(images()), labels()), {}, r"numpy\.uint8\(array\)"),
        ((images().astype(int) - 128, labels()), {}, "scale it to 0..255"),
        ((np.moveaxis(images(), -1, 1), labels()), {}, r"numpy\.moveaxis\(array, 1, -1\)"),
        ((images()[..., :2], labels()), {}, "with 1, 3 or 4 channels"),
        ((images()[0], labels()), {}, "must be an array"),
        ((images(), labels()[:-1]), {}, "the training split has 40 images and 39 labels: give one for each"),
        ((images(), np.eye(2)[labels()]), {}, r"labels\.argmax\(axis=1\)"),
        ((images(), labels() / 2), {}, "must be names or integers"),
        ((images(), None), {}, "the training split needs images and labels: labels are missing"),
        ((None, labels()), {}, "the training split needs images and labels: images are missing"),
        ((images(), labels(), images(4)), {}, "the validation split needs images and labels: labels are missing"),
        ((images(), labels()), {"y_test": labels(4)}, "the test split needs images and labels: images are missing"),
        ((images(), labels()), {"x_test": images(4, 9), "y_test": labels(4)}, "all images must have one size"),
        ((images(), labels() + 1), {"class_names": ["cat", "dog"]}, "reach from 1 to 2, for 2 class names: count from 0"),
        ((images(), labels() - 1), {}, "reach from -1 to 0"),
        ((images(), NAMES[labels()]), {"class_names": ["cat", "cow"]}, "the label 'dog' is not among the class names"),
        ((images(), labels()), {"class_names": ["cat", "dog", "cow"]}, "'cow' has 0 different images to train on"),
        (
            (images(), np.zeros(COUNT, int)),
            {"x_test": images(4), "y_test": NAMES[labels(4)]},
            "integers in one split and names in the other",
        ),
        ((images(0), labels(0)), {}, "no images|has 0 different images"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(arguments, options, message):
    with pytest.raises(hs.HeadstartError, match=message) as refusal:
        hs.Dataset.from_arrays(*arguments, **options)
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def given(digits) -> hs.Dataset:
    """The digits as arrays, of which the grey one is given."""
    x, y = digits.images(digits.train)[..., 0], digits.labels(digits.train)
    return hs.Dataset.from_arrays(x, y, limit=100)


def test_a_run_on_arrays_goes_on_with_them_alone(given, tiny, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("headstart.trainer.fit_stage", stop)
        with pytest.raises(KeyboardInterrupt):
            hs.train(hs.recipe("quick", out=str(out), **tiny), given)
    with pytest.raises(hs.HeadstartError, match=r"given as arrays.*give them as data=") as refusal:
        hs.resume(out)
    assert "\n" not in str(refusal.value)
    run = hs.resume(out, given)
    assert run.config.data == "arrays"
    assert run.metrics["test"]["frozen"]["images"] == len(given.test)
    assert np.isclose(run.evaluate(given)["loss"], run.metrics["test"]["frozen"]["loss"], rtol=1e-2)
    assert len(run.predict(given.images(given.test))) == len(given.test)
    with pytest.raises(hs.HeadstartError, match="given as arrays"):
        run.evaluate()


def test_what_no_saved_model_could_take_is_refused_at_once():
    with pytest.raises(hs.HeadstartError, match=r"1025 x 1 are larger .* at most 1024 a side"):
        hs.Dataset.from_arrays(np.zeros((4, 1025, 1, 3), np.uint8), labels(4))
    with pytest.raises(hs.HeadstartError, match="two classes have the name 'cat'"):
        hs.Dataset.from_arrays(images(), labels(), class_names=("cat", "cat"))


@pytest.mark.parametrize("kind", [int, str])
def test_groups_of_arrays_are_never_torn_apart(kind):
    groups = np.repeat(np.arange(10), 4).astype(kind)
    data = hs.Dataset.from_arrays(images(), labels(), groups_train=groups)
    of_splits = [set(groups[rows].tolist()) for rows in (data.train, data.validation, data.test)]
    assert sum(map(len, of_splits)) == 10
    assert data.source.groups == tuple(map(str, groups))
    given = hs.Dataset.from_arrays(
        images(), labels(), x_test=images()[:2], y_test=labels()[:2], groups_train=groups, groups_test=["", "9"]
    )
    assert given.source.groups[-2:] == ("test 0", "9")  # in no group, and in one that is torn apart
    assert given.torn == ("the group 9 lies in several splits: 4 in training, 1 in test",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups_train": np.arange(COUNT - 1)}, "training split has 40 images and 39 groups"),
        ({"groups_train": np.zeros((COUNT, 2), int)}, r"names or integers \(N,\), not int64 \(40, 2\)"),
        ({"groups_train": np.zeros(COUNT)}, "names or integers"),
        ({"groups_train": [None] + ["a"] * (COUNT - 1)}, 'the group of image 0 of the training split is None: .* ""'),
        ({"groups_test": np.arange(COUNT)}, "test split has groups and no images"),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused(options, said):
    with pytest.raises(hs.HeadstartError, match=said):
        hs.Dataset.from_arrays(images(), labels(), **options)
