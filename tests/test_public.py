"""The public names: loaded at first use, and each there."""

import subprocess
import sys

import pytest

import headstart as hs


@pytest.mark.parametrize("name", hs.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(hs, name).__doc__


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="trian"):
        hs.trian  # noqa: B018


def test_importing_loads_no_keras_and_warns_of_nothing():
    lines = "import sys, headstart as hs; hs.Run, hs.Config, hs.Predictions; assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", lines], check=True)
