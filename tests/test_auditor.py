"""An audit by itself."""

import csv
import json

import pytest
from PIL import Image

import headstart as hs
from helpers import photo_options


def pairs_of(content) -> set[frozenset[str]]:
    return {frozenset((entry["first"].split("/")[-1], entry["second"].split("/")[-1])) for entry in content["near_duplicates"]}


NEAR_DUPLICATES = {frozenset(("050.png", "copy_of_050.png")), frozenset(("001.png", "copy_of_001.png"))}


def test_an_audit_finds_near_duplicates_and_wrong_labels_and_changes_nothing(photos, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in photos.rglob("*"))
    content = hs.audit_data(photo_options(photos, tmp_path / "audit"))
    assert sorted((path, path.stat().st_mtime_ns) for path in photos.rglob("*")) == before
    assert pairs_of(content) == NEAR_DUPLICATES
    assert [entry["name"] for entry in content["suspects"]] == ["train/blue/really_red.png"]
    assert content["suspects"][0]["suggested"] == "red"
    assert (content["suspects"][0]["rank"], content["suspects_note"]) == (1, "")
    assert (content["alike"], content["label_conflicts"], content["classes_emptied"]) == (False, [], [])
    assert content["classes"]["training"] == {"blue": 22, "red": 21}
    assert content["sizes"]["smallest"] == [38, 38]
    assert content["redundant"] == ["train/blue/copy_of_001.png", "train/red/copy_of_050.png"]
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == content
    for name, rows in (("near_duplicates", 2), ("suspects", 1)):
        with (tmp_path / "audit" / f"{name}.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == rows
        assert Image.open(tmp_path / "audit" / "images" / f"{name}.png").width > 500


def test_an_audit_without_flips_finds_no_mirror_images(photos, tmp_path):
    content = hs.audit_data(photo_options(photos, tmp_path / "audit", flip=False))
    assert pairs_of(content) == {frozenset(("001.png", "copy_of_001.png"))}


def test_a_folder_of_something_else_is_never_written_to(photos, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(hs.HeadstartError, match="is not empty and not an audit"):
        hs.audit_data(photo_options(photos, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_audit_wants_features_of_a_pretrained_backbone(photos, tmp_path):
    with pytest.raises(hs.HeadstartError, match="leave out --weights none"):
        hs.audit_data(photo_options(photos, tmp_path, weights="none"))
