import importlib.metadata
import platform
import sys

import pytest

import headstart as hs
from headstart.system import backend


@pytest.mark.parametrize("name", ["openvino", "nonsense", "numpy"])
def test_a_backend_that_cannot_train_is_refused_with_those_that_can(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", name)
    with pytest.raises(hs.HeadstartError, match=f"KERAS_BACKEND is '{name}'.*set KERAS_BACKEND to .*tensorflow"):
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


def test_what_a_result_depends_on_is_known_by_its_version():
    found = backend.versions()
    computing = [name for name in ("tensorflow", "tensorflow-cpu", "jax", "jaxlib", "torch") if name.startswith(found["backend"])]
    installed = {distribution.name.replace("_", "-"): distribution.version for distribution in importlib.metadata.distributions()}
    for name in ["numpy", "scipy", "openvino", *computing]:
        assert found.get(name) == installed.get(name)
    assert any(name in found for name in computing)
    assert int(found["threads"]) <= int(found["cores"])


@pytest.mark.parametrize(
    ("cpuinfo", "model", "instructions"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 amx_bf16\n\nmodel name\t: Other\nflags\t: avx\n",
         "Some CPU", "amx_bf16 avx2"),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16\n", "its name", "asimd bf16 sve"),
        (None, "its name", ""),
    ],
)  # fmt: skip
def test_the_processor_and_its_instructions(cpuinfo, model, instructions, monkeypatch):
    def read_text(path, **_):
        if cpuinfo is None:
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(backend.Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: "its name")
    assert backend.processor.__wrapped__() == {"processor": model, "instructions": instructions}
