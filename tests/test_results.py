import json
import shutil

import numpy as np
import pytest

import headstart as hs
from headstart.results import figures_on_new_images


@pytest.fixture
def copy(small_run, tmp_path):
    folder = shutil.copytree(small_run.path, tmp_path / "copy")
    (folder / "manifest.json").unlink()  # as before the results are written, when an audit may still change
    return hs.Run(folder)


def audited(run: hs.Run, data: hs.Dataset, known: int, **changes) -> None:
    """Write an audit that finds a near-duplicate in training of so many test images."""
    names = data.source.names
    pairs = [
        {"first": names[one], "second": names[data.train[0]], "splits": ["test", "training"], "similarity": 0.99}
        | {"labels": ["1", "1"]} | changes
        for one in data.test[:known]
    ]  # fmt: skip
    content = {name: value for name, value in run.audit.items() if name != "alike"} if run.audit else {}
    (run.path / "audit.json").write_text(json.dumps(content | {"near_duplicates": pairs}))


def test_the_test_images_that_resemble_training_images_are_counted_and_left_out(copy, digits):
    audited(copy, digits, 5)
    right = np.zeros(len(digits.test), bool)
    right[:15] = True
    found = figures_on_new_images(copy, digits, {"frozen": right})["frozen"]
    count = len(digits.test)
    assert found["near_duplicates_in_training"] == 5
    assert found["without_near_duplicates"]["accuracy"] == 10 / (count - 5)
    assert found["without_near_duplicates"]["images"] == count - 5
    assert "images_alike" not in found


def test_where_none_or_all_have_one_there_are_no_figures_on_the_others(copy, digits):
    right = {"frozen": np.ones(len(digits.test), bool)}
    audited(copy, digits, 0)
    assert figures_on_new_images(copy, digits, right) == {"frozen": {"near_duplicates_in_training": 0}}
    audited(copy, digits, len(digits.test), alike=True)
    assert figures_on_new_images(copy, digits, right) == {
        "frozen": {"near_duplicates_in_training": len(digits.test), "images_alike": True}
    }
    (copy.path / "audit.json").unlink()
    assert figures_on_new_images(copy, digits, right) == {"frozen": {}}
