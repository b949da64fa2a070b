import importlib

import keras
import numpy as np
import pytest

from headstart.model.backbones import BACKBONES
from headstart.model.network import chain
from headstart.model.preprocessing import normalisation, preprocessing
from helpers import random_images


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_normalisation_equals_keras_own(mode):
    images = random_images(4).astype(np.float32)
    expected = keras.applications.imagenet_utils.preprocess_input(images.copy(), mode=mode)
    found = chain(images / 255, normalisation(mode))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "family"),
    [("resnet50", "resnet"), ("resnet50v2", "resnet_v2"), ("mobilenetv2", "mobilenet_v2"), ("mobilenetv3small", "mobilenet_v3"),
     ("efficientnetv2b0", "efficientnet_v2"), ("convnexttiny", "convnext"), ("densenet121", "densenet")],
)  # fmt: skip
def test_every_family_gets_what_its_own_preprocess_input_gives(backbone, family):
    images = random_images(2).astype(np.float32)
    expected = importlib.import_module(f"keras.applications.{family}").preprocess_input(images.copy())
    found = chain(images / 255, normalisation(BACKBONES[backbone].preprocess))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("side", "names"), [(32, []), (16, ["enlarge"])])
def test_images_are_enlarged_only_where_they_have_another_size(side, names):
    assert [layer.name for layer in preprocessing("unit", (side, side, 3), 32)] == names
