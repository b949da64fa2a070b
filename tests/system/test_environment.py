import importlib.metadata
import platform

import pytest

from headstart.system import environment


def test_what_a_result_depends_on_is_known_by_its_version():
    found = environment.versions()
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

    monkeypatch.setattr(environment.Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: "its name")
    assert environment.processor.__wrapped__() == {"processor": model, "instructions": instructions}
