import os
import sys

import pytest

import headstart as hs
from headstart.system import backend
from headstart.system.backend import silent_stderr


@pytest.mark.parametrize("name", ["openvino", "nonsense", "numpy"])
def test_a_backend_that_cannot_train_is_refused_with_those_that_can(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", name)
    with pytest.raises(hs.HeadstartError, match=f"KERAS_BACKEND is '{name}'.*set KERAS_BACKEND to (tensorflow|jax)"):
        backend.load_keras()


def test_a_backend_of_keras_own_configuration_is_refused_too(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "openvino")
    with pytest.raises(hs.HeadstartError, match=r"Keras' backend is 'openvino'.*set KERAS_BACKEND to"):
        backend.load_keras()


@pytest.mark.parametrize("error", [ImportError("No module named 'torch'"), OSError("libcudart.so.12: cannot open"), ValueError()])
def test_a_backend_that_is_missing_or_broken_is_said_in_one_line(error, monkeypatch):
    class Broken:
        def find_spec(self, name, *_):
            if name == "keras":
                raise error

    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(hs.HeadstartError, match="KERAS_BACKEND=torch cannot be loaded") as refusal:
        backend.load_keras()
    assert str(error) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_two_threads_may_be_silent_at_the_same_time(capfd):
    first, second = silent_stderr(), silent_stderr()
    for block in (first, second):
        block.__enter__()
        os.write(2, b"dropped")
    for block in (first, second):  # the one that began first ends first
        block.__exit__(None, None, None)
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
