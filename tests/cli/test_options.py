import contextlib
import dataclasses
import io
import re

import pytest

from headstart.cli.main import main
from headstart.cli.options import commands, parse
from headstart.config import GROUPS, RUN, Config, option_name
from headstart.errors import HeadstartError


def help_of(arguments: list[str]) -> str:
    """Return what `--help` prints after these arguments, where no frames can be drawn."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    out.flush()
    return out.buffer.getvalue().decode()


@pytest.mark.parametrize("command", ["", *commands(Config())])
def test_every_help_fits_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = help_of([command] if command else [])
    assert [line for line in printed.splitlines() if len(line) > 80] == []
    assert "STR" not in printed
    if command:
        assert printed.startswith(f"usage: headstart {command} ")


def test_the_programs_help_has_a_line_for_each_command():
    printed = help_of([])
    for command in commands(Config()):
        assert len(re.findall(rf"^  {command} +[A-Z]", printed, re.MULTILINE)) == 1


@pytest.mark.parametrize("command", ["train", "tune", "plan"])
def test_options_stand_in_groups_under_their_own_names(command):
    boxes = re.split(r"^ (\S.*?) *\n -+ *$", help_of([command]), flags=re.MULTILINE)
    texts = {title.removesuffix(" options"): text for title, text in zip(boxes[1::2], boxes[2::2], strict=True)}
    assert list(texts) == ["positional arguments", "options", *(group for group in GROUPS if group != RUN)]
    for field in dataclasses.fields(Config):
        group = field.metadata["group"]
        assert f"\n  {option_name(field.name)}" in texts["options" if group == RUN else group]


def test_the_help_of_train_says_ranges_and_switches():
    printed = " ".join(help_of(["train"]).split())
    assert "(default: 64; 8 to 1024)" in printed
    assert "0 to 2147483647" in printed
    assert re.search(r"--flip, --no-flip .*?\(default: on\)", printed)


def test_every_option_is_grouped_and_explained():
    for field in dataclasses.fields(Config):
        assert field.metadata["group"] in GROUPS
        assert field.metadata["help"]


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (["--class-weights"], "balanced"), (["--class-weights", "--epochs", "1"], "balanced"), (["--no-class-weights"], "none"),
        (["--class_weights", "--no-flip"], "balanced"), (["--class-weights", "auto"], "auto"), (["--class-weights=root"], "root"),
        (["--class-weights", "PHOTOS"], "balanced"), ([], "auto"),
    ],
)  # fmt: skip
def test_class_weights_are_still_a_switch_too(words, weights, tmp_path):
    words = [str(tmp_path) if word == "PHOTOS" else word for word in words]
    _, options = parse(["train", *words])
    assert options.config.class_weights == weights
    assert ("class_weights" in options.explicit) == bool(words)


def test_a_misspelt_value_of_a_former_switch_is_refused_with_what_there_is():
    with pytest.raises(HeadstartError, match="balanced"):
        parse(["train", "--class-weights", "blanced"])
