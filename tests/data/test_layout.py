"""What folders mean: classes, splits, neither; or a refusal that says what to type."""

import pytest
from PIL import Image

from headstart.data.layout import read_layout, split_of
from headstart.data.source import TEST, TRAIN, VALIDATION
from headstart.errors import HeadstartError


def make(root, tree):
    """Make folders with one image each, from their paths separated by spaces; `x/` is an empty folder, `x/-` a text."""
    for path in tree.split():
        folder = root / path.rstrip("-")
        folder.mkdir(parents=True, exist_ok=True)
        if path.endswith("-"):
            (folder / "notes.txt").write_text("no image")
        elif not path.endswith("/"):
            Image.new("RGB", (2, 2)).save(folder / "0.png")


def found(layout):
    """Return which splits each class is in."""
    classes = {}
    for _, name, split in layout.rows:
        classes.setdefault(name, set()).add(split)
    return classes


BOTH, ALL = {TRAIN, TEST}, {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", TRAIN), ("Training", TRAIN), ("TRAIN", TRAIN), ("train_set", TRAIN), ("TrainingSet", TRAIN), 
        ("trainset", TRAIN),
        ("training-images", TRAIN), ("train2017", TRAIN), ("val", VALIDATION), ("Validation", VALIDATION), ("valid", VALIDATION),
        ("dev", VALIDATION), ("Testing", TEST), ("test_images", TEST), ("TestData", TEST), ("eval", TEST), ("holdout", TEST),
        ("trains", None), ("train_station", None), ("testudo", None), ("latest", None), ("cat", None), ("value", None),
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("tree", "classes"),
    [
        ("cat dog", {"cat": {TRAIN}, "dog": {TRAIN}}),
        ("Training/cat Training/dog Testing/cat Testing/dog", {"cat": BOTH, "dog": BOTH}),
        ("train/a train/b valid/a valid/b TEST/a TEST/b", {"a": ALL, "b": ALL}),
        # as archives unpack
        ("photos/train/a photos/train/b photos/test/a", {"a": BOTH, "b": {TRAIN}}),
        ("archive/archive/a archive/archive/b", {"a": {TRAIN}, "b": {TRAIN}}),
        ("seg_train/seg_train/a seg_train/seg_train/b seg_test/seg_test/a seg_pred/seg_pred", {"a": BOTH, "b": {TRAIN}}),
        ("alphabet_train/alphabet_train/A alphabet_train/alphabet_train/B alphabet_test/A", {"A": BOTH, "B": {TRAIN}}),
        ("images/train/a images/train/b images/val/a labels/train/-", {"a": {TRAIN, VALIDATION}, "b": {TRAIN}}),
        # a class that is called like a split
        ("car plane train", {"car": {TRAIN}, "plane": {TRAIN}, "train": {TRAIN}}),
        ("train/car train/train test/car test/train", {"car": BOTH, "train": BOTH}),
        # the test's folders beside the training classes
        ("cat dog test/cat test/dog", {"cat": BOTH, "dog": BOTH}),
        # splits within the classes
        ("cat/train cat/test dog/train dog/test", {"cat": BOTH, "dog": BOTH}),
        # images without labels in a folder of their own
        ("train/a/images train/b/images val/images test/images", {"a": {TRAIN}, "b": {TRAIN}}),
        ("asl_train/asl_train/A asl_train/asl_train/B asl_test/asl_test", {"A": {TRAIN}, "B": {TRAIN}}),
        # what is no split or no class
        ("train/a train/b test/a extra", {"a": BOTH, "b": {TRAIN}}),
        ("train/a train/b test", {"a": {TRAIN}, "b": {TRAIN}}),
        ("train/a train/b test/a test/b/", {"a": BOTH, "b": {TRAIN}}),
        ("cat dog __MACOSX/cat .cache/x docs/-", {"cat": {TRAIN}, "dog": {TRAIN}}),
    ],
)  # fmt: skip
def test_what_folders_evidently_mean(tmp_path, tree, classes):
    make(tmp_path, tree)
    assert found(read_layout(tmp_path)) == classes


@pytest.mark.parametrize(
    ("tree", "as_classes", "as_splits"),
    [
        (
            "car plane train/steam train/diesel",
            {"car": {TRAIN}, "plane": {TRAIN}, "train": {TRAIN}},
            {"steam": {TRAIN}, "diesel": {TRAIN}},
        ),
        ("cat dog test", {"cat": {TRAIN}, "dog": {TRAIN}, "test": {TRAIN}}, {"cat": {TRAIN}, "dog": {TRAIN}}),
    ],
)
def test_what_could_mean_two_things_is_refused_with_what_to_type(tmp_path, tree, as_classes, as_splits):
    make(tmp_path, tree)
    with pytest.raises(HeadstartError, match=r"could be a class or a split\nType --layout classes if .* or --layout splits if"):
        read_layout(tmp_path)
    assert found(read_layout(tmp_path, "classes")) == as_classes
    assert found(read_layout(tmp_path, "splits")) == as_splits


def test_only_some_classes_hold_splits(tmp_path):
    make(tmp_path, "cat/train cat/test dog")
    with pytest.raises(HeadstartError, match=r"holds splits such as .*--layout classes"):
        read_layout(tmp_path)
    assert found(read_layout(tmp_path, "classes")) == {"cat": {TRAIN}, "dog": {TRAIN}}


def test_images_without_class_folders(tmp_path):
    """As for detection."""
    make(tmp_path, "train/images train/labels/- val/images val/labels/-")
    with pytest.raises(
        HeadstartError, match=r"it needs a subfolder of images for each class; it has 2 x image in no class folder"
    ):
        read_layout(tmp_path)


def test_what_was_understood_and_left_out_is_said(tmp_path):
    make(tmp_path, "photos/train photos/train/a photos/train/b photos/Testing/a photos/extra photos/extra/c photos/docs/-")
    layout = read_layout(tmp_path)
    assert found(layout) == {"a": BOTH, "b": {TRAIN}}
    assert dict(layout.skipped) == {"image outside the splits": 2, "image in no class folder": 1, "no image (.txt)": 1}
    assert layout.remarks == [
        "the classes lie in photos/",
        "2 images left out: in extra/, which is no split",
        "Testing/ is the test split",
        "train/ is the training split",
        "1 image left out: in train/ itself",
    ]


def test_names_are_the_same_whichever_way_an_accent_is_written(tmp_path):
    make(tmp_path, "train/caf\N{LATIN SMALL LETTER E WITH ACUTE} train/tea test/cafe\N{COMBINING ACUTE ACCENT}")
    assert found(read_layout(tmp_path)) == {"caf\N{LATIN SMALL LETTER E WITH ACUTE}": BOTH, "tea": {TRAIN}}


def test_a_class_that_is_spelt_in_two_ways(tmp_path):
    make(tmp_path / "case", "train/Cat train/Dog test/cat")
    layout = read_layout(tmp_path / "case")
    assert found(layout) == {"Cat": BOTH, "Dog": {TRAIN}}
    assert "the class 'cat' is taken for 'Cat'" in layout.remarks
    make(tmp_path / "other", "train/Cats train/Dogs test/cat")
    with pytest.raises(HeadstartError, match=r"test/cat: the class 'cat' has no images to train on; known: Cats, Dogs"):
        read_layout(tmp_path / "other")


def test_a_folder_of_something_else_is_no_class(tmp_path):
    make(tmp_path, "cat dog docs/-")
    (tmp_path / "docs" / "manual.pdf").write_text("no image")
    assert found(read_layout(tmp_path)) == {"cat": {TRAIN}, "dog": {TRAIN}}
    (tmp_path / "docs" / "cat.mp4").write_text("no image")
    with pytest.raises(HeadstartError, match=r"docs holds no image .*add some, or remove the folder of this class"):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("tree", "classes"),
    [
        ("cat", {"cat": {TRAIN}}),
        ("test/cat test/dog", {"cat": {TEST}, "dog": {TEST}}),
        ("cat dog unsure/", {"cat": {TRAIN}, "dog": {TRAIN}}),
        ("cat/2024 cat/2025", {"cat": {TRAIN}}),
        ("train/cat val/dog", {"cat": {TRAIN}, "dog": {VALIDATION}}),
    ],
)
def test_data_that_only_evaluate(tmp_path, tree, classes):
    make(tmp_path, tree)
    assert found(read_layout(tmp_path, known=("cat", "dog", "fox"))) == classes
