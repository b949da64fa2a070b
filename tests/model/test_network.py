import importlib

import keras
import numpy as np
import pytest

import headstart as hs
from headstart.model.backbones import load_backbone
from headstart.model.head import head_model
from headstart.model.network import (
    adapt_batch_norm,
    all_layers,
    build_model,
    copy_back,
    feature_model,
    first_unfrozen,
    frozen_cut,
    normalisation,
    tuning_model,
    unfreeze,
    without_augmentation,
)
from headstart.model.registry import BACKBONES


def random_images(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def tiny_backbone() -> keras.Model:
    """Two convolutions with batch norms whose statistics fit no batch, so that a wrong mode shows."""
    inputs = keras.Input((None, None, 3))
    x = inputs
    for number in range(2):
        x = keras.layers.Conv2D(8, 3, padding="same", name=f"stage{number}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"stage{number}_bn")(keras.layers.Conv2D(8, 1, name=f"stage{number}_mix")(x))
        x = keras.layers.Activation("relu", name=f"stage{number}_relu")(x)
    # Read twice: this batch norm cannot be folded away.
    x = keras.layers.Add()([keras.layers.BatchNormalization(name="last_bn")(x), x])
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    return model


def tiny_model(**options) -> tuple[keras.Model, hs.Config]:
    config = hs.recipe("quick", **{"image_size": 32, "fine_tune_from": "all"} | options)
    return build_model(tiny_backbone(), "torch", (32, 32, 3), 5, config, "float32"), config


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_normalisation_equals_keras_own(mode):
    images = random_images(4)
    x = images.astype(np.float32) / 255
    for layer in normalisation(mode):
        x = layer(x)
    expected = keras.applications.imagenet_utils.preprocess_input(images.astype(np.float32), mode=mode)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "family"),
    [("resnet50", "resnet"), ("resnet50v2", "resnet_v2"), ("mobilenetv2", "mobilenet_v2"), ("mobilenetv3small", "mobilenet_v3"),
     ("efficientnetv2b0", "efficientnet_v2"), ("convnexttiny", "convnext"), ("densenet121", "densenet")],
)  # fmt: skip
def test_every_family_gets_what_its_own_preprocess_input_gives(backbone, family):
    images = random_images(2).astype(np.float32)
    x = images / 255
    for layer in normalisation(BACKBONES[backbone].preprocess):
        x = layer(x)
    expected = importlib.import_module(f"keras.applications.{family}").preprocess_input(images.copy())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(x), expected, rtol=1e-5, atol=1e-4)


def test_batch_norm_stays_in_inference_mode_when_the_backbone_is_unfrozen():
    model, config = tiny_model(dropout=0.0, flip=False, rotation=0.0, zoom=0.0, translation=0.0)
    unfreeze(model, config)
    norms = [layer for layer in model.get_layer("backbone").layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [norm.get_weights() for norm in norms]
    images = random_images(16)
    np.testing.assert_allclose(model(images, training=True), model(images, training=False), rtol=1e-5, atol=1e-5)
    model.compile("sgd", "mse")
    model.fit(images, np.ones((16, 5)), verbose=0)
    assert norms, "the test needs a batch norm that is not folded"
    for norm, weights in zip(norms, before, strict=True):
        np.testing.assert_array_equal(norm.moving_mean, weights[2])
        np.testing.assert_array_equal(norm.moving_variance, weights[3])


def test_batch_norm_learns_where_it_is_told_to():
    model, config = tiny_model(batch_norm="training")
    unfreeze(model, config)
    norm = model.get_layer("backbone").get_layer("stage0_bn")
    before = np.array(norm.moving_mean)
    model.compile("sgd", "mse")
    model.fit(random_images(16), np.ones((16, 5)), verbose=0)
    assert not np.allclose(norm.moving_mean, before)


def test_adapted_batch_norms_give_in_inference_what_they_give_in_training():
    config = hs.recipe("quick", image_size=32, batch_norm="training", flip=False, rotation=0.0, zoom=0.0, translation=0.0)
    model = build_model(tiny_backbone(), "unit", (32, 32, 3), 4, config, "float32")
    extractor, batch = feature_model(model), random_images(8)
    adapt_batch_norm(model, [batch], config)
    assert not model.get_layer("backbone").trainable_variables
    inferred = keras.ops.convert_to_numpy(extractor(batch, training=False))
    unfreeze(model, config)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(extractor(batch, training=True)), inferred, rtol=1e-3, atol=1e-4)


def test_unfreezing_from_a_stage_leaves_what_lies_before_it():
    model, config = tiny_model(fine_tune_from="stage1")
    unfreeze(model, config)
    backbone = model.get_layer("backbone")
    assert not backbone.get_layer("stage0_conv").trainable
    assert backbone.get_layer("stage1_conv").trainable


def test_a_frozen_backbone_gives_the_head_all_the_trainable_weights():
    model, _ = tiny_model()
    assert {weight.path for weight in model.trainable_weights} == {"hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias"}


def test_the_network_in_use_is_not_random_however_it_is_called():
    model, _ = tiny_model()
    images = random_images(3)
    used = without_augmentation(model)
    np.testing.assert_array_equal(used(images), used(images))
    np.testing.assert_allclose(used(images), model.predict(images, verbose=0), rtol=1e-5, atol=1e-5)


def test_augmentation_acts_in_training_only():
    model, _ = tiny_model(dropout=0.0)
    images = random_images(3)
    assert not np.allclose(model(images, training=True), model(images, training=False))


def test_the_two_sides_of_a_cut_are_the_whole_network():
    model, config = tiny_model(fine_tune_from="stage1")
    cut = frozen_cut(model, config)
    assert cut == "stage0_relu"  # between the stages, and not inside one
    images = random_images(3)
    features, _ = feature_model(model, cut).predict(images, verbose=0)
    expected = without_augmentation(model).predict(images, verbose=0)
    np.testing.assert_allclose(head_model(model).predict(features, verbose=0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", ["all", "stage1"])
def test_what_fine_tuning_trains_is_taken_back(start):
    model, config = tiny_model(fine_tune_from=start)
    unfreeze(model, config)
    cut, images = frozen_cut(model, config), random_images(3)
    inputs = feature_model(model, cut).predict(images, verbose=0)[1] if cut else images
    learner = tuning_model(model, cut)
    np.testing.assert_allclose(learner.predict(inputs, verbose=0), model.predict(images, verbose=0), rtol=1e-5, atol=1e-5)
    assert [weight.shape for weight in learner.trainable_weights] == [weight.shape for weight in model.trainable_weights]
    for weight in learner.trainable_weights:
        weight.assign(weight * 1.1)
    copy_back(learner, model, cut)
    np.testing.assert_allclose(model.predict(images, verbose=0), learner.predict(inputs, verbose=0), rtol=1e-5, atol=1e-5)
    assert all(type(layer).__module__.startswith("keras.") for layer in all_layers(model))  # so that it opens anywhere


@pytest.mark.parametrize(
    ("backbone", "first"),
    [("resnet50", "conv5_block1_1_conv"), ("mobilenetv2", "block_13_depthwise"), ("densenet121", "pool4_pool"),
     ("efficientnetv2b0", "block6a_dwconv2"), ("convnexttiny", "convnext_tiny_stage_2_block_0_depthwise_conv")],
)  # fmt: skip
def test_the_last_stage_begins_where_the_last_larger_map_can_be_cut_off(backbone, first):
    config = hs.recipe("quick", backbone=backbone, weights="none", fine_tune_from="all", image_size=64)
    model = build_model(*load_backbone(config), (32, 32, 3), 5, config, "float32")
    config = hs.recipe("quick", backbone=backbone, fine_tune_from="last-stage", image_size=64)
    assert first_unfrozen(model, config) == first
    unfreeze(model, config)
    trainable = [weight.path for weight in model.get_layer("backbone").trainable_weights]
    assert 0 < len(trainable) < len(model.get_layer("backbone").weights)
