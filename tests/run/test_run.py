import json
import shutil

import pytest

import headstart as hs


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(small_run.path, tmp_path / "copy")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(hs.HeadstartError, match="is not a run"):
        hs.Run(tmp_path)


def test_an_unfinished_run_says_how_to_go_on(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(hs.HeadstartError, match="--resume"):
        hs.Run(copy).model  # noqa: B018


def test_a_model_that_does_not_match_its_manifest_is_refused(copy):
    with (copy / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(hs.HeadstartError, match="not the file that its manifest describes"):
        hs.Run(copy).model  # noqa: B018


def test_a_run_of_a_newer_format_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(hs.HeadstartError, match="newer Headstart"):
        hs.Run(copy).model  # noqa: B018


def test_an_option_of_a_newer_version_is_named(copy):
    with (copy / "config.toml").open("a") as file:
        file.write("warp_drive = true\n")
    with pytest.raises(hs.HeadstartError, match=r"newer Headstart.*warp_drive"):
        hs.Run(copy)


def test_damaged_metrics_are_named(copy):
    (copy / "metrics.json").write_text('{"test": ')
    with pytest.raises(hs.HeadstartError, match=r"metrics\.json is damaged"):
        hs.Run(copy).metrics  # noqa: B018
