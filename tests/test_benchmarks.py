import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import common, gpu
from benchmarks.__main__ import main as write_page


def prepare_counting(start: int):
    """A contender that counts its measurements, and says in which process it lives."""
    count = start

    def measure() -> tuple[int, int]:
        nonlocal count
        count += 1
        return count, os.getpid()

    return measure


def failing() -> None:
    raise ValueError("no such thing")


def test_a_contender_is_prepared_once_in_a_process_of_its_own():
    with common.contender(prepare_counting, 5) as measure:
        (first, process), (second, again) = measure(), measure()
    assert (first, second) == (6, 7)
    assert process == again != os.getpid()


def test_the_environment_is_set_in_the_new_process_alone():
    assert common.in_own_process(os.getenv, "HEADSTART_CACHE", HEADSTART_CACHE="elsewhere") == "elsewhere"
    assert os.environ["HEADSTART_CACHE"] != "elsewhere"


def test_a_contender_may_choose_its_backend():
    assert common.in_own_process(keras_is_loaded) is False


def keras_is_loaded() -> bool:
    return "keras" in sys.modules


def test_what_fails_in_a_contender_fails_here():
    with pytest.raises(ValueError, match="no such thing"):
        common.in_own_process(failing)


def reporting(last: str):
    yield os.environ["CHOSEN"]
    if last == "fails":
        raise ValueError("no such thing\nand more")
    if last == "dies":
        os._exit(3)
    if last == "sleeps":
        time.sleep(600)
    yield last


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [("fails", ChildProcessError, "ValueError: no such thing$"), ("dies", ChildProcessError, "exit status 3"),
     ("sleeps", TimeoutError, "stopped after 30 s")],
)  # fmt: skip
def test_what_a_contender_reports_is_kept_though_it_does_not_end_well(last, error, message, monkeypatch):
    found = common.reports(reporting, last, seconds=30, CHOSEN="jax")
    assert next(found) == "jax"
    if last == "sleeps":
        clock = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 31)  # nobody waits in a test
    with pytest.raises(error, match=message):
        next(found)


def test_a_contender_that_ends_well_reports_to_the_end():
    assert list(common.reports(reporting, "last", seconds=60, CHOSEN="torch")) == ["torch", "last"]


def test_contenders_take_turns_and_every_other_round_runs_backwards():
    order: list[str] = []
    found = common.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(samples) for name, samples in found.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_the_sides():
    # Here the machine was ten times slower during the second repeat, for both.
    assert common.ratio([4.0, 40.0, 6.0], [2.0, 20.0, 2.0]) == 2.0


def test_a_part_of_the_images_keeps_the_proportions_of_parts_and_classes():
    config = common.configuration(common.Options(data="digits", backbone="starter"), 16)
    whole, part = common.load(config), common.load(config, 600)
    for name in ("train", "validation", "test"):
        indices, kept = getattr(whole, name), getattr(part, name)
        assert set(kept) <= set(indices)
        assert len(kept) == pytest.approx(len(indices) * 600 / 1797, abs=1)
        assert set(part.labels(kept)) == set(range(10))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (1234.5, "1,234"), (2.345, "2.35"), (0.5, "0.500"), (1.3e-5, "1.3e-05"), (0.0, "0"), (96, "96"),
     ("Keras", "Keras"), ({"accuracy": 0.8126, "interval": [0.8, 0.82]}, "81.26 % (80.00 to 82.00)")],
)  # fmt: skip
def test_values_are_shown_with_three_figures(value, text):
    assert common.shown(value) == text


def test_results_hold_what_they_depend_on_and_no_paths_and_become_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/extraction.py", "--data", "/home/me/photos", "--size", "64"])
    table = common.Table("extraction", "Extraction", "What it is.", common.Options(out=tmp_path))
    table.rows += [{"side, px": 64, "images/s": 812.0}, {"side, px": 96, "aim": 2.5}]
    table.write()
    content = json.loads((tmp_path / "extraction.json").read_text())
    assert content["command"] == "python -m benchmarks.extraction --data photos --size 64"
    assert {"processor", "memory", "cores", "keras", "numpy"} <= content["machine"].keys()
    write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| side, px | images/s | aim |\n| --- | --- | --- |\n| 64 | 812 |  |\n| 96 |  | 2.50 |" in page
    assert "/home" not in page
    assert "page.md: Extraction\n" in capsys.readouterr().out


def test_a_curve_is_drawn_from_a_run_and_a_record_of_keras(small_run, tmp_path):
    from benchmarks import curve
    from helpers import real_charts  # not above: it starts Keras, and processes of contenders import this file

    options = curve.Options(out=tmp_path, image=tmp_path / "images" / "curve.png", runs=(str(small_run.path),))
    (tmp_path / "curve").mkdir()
    point = {"seconds": 0.0, "stage": "frozen", "test": {"accuracy": 0.5, "interval": [0.4, 0.6]}}
    late = point | {"seconds": 1e6, "test": {"accuracy": 0.99, "interval": [0.9, 1.0]}}
    record = {"name": "Keras, 16 px", "headstart": False, "side": 16, "environment": {}, "points": [point, late]}
    (tmp_path / "curve" / "keras.json").write_text(json.dumps(record))
    with real_charts():
        curve.main(options)
    (row,) = json.loads((tmp_path / "curve.json").read_text())["rows"]
    assert row["fine-tuned, test accuracy"]["accuracy"] == small_run.metrics["test"]["fine_tuned"]["accuracy"]
    assert row["plain Keras in that time"]["accuracy"] == 0.5  # the later point came after our run was done
    assert (tmp_path / "images" / "curve.png").stat().st_size > 10_000


def test_figures_of_a_gpu_become_two_tables():
    options = gpu.Options(size=(64,), batch_size=8, part=("rates", "cifar10", "plan"), data="photos", backbone="some.keras")
    samples = {
        "ground": {"operations": {"64": 1e9}}, "matrix": {"rate": 1e13},
        gpu.named(64, gpu.AUGMENTED): {"training": [900.0, 1000.0, 1100.0], "training_first": 8.0, "starting": 4.0},
        gpu.named(64, gpu.PLAIN): {"training": [1000.0]},
        gpu.named(64, gpu.IDEAL): {"starting": 2.0, "error": "stopped after 9 s"},
        gpu.named(64, gpu.PYTORCH): {"training": [500.0], "forward": [2000.0]},
        gpu.FIRST_TIME: {"seconds": 40.0, "test": {"accuracy": 0.97, "interval": [0.96, 0.98]}, "parts": {"total": 35.0}},
        gpu.PLANNED: {"seconds": 30.0, "foreseen": {}},
    }  # fmt: skip
    ours, plain, ideal, torch = gpu.rows(options, samples)
    assert (ours["training, images/s"], ours["starting, s"]) == (1000, 12)
    assert ours["share of a matrix product's rate"] == pytest.approx(1000 * 3e9 / 1e13)
    assert torch["Headstart trains ... times as fast"] == 2
    assert torch["forward, images/s"] == 2000
    assert plain["Headstart trains ... times as fast"] is None  # it is no peer
    assert (ideal["training, images/s"], ideal["remark"]) == (None, "stopped after 9 s")
    found = {row[""].split(",")[0]: row for row in gpu.goal_rows(options, samples)}
    augmentation, whole, against, _, planned = found.values()
    assert (augmentation["found"], against["found"]) == (1, 2)
    assert (whole["found"], whole["remark"]) == (None, "stopped after 9 s")
    assert planned["found"] == 0.75
    first = next(row for row in gpu.goal_rows(options, samples) if "nothing cached" in row[""])
    assert (first["found"], common.shown(first["test accuracy"])) == ("40.0 s", "97.00 % (96.00 to 98.00)")


def test_a_benchmark_of_a_gpu_that_runs_out_of_time_says_so_in_every_row(tmp_path):
    gpu.main(gpu.Options(out=tmp_path, minutes=0.0))
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) > 10
    assert {row["remark"] for row in rows} == {"left out: the time was over"}
    goals = json.loads((tmp_path / "gpu-goals.json").read_text())["rows"]
    assert sum(row["remark"] == "left out: give --data and --backbone" for row in goals) == 3


def jobs_load_keras() -> bool:
    options = gpu.Options(data="photos", backbone="some.keras")
    assert list(gpu.jobs(options, Path("nowhere")))
    return keras_is_loaded()


def test_who_starts_the_contenders_leaves_the_gpu_to_them():
    assert common.in_own_process(jobs_load_keras) is False


def test_a_benchmark_of_a_gpu_goes_on_where_it_ended(tmp_path):
    file, machine, settings = tmp_path / "gpu.json", {"processor": "some"}, gpu.settings(gpu.Options())
    assert gpu.finished(file, machine, settings) == {}
    samples = {
        "settings": settings,
        "matrix": {"rate": 1.0},
        gpu.PLANNED: {"error": "stopped after 9 s"},
        gpu.FIRST_TIME: {"seconds": 9.0},
    }
    file.write_text(json.dumps({"samples": samples, "machine": machine}))
    assert gpu.finished(file, machine, settings) == {"matrix": {"rate": 1.0}}  # the second time needs the cache of the first
    assert gpu.finished(file, {"processor": "another"}, settings) == {}
    assert gpu.finished(file, machine, gpu.settings(gpu.Options(batch_size=8))) == {}


def test_a_training_that_fails_says_why_in_its_row(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match=r"exit status 2: .*there is no folder"):
        next(gpu.training("starter", {"data": str(tmp_path / "nothing")}, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [gpu.AUGMENTED, gpu.HOST])
def test_our_training_is_measured_on_images_in_memory(name, tmp_path):
    config = gpu.configured(gpu.Options(backbone="starter", batch_size=8, precision="float32"), tmp_path, 16, {})
    *_, last = gpu.ours(config, 16, 1, name)
    (rate,) = last["forward" if name == gpu.AUGMENTED else "training"]
    assert rate > 0


@pytest.mark.slow
def test_extraction_is_measured_beside_keras(tmp_path):
    from benchmarks import extraction
    from headstart.inference.engine import TOLERANCE

    options = extraction.Options(data="digits", backbone="starter", out=tmp_path, repeats=1, batch_size=32, size=(16,), images=2)
    extraction.main(options)
    content = json.loads((tmp_path / "extraction.json").read_text())
    (row,) = content["rows"]
    assert row["features differ by"] < TOLERANCE[row["precision"]]
    assert row["times as fast"] == pytest.approx(row["Headstart, images/s"] / row["Keras `predict`, images/s"])
    assert content["samples"]["16"]["images"] == 64


def test_the_network_of_the_pytorch_tutorial_is_that_of_keras():
    pytest.importorskip("torch", reason="PyTorch, the peer, is not installed")
    import keras

    from benchmarks import pytorch_tutorial
    from headstart.config import Config
    from headstart.inference.engine import relative_difference

    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(None, None, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:  # the statistics of a new network are 0 and 1, which would hide that they were exchanged
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.float32(rng.uniform(0.5, 1.0, weight.shape)) for weight in layer.get_weights()])
    layers = {layer.name: (layer.get_weights(), getattr(layer, "strides", (1, 1))[0]) for layer in model.layers if layer.weights}
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    prepared = keras.applications.resnet50.preprocess_input(np.float32(images))
    expected = keras.ops.convert_to_numpy(model(prepared, training=False)).mean((1, 2))
    network = pytorch_tutorial.ResNet50(layers, 10)
    config = dataclasses.replace(Config(), image_size=64)
    found = pytorch_tutorial.pooled_features(network, images, config, "caffe")
    assert relative_difference(found, expected) < 1e-4
