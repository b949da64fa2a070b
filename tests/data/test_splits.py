"""Splits: stratified, repeatable, without an image on two sides, and honest about duplicates."""

import dataclasses

import numpy as np
import pytest

from headstart.data.dataset import Dataset
from headstart.data.source import TEST, TRAIN, VALIDATION, Source
from headstart.data.splits import draw_folds, folds_by_class, groups_by_class
from headstart.errors import HeadstartError


def images(labels, splits=None, contents=None, files=()):
    """Source of 2 x 2 pixels that show a number: `contents`, or each one of its own."""
    labels = np.asarray(labels, np.int32)
    numbers = np.arange(len(labels)) if contents is None else np.asarray(contents)
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers % 256, numbers // 256
    return Source(
        images=images,
        labels=labels,
        class_names=("ant", "bee", "cat")[: labels.max() + 1],
        splits=np.zeros(len(labels), np.int8) if splits is None else np.asarray(splits, np.int8),
        name="test data",
        files=tuple(files),
    )


def sides(data):
    return [data.train.tolist(), data.validation.tolist(), data.test.tolist()]


def used(data):
    return sorted(index for side in sides(data) for index in side)


def test_every_image_is_in_one_split_and_classes_keep_their_proportions():
    data = Dataset.of(images([0] * 200 + [1] * 100), validation_fraction=0.1, test_fraction=0.2)
    assert used(data) == list(range(300))
    assert [np.bincount(data.labels(side)).tolist() for side in sides(data)] == [[144, 72], [16, 8], [40, 20]]
    assert data.duplicates == ()


def test_same_seed_same_split_and_other_seed_other_split():
    source = images([0] * 50 + [1] * 50)
    assert sides(Dataset.of(source, seed=1)) == sides(Dataset.of(source, seed=1))
    first, second = sides(Dataset.of(source, seed=1)), sides(Dataset.of(source, seed=2))
    assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("given_parts", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_no_image_is_on_two_sides(seed, given_parts):
    """120 images that show 40 different things, most of them several times."""
    random = np.random.default_rng(seed)
    contents = random.integers(0, 40, 120)
    splits = random.choice([TRAIN] * 6 + [VALIDATION, TEST], 120) if given_parts else None
    data = Dataset.of(images(contents % 2, splits, contents), seed=seed)
    train, validation, test = (set(contents[side].tolist()) for side in sides(data))
    assert train
    assert validation
    assert test
    assert not train & validation | train & test | validation & test
    assert train | validation | test == set(contents.tolist())
    if not given_parts:
        assert used(data) == list(range(120))


def test_given_parts_stay():
    splits = [TRAIN, VALIDATION, TEST] * 4
    data = Dataset.of(images([0] * 6 + [1] * 6, splits), seed=3)
    assert [np.asarray(splits)[side].tolist() for side in sides(data)] == [[TRAIN] * 4, [VALIDATION] * 4, [TEST] * 4]


@pytest.mark.parametrize(("given", "drawn"), [(TEST, "validation"), (VALIDATION, "test")])
def test_missing_part_is_drawn_from_the_training_part(given, drawn):
    splits = [TRAIN] * 80 + [given] * 20
    data = Dataset.of(images([0, 1] * 50, splits), validation_fraction=0.1, test_fraction=0.1)
    kept = data.test if given == TEST else data.validation
    assert kept.tolist() == list(range(80, 100))
    assert getattr(data, drawn).max() < 80
    assert len(getattr(data, drawn)) == 8


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize(("protected", "name"), [(TEST, "test"), (VALIDATION, "validation")])
def test_training_copy_of_a_test_image_is_left_out_and_named(order, protected, name):
    """Whichever of the two comes first in the source."""
    splits, files = np.array([TRAIN, protected])[order], np.array(["train.png", "other.png"])[order]
    source = images(
        [0, 0, *[0, 1] * 10],
        [*splits, *[TRAIN] * 14, *[VALIDATION] * 3, *[TEST] * 3],
        [0, 0, *range(1, 21)],
        [*files, *(f"{i}.png" for i in range(20))],
    )
    data = Dataset.of(source)
    left_out = set(range(22)) - set(used(data))
    assert [source.files[index] for index in left_out] == ["train.png"]
    (line,) = data.duplicates
    assert line == f"{files[1]} equals {files[0]}: train.png left out of training, since {name} holds it"


def test_every_copy_that_is_left_out_is_named():
    """Two copies in training, one in validation and one in test: only the last stays."""
    splits = [TRAIN, TRAIN, VALIDATION, TEST, *[TRAIN, VALIDATION, TEST] * 4]
    data = Dataset.of(images([0] * 4 + [0, 1] * 6, splits, [0] * 4 + list(range(1, 13))))
    assert set(range(16)) - set(used(data)) == {0, 1, 2}
    text = "\n".join(data.duplicates)
    assert "training 0 left out of training, since test holds it" in text
    assert "training 1 left out of training, since test holds it" in text
    assert "validation 0 left out of validation, since test holds it" in text
    assert "same side" not in text
    assert "since validation" not in text


def test_copies_within_a_part_stay_and_are_said():
    data = Dataset.of(images([0] * 11 + [1] * 10, contents=[0, *range(20)]))
    assert data.duplicates == ("training 1 equals training 0: kept on the same side",)
    assert sum(map(len, sides(data))) == 21


def test_conflicting_labels_are_said():
    data = Dataset.of(images([0] * 10 + [1] * 11, contents=[*range(20), 0]))
    assert data.duplicates == ("training 20 equals training 0: kept on the same side; their classes differ: bee, ant",)


def test_limit_is_stratified_and_holds_for_each_split():
    data = Dataset.of(images([0] * 200 + [1] * 100), limit=12, validation_fraction=0.1, test_fraction=0.2)
    assert [np.bincount(data.labels(side)).tolist() for side in sides(data)] == [[8, 4]] * 3
    assert [len(side) for side in sides(Dataset.of(images([0, 1] * 50), limit=40))] == [40, 8, 20]


def test_limit_keeps_the_seed():
    source = images([0] * 50 + [1] * 50)
    assert sides(Dataset.of(source, limit=5, seed=1)) == sides(Dataset.of(source, limit=5, seed=1))
    assert sides(Dataset.of(source, limit=5, seed=1)) != sides(Dataset.of(source, limit=5, seed=2))


def test_limit_below_the_number_of_classes():
    with pytest.raises(HeadstartError, match="--limit 2 must be at least the number of classes, 3"):
        Dataset.of(images([0, 1, 2] * 20), limit=2)


def test_limit_keeps_a_rare_class():
    source = images([0] * 60 + [1] * 3, [TRAIN, VALIDATION, TEST] * 21)
    assert [np.bincount(source.labels[side]).tolist() for side in sides(Dataset.of(source, limit=10))] == [[9, 1]] * 3
    data = Dataset.of(images([0] * 1000 + [1] * 10), limit=20)
    assert [np.bincount(data.labels(side))[1] for side in sides(data)] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rare", [3, 4, 5, 9, 20])
@pytest.mark.parametrize("fraction", [0.02, 0.1])
def test_a_rare_class_is_in_every_split(seed, rare, fraction):
    data = Dataset.of(images([0] * 400 + [1] * 400 + [2] * rare), validation_fraction=fraction, seed=seed)
    counts = [np.bincount(data.labels(side), minlength=3) for side in sides(data)]
    assert min(count.min() for count in counts) >= 1
    assert sum(count[2] for count in counts) == rare
    assert counts[0][2] >= max(1, round(0.5 * rare) - 1), "the rest is for training"


@pytest.mark.parametrize("count", [1, 2])
def test_class_with_too_few_images(count):
    with pytest.raises(HeadstartError, match=f"test data: class 'bee' has {count} different images.*at least 3"):
        Dataset.of(images([0] * 20 + [1] * count))


def test_copies_do_not_count_as_images():
    with pytest.raises(HeadstartError, match="class 'bee' has 1 different images"):
        Dataset.of(images([0] * 20 + [1] * 5, contents=[*range(20), *[20] * 5]))


def test_three_images_of_a_class_suffice():
    data = Dataset.of(images([0] * 3 + [1] * 3))
    assert [np.bincount(data.labels(side)).tolist() for side in sides(data)] == [[1, 1]] * 3


def test_two_images_of_a_class_suffice_where_the_test_is_given():
    data = Dataset.of(images([0, 0, 1, 1, 0, 1], [TRAIN] * 4 + [TEST] * 2))
    assert [np.bincount(data.labels(side)).tolist() for side in sides(data)] == [[1, 1]] * 3


@pytest.mark.parametrize(("split", "name"), [(TRAIN, "training"), (VALIDATION, "validation")])
def test_class_that_a_given_part_does_not_hold(split, name):
    splits = np.array([TRAIN, VALIDATION, TEST] * 4)
    labels = np.where(splits == split, 0, [0] * 6 + [1] * 6)
    with pytest.raises(HeadstartError, match=f"class 'bee' has no image in the {name} split"):
        Dataset.of(images(labels, splits))


def test_class_whose_training_images_are_all_in_the_test_part():
    source = images([0] * 20 + [1] * 8, [TRAIN] * 10 + [TEST] * 10 + [TRAIN] * 4 + [TEST] * 4, [*range(24), *range(20, 24)])
    with pytest.raises(HeadstartError, match="class 'bee' has 0 different images to train on"):
        Dataset.of(source)


def test_summary_counts_images_and_names_what_is_odd():
    data = Dataset.of(images([0] * 11 + [1] * 10, contents=[0, *range(20)]))
    summary = data.summary()
    assert sum(summary["images"].values()) == 21
    assert summary["classes"] == ["ant", "bee"]
    assert summary["image_shape"] == [2, 2, 3]
    assert summary["duplicates"] == list(data.duplicates)
    assert len(summary["fingerprint"]) == 64


def test_fingerprint_follows_pixels_labels_parts_and_class_names():
    fingerprints = {
        source.fingerprint
        for source in (
            images([0, 1, 1]),
            images([0, 1, 0]),
            images([0, 1, 1], [TRAIN, TRAIN, TEST]),
            images([0, 1, 1], contents=[0, 1, 3]),
            images([0, 1, 2]),
        )
    }
    assert len(fingerprints) == 5
    assert images([0, 1, 1]).fingerprint == images([0, 1, 1]).fingerprint


def test_names_of_images_without_files_count_within_their_part():
    splits = np.array([TRAIN, TRAIN, TEST, TEST])
    source = Source(np.zeros((4, 2, 2, 3), np.uint8), np.zeros(4, int), ("a",), splits, "x")
    assert source.names == ("training 0", "training 1", "test 0", "test 1")


@pytest.mark.parametrize("seed", range(5))
def test_folds_test_each_image_once_and_tear_no_equal_images_apart(seed):
    """150 images that show 90 different things, most of them several times."""
    contents = np.concatenate([np.arange(90), np.random.default_rng(seed).integers(0, 90, 60)])
    source = images(contents % 3, contents=contents)
    folds = draw_folds(source, np.arange(150), 5, seed=seed)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4]
    for content in range(90):
        assert len(set(folds[contents == content].tolist())) == 1
    tested = []
    for fold in range(5):
        data = Dataset.in_folds(source, folds).fold(fold, validation_fraction=0.1, seed=seed)
        assert used(data) == list(range(150))
        train, validation, test = (set(contents[side].tolist()) for side in sides(data))
        assert not train & validation
        assert not train & test
        assert not validation & test
        assert set(data.labels(data.train).tolist()) == set(data.labels(data.validation).tolist()) == {0, 1, 2}
        assert len(test) == 18
        assert np.bincount(np.array(sorted(test)) % 3).tolist() == [6, 6, 6]
        tested += data.test.tolist()
    assert sorted(tested) == list(range(150))


def test_folds_follow_the_seed_and_the_limit():
    source, every = images([0] * 50 + [1] * 50), np.arange(100)
    assert draw_folds(source, every, 4, seed=1).tolist() == draw_folds(source, every, 4, seed=1).tolist()
    assert draw_folds(source, every, 4, seed=1).tolist() != draw_folds(source, every, 4, seed=2).tolist()
    few = draw_folds(source, every, 4, limit=40)
    assert np.bincount(few[few >= 0]).tolist() == [10, 10, 10, 10]
    assert np.bincount(source.labels[few >= 0]).tolist() == [20, 20]
    data = Dataset.in_folds(source, few)
    assert used(data.fold(0)) == data.test.tolist() == np.flatnonzero(few >= 0).tolist()


def test_rare_classes_are_in_every_split_of_every_fold():
    source = images([0] * 60 + [1] * 5)
    folds = draw_folds(source, np.arange(65), 5)
    for fold in range(5):
        data = Dataset.in_folds(source, folds).fold(fold)
        assert [np.bincount(data.labels(side), minlength=2)[1] for side in (data.train, data.validation, data.test)] == [3, 1, 1]


@pytest.mark.parametrize(
    ("rare", "folds", "said"),
    [
        (4, 5, r"class 'bee' has 4 different images, and --folds 5 needs 5 of each class: .*, or give --folds 4$"),
        (2, 3, r"class 'bee' has 2 different images, and --folds 3 needs 3 of each class: add images of it or remove the class$"),
        (3, 2, r"class 'bee' has 3 different images, and --folds 2 needs 4 of each class: .*, or give --folds 3$"),
    ],
)
def test_classes_with_too_few_images_for_the_folds_are_refused(rare, folds, said):
    source = images([0] * 30 + [1] * (rare + 5), contents=[*range(30 + rare), *[30] * 5])
    with pytest.raises(HeadstartError, match=said):
        draw_folds(source, np.arange(len(source.labels)), folds)


@pytest.mark.parametrize(("split", "name"), [(TEST, "test"), (VALIDATION, "validation")])
def test_data_with_a_split_of_their_own_are_not_divided(split, name):
    source = images([0, 1] * 20, [TRAIN] * 30 + [split] * 10)
    with pytest.raises(HeadstartError, match=f"has a {name} split of its own, and --folds tests every image once"):
        draw_folds(source, np.arange(40), 5)


def in_groups(groups, labels, splits=None, contents=None):
    """Source of images in groups, whose names are numbers."""
    return dataclasses.replace(images(labels, splits, contents), groups=tuple(f"g{number}" for number in groups))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("mixed", [False, True])
def test_groups_are_never_torn_apart(seed, mixed):
    """Twelve groups of 2 to 12 images, of one class each or of both, with two equal images in different groups."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(12), random.integers(2, 13, 12))
    labels = random.integers(0, 2, len(groups)) if mixed else groups % 2
    contents = np.arange(len(groups))
    contents[0] = contents[-1] if labels[0] == labels[-1] else 0
    source = in_groups(groups, labels, contents=contents)
    data = Dataset.of(source, test_fraction=0.3, validation_fraction=0.2, seed=seed)
    assert used(data) == list(range(len(groups)))
    found = [set(source.units[side].tolist()) for side in sides(data)]
    assert sum(map(len, found)) == len(set.union(*found))
    assert all(set(labels[side].tolist()) == {0, 1} for side in sides(data))
    assert data.torn == ()
    assert sides(data) == sides(Dataset.of(source, test_fraction=0.3, validation_fraction=0.2, seed=seed))


@pytest.mark.parametrize("folds", [0, 3])
def test_a_limit_keeps_images_of_groups_and_leaves_none_of_their_others_in_another_split(folds):
    groups = np.repeat(np.arange(30), 10)
    source = in_groups(groups, groups % 2)
    data = Dataset.of(source, limit=25)
    if folds:
        data = Dataset.in_folds(source, draw_folds(source, np.arange(300), folds, limit=80)).fold(0)
    of_splits = [set(groups[rows].tolist()) for rows in (data.train, data.validation, data.test)]
    assert len(used(data)) < 100
    assert len(set.union(*of_splits)) == sum(map(len, of_splits))


def test_groups_of_many_sizes_are_stratified():
    groups = np.repeat(np.arange(100), np.tile([1, 2, 3, 4, 10], 20))
    labels = (groups // 5) % 2
    data = Dataset.of(in_groups(groups, labels), test_fraction=0.2, validation_fraction=0.1)
    counts = np.array([np.bincount(data.labels(side)) for side in sides(data)])
    assert (abs(counts / counts.sum(axis=0) - [[0.72], [0.08], [0.2]]) < 0.02).all()


def test_another_seed_draws_other_groups():
    source = in_groups(np.repeat(np.arange(20), 5), np.repeat(np.arange(20) % 2, 5))
    assert len({tuple(Dataset.of(source, seed=seed).test.tolist()) for seed in range(5)}) > 2


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 0, 1, 1, 2, 2, 3, 3], "class 'ant' lies in 2 groups to train on; at least 3 are needed"),
        ([0, 1, 2, 0, 0, 1, 2, 0], None),
        ([0, 1, 2, 0, 0, 1, 0, 0], "class 'bee' lies in 2 groups"),
    ],
)
def test_too_few_groups_of_a_class_are_refused(groups, message):
    source = in_groups(groups, [0] * 4 + [1] * 4)
    if message:
        with pytest.raises(HeadstartError, match=message):
            Dataset.of(source)
    else:
        assert all(len(side) for side in sides(Dataset.of(source)))


def test_given_splits_that_tear_groups_apart_stay_and_are_said():
    source = in_groups([0, 0, 1, 1, 2, 2, 3, 3] * 2, [0, 1] * 8, [TRAIN] * 8 + [TEST] * 2 + [TRAIN] * 6)
    data = Dataset.of(source, validation_fraction=0.3)
    assert data.test.tolist() == [8, 9]
    assert data.torn == ("the group g0 lies in several splits: 2 in training, 2 in test",)
    assert data.of_known_groups.tolist() == [True, True]
    assert data.summary()["torn_groups"] == list(data.torn)
    assert data.summary()["groups"]["test"] == 1


def test_folds_of_whole_groups():
    groups = np.repeat(np.arange(15), 4)
    source = in_groups(groups, (groups % 3).tolist())
    folds = draw_folds(source, np.arange(60), 5, seed=3)
    assert sorted(np.bincount(folds).tolist()) == [12] * 5
    for fold in range(5):
        data = Dataset.in_folds(source, folds).fold(fold)
        found = [set(groups[side].tolist()) for side in sides(data)]
        assert sum(map(len, found)) == len(set.union(*found))
        assert all(set(data.labels(side).tolist()) == {0, 1, 2} for side in (data.train, data.validation))
    with pytest.raises(
        HeadstartError, match=r"class 'ant' lies in 5 groups, and --folds 6 needs 6 of each class: .*give --folds 5"
    ):
        draw_folds(source, np.arange(60), 6)


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(10), 4)])
def test_folds_within_training(groups):
    labels = np.repeat(np.arange(10), 4) % 2
    parts = folds_by_class(labels, groups, 5, 0)
    assert sorted(np.concatenate([asked for _, asked in parts]).tolist()) == list(range(40))
    for learned, asked in parts:
        assert set(labels[learned]) == {0, 1}
        assert groups is None or not set(groups[learned]) & set(groups[asked])
    assert groups_by_class(labels, groups).tolist() == ([20, 20] if groups is None else [5, 5])
