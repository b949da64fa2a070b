"""Images inside an exported file are brought to the network's size as Pillow does it."""

import numpy as np
import pytest
from PIL import Image

from headstart.data.decode import Decoding, fit
from headstart.export.fit import FitLikePillow
from headstart.system.backend import keras


def picture(height: int, width: int) -> np.ndarray:
    """Return uint8 (height, width, 3) with edges and noise, far enough from 0 and 255: see `FitLikePillow`."""
    rng = np.random.default_rng(height * 1000 + width)
    small = Image.fromarray(rng.integers(80, 176, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.clip(np.asarray(small) + rng.normal(0, 15, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["crop", "squash", "pad"])
@pytest.mark.parametrize("wanted", [(32, 32), (24, 40)])
@pytest.mark.parametrize("size", [(32, 32), (33, 32), (100, 75), (75, 101), (7, 9), (1, 1), (5, 300), (301, 4), (24, 40)])
def test_it_gives_what_pillow_gives(kind, wanted, size):
    image = picture(*size)
    ours = np.asarray(FitLikePillow(*wanted, kind)(image[None]))[0]
    pillows = fit(Image.fromarray(image), *wanted, Decoding(kind)).astype(float)
    difference = np.abs(ours - pillows)
    assert difference.max() <= 1
    if size == wanted:
        assert not difference.any()


def test_a_graph_of_it_takes_any_number_and_size():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, FitLikePillow(16, 16, "crop")(inputs))
    for count, height, width in ((1, 16, 16), (3, 40, 20)):
        images = np.stack([picture(height, width)] * count)
        expected = fit(Image.fromarray(images[0]), 16, 16).astype(float)
        assert np.abs(np.asarray(model(images)) - expected).max() <= 1
