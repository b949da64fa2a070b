import sys

import keras
import numpy as np
import pytest

import headstart as hs
from headstart.inference import engine
from headstart.model.backbones import load_backbone
from headstart.model.fast.copies import recast
from headstart.model.network import build_network, without_augmentation
from headstart.model.unfreeze import frozen_cut


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """Two outputs, a map and its mean, from images."""
    keras.utils.set_random_seed(0)
    images = keras.Input((16, 16, 3), dtype="uint8")
    maps = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, [keras.layers.GlobalAveragePooling2D()(maps), maps])


def batches(count: int = 10, last: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8) for size in [8] * (count - 1) + [last]]


def run(network: keras.Model, monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    monkeypatch.setattr(engine, "FEWEST_IMAGES", 1)
    return list(engine.Engine(network).outputs(batches(), 75))


def test_openvino_gives_what_keras_gives_in_the_order_of_the_batches(network, monkeypatch, caplog):
    caplog.set_level("INFO", logger="headstart")
    outputs = run(network, monkeypatch)
    assert "engine: OpenVINO, float32" in caplog.text
    for batch, given in zip(batches(), outputs, strict=True):
        for values, expected in zip(given, network.predict_on_batch(batch), strict=True):
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_an_engine_starts_once_and_gives_the_same_for_every_part(network, monkeypatch):
    monkeypatch.setattr(engine, "FEWEST_IMAGES", 50)
    started = []
    compiled_by_openvino = engine.compiled_by_openvino
    monkeypatch.setattr(engine, "compiled_by_openvino", lambda *inputs: started.append(inputs) or compiled_by_openvino(*inputs))
    used = engine.Engine(network)
    first, second = list(used.outputs(batches(), 75)), list(used.outputs(batches(), 75))
    few = list(used.outputs(batches(2), 11))
    assert len(started) == 1
    np.testing.assert_array_equal(first[0][0], second[0][0])
    np.testing.assert_array_equal(few[0][0], network.predict_on_batch(batches()[0])[0])


def test_mixed_precision_is_converted_and_stays_within_its_tolerance(network, monkeypatch, caplog):
    caplog.set_level("INFO", logger="headstart")
    outputs = run(recast(network, "mixed_bfloat16"), monkeypatch)
    assert "engine: OpenVINO, bfloat16" in caplog.text
    np.testing.assert_allclose(outputs[3][0], network.predict_on_batch(batches()[3])[0], rtol=0.05, atol=0.01)


def test_the_end_of_a_network_in_mixed_precision_is_converted(monkeypatch, caplog):
    """What fine-tuning trains takes maps; in bfloat16 its beginning must not expect them in that."""
    caplog.set_level("INFO", logger="headstart")
    monkeypatch.setattr(engine, "FEWEST_IMAGES", 1)
    config = hs.recipe("quick", backbone="starter", image_size=32, fine_tune_from="stage3")
    parts = build_network(*load_backbone(config), (32, 32, 3), 4, config, "bfloat16")
    parts.cut = frozen_cut(parts.backbone, config)
    learner = without_augmentation(parts.learner())
    maps = np.random.default_rng(0).random((8, *learner.input_shape[1:]), np.float32)
    (logits,) = next(engine.Engine(learner).outputs([maps], 8))
    assert "engine: OpenVINO, bfloat16" in caplog.text
    np.testing.assert_allclose(logits, learner.predict_on_batch(maps), rtol=0.1, atol=0.05)


def test_an_engine_that_computes_something_else_is_refused(network, monkeypatch, caplog):
    def wrong(model, policy):
        other = recast(model, policy)
        other.set_weights([1.01 * weight for weight in model.get_weights()])
        return other

    monkeypatch.setattr(engine, "recast", wrong)
    outputs = run(network, monkeypatch)
    assert "its outputs differ from Keras' by" in caplog.text
    np.testing.assert_array_equal(outputs[5][0], network.predict_on_batch(batches()[5])[0])


def test_without_openvino_keras_does_the_work(network, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert len(run(network, monkeypatch)) == 10
    assert "Keras computes it" in caplog.text


def test_few_images_start_no_engine(network, monkeypatch):
    monkeypatch.setattr(engine, "compiled_by_openvino", lambda *inputs: pytest.fail("started an engine for a few images"))
    assert len(list(engine.Engine(network).outputs(batches(), 75))) == 10


def test_a_network_that_the_backend_cannot_run_is_refused_in_a_line():
    wrong = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Softmax(axis=99)])
    with pytest.raises(hs.HeadstartError, match=r"cannot run this network: .*99") as refusal:
        engine.keras_outputs(wrong, np.zeros((1, 8, 8, 3), np.float32))
    assert "\n" not in str(refusal.value)


def test_a_smaller_batch_is_filled_up_where_another_shape_would_be_compiled(network, monkeypatch):
    shapes, predict = [], network.predict_on_batch
    expected = [network.predict(batch, verbose=0) for batch in batches()]
    monkeypatch.setattr(engine, "compiles_each_shape", lambda: True)
    monkeypatch.setattr(network, "predict_on_batch", lambda batch: (shapes.append(len(batch)), predict(batch))[1])
    found = list(engine.Engine(network).outputs(batches(), 1))
    assert len(shapes) > 1
    assert len(set(shapes)) == 1
    for outputs, others in zip(found, expected, strict=True):
        for values, exact in zip(outputs, others, strict=True):
            np.testing.assert_allclose(values, exact, rtol=1e-4, atol=1e-5)
