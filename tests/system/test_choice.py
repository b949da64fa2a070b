import os
import sys

import pytest

from headstart.system import backend, choice

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
        monkeypatch.setattr(choice, "DEVICES", (str(tmp_path / "nvidia[0-9]*"),))
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
    choice.choose_backend()
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
    choice.choose_backend()
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
    choice.choose_backend()
    assert os.environ["KERAS_BACKEND"] == chosen


def test_the_backend_of_an_imported_keras_stays(machine, monkeypatch):
    machine(ALL, gpu=True)
    monkeypatch.setitem(sys.modules, "keras", sys)
    choice.choose_backend()
    assert os.environ["KERAS_BACKEND"] == ""


@pytest.fixture
def unused_gpu(monkeypatch, tmp_path):
    """A machine whose GPU the backend cannot use, and a function that says which backends could."""
    driver = tmp_path / "version"
    monkeypatch.setattr(choice, "nvidia_gpu", lambda: True)
    monkeypatch.setattr(backend.load_keras().distribution, "list_devices", lambda: ["cpu:0"])
    monkeypatch.setattr(choice, "DRIVER", driver)
    choice.say_unused_gpu.cache_clear()

    def with_cuda(*names: str, version: str = "580.65.06\n") -> None:
        monkeypatch.setattr(choice, "has_cuda", lambda name: name in names)
        driver.write_text(version)

    yield with_cuda
    choice.say_unused_gpu.cache_clear()


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
    monkeypatch.setattr(choice, "nvidia_gpu", lambda: gpu)
    assert backend.has_gpu() == gpu
    assert not caplog.messages
