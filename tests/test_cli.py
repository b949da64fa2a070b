import csv
import io
import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from headstart.cli import main


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
        (["train", "--epochs", "many"], "invalid literal"),
        (["train", "--budget", "soon"], "such as 90s, 20m or 1.5h"),
        (["plan", "--image-sise", "64"], "did you mean --image-size"),
        (["plan", "--data", "missing"], "no folder missing"),
        (["train", "--image-size", "4"], "8 to 1024"),
        (["train", "--recipe", "quik"], "did you mean quick"),
        (["train", "--config", "missing.toml"], "no configuration file missing.toml"),
        (["train", "--resume", "runs/nothing"], "is not a run"),
        (["train", "--resume", "runs/nothing", "--epochs", "3"], "leave out --epochs"),
        (["train", "--data", "missing"], "no folder missing"),
        (["train", "--data", "digits", "--backbone", "resnet5O"], "did you mean resnet50"),
        (["train", "--data", "digits", "--backbone", "starter", "--image-size", "8", "--test-fraction", "0.9"], "0.01 to 0.5"),
        (["evaluate", "nothing"], "is not a run"),
        (["evaluate"], "Missing"),
        (["predict", "nothing", "a.jpg"], "is not a run"),
    ],
)
def test_bad_input_gets_one_or_two_lines_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments, capsys)


def test_a_kill_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr("headstart.trainer.train", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        main(["train", "--data", "digits"])
    assert end.value.code == 130
    assert "--resume" in capsys.readouterr().err


def test_a_toml_file_sets_options_and_the_command_line_overrides_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('recipe = "starter"\ndata = "digits"\nepochs = 7\nhead_epochs = 9\n')
    taken = {}

    def train(config, *, overwrite, typed):
        taken.update(vars(config), overwrite=overwrite, typed=typed)
        raise KeyboardInterrupt

    monkeypatch.setattr("headstart.trainer.train", train)
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", "mine.toml", "--epochs", "2"])
    assert end.value.code == 130
    assert "--resume" in capsys.readouterr().err
    assert (taken["backbone"], taken["epochs"], taken["head_epochs"], taken["overwrite"]) == ("starter", 2, 9, False)
    assert taken["typed"] == {"recipe", "data", "epochs", "head_epochs"}


def test_an_unknown_option_in_a_toml_file_gets_a_suggestion(capsys, tmp_path):
    (tmp_path / "mine.toml").write_text("epoch = 7\n")
    assert "did you mean epochs" in refused(["train", "--config", str(tmp_path / "mine.toml")], capsys)


def test_a_full_disk_is_said(capsys, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headstart.trainer.train", full)
    assert "disk is full" in refused(["train", "--out", str(tmp_path / "run")], capsys)


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


def test_evaluate_prints_the_runs_own_figures(small_run, capsys):
    main(["evaluate", str(small_run.path)])
    assert json.loads(capsys.readouterr().out)["accuracy"] == small_run.metrics["test"]["fine_tuned"]["accuracy"]


def test_help_imports_nothing_heavy():
    code = "import sys, headstart.cli as c; c.main(['--help']); print(sorted({'keras', 'numpy', 'tyro'} & sys.modules.keys()))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("[]")


def test_the_help_of_train_names_every_option_with_its_range(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    assert end.value.code == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "8 to 1024" in printed
    assert "--label-smoothing" in printed
