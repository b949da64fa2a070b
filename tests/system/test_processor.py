import platform

import pytest

from headstart.system import processor


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

    monkeypatch.setattr(processor.Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: "its name")
    assert processor.processor.__wrapped__() == {"processor": model, "instructions": instructions}
