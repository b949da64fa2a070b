import pytest

from headstart.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing"),
        (["missing"], "there is no folder "),
        (["digits", "--backbone", "starter", "--weights", "none"], "--weights none"),
        (["digits", "--backbone", "startr"], "did you mean starter"),
        (["digits", "--backbone", "starter", "--out", "."], "is not empty and not an audit"),
        (["digits", "--epochs", "3"], "no option --epochs"),
    ],
)
def test_bad_input_is_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit) as end:
        main(["audit", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_line_prints_the_counts(photos, tmp_path, capsys):
    main(["audit", str(photos), "--backbone", "starter", "--image-size", "32", "--out", str(tmp_path / "audit")])
    assert capsys.readouterr().out.split() == ["near_duplicates", "2", "suspects", "1"]
