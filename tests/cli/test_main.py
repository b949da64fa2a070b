import csv
import errno
import importlib.metadata
import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli.main import STOPS, main
from headstart.model.registry import BACKBONES
from headstart.recipes import RECIPES
from helpers import random_images


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """Run the command line, check that it refuses as promised, and return what it says."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) <= 2
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train"),
        (["train", "--image-sise", "64"], "did you mean --image-size"),
        (["train", "--epochs", "many"], "--epochs: invalid literal for int() with base 10: 'many'"),
        (["train", "--epochs", 60 * "9x"], 60 * "9x" + "' (headstart train --help explains the options)"),
        (["train", "--epochs", "many", "--zoom", "big"], "could not convert string to float: 'big'"),
        (
            ["train", "--mix", "blend"],
            "invalid choice 'blend' for argument '--mix'. Expected one of ('none', 'mixup', 'cutmix').",
        ),
        (["train", "--epochs"], "Missing value for argument '--epochs'. (headstart train --help"),
        (["train", "--recipe"], "Missing value for argument '--recipe'."),
        (["train", "--no-flp"], "did you mean --no-flip"),
        (["train", "--flip", "yes"], "there is no folder"),
        (["train", "photos", "--data", "other"], "the data are given twice: photos and --data other"),
        (["train", "one", "two"], "no use for 'two'"),
        (["train", "photos", "--resume", "runs/nothing"], "leave out photos"),
        (["train", "--image-size", "16"], "--image-size 16 is too small for resnet50, whose smallest is 32"),
        (["train", "--backbone", "net.keras"], "there is no file net.keras"),
        (["train", "--weights", "weights.h5"], "there is no file weights.h5"),
        (["audit", "missing"], "there is no folder "),
        (["evaluate", "nothing", "--data", "missing"], "is not a run"),
        (["compare", "nothing", "nothing"], "is not a run"),
        (["cache", "--clear", "feature"], "did you mean features"),
        (["--versoin"], "begins with a command"),
        (["--completion", "cmd"], "the name of a shell: bash, zsh, fish"),
        (["train", "--recipe", "starter", "--views", "3", "--translation", "0"], "--views is 3, but"),
        (["train", "--budget", "soon"], "such as 90s, 20m or 1.5h"),
        (["plan", "--image-sise", "64"], "did you mean --image-size"),
        (["tune", "--image-sise", "64"], "did you mean --image-size"),
        (["tune", "missing"], "there is no folder "),
        (["tune", "digits", "--seeds", "2"], "tune trains its winner once"),
        (["tune", "digits", "--backbone", "resnet5O"], "did you mean resnet50"),
        (["tune", "--resume", "runs/nothing"], "is not a run"),
        (["tune", "--resume", "runs/nothing", "--budget", "3m"], "leave out --budget"),
        (["plan", "--data", "missing"], "there is no folder "),
        (["train", "--image-size", "4"], "8 to 1024"),
        (["train", "--recipe", "quik"], "did you mean quick"),
        (["train", "--config", "missing.toml"], "no configuration file missing.toml"),
        (["train", "--resume", "runs/nothing"], "is not a run"),
        (["train", "--resume", "runs/nothing", "--devices", "1", "--trust"], "is not a run"),
        (["train", "--devices", "cluster"], "start them with srun or torchrun"),
        (["train", "--resume", "runs/nothing", "--epochs", "3"], "leave out --epochs"),
        (["train", "--data", "missing"], "there is no folder "),
        (["train", "--data", "digits", "--backbone", "resnet5O"], "did you mean resnet50"),
        (["train", "--data", "digits", "--backbone", "starter", "--image-size", "8", "--test-fraction", "0.9"], "0.01 to 0.5"),
        (["evaluate", "nothing"], "is not a run"),
        (["evaluate"], "Missing from headstart evaluate: RUN folder of a finished run (required)"),
        (["evaluate", "one", "two"], "no use for 'two'"),
        (["predict", "nothing", "a.jpg"], "is not a run"),
        (["train", "--data", "~nobody-here/photos"], "a path begins with ~"),
        (["train", "--config", "."], ". is a folder"),
    ],
)
def test_bad_input_gets_one_or_two_lines_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments, capsys)


def stopped(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Run the command line, which ends early, and return its status and what it says last."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code, capsys.readouterr().err.splitlines()[-1]


def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


SMALLEST = ["train", "--data", "digits", "--recipe", "starter", "--image-size", "8", "--limit", "50", "--out"]


def hang_up(*_, **__):
    os.kill(os.getpid(), signal.SIGHUP)


def gone(*_, **__):
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture(autouse=True)
def usual_signals():
    """Let no test change what signals do after it."""
    usual = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in usual.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("stop", "status", "what"),
    [(kill, 130, "interrupted"), (hang_up, 130, "interrupted"), (full, 2, "the disk is full"), (gone, 2, "a disk: Input/output")],
)
def test_what_stops_a_run_says_how_to_go_on_with_it(stop, status, what, capsys, monkeypatch, tmp_path):
    out = tmp_path / "my run"
    monkeypatch.setattr("headstart.trainer.load_backbone", stop)
    code, said = stopped([*SMALLEST, str(out)], capsys)
    assert code == status
    assert said.startswith(f"headstart: {what}")
    assert said.endswith(f"go on with headstart train --resume '{out}'")
    assert stopped(["train", "--resume", str(out)], capsys) == (code, said)


# The first signal is handled for ever, as by a worker that does not end.
TWICE = """
import os, signal, sys, time
from headstart import trainer
from headstart.cli.main import main

def stopped(*_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        print("handled", flush=True)
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(60)

trainer.load_backbone = stopped
main(sys.argv[2:])
"""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_interrupts_twice_does_not_wait(second, tmp_path):
    arguments = [sys.executable, "-c", TWICE, str(int(second)), *SMALLEST, str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (130, "handled\n")
    assert done.stderr.splitlines()[-1] == "headstart: interrupted again"
    assert "Traceback" not in done.stderr


def test_a_hang_up_that_is_ignored_stays_so(capsys, monkeypatch):
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr("headstart.cli.main.run", hang_up)
    main(["recipes"])
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_the_runs_of_all_seeds_are_gone_on_with_together(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("headstart.trainer.load_backbone", kill)
    _, said = stopped([*SMALLEST, str(tmp_path / "runs"), "--seeds", "2"], capsys)
    assert said.endswith(f"--resume {tmp_path / 'runs'}")


@pytest.mark.parametrize(("stop", "said"), [(kill, "headstart: interrupted"), (full, "headstart: the disk is full")])
def test_before_there_is_a_run_there_is_none_to_go_on_with(stop, said, capsys, monkeypatch, tmp_path, small_run):
    monkeypatch.setattr("headstart.trainer.configured_data", stop)
    monkeypatch.setattr("headstart.run.Run.predict", stop)
    for arguments in ([*SMALLEST, str(tmp_path / "run")], ["predict", str(small_run.path), "a.jpg"]):
        _, last = stopped(arguments, capsys)
        assert last.startswith(said)
        assert "--resume" not in last


@pytest.mark.parametrize("command", ["train", "audit", "explain", "compare"])
def test_a_place_that_cannot_be_written_is_said_at_once(command, capsys, monkeypatch, tmp_path, small_run):
    (tmp_path / "file").touch()
    monkeypatch.setattr("headstart.trainer.configured_data", lambda *_: pytest.fail("loaded data first"))
    run = str(small_run.path)
    arguments = {"train": [], "audit": ["digits"], "explain": [run, "a.jpg"], "compare": [run, run]}[command]
    said = refused([command, *arguments, "--out", str(tmp_path / "file" / "out")], capsys)
    assert said == f"headstart: {tmp_path / 'file' / 'out'} cannot be written: {tmp_path / 'file'} is a file\n"


def test_a_refusal_has_no_colours_on_a_terminal():
    terminal, other = os.openpty()
    code = "from headstart.cli.main import main; main(['train', '--epochs', 'many'])"
    done = subprocess.run([sys.executable, "-c", code], stdout=other, stderr=subprocess.PIPE, env=os.environ | {"TERM": "xterm"})
    os.close(terminal)
    os.close(other)
    assert done.stderr.startswith(b"headstart: Error parsing --epochs: invalid literal")
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "defaults"),
    [
        ([], {"recipe": "quick", "image-size": "64", "batch-size": "128", "head-epochs": "10"}),
        (["--recipe", "starter"], {"recipe": "starter", "image-size": "32", "epochs": "12"}),
        (["--config", "mine.toml"], {"recipe": "starter", "image-size": "32", "epochs": "7"}),
        (["--config", "mine.toml", "--recipe=notebook"], {"recipe": "notebook", "views": "1", "epochs": "7"}),
    ],
)
@pytest.mark.parametrize("command", ["train", "tune", "plan"])
def test_the_help_shows_the_defaults_that_hold(command, arguments, defaults, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('recipe = "starter"\nepochs = 7\n')
    with pytest.raises(SystemExit) as end:
        main([command, *arguments, "--help"])
    assert end.value.code == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for option, default in defaults.items():
        assert re.search(rf" --{option} .*?\(default: ([^;)]*)", printed)[1] == default


def test_an_audits_help_shows_the_defaults_that_a_training_shares():
    from headstart.cli.options import AUDIT_OPTIONS

    for name in AUDIT_OPTIONS:
        assert getattr(hs.Config(), name) == getattr(hs.recipe("quick"), name)


def test_a_toml_file_sets_options_and_the_command_line_overrides_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('recipe = "starter"\ndata = "digits"\nepochs = 7\nhead_epochs = 9\n')
    taken = {}

    def train(config, *, overwrite, explicit):
        taken.update(vars(config), overwrite=overwrite, explicit=explicit)
        raise KeyboardInterrupt

    monkeypatch.setattr(hs, "train", train)
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", "mine.toml", "--epochs", "2"])
    assert end.value.code == 130
    assert (taken["backbone"], taken["epochs"], taken["head_epochs"], taken["overwrite"]) == ("starter", 2, 9, False)
    assert taken["explicit"] == {"recipe", "data", "epochs", "head_epochs"}


def test_an_unknown_option_in_a_toml_file_gets_a_suggestion(capsys, tmp_path):
    (tmp_path / "mine.toml").write_text("epoch = 7\n")
    assert "did you mean epochs" in refused(["train", "--config", str(tmp_path / "mine.toml")], capsys)


@pytest.mark.parametrize(
    "line", ["recipe = 3", "recipe = []", 'name = "x"', 'config = "x"', 'data = "\\u0000"', "epochs = 1979-05-27"]
)
def test_whatever_a_toml_file_holds_is_refused_in_words(line, capsys, tmp_path):
    (tmp_path / "mine.toml").write_text(line)
    refused(["train", "--config", str(tmp_path / "mine.toml")], capsys)


def test_predictions_come_in_three_formats(small_run, digits, capsys, tmp_path):
    Image.fromarray(digits.images(digits.test[:1])[0]).save(tmp_path / "one.png")
    arguments = ["predict", str(small_run.path), str(tmp_path / "one.png"), "--format"]
    main([*arguments, "table"])
    assert capsys.readouterr().out.startswith(str(tmp_path / "one.png"))
    main([*arguments, "json"])
    entry = json.loads(capsys.readouterr().out)[0]
    main([*arguments, "csv"])
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert entry["class"] == row["class"] == max(entry["probabilities"], key=entry["probabilities"].get)
    assert {name: float(row[name]) for name in digits.class_names} == entry["probabilities"]
    assert {"yes": True, "no": False}[row["unlike"]] == entry["unlike"]
    assert list(row)[:3] == ["image", "class", "unlike"]


def test_what_is_not_sure_or_unlike_the_training_images_is_said_in_every_format(small_run, capsys, tmp_path):
    for name, image in (("black", np.zeros((8, 8, 3), np.uint8)), ("noise", random_images(1, 8)[0])):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    predictions = small_run.predict(tmp_path, reject=0.2)
    arguments = ["predict", str(small_run.path), str(tmp_path), "--reject", "0.2", "--format"]
    main([*arguments, "json"])
    entries = json.loads(capsys.readouterr().out)
    assert [one["rejected"] for one in entries] == predictions.rejected.tolist()
    assert [one["unlike"] for one in entries] == predictions.outsiders.tolist()
    assert [one["class"] for one in entries] == predictions.labels
    main([*arguments, "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rejected"] == "yes" for row in rows] == predictions.rejected.tolist()
    main([*arguments, "table"])
    out, err = capsys.readouterr()
    assert [line.endswith("(unlike the training images)") for line in out.splitlines()] == predictions.outsiders.tolist()
    assert "of 2 images rejected: validation supports a precision of 20 % from a confidence of" in err


@pytest.mark.parametrize("share", ["1", "-0.1", "nan", "2"])
def test_a_precision_that_is_none_is_refused(share, small_run, capsys):
    assert "--reject" in refused(["predict", str(small_run.path), "a.jpg", "--reject", share], capsys)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_any_name_reaches_any_console_and_no_escape_sequence_does(encoding, small_run, digits, monkeypatch, tmp_path):
    name = os.fsdecode("\u4f60\x1b[31m\n".encode() + b"\xe9.png")
    Image.fromarray(digits.images(digits.test[:1])[0]).save(tmp_path / name)
    for kind in ("table", "json", "csv"):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        (tmp_path / "broken\x1b\n.png").write_bytes(b"no image")
        main(["predict", str(small_run.path), str(tmp_path), "--format", kind])
        for stream in (out, err):
            stream.flush()
            assert b"\x1b" not in stream.buffer.getvalue()
        printed = out.buffer.getvalue().decode(encoding)
        if kind == "json":
            assert os.fsencode(json.loads(printed)[0]["image"]) == os.fsencode(tmp_path / name)
        else:
            assert len(printed.splitlines()) == (1 if kind == "table" else 2)
            assert "\\x1b[31m\\n" in printed
        assert err.buffer.getvalue().decode(encoding).count("skipped") == 1


def test_evaluate_prints_the_runs_own_figures(small_run, capsys):
    main(["evaluate", str(small_run.path)])
    assert json.loads(capsys.readouterr().out)["accuracy"] == small_run.metrics["test"]["fine_tuned"]["accuracy"]


def test_the_data_may_stand_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    taken = {}

    def train(config, *, overwrite, explicit):
        taken.update(data=config.data, explicit=explicit)
        raise KeyboardInterrupt

    monkeypatch.setattr(hs, "train", train)
    for arguments in (["digits"], ["--data", "digits"], ["digits", "--data=digits"]):
        with pytest.raises(SystemExit):
            main(["train", *arguments, "--recipe", "starter", "--out", "nowhere"])
        assert taken == {"data": "digits", "explicit": {"data", "recipe", "out"}}


def test_a_taken_folder_is_refused(small_run, capsys):
    assert "holds a run already" in refused(["train", "digits", "--recipe", "starter", "--out", str(small_run.path)], capsys)


# What can be refused or answered without Keras; the whole of it runs in one process, which must not have imported any.
WITHOUT_KERAS = """
import contextlib, io, sys
from headstart.cli.main import STOPS, main
from headstart.model.registry import BACKBONES
from headstart.recipes import RECIPES

def run(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(list(arguments))
        except SystemExit as end:
            return end.code

heavy = {"keras", "tensorflow", "jax", "torch", "sklearn", "scipy", "matplotlib"}
assert not [run("--help"), run("--version"), run("train", "--help"), run("--completion", "fish")][0]
assert not (heavy | {"numpy", "PIL"}) & sys.modules.keys(), sys.modules.keys()
assert [run("recipes"), run("backbones"), run("cache")] == [None] * 3
assert {
    run("train", "missing"), run("train", "--backbone", "resnet5O"), run("train", "--recipe", "quik"),
    run("train", "--image-size", "16"), run("train", "--epochs", "many"), run("train", "--backbone", "net.keras"),
    run("train", "--out", RUN), run("train", "--resume", "missing"), run("plan", "missing"), run("audit", "missing"),
    run("evaluate", "missing"), run("evaluate", RUN, "--data", "missing"), run("predict", "missing", "a.jpg"),
    run("explain", "missing", "a.jpg"), run("compare", "missing", "missing"), run("cache", "--clear", "all"),
} == {2}
print(sorted(heavy & sys.modules.keys()))
"""


def test_what_needs_no_keras_does_not_wait_for_it(small_run, tmp_path):
    code = f"RUN = {str(small_run.path)!r}\n{WITHOUT_KERAS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_version_and_completion(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"headstart {importlib.metadata.version('headstart')}\n"
    for shell in ("bash", "zsh", "fish"):
        with pytest.raises(SystemExit) as end:
            main(["--completion", shell])
        assert not end.value.code
        script = capsys.readouterr().out
        assert "label-smoothing" in script
        assert "backbones" in script


def test_recipes_and_backbones_are_listed(capsys):
    main(["recipes"])
    printed = capsys.readouterr().out
    for name in RECIPES:
        assert re.search(rf"^{name} ", printed, re.MULTILINE)
    assert re.search(r"^standard .* 128 px +93\.00 % +7\.5 min$", printed, re.MULTILINE)
    main(["backbones"])
    printed = capsys.readouterr().out
    for name in BACKBONES:
        assert re.search(rf"^{name} ", printed, re.MULTILINE)
    assert re.search(r"^resnet50 +He 2015 +74\.9 % +23\.6 M +94 MB +32 px +MIT$", printed, re.MULTILINE)


def test_the_cache_is_shown_and_cleared(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    for kind in ("features", "plan", "mine"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "file").write_bytes(bytes(2_500_000))
    main(["cache"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{tmp_path}\n")
    assert re.search(r"^features .* 1 +2\.5 MB$", printed, re.MULTILINE)
    main(["cache", "--clear", "plan"])
    assert capsys.readouterr().out == "plan: 1 file removed, 2.5 MB\n"
    main(["cache", "--clear"])
    assert "features: 1 file removed, 2.5 MB\n" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
