"""Runs on tables with groups: splits, figures and folds keep groups whole, and a run goes on with the table that it knows."""

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.metrics.classification import interval_of
from headstart.record.folder import RunFolder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twelve patients with four images each, red or blue, in one folder."""
    folder, random = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    rows = ["file,label,patient"]
    for patient in range(12):
        for number in range(4):
            pixels = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            pixels[..., 2 * (patient % 2)] //= 4
            Image.fromarray(pixels).save(folder / f"{patient}-{number}.png")
            rows.append(f"{patient}-{number}.png,{patient % 2},P{patient}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


def patients(run, split):
    return {row["group"] for row in run.split if row["split"] == split}


def test_a_run_keeps_groups_whole_and_counts_them(tiny, table, tmp_path):
    run = hs.train(hs.Config(**tiny | {"data": str(table), "limit": 0, "out": str(tmp_path / "run")}))
    found = [patients(run, split) for split in ("training", "validation", "test")]
    assert sum(map(len, found)) == len(set.union(*found)) == 12
    figures = run.metrics["test"]["frozen"]
    assert figures["groups"] == len(found[2]) == run.read_json("data.json")["groups"]["test"]
    right = run.test_logits("frozen").argmax(axis=1) == run.array("labels_test")
    groups = [row["group"] for row in run.split if row["split"] == "test"]
    assert figures["interval"] == interval_of(right, np.unique(groups, return_inverse=True)[1])
    assert f"of {figures['groups']} groups" in (run.path / "report.html").read_text()
    again = run.evaluate()
    assert (again["accuracy"], again["interval"], again["groups"]) == tuple(
        figures[key] for key in ("accuracy", "interval", "groups")
    )
    assert "of_known_groups" not in again
    elsewhere = run.evaluate(table.parent / "labels.csv")
    assert elsewhere["images"] == figures["images"]  # those of training and validation are left out


def test_folds_keep_groups_whole(tiny, table, tmp_path):
    run = hs.train(hs.Config(**tiny | {"data": str(table), "limit": 0, "folds": 3, "out": str(tmp_path / "run")}))
    figures = run.metrics["test"]["frozen"]
    assert (figures["images"], figures["groups"]) == (48, 12)
    for member in run.members:
        one = RunFolder(member)
        found = [patients(one, split) for split in ("training", "validation", "test")]
        assert sum(map(len, found)) == len(set.union(*found)) == 12
    assert "of 12 groups" in (run.path / "report.html").read_text()
