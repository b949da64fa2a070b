import importlib.util
import logging
import os
import subprocess
import sys
import warnings

import pytest

from headstart.system.compiled import explain_damage

COMPILES = """
import logging
logging.basicConfig(level="INFO", format="%(name)s: %(message)s")
from headstart.system.backend import keras
import jax
jax.monitoring.register_event_listener(lambda name, **_: print(name) if name.endswith(("hits", "misses")) else None)
print("sum", float(jax.jit(lambda x: (x * 3 + 1).sum())(jax.numpy.arange(5.0))))
"""


def compiles(**environment: str) -> tuple[list[str], str]:
    """Return what a new process prints that compiles something with JAX, and what it logs."""
    if not importlib.util.find_spec("jax"):
        pytest.skip("JAX is not installed")
    done = subprocess.run(
        [sys.executable, "-c", COMPILES], check=True, capture_output=True, text=True,
        env=os.environ | {"KERAS_BACKEND": "jax"} | environment,
    )  # fmt: skip
    assert "sum 35.0" in done.stdout
    return [line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("/jax")], done.stderr


def test_what_jax_compiled_is_kept_for_the_next_process(tmp_path):
    first, _ = compiles(HEADSTART_CACHE=str(tmp_path))
    second, _ = compiles(HEADSTART_CACHE=str(tmp_path))
    assert set(first) == {"cache_misses"}
    assert second == ["cache_hits"] * len(first)
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700


def test_damaged_programs_are_compiled_again_and_said_in_one_line(tmp_path):
    compiles(HEADSTART_CACHE=str(tmp_path))
    for file in (tmp_path / "compiled").glob("*/*"):
        file.write_bytes(file.read_bytes()[:100])
    second, said = compiles(HEADSTART_CACHE=str(tmp_path))
    assert set(second) == {"cache_misses"}
    assert said.count("are damaged: they are compiled again") == 1
    assert "Warning" not in said
    assert "Traceback" not in said
    third, said = compiles(HEADSTART_CACHE=str(tmp_path))
    assert set(third) == {"cache_hits"}
    assert "damaged" not in said


def test_a_folder_of_the_users_for_compiled_programs_is_respected(tmp_path):
    compiles(HEADSTART_CACHE=str(tmp_path / "ours"), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs"))
    assert not (tmp_path / "ours").exists()


def test_programs_that_cannot_be_kept_are_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: pytest.fail(f"it prints {message}"))
    explain_damage(tmp_path)
    with caplog.at_level(logging.INFO):
        for name in ("jit_add", "jit_train_step"):
            warned = f"Error writing persistent compilation cache entry for '{name}': OSError: [Errno 28] No space left"
            warnings.showwarning(UserWarning(warned), UserWarning, "compiler.py", 1)
    assert caplog.messages == [
        f"compiled programs cannot be kept in {tmp_path}, so the next start takes as long: [Errno 28] No space left"
    ]


def test_other_warnings_are_shown_as_before(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: seen.append(str(message)))
    explain_damage(tmp_path)
    warnings.showwarning(UserWarning("something else"), UserWarning, "a.py", 1)
    assert seen == ["something else"]
