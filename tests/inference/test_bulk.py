import csv
import errno
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli.main import main
from headstart.inference import bulk, rows
from helpers import change_manifest

# More bytes than UTF-8 has, a line break, and what a spreadsheet would compute.
ODD = [os.fsdecode(b"\xff.png"), "two\nlines.png", "=1+1.png"]


@pytest.fixture(scope="module")
def photos(digits, tmp_path_factory) -> Path:
    """Eleven digits in two folders, one of them under odd names, and two files that are no images."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "b").mkdir()
    names = [*(f"b/{number}.png" for number in range(5)), *(f"{number}.png" for number in (3, 1, 2)), *ODD]
    for name, image in zip(names, digits.images(digits.test[:11]), strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("nothing")
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(bulk, "BLOCK", 4)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def stop_after(blocks: int, monkeypatch) -> None:
    """Let Ctrl-C be pressed when so many blocks are written."""
    write, done = bulk.write_block, itertools.count(1)

    def stopping(*arguments) -> None:
        write(*arguments)
        if next(done) == blocks:
            raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "write_block", stopping)


def written(monkeypatch) -> list[str]:
    """Return a list that gets the name of each block that is written from now on."""
    write, names = bulk.write_block, []

    def recorded(file, *others) -> None:
        names.append(file.name)
        write(file, *others)

    monkeypatch.setattr(bulk, "write_block", recorded)
    return names


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_goes_on_after_a_kill_even_if_the_cache_was_cleared(kind, small_run, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), kind, photos, "b"))
    out = tmp_path / "found.csv"
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            small_run.predict_to(out, archive)
    shutil.rmtree(tmp_path / "cache")
    assert small_run.predict_to(out, archive).unreadable == 0
    found = table(out)
    assert [row["image"] for row in found] == [f"b/{number}.png" for number in range(5)]
    assert [row["class"] for row in found] == list(small_run.predict(photos / "b").labels)
    assert small_run.predict(archive).names == [f"b/{number}.png" for number in range(5)]
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            small_run.predict_to(out, archive, overwrite=True)
    shutil.make_archive(str(tmp_path / "photos"), kind, photos, "broken.jpg")
    with pytest.raises(hs.HeadstartError, match="begun with other images"):
        small_run.predict_to(out, archive)


def test_a_table_has_every_image_in_order_with_the_answers_of_predict(small_run, photos, tmp_path):
    totals = small_run.predict_to(tmp_path / "found.csv", photos, batch_size=4)
    expected = small_run.predict(photos, batch_size=4)
    found = table(tmp_path / "found.csv")
    assert list(found[0]) == ["image", "class", "confidence", "unlike", "error", *small_run.class_names]
    assert [row["image"].removeprefix("'") for row in found] == [str(path) for path in sorted(photos.rglob("*.[pj][np]g"))]
    read = [row for row in found if not row["error"]]
    assert [row["image"].removeprefix("'") for row in read] == expected.names
    assert [row["class"] for row in read] == expected.labels
    probabilities = [[float(row[name]) for name in small_run.class_names] for row in read]
    np.testing.assert_array_equal(probabilities, expected.probabilities.astype(float).round(6))
    assert [row["unlike"] == "yes" for row in read] == expected.outsiders.tolist()
    (broken,) = [row for row in found if row["error"]]
    assert (broken["image"], broken["class"], broken["0"]) == (str(photos / "broken.jpg"), "", "")
    assert f"{broken['image']}: {broken['error']}" == expected.unreadable[0]
    assert (totals.images, totals.unreadable, totals.unlike) == (12, 1, expected.outsiders.sum())
    assert totals.skipped == expected.skipped == {"no image (.txt)": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["found.csv"]


def test_answers_are_those_of_predict_to_the_bit(small_run, photos):
    expected = small_run.predict(photos, batch_size=3)
    answers = [one for one in small_run.stream(photos, batch_size=3) if not one.error]
    np.testing.assert_array_equal([one.probabilities for one in answers], expected.probabilities)
    assert [(one.name, one.label) for one in answers] == [(one.name, one.label) for one in expected]
    np.testing.assert_array_equal([one.unlike for one in answers], expected.outsiders)


def test_all_kinds_of_tables_hold_the_same(small_run, photos, tmp_path):
    arrow = pytest.importorskip("pyarrow.parquet")
    for kind in ("csv", "jsonl", "parquet"):
        small_run.predict_to(tmp_path / f"found.{kind}", photos, reject=0.2)
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    of_csv, of_parquet = table(tmp_path / "found.csv"), arrow.read_table(tmp_path / "found.parquet").to_pylist()
    assert len(lines) == len(of_csv) == len(of_parquet) == 12
    for line, text, row in zip(lines, of_csv, of_parquet, strict=True):
        assert text["image"].removeprefix("'") == line["image"]
        assert row["image"] == os.fsencode(line["image"]).decode(errors="replace")
        assert (line["class"], line["error"]) == (row["class"], row["error"]) == (text["class"] or None, text["error"] or None)
        for mark in ("rejected", "unlike"):
            assert line[mark] is row[mark] is {"yes": True, "no": False, "": None}[text[mark]]
        for name in small_run.class_names:
            if line["class"] is None:
                assert (line["probabilities"], row[name], text[name]) == (None, None, "")
            else:
                assert line["probabilities"][name] == float(text[name]) == pytest.approx(row[name], abs=1e-6)


def test_a_stopped_run_goes_on_and_does_nothing_twice(small_run, photos, tmp_path, monkeypatch, capsys):
    small_run.predict_to(tmp_path / "whole.csv", photos)
    arguments = ["predict", str(small_run.path), str(photos), "--out", str(tmp_path / "found.csv"), "--reject", "0.0"]
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(SystemExit) as end:
            main(arguments)
    assert end.value.code == 130
    told = capsys.readouterr().err.splitlines()[-1]
    way_on = shlex.split(told.partition("go on with headstart ")[2])
    assert way_on == arguments[:5]
    (photos / "2.png").rename(photos / "gone.png")  # the list stays as it was
    try:
        names = written(monkeypatch)
        main(way_on)
    finally:
        (photos / "gone.png").rename(photos / "2.png")
    assert names == ["000002.csv"]
    assert "2 of 3 blocks done already" in capsys.readouterr().err
    assert (tmp_path / "found.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.csv", "whole.csv"]


def test_a_killed_process_leaves_whole_blocks(small_run, photos, tmp_path):
    small_run.predict_to(tmp_path / "whole.jsonl", photos)
    lines = (
        "import itertools, os, signal, sys; from headstart.inference import bulk, rows; from headstart.cli.main import main",
        "bulk.BLOCK, write, calls = 4, rows.JsonRows.write, itertools.count(1)",
        "def killed(*given):",
        "    write(*given)",
        "    next(calls) < 3 or os.kill(os.getpid(), signal.SIGKILL)",  # in the middle of the third block
        "rows.JsonRows.write = killed",
        f"main(['predict', {str(small_run.path)!r}, {str(photos)!r}, '--out', {str(tmp_path / 'found.jsonl')!r}])",
    )
    process = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False, capture_output=True)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "found.jsonl").exists()
    small_run.predict_to(tmp_path / "found.jsonl", photos)
    assert (tmp_path / "found.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_parts_of_another_command_are_refused_unless_overwritten(small_run, photos, tmp_path, monkeypatch):
    out = tmp_path / "found.csv"
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            small_run.predict_to(out, photos)
    other = hs.Run(shutil.copytree(small_run.path, tmp_path / "other"))
    change_manifest(other.path, temperature=2.5)
    for run, images, options, what in (
        (other, photos, {}, "another model"),
        (small_run, photos / "b", {}, "other images"),
        (small_run, photos, {"reject": 0.2}, "another --reject"),
        (small_run, photos, {"shard": (1, 2)}, "another --shard"),
    ):
        with pytest.raises(hs.HeadstartError, match=f"begun with {what}: repeat .* --overwrite"):
            run.predict_to(out, images, **options)
    assert other.predict_to(out, photos, overwrite=True).images == 12
    assert [row["class"] for row in table(out) if not row["error"]] == other.predict(photos).labels


def test_a_table_that_is_there_stays_unless_it_is_overwritten(small_run, photos, tmp_path, capsys):
    out = tmp_path / "found.csv"
    out.write_text("mine")
    arguments = ["predict", str(small_run.path), str(photos), "--out", str(out)]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "exists: give another --out, or --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    main([*arguments, "--overwrite"])
    assert len(table(out)) == 12
    assert capsys.readouterr().out == f"{out}\n"


def test_a_run_that_was_killed_after_its_last_block_only_joins(small_run, photos, tmp_path, monkeypatch):
    out = tmp_path / "found.csv"

    def interrupted(parts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small_run.predict_to(out, photos)
    assert out.exists()
    names = written(monkeypatch)
    small_run.predict_to(out, photos)
    assert names == []
    assert [path.name for path in tmp_path.iterdir()] == ["found.csv"]


def test_a_damaged_part_is_named_and_made_again(small_run, photos, tmp_path, monkeypatch):
    out, part = tmp_path / "found.csv", tmp_path / "found.csv.parts" / "000000.csv"
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            small_run.predict_to(out, photos)
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(hs.HeadstartError, match=r"000000\.csv is damaged: remove it, and repeat"):
        small_run.predict_to(out, photos)
    part.unlink()
    assert small_run.predict_to(out, photos).images == 12


def test_the_shares_together_are_the_whole(small_run, photos, tmp_path):
    small_run.predict_to(tmp_path / "whole.jsonl", photos)
    lines = []
    for number in range(1, 5):  # more shares than blocks
        small_run.predict_to(tmp_path / f"{number}.jsonl", photos, shard=(number, 4))
        lines += (tmp_path / f"{number}.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "whole.jsonl").read_text().splitlines()


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "a/b", "-1/2", "1/0"])
def test_a_share_that_is_none_is_refused(share, small_run, photos, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(small_run.path), str(photos), "--out", str(tmp_path / "found.csv"), f"--shard={share}"])
    assert "--shard is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "more", "message"),
    [
        ("found.txt", [], "results are written as .csv, .jsonl, .parquet"),
        ("found.csv", ["--format", "json"], "leave out --format"),
        ("", ["--overwrite"], "--overwrite wants --out"),
        ("", ["--shard", "1/2"], "--shard wants --out"),
        ("folder.csv", [], "is a folder"),
        ("taken.csv", [], "holds something else"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_classified(out, more, message, small_run, photos, tmp_path, capsys):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "taken.csv.parts").mkdir()
    (tmp_path / "taken.csv.parts" / "mine.txt").write_text("mine")
    given = ["--out", str(tmp_path / out)] if out else []
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(small_run.path), str(photos), *given, *more])
    assert message in capsys.readouterr().err
    assert (tmp_path / "taken.csv.parts" / "mine.txt").read_text() == "mine"


def test_two_processes_do_not_write_one_table(small_run, photos, tmp_path):
    pytest.importorskip("fcntl")
    with bulk.held(tmp_path / "found.csv.parts"), pytest.raises(hs.HeadstartError, match="another process works in"):
        small_run.predict_to(tmp_path / "found.csv", photos)


def test_a_full_disk_says_how_to_go_on(small_run, photos, tmp_path, monkeypatch, capsys):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = ["predict", str(small_run.path), str(photos), "--out", str(tmp_path / "found.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(rows.CsvRows, "write", full)
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    told = capsys.readouterr().err
    assert "the disk is full" in told
    assert f"go on with headstart {shlex.join(arguments)}" in told
    main(arguments)
    assert len(table(tmp_path / "found.csv")) == 12


def test_a_table_names_the_files(small_run, photos, tmp_path, capsys):
    (photos / "files.csv").write_text("id,Path,label\n1,b/1.png,x\n2,missing.png,y\n3,b/0.png,x\n")
    try:
        small_run.predict_to(tmp_path / "found.csv", photos / "files.csv")
        found = table(tmp_path / "found.csv")
        assert [row["image"] for row in found] == ["b/1.png", "missing.png", "b/0.png"]
        assert "No such file" in found[1]["error"]
        expected = small_run.predict([photos / "b/1.png", photos / "b/0.png"])
        assert [found[0]["class"], found[2]["class"]] == expected.labels
        assert small_run.predict(photos / "files.csv").labels == expected.labels
        arguments = ["predict", str(small_run.path), str(photos / "files.csv"), "--out", str(tmp_path / "other.csv")]
        with pytest.raises(SystemExit, match="2"):
            main([*arguments, "--file-column", "image"])
        assert "has no column 'image' for --file-column; it has id, Path, label" in capsys.readouterr().err
        main([*arguments, "--file-column", "Path"])
        assert table(tmp_path / "other.csv") == found
        (photos / "files.csv").write_text("number,what\n1,b/1.png\n")
        with pytest.raises(hs.HeadstartError, match="name it with --file-column; there are number, what"):
            list(small_run.stream(photos / "files.csv"))
    finally:
        (photos / "files.csv").unlink()


def test_names_that_no_file_can_have_are_unreadable_and_stop_nothing(small_run, tmp_path):
    names = ["\0.png", "\ud800.png", "x" * 5000, "", "../" * 3000, "htp://example.org/a.png"]
    (tmp_path / "files.jsonl").write_text("".join(json.dumps({"file": name}) + "\n" for name in names))
    for kind in ("csv", "jsonl", "parquet"):
        totals = small_run.predict_to(tmp_path / f"found.{kind}", tmp_path / "files.jsonl")
        assert (totals.images, totals.unreadable) == (6, 6)


def test_a_class_may_be_called_as_another_column(tmp_path):
    answers = [rows.Answer("a.png", "error", 0.75, np.float32([0.25, 0.75]), None, True)]
    for kind, make in rows.KINDS.items():
        made = make(["image", "error"], ["unlike"])
        made.write(tmp_path / f"part{kind}", answers)
        made.join(tmp_path / f"whole{kind}", [tmp_path / f"part{kind}"])
    assert table(tmp_path / "whole.csv") == [
        {"image": "a.png", "class": "error", "confidence": "0.75", "unlike": "yes", "error": "",
         "probability of image": "0.25", "probability of error": "0.75"}
    ]  # fmt: skip
    arrow = pytest.importorskip("pyarrow.parquet")
    (row,) = arrow.read_table(tmp_path / "whole.parquet").to_pylist()
    assert row["probability of error"] == 0.75
    assert row["error"] is None


def test_a_stream_reads_a_few_batches_ahead_of_its_answers_and_no_more(small_run, digits):
    image, taken = digits.images(digits.test[:1])[0], itertools.count()

    def endless():
        while True:
            next(taken)
            yield image

    answers = small_run.stream(endless(), batch_size=2)
    assert [one.name for one in itertools.islice(answers, 10)] == [f"image {number}" for number in range(10)]
    # What decodes and what computes take some each, by the number of cores, whatever has been answered before.
    before = next(taken)
    assert [one.name for one in itertools.islice(answers, 100)][-1] == "image 109"
    assert next(taken) - before <= 100 + 2


def test_nothing_to_classify_is_refused_and_leaves_nothing(small_run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(hs.HeadstartError, match="there are no images"):
        small_run.predict_to(tmp_path / "found.csv", tmp_path / "empty")
    with pytest.raises(hs.HeadstartError, match="bytes is no path"):
        small_run.predict_to(tmp_path / "found.csv", [b"image"])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert list(small_run.stream(tmp_path / "empty")) == []


def test_what_lies_among_the_parts_is_not_trusted(small_run, photos, tmp_path, monkeypatch):
    out = tmp_path / "found.csv"
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            small_run.predict_to(out, photos)
    for name in ("about.json", "images.jsonl", "000000.json", "000000.csv"):
        file = tmp_path / "found.csv.parts" / name
        good = file.read_bytes()
        for bad in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, good[:-20], good.replace(b"1", b"-1"), None):
            file.unlink() if bad is None else file.write_bytes(bad)
            if bad is not None or name not in ("about.json", "000000.csv"):  # a block that is missing is made again
                with pytest.raises(hs.HeadstartError) as refusal:
                    small_run.predict_to(out, photos)
                assert "\n" not in str(refusal.value)
                assert "found.csv.parts" in str(refusal.value)
            file.write_bytes(good)
    (tmp_path / "found.csv.parts" / "about.json").write_bytes(b"{")
    assert small_run.predict_to(out, photos, overwrite=True).images == 12


def test_what_is_refused_leaves_nothing(small_run, tmp_path):
    with pytest.raises(hs.HeadstartError, match="no file or folder"):
        small_run.predict_to(tmp_path / "found.csv", tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
