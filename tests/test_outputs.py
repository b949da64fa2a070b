"""What a run hands on: no name breaks out of it, and it names nothing of its user's machine."""

import contextlib
import csv
import io
import logging
import os
import platform
import re
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli.main import main
from helpers import save, scene
from pages import Tags

USER, HOST = "hedwig-secret", "machine-secret"
# What is made to be sent on, see docs/runs.md; beside it lies what is the user's own record.
TO_SEND = ("report.html", "images/*", "manifest.json", "network.json", "*.safetensors", "model.*", "tensorboard/*")
# Would these characters reach a terminal, they would change what it shows: all controls, and marks of direction.
DISTURBING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

CLASSES = (
    b"=1+1",
    b"\x1b[31mred\x07\n",
    b"caf\xe9",
    "\N{RIGHT-TO-LEFT OVERRIDE}x".encode(),
    b"<img src=x onerror=alert(1)>",
    b"x" * 255,
)
NAMES = (
    b"-rf.png",
    b"'\"</title>.png",
    b"\xff\x1b]0;t\x07.png",
    b"a\nb\tc.png",
    b"{{ 7*7 }}.png",
    b"n" * 251 + b".png",
    b"%s$x$.png",
    b"CON.png",
)


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> Path:
    """A data set whose classes and files have the strangest names that a file system takes."""
    root = tmp_path_factory.mktemp(USER) / "data\x1b[1m"
    seed = 0
    for label, name in enumerate(CLASSES):
        folder = root / os.fsdecode(name)
        for number in range(9):
            seed += 1
            image = np.asarray(scene(seed)).copy()
            image[:8] = 40 * label
            file = os.fsdecode(NAMES[number % len(NAMES)]) if number < len(NAMES) and label < 2 else f"{number}.png"
            save(Image.fromarray(image), folder / file)
    (root / os.fsdecode(CLASSES[1]) / "broken\x1b.jpg").write_bytes(b"no image")
    (root / os.fsdecode(CLASSES[2]) / "gone\x1b.jpg").symlink_to(root / "none.jpg")
    os.mkfifo(root / os.fsdecode(CLASSES[1]) / "pipe.jpg")
    return root


@pytest.fixture(scope="module")
def run(strange, tiny, tmp_path_factory) -> hs.Run:
    """A run of this data set, by a user and on a machine with names."""
    home = tmp_path_factory.mktemp("home") / USER
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("headstart"), "propagate", False)  # pytest-xdist can hand on no log that is no UTF-8
        for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "COMPUTERNAME"):
            patch.setenv(name, HOST if name in ("HOSTNAME", "COMPUTERNAME") else USER)
        patch.setenv("HOME", str(home))
        patch.setattr(socket, "gethostname", lambda: HOST)
        patch.setattr(platform, "node", lambda: HOST)
        patch.setattr(sys, "argv", ["/home/hedwig-secret/bin/headstart", "train", "--data", str(strange)])
        backbone = shutil.copy(tiny["backbone"], home / "mine.keras")
        options = tiny | {"backbone": str(backbone), "data": str(strange), "limit": 0, "epochs": 1, "test_fraction": 0.3}
        return hs.train(hs.recipe("starter", **options, out=str(home / "run"), tensorboard=True, cache_features=True))


def test_what_is_made_to_be_sent_names_nothing_of_the_users_machine(run, strange, tmp_path):
    other = shutil.copytree(run.path, tmp_path / USER / "other")
    main(["compare", str(run.path), str(other), "--out", str(run.path / "images" / "compare.html")])
    files = [file for pattern in TO_SEND for file in run.path.glob(pattern)]
    assert {"report.html", "manifest.json", "history.png", "compare.html"} <= {file.name for file in files}
    for file in files:
        names = (USER.encode(), HOST.encode(), bytes(strange.parent), str(Path.cwd()).encode())
        assert not [name for name in names if name in bytes(file.relative_to(run.path)) + file.read_bytes()], file.name
    record = (run.path / "config.toml").read_bytes() + (run.path / "environment.json").read_bytes()
    assert USER.encode() in record


def test_no_name_breaks_out_of_the_page(run):
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert not DISTURBING.search(page.replace("\t", " "))
    tags = Tags(page)
    assert "<img src=x onerror=alert(1)>" in tags.text
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in tags.addresses)
    assert "<img src=x" not in page
    assert "49.png" not in page


@pytest.mark.parametrize("command", ["predict", "json", "csv", "explain", "evaluate", "compare", "train"])
def test_no_name_reaches_a_terminal_as_more_than_text(command, run, strange, tmp_path, monkeypatch):
    arguments = {
        "predict": ["predict", str(run.path), str(strange)],
        "json": ["predict", str(run.path), str(strange), "--format", "json"],
        "csv": ["predict", str(run.path), str(strange), "--format", "csv"],
        "explain": ["explain", str(run.path), str(strange), "--out", str(tmp_path / "out\x1b[1m")],
        "evaluate": ["evaluate", str(run.path), "--data", str(strange)],
        "compare": ["compare", str(run.path), str(run.path)],
        "train": ["train", "--data", str(strange / "none\x1b[1m")],
    }[command]  # fmt: skip
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    monkeypatch.setattr(logging.getLogger("headstart"), "propagate", False)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with contextlib.suppress(SystemExit):
        main(arguments)
    for stream in (out, err):
        stream.flush()
        printed = stream.buffer.getvalue().decode("utf-8")
        assert not DISTURBING.search(printed.replace("\r\n", "\n"))
    if command == "csv":
        header = next(csv.reader(io.StringIO(out.buffer.getvalue().decode())))
        assert "'=1+1" in header
        assert "=1+1" not in header


def test_tables_hold_no_formula(run):
    for file in run.path.glob("*.csv"):
        for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            assert not re.search(r'(^|,)"*[=@]', line), file.name


def test_heat_maps_lie_in_their_folder(run, strange, tmp_path):
    files = run.explain(strange).save(tmp_path / "maps")
    assert {file.parent for file in files} == {tmp_path / "maps"}
    assert all(file.is_file() and not DISTURBING.search(file.name) for file in files)


def test_classes_of_arrays_may_have_any_name(tiny, tmp_path):
    """Not even a name that is a path, or none, makes a file elsewhere."""
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    names = ["../../x", "a/b", "..", "", "CON", "\x00", "/etc/x", "C:\\x", "=1", "."]
    data = hs.Dataset.from_arrays(images, np.arange(60) % 10, class_names=names)
    out = tmp_path / "deep" / "deeper" / "run"
    run = hs.train(hs.recipe("starter", **tiny | {"limit": 0, "data": "x"}, out=str(out), tensorboard=True), data)
    assert run.class_names == tuple(names)
    files = run.explain(images[:3]).save(out / "maps")
    assert len(files) == 3
    assert [path for path in tmp_path.rglob("*") if path.is_file() and out not in path.parents] == []
    assert run.evaluate(data)["images"] == len(data.test)
