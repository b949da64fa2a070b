"""Where labels are: in tables, in names of files, in metadata beside the images; and which images belong together."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.config import Config
from headstart.data.labels import Labelling, read_labels
from headstart.data.source import TEST, TRAIN, VALIDATION
from headstart.errors import HeadstartError


def pictures(folder: Path, names) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(path)


def write(path: Path, header: str, rows) -> Path:
    """Write a table; each row is a text of cells between commas, or a list of cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(row.split(",") if isinstance(row, str) else row for row in rows)
    return path


@pytest.fixture
def folder(tmp_path):
    """Ten images of two classes, `0.png` to `9.png`."""
    pictures(tmp_path, [f"{number}.png" for number in range(10)])
    return tmp_path


def rows_of(classes="cat dog", more=()):
    names = classes.split()
    return [f"{number}.png,{names[number % len(names)]}{''.join(f',{one[number]}' for one in more)}" for number in range(10)]


def labels(path, **options):
    found = read_labels(path, Labelling(**options))
    return [(str(file.relative_to(path.parent if path.is_file() else path)), name, split) for file, name, split in found.rows]


@pytest.mark.parametrize(
    "header", ["file,label", "Image Path,Class Name", "image_id,category", "id,breed", "filename,target", "label,file"]
)
def test_columns_are_guessed_by_their_usual_names_and_said(folder, header):
    rows = [",".join(reversed(row.split(","))) if header.startswith("label") else row for row in rows_of()]
    found = read_labels(write(folder / "labels.csv", header, rows), Labelling())
    assert [(path.name, name) for path, name, _ in found.rows[:3]] == [("0.png", "cat"), ("1.png", "dog"), ("2.png", "cat")]
    files, classes = reversed(header.split(",")) if header.startswith("label") else header.split(",")
    assert found.remarks == [f"labels.csv: files in {files!r}, labels in {classes!r}"]


def test_columns_can_be_named(folder):
    path = write(folder / "labels.csv", "file,label,picture at,what", [f"x,y,{row}" for row in rows_of()])
    found = read_labels(path, Labelling(file_column="picture at", label_column="what"))
    assert {name for _, name, _ in found.rows} == {"cat", "dog"}


def test_numbers_are_names_in_every_kind_of_table(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    numbers = [number % 2 for number in range(10)]
    names = [f"{number}.png" for number in range(10)]
    table = pytest.importorskip("pyarrow").table({"file": names, "label": numbers})
    parquet.write_table(table, folder / "a.parquet")
    write(folder / "a.csv", "file,label", rows_of("0 1"))
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"file": n, "label": k}) + "\n" for n, k in zip(names, numbers, strict=True))
    )
    sources = [hs.load_data(folder / f"a.{ending}", image_size=8).source for ending in ("parquet", "csv", "jsonl")]
    assert {source.class_names for source in sources} == {("0", "1")}
    assert len({source.fingerprint for source in sources}) == 1


def test_files_may_be_absolute_and_elsewhere(folder, tmp_path):
    (tmp_path / "tables").mkdir()
    path = write(tmp_path / "tables" / "labels.csv", "file,label", [f"{folder}/{row}" for row in rows_of()])
    data = hs.load_data(path, image_size=8)
    assert data.source.files[0] == str(folder / "0.png")
    relative = write(tmp_path / "tables" / "b.csv", "file,label", [f"../{row}" for row in rows_of()])
    assert hs.load_data(relative, image_size=8).source.files[0] == "../0.png"


def test_splits_are_a_column(folder):
    splits = ["train"] * 4 + ["Training"] * 2 + ["val", "valid", "TEST", "test_set"]
    path = write(folder / "labels.csv", "file,label,split", rows_of(more=[splits]))
    assert [split for _, _, split in labels(path)] == [TRAIN] * 6 + [VALIDATION] * 2 + [TEST] * 2
    assert {split for _, _, split in labels(path, layout="classes")} == {TRAIN}


def test_splits_are_the_first_folders_if_all_are_named_so(tmp_path):
    names = [f"{split}/{number}.png" for split in ("train", "test") for number in range(5)]
    pictures(tmp_path, names)
    path = write(tmp_path / "labels.csv", "file,label", [[name, "ab"[number % 2]] for number, name in enumerate(names)])
    assert [split for _, _, split in labels(path)] == [TRAIN] * 5 + [TEST] * 5
    assert {split for _, _, split in labels(path, layout="classes")} == {TRAIN}


def test_rows_that_repeat_and_rows_without_a_label_are_counted(folder):
    path = write(folder / "labels.csv", "file,label", [*rows_of(), "0.png,cat", "1.png,dog", ["", "cat"], ["9.png", " "]])
    found = read_labels(path, Labelling())
    assert len(found.rows) == 10
    assert found.skipped == {"row without a file": 1, "row without a label": 1}
    assert found.remarks[1:] == [
        "1 row left out, without a label in column 'label': 9.png", "2 rows repeat a file with its label: the file is used once",
    ]  # fmt: skip


def test_a_few_files_with_two_labels_are_left_out_and_many_are_refused(folder):
    path = write(folder / "labels.csv", "file,label", [*rows_of(), "3.png,cat"])
    found = read_labels(path, Labelling())
    assert "3.png" not in [file.name for file, _, _ in found.rows]
    assert found.skipped == {"file with two labels": 1}
    assert found.remarks[-1] == "1 file left out, with two labels in labels.csv: 3.png is 'dog' and 'cat'"
    write(path, "file,label", [*rows_of(), "1.png,cat", "3.png,cat", "5.png,cat"])
    with pytest.raises(HeadstartError, match=r"two labels to 3 of 10 files \(1.png .*\): an image has one class here, so keep"):
        read_labels(path, Labelling())


def test_a_few_missing_files_are_named_and_many_are_refused(folder):
    path = write(folder / "labels.csv", "file,label", [*rows_of(), "gone.png,cat"])
    data = hs.load_data(path, image_size=8)
    assert [line.partition(":")[0] for line in data.source.unreadable] == ["gone.png"]
    write(path, "file,label", [*rows_of(), *(f"gone{number}.png,cat" for number in range(5))])
    with pytest.raises(HeadstartError, match="5 of 15 image files cannot be read: mend or remove them; all are listed in"):
        hs.load_data(path, image_size=8)


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        ("file,label", [], {}, "has no row below its header"),
        ("file,label", [f"x/{row}" for row in rows_of()], {}, r"none of the 10 files in column 'file' is there, such as x/0.png"),
        ("id,label", [row.replace(".png", "") for row in rows_of()], {}, "there is 0.png: write the endings too"),
        ("file,label", rows_of("cat"), {}, "has only one class, 'cat': a classifier needs two or more"),
        ("file,label", [f"{number}.png," for number in range(10)], {}, "the column .label. is empty: fill it in, or name"),
        ("file,x,y z", rows_of(more=["0123456789"]), {}, "no column has a usual name for labels: name it with --label-column"),
        ("a,label,b", rows_of(more=["0123456789"]), {}, "no column has a usual name for files: name it with --file-column"),
        ("file,label", rows_of(), {"label_column": "lable"}, "has no column 'lable' for --label-column; it has file, label"),
        ("file,label", rows_of(), {"file_column": "path"}, "has no column 'path' for --file-column"),
        ("file,label", rows_of(), {"group": "patient"}, "has no column 'patient' for --group"),
        ("file,label", [*rows_of()[:8], ["8.png", "cat|dog"], ["9.png", "cat, dog"]], {}, "several labels in 2 cells of column"),
        ("file,label,split", rows_of(more=["0000000001"]), {}, r"the split of 0.png says '0': write train, val or test; or draw"),
        ("file,label,split", rows_of(more=[["train"] * 9 + [""]]), {}, "the split of 9.png is empty"),
        ("file,label,split", rows_of(more=[["test"] * 10]), {}, "has no images to train on"),
        ("file,label,split", rows_of("a b c d e", [["train"] * 4 + ["test"] + ["train"] * 4 + ["test"]]), {}, "'e' has test im"),
        ("file,label,split", [*rows_of(more=[["train"] * 10]), "0.png,cat,test"], {}, "names 0.png twice, in two splits"),
        ("file,label,patient", rows_of(more=["1" * 10]), {}, "all images are in one group, '1'"),
        ("file,label,patient", rows_of(more=[[""] * 10]), {"group": "patient"}, "--group patient finds no groups: the column"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(folder, header, rows, options, message):
    path = write(folder / "labels.csv", header, rows)
    with pytest.raises(HeadstartError, match=message) as caught:
        read_labels(path, Labelling(**options))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_labels_with_commas_are_labels(folder):
    path = write(
        folder / "labels.csv", "file,label", [[f"{number}.png", ["dog, brown", "cat"][number % 2]] for number in range(10)]
    )
    assert {name for _, name, _ in labels(path)} == {"dog, brown", "cat"}


def test_classes_that_differ_in_case_stay_two_and_are_remarked(folder):
    found = read_labels(write(folder / "labels.csv", "file,label", rows_of("cat Cat")), Labelling())
    assert found.remarks[-1] == "the classes 'Cat' and 'cat' differ in upper and lower case only, and stay two classes"


def test_labels_in_names(tmp_path):
    pictures(tmp_path, [*(f"a/{kind}_{n}.png" for kind in ("cat", "dog") for n in range(3)), "a/other.png"])
    found = read_labels(tmp_path, Labelling(label_pattern="(?P<label>cat|dog)_"))
    assert [(path.name, name) for path, name, _ in found.rows][::3] == [("cat_0.png", "cat"), ("dog_0.png", "dog")]
    assert found.skipped == {"image that --label-pattern does not fit": 1}
    assert found.remarks == ["1 image left out: --label-pattern does not fit"]


def test_splits_above_labels_in_names(tmp_path):
    pictures(tmp_path, [f"{split}/{kind}_{n}.png" for split in ("train", "test") for kind in "ab" for n in range(2)])
    assert sorted({split for _, _, split in labels(tmp_path, label_pattern="(?P<label>[ab])_")}) == [TRAIN, TEST]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_pattern": "(?P<label>cat"}, r"--label-pattern '\(\?P<label>cat' is no regular expression: .* at character 1$"),
        ({"label_pattern": "cat|dog"}, r"has no group named label: put \(\?P<label>...\) around"),
        ({"group": "(?P<video>x)"}, r"--group .* has no group named group: put \(\?P<group>...\)"),
        ({"group": "(?P<group>x"}, "--group .* is no regular expression"),
        ({"group": ""}, "--group is empty"),
        ({"label_pattern": "(?P<label>x)", "label_column": "y"}, "leave one of them out"),
    ],
)
def test_wrong_patterns_are_refused_before_anything_is_read(options, message):
    with pytest.raises(HeadstartError, match=message):
        Config(**options)


def test_a_pattern_that_fits_nothing_is_refused_with_a_path(folder):
    with pytest.raises(HeadstartError, match=r"fits none of 10 images, such as 0.png: it is searched in the path below"):
        read_labels(folder, Labelling(label_pattern="(?P<label>cat)"))
    with pytest.raises(HeadstartError, match="has only one class, '0'"):
        read_labels(folder, Labelling(label_pattern="(?P<label>0)"))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_metadata_as_hugging_face_has_it(tmp_path, ending):
    """In each split's folder, beside the images, and images that it does not name."""
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        pictures(tmp_path / split, [f"{number}.png" for number in numbers])
        rows = [(f"{number}.png", "ab"[number % 2]) for number in numbers]
        if ending == "csv":
            write(tmp_path / split / "metadata.csv", "file_name,label", rows)
        else:
            lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows]
            (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    pictures(tmp_path / "train", ["more.png"])
    found = read_labels(tmp_path, Labelling())
    assert sorted((path.name, name, split) for path, name, split in found.rows)[:1] == [("0.png", "a", TRAIN)]
    assert [split for _, _, split in found.rows] == [TEST] * 4 + [TRAIN] * 6
    assert found.skipped == {"image that metadata does not name": 1}
    assert f"metadata.{ending} (test split): files in 'file_name', labels in 'label'" in found.remarks


def test_one_metadata_file_above_the_splits(tmp_path):
    names = [f"{split}/{number}.png" for split in ("train", "test") for number in range(4)]
    pictures(tmp_path, names)
    write(tmp_path / "metadata.csv", "file_name,label", [[name, "ab"[number % 2]] for number, name in enumerate(names)])
    assert [split for _, _, split in labels(tmp_path)] == [TRAIN] * 4 + [TEST] * 4


@pytest.mark.parametrize("header", ["file_name,text", "image,label,x"])
def test_folders_say_the_classes_where_metadata_does_not(tmp_path, header):
    pictures(tmp_path, [f"{kind}/{number}.png" for kind in ("ant", "bee") for number in range(3)])
    cells = ["ant/0.png"] + ["x"] * header.count(",")
    write(tmp_path / "metadata.csv", header, [cells])
    if header == "file_name,text":  # two columns need no names: this is a table of labels, of one class
        with pytest.raises(HeadstartError, match="has only one class"):
            read_labels(tmp_path, Labelling())
        found = read_labels(tmp_path, Labelling(layout="classes"))
    else:
        found = read_labels(tmp_path, Labelling())
        assert found.remarks == ["metadata.csv is not used: has no column 'file_name' for --file-column; it has image, label, x"]
    assert {name for _, name, _ in found.rows} == {"ant", "bee"}


GROUPS = {
    "subfolder": ["p1", "p1", "p2", "p2", "", "p1", "p2", "p3", "p3", "p3"],
    r"(?P<group>\w+/p\d)": ["ant/p1", "ant/p1", "ant/p2", "ant/p2", "", "bee/p1", "bee/p2", "bee/p3", "bee/p3", "bee/p3"],
    "none": [],
    "auto": [],
}  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_a_folder(tmp_path, group):
    names = ["ant/p1/0.png", "ant/p1/1.png", "ant/p2/2.png", "ant/p2/3.png", "ant/x.png"]
    names += ["bee/p1/4.png", "bee/p2/5.png", "bee/p3/6.png", "bee/p3/7.png", "bee/p3/8.png"]
    pictures(tmp_path, names)
    found = read_labels(tmp_path, Labelling(group=group))
    assert found.groups == GROUPS[group]
    if group == "subfolder":
        assert found.remarks == [
            "3 groups of 3 images, such as 'p1'; 2 of them with images of several classes",
            "1 image is in no group, and each counts as a group of its own",
        ]


def test_groups_are_below_the_class_whatever_the_splits(tmp_path):
    pictures(tmp_path, [f"{split}/{kind}/p/{n}.png" for split in ("train", "test") for kind in "ab" for n in range(2)])
    pictures(tmp_path / "train" / "a", ["q/1.png"])
    assert read_labels(tmp_path, Labelling(group="subfolder")).groups == ["p", "p", "q", "p", "p", "p", "p", "p", "p"]
    within = tmp_path / "within"
    pictures(within, [f"{kind}/{split}/p{split}/{n}.png" for split in ("train", "test") for kind in "ab" for n in range(2)])
    assert set(read_labels(within, Labelling(group="subfolder")).groups) == {"ptrain", "ptest"}


def test_a_column_of_groups_is_guessed_and_can_be_left_out(folder):
    path = write(folder / "labels.csv", "file,label,Patient ID", rows_of(more=["1122334455"]))
    found = read_labels(path, Labelling())
    assert found.groups == list("1122334455")
    assert found.remarks == [
        "labels.csv: files in 'file', labels in 'label', groups in 'Patient ID'",
        "5 groups of 2 images, such as '1'; 5 of them with images of several classes",
    ]
    assert read_labels(path, Labelling(group="none")).groups == []


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("subfolder", "no image lies in a folder below that of its class"),
        ("patient", "no table has a column 'patient': give subfolder, or a pattern"),
        ("(?P<group>zz)", "it fits no image, such as ant/0.png"),
    ],
)
def test_groups_that_are_not_found_are_refused_in_training_and_remarked_in_evaluation(tmp_path, group, message):
    pictures(tmp_path, [f"{kind}/{number}.png" for kind in ("ant", "bee") for number in range(3)])
    with pytest.raises(HeadstartError, match=message):
        read_labels(tmp_path, Labelling(group=group))
    found = read_labels(tmp_path, Labelling(group=group), known=("ant", "bee"))
    assert found.groups == []
    assert message in found.remarks[0]


def test_a_table_for_evaluation_need_not_have_all_classes(folder):
    path = write(folder / "labels.csv", "file,label", rows_of("Cat"))
    found = read_labels(path, Labelling(), known=("cat", "dog"))
    assert {name for _, name, _ in found.rows} == {"cat"}


def test_options_about_labels_are_refused_for_data_with_labels_of_their_own():
    with pytest.raises(HeadstartError, match="digits has its labels with its pixels, and no files: leave out --group"):
        hs.load_data("digits", group="patient")


def test_units_join_groups_that_share_an_equal_image(folder):
    pictures(folder, ["a.png"])
    (folder / "9.png").write_bytes((folder / "0.png").read_bytes())  # 0 is of group 1, and 9 of group 5
    path = write(folder / "labels.csv", "file,label,group", rows_of(more=["1122334455"]))
    source = hs.load_data(path, image_size=8, validation_fraction=0.2, test_fraction=0.2).source
    units = source.units
    assert len(np.unique(units)) == 4
    assert len({units[0], units[1], units[8], units[9]}) == 1
