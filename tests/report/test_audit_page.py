import dataclasses

import pytest

from headstart.report.audit_page import write_audit_page
from pages import Tags

PAIR = {"first": "training 1", "second": "training 0", "splits": ["test", "training"], "similarity": 0.97, "labels": ["0", "8"]}
SUSPECT = {"rank": 1, "name": "training 5", "split": "training", "given": "5", "suggested": "6", "given_probability": 0.01,
           "suggested_probability": 0.95, "certainty": "surely"}  # fmt: skip
NOTHING = {
    "sizes": {key: [8, 8] for key in ("smallest", "median", "largest")}, "imbalance": 1.0, "unreadable": [],
    "near_duplicates": [], "alike": False, "label_conflicts": [], "suspects": [], "suspects_note": "", "classes_emptied": [],
}  # fmt: skip


@pytest.fixture
def page(digits, tmp_path):
    def written(data=digits, **found) -> Tags:
        write_audit_page(tmp_path, data, NOTHING | found)
        return Tags((tmp_path / "report.html").read_text(encoding="utf-8"))

    return written


def test_an_audit_that_found_nothing_says_so(page, digits):
    tags = page()
    for words in ("0 near-duplicates lie across two splits, and 0 labels are strongly suspect", "All images have 8 x 8 pixels",
                  "digits", "10 classes", "0 files could not be read"):  # fmt: skip
        assert words in tags.text
    assert f"all classes {len(digits.train):,} {len(digits.validation):,} {len(digits.test):,}" in tags.text
    assert "What to do next" not in tags.text
    assert "img" not in tags.counts


def test_what_was_found_is_shown_with_its_images_and_what_to_do(page):
    inside = PAIR | {"splits": ["test", "test"], "similarity": 0.99}
    tags = page(near_duplicates=[inside, PAIR], label_conflicts=[PAIR], suspects=[SUSPECT, SUSPECT | {"certainty": "perhaps"}],
                suspects_note="labels, some", imbalance=5.0)  # fmt: skip
    for words in (
        "1 near-duplicate lies across two splits, and 1 label is strongly suspect", "2 pairs, 1 of them across two splits",
        "test and training correlation 0.97", "1 pair shows nearly the same image with different labels",
        "training 1 (0), training 0 (8)", "1 label is strongly suspect (“surely”), and 1 more may be wrong (“perhaps”)",
        "1, surely: 6? 95 %", "Labels, some.", "after 58 correct labels", "Look at 2 labels that may be wrong",
        "--drop-duplicates", "--class-weights", "5.0 times the images of the smallest",
    ):  # fmt: skip
        assert words.lower() in tags.text.lower()
    assert tags.text.index("correlation 0.97") < tags.text.index("correlation 0.99"), "those across splits come first"
    assert tags.counts["img"] == 8  # three pairs and two suspects
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in tags.addresses)


def test_images_that_are_alike_get_no_doubts_about_their_labels(page):
    text = page(near_duplicates=[PAIR], label_conflicts=[PAIR], alike=True).text
    assert "Put all images of one patient, video or place into the same split" in text
    assert "with different labels" not in text


def test_what_was_not_read_is_listed_and_cannot_break_out_of_the_page(page, digits):
    files = tuple(f"<img src=x>{index}\x00: no image" for index in range(25))
    source = dataclasses.replace(digits.source, name="photos/", unreadable=files, skipped={"no image": 3}, remarks=("<i>",))
    tags = page(dataclasses.replace(digits, source=source))
    for words in (r"25 files could not be read: <img src=x>0\x00: no image", "and 5 more", "Not used: 3 x no image", "<i>",
                  "Audit of photos:"):  # fmt: skip
        assert words in tags.text
    assert "img" not in tags.counts
