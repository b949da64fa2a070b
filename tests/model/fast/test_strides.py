import keras
import numpy as np
import pytest
from keras import layers

import headstart as hs
from headstart.model.fast.copies import for_training
from headstart.model.fast.strides import input_stride, read_strides
from headstart.model.network import build_network
from headstart.model.unfreeze import frozen_cut, unfreeze
from helpers import called, random_images


def maps(side: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, side, side, channels)).astype(np.float32)


def stage(x, name: str, kernel: int = 3, padding: str = "same"):
    """A block around a shortcut, as a residual network has it."""
    y = layers.Conv2D(4, kernel, padding=padding, name=f"{name}_conv")(x)
    y = layers.Activation("relu", name=f"{name}_relu")(y)
    y = layers.Conv2D(3, 1, name=f"{name}_expand")(y)
    x = x if padding == "same" else layers.Cropping2D(kernel // 2, name=f"{name}_crop")(x)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


def network(readers, side: int | None, **options) -> keras.Model:
    inputs = keras.Input((side, side, 3))
    x = stage(layers.Conv2D(3, 1, name="first")(inputs), "block", **options)
    return keras.Model(inputs, layers.Add(name="sum")([read(x) for read in readers]))


def strided(name: str, **options):
    return layers.Conv2D(4, 1, strides=2, name=name, **options)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize(
    "options", [{}, {"kernel": 2}, {"kernel": 5}, {"padding": "valid"}, {"padding": "valid", "kernel": 5}], ids=str
)
def test_what_is_not_read_is_not_computed(side, options):
    whole = network([strided("a"), strided("b")], None, **options)
    assert [read_strides(whole)[name] for name in ("first", "block_conv", "block_out", "sum")] == [1, 2, 2, 1]
    quick = for_training(whole)
    assert quick.get_layer("block_conv").strides == (2, 2)
    assert quick.get_layer("a").strides == quick.get_layer("block_expand").strides == (1, 1)
    np.testing.assert_allclose(quick.predict(maps(side), verbose=0), whole.predict(maps(side), verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [layers.Conv2D(4, 3, strides=2, padding="same"), layers.MaxPooling2D(2), layers.Conv2D(4, 2, strides=2)],
    ids=["neighbours", "pool", "two positions"],
)
def test_what_one_layer_reads_is_computed(other):
    resized = keras.Sequential([other, layers.Conv2D(4, 1, name="fit")]) if isinstance(other, layers.MaxPooling2D) else other
    whole = network([strided("a"), resized], 8)
    quick = for_training(whole)
    assert set(read_strides(whole).values()) == {1}
    np.testing.assert_allclose(quick.predict(maps(8), verbose=0), whole.predict(maps(8), verbose=0), atol=1e-5)


def test_batch_norm_that_learns_sees_every_position():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    whole = keras.Model(inputs, strided("last")(x))
    quick = for_training(whole)
    whole(maps(8), training=True), quick(maps(8), training=True)
    for ours, theirs in zip(quick.get_layer("norm").get_weights(), whole.get_layer("norm").get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quick.predict(maps(8), verbose=0), whole.predict(maps(8), verbose=0), atol=1e-5)


def test_two_long_strides_one_after_the_other():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(3, 3, padding="same", name="conv")(inputs)
    x = strided("first")(x)
    whole = keras.Model(inputs, layers.Conv2D(4, 1, strides=3, name="second")(x))
    quick = for_training(whole)
    assert quick.get_layer("conv").strides == (6, 6)
    for side in (12, 13, 17):
        np.testing.assert_allclose(quick.predict(maps(side), verbose=0), whole.predict(maps(side), verbose=0), atol=1e-5)


@pytest.fixture(scope="module")
def resnet50():
    """Keras' own network, whose random batch norms shrink what each block adds, so that its outputs stay in range."""
    backbone = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(None, None, 3))
    for layer in backbone.layers:
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(layer.gamma * 0.1)
    return build_network(backbone, "caffe", (32, 32, 3), 5, hs.recipe("quick", image_size=72), "float32")


@pytest.mark.parametrize(
    ("start", "cut", "side"), [("all", "", 32), ("last-stage", "conv4_block6_out", 3), ("conv4_block1", "conv3_block4_out", 5)]
)
def test_resnet50_is_the_same_in_fewer_positions(resnet50, start, cut, side):
    config = hs.recipe("quick", fine_tune_from=start, image_size=72)
    resnet50.cut = frozen_cut(resnet50.backbone, config)
    assert resnet50.cut == cut
    unfreeze(resnet50.backbone, config)
    images = random_images(2)
    learner = resnet50.learner()
    inputs = keras.ops.convert_to_numpy(resnet50.feature_extractor()(images)[1]) if cut else images
    assert inputs.shape[1] == side  # of 9 and 5 rows of these maps, every second is read
    expected = called(resnet50.classifier(), images)
    np.testing.assert_allclose(called(learner, inputs), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert learner.get_layer("backbone_end" if cut else "backbone").get_layer("conv5_block1_0_conv").strides == (1, 1)


def test_networks_that_read_everything_stay_as_they_are():
    backbone = keras.applications.ResNet50V2(include_top=False, weights=None, input_shape=(None, None, 3))
    assert input_stride(backbone) == 1
    assert [layer.strides for layer in for_training(backbone).layers if isinstance(layer, layers.Conv2D)] == [
        layer.strides for layer in backbone.layers if isinstance(layer, layers.Conv2D)
    ]
