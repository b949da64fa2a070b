import importlib.util
import logging
import os
import subprocess
import sys
import warnings

import pytest

import headstart as hs
from headstart.system import backend


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


FILES = {
    "tensorflow": "tensorflow/__init__.py", "jax": "jax/__init__.py", "jax with cuda": "jax_plugins/xla_cuda13/__init__.py",
    "torch": "torch/__init__.py", "torch with cuda": "torch/lib/libtorch_cuda.so",
}  # fmt: skip


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes this a machine before Keras is imported: what is installed, and whether it has a GPU."""

    def make(installed: list[str], *, gpu: bool) -> None:
        for name in installed:
            file = tmp_path / FILES[name]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        if gpu:
            (tmp_path / "nvidia0").touch()
        monkeypatch.setattr(backend, "DEVICES", (str(tmp_path / "nvidia[0-9]*"),))
        for name in ("keras", "tensorflow", "jax", "jax_plugins", "torch"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KERAS_BACKEND", "")  # and not deleted: what is set by the test is undone after it
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    return make


ALL = [*FILES]


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [
        (ALL, True, "jax"),
        (["tensorflow", "jax", "torch", "torch with cuda"], True, "torch"),
        (["tensorflow", "jax", "torch"], True, "tensorflow"),
        (["jax with cuda", "tensorflow"], True, "tensorflow"),  # a plugin without JAX
        (ALL, False, "tensorflow"),
        (["jax", "jax with cuda", "torch"], False, "jax"),
        (["torch"], False, "torch"),
        ([], False, ""),  # Keras says what is missing
    ],
)
def test_without_a_choice_the_backend_is_the_one_that_can_use_the_gpu(installed, gpu, chosen, machine):
    machine(installed, gpu=gpu)
    backend.choose_backend()
    assert os.environ["KERAS_BACKEND"] == chosen


@pytest.mark.parametrize(
    ("name", "value", "chosen"),
    [
        ("CUDA_VISIBLE_DEVICES", "", "tensorflow"),
        ("CUDA_VISIBLE_DEVICES", "-1", "tensorflow"),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles", "tensorflow"),
        ("CUDA_VISIBLE_DEVICES", "1,2", "jax"),
        ("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "jax"),
        ("JAX_PLATFORMS", "cpu", "tensorflow"),
        ("JAX_PLATFORMS", "cuda,cpu", "jax"),
        ("JAX_PLATFORMS", "", "jax"),
        ("KERAS_BACKEND", "torch", "torch"),
    ],
)
def test_what_the_user_has_set_decides(name, value, chosen, machine, monkeypatch):
    machine(ALL, gpu=True)
    monkeypatch.setenv(name, value)
    backend.choose_backend()
    assert os.environ["KERAS_BACKEND"] == chosen


@pytest.mark.parametrize(
    ("content", "chosen"),
    [
        ('{"backend": "torch"}', ""),  # Keras reads it too
        ('{"backend": "tensorflow"}', "jax"),  # Keras wrote it
        ('{"floatx": "float32"}', "jax"),
        ("[]", "jax"),
        ("not JSON", "jax"),
    ],
)
def test_a_backend_of_keras_own_file_is_a_choice_unless_keras_wrote_it(content, chosen, machine, tmp_path):
    machine(ALL, gpu=True)
    (tmp_path / "keras.json").write_text(content)
    backend.choose_backend()
    assert os.environ["KERAS_BACKEND"] == chosen


def test_the_backend_of_an_imported_keras_stays(machine, monkeypatch):
    machine(ALL, gpu=True)
    monkeypatch.setitem(sys.modules, "keras", sys)
    backend.choose_backend()
    assert os.environ["KERAS_BACKEND"] == ""


@pytest.fixture
def unused_gpu(monkeypatch, tmp_path):
    """A machine whose GPU the backend cannot use, and a function that says which backends could."""
    driver = tmp_path / "version"
    monkeypatch.setattr(backend, "nvidia_gpu", lambda: True)
    monkeypatch.setattr(backend.load_keras().distribution, "list_devices", lambda: ["cpu:0"])
    monkeypatch.setattr(backend, "DRIVER", driver)
    backend.say_unused_gpu.cache_clear()

    def with_cuda(*names: str, version: str = "580.65.06\n") -> None:
        monkeypatch.setattr(backend, "has_cuda", lambda name: name in names)
        driver.write_text(version)

    yield with_cuda
    backend.say_unused_gpu.cache_clear()


@pytest.mark.parametrize(
    ("able", "version", "way"),
    [
        ([], "580.65.06\n", "pip install 'headstart[cuda]'"),
        ([], "not a number", "pip install 'headstart[cuda]'"),
        ([], "550.54.15\n", "pip install 'jax[cuda12]'"),
        (["jax", "torch"], "580.65.06\n", "KERAS_BACKEND=jax"),
        (["torch"], "580.65.06\n", "KERAS_BACKEND=torch"),
    ],
)
def test_a_gpu_that_is_not_used_is_said_once_with_what_to_type(able, version, way, unused_gpu, monkeypatch, caplog):
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    unused_gpu(*able, version=version)
    assert not backend.has_gpu()
    assert not backend.has_gpu()
    (line,) = caplog.messages
    assert "NVIDIA GPU that tensorflow cannot use here" in line
    assert line.endswith(way)


def test_a_gpu_that_its_own_backend_cannot_use_is_said_with_how_to_find_out_why(unused_gpu, monkeypatch, caplog):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    monkeypatch.setattr(backend, "keep_compiled", lambda: None)  # JAX need not be installed
    unused_gpu("jax")
    assert not backend.has_gpu()
    assert "jax.devices('cuda')" in caplog.text


@pytest.mark.parametrize(("devices", "gpu"), [(["gpu:0"], True), (["cpu:0"], False)])
def test_no_word_where_the_gpu_is_used_or_there_is_none(devices, gpu, unused_gpu, monkeypatch, caplog):
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    monkeypatch.setattr(backend.load_keras().distribution, "list_devices", lambda: devices)
    monkeypatch.setattr(backend, "nvidia_gpu", lambda: gpu)
    assert backend.has_gpu() == gpu
    assert not caplog.messages


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
    backend.explain_damage(tmp_path)
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
    backend.explain_damage(tmp_path)
    warnings.showwarning(UserWarning("something else"), UserWarning, "a.py", 1)
    assert seen == ["something else"]
