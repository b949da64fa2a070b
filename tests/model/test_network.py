import numpy as np
import pytest

from headstart.model.network import Network, all_layers, without_augmentation
from headstart.model.saved import load_network, save_network
from headstart.model.unfreeze import frozen_cut, unfreeze
from helpers import random_images, tiny_network


def test_a_frozen_backbone_gives_the_head_all_the_trainable_weights():
    network, _ = tiny_network()
    expected = {"hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias"}
    assert {weight.path for weight in network.augmented().trainable_weights} == expected


def test_the_network_in_use_is_not_random_however_it_is_called():
    network, _ = tiny_network()
    images = random_images(3)
    expected = network.classifier().predict(images, verbose=0)
    for used in (network.classifier(), without_augmentation(network.augmented()), without_augmentation(network.learner())):
        np.testing.assert_array_equal(used(images), used(images))
        np.testing.assert_allclose(used(images), expected, rtol=1e-5, atol=1e-5)


def test_what_is_saved_has_plain_layers_and_no_augmentation():
    network, config = tiny_network()
    unfreeze(network.backbone, config)
    network.take(network.learner())
    layers = all_layers(network.classifier())
    assert all(type(layer).__module__.startswith("keras.") for layer in layers)  # so that it opens anywhere
    assert not any(layer.name == "augmentation" for layer in layers)
    assert any(layer.name == "augmentation" for layer in all_layers(network.augmented()))


def test_augmentation_acts_in_training_only():
    network, _ = tiny_network(dropout=0.0)
    images = random_images(3)
    for model in (network.augmented(), network.learner()):
        assert not np.allclose(model(images, training=True), model(images, training=False))


def test_all_models_share_their_weights():
    network, _ = tiny_network()
    images = random_images(3)
    before = network.classifier().predict(images, verbose=0)
    for weight in network.head.trainable_weights:
        weight.assign(weight + 0.1)
    after = network.classifier().predict(images, verbose=0)
    assert not np.allclose(after, before)
    np.testing.assert_allclose(network.augmented().predict(images, verbose=0), after, rtol=1e-5, atol=1e-5)


def test_pooled_features_are_the_mean_of_the_feature_map():
    network, _ = tiny_network()
    images = random_images(3)
    maps = network.feature_map().predict(images, verbose=0)
    assert maps.shape[1:3] == network.map_shape
    features = network.feature_extractor().predict(images, verbose=0)
    np.testing.assert_allclose(features, maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_the_two_sides_of_a_cut_are_the_whole_network():
    network, config = tiny_network(fine_tune_from="stage1")
    network.cut = frozen_cut(network.backbone, config)
    images = random_images(3)
    features, maps = network.feature_extractor().predict(images, verbose=0)
    expected = network.classifier().predict(images, verbose=0)
    np.testing.assert_allclose(network.head.predict(features, verbose=0), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(network.backbone_end().predict(maps, verbose=0).mean(axis=(1, 2)), features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", ["all", "stage1"])
def test_what_fine_tuning_trains_is_taken_back(start):
    network, config = tiny_network(fine_tune_from=start)
    unfreeze(network.backbone, config)
    network.cut = frozen_cut(network.backbone, config)
    images = random_images(3)
    inputs = network.feature_extractor().predict(images, verbose=0)[1] if network.cut else images
    learner, before = network.learner(), network.classifier().predict(images, verbose=0)
    np.testing.assert_allclose(learner.predict(inputs, verbose=0), before, rtol=1e-5, atol=1e-5)
    assert [weight.shape for weight in learner.trainable_weights] == [
        weight.shape for weight in network.augmented().trainable_weights
    ]
    for weight in learner.trainable_weights:
        weight.assign(weight * 1.1)
    network.take(learner)
    after = network.classifier().predict(images, verbose=0)
    assert not np.allclose(after, before)
    np.testing.assert_allclose(after, learner.predict(inputs, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"hidden_units": 0}, {"cache_features": False}])
def test_a_saved_classifier_is_taken_apart_again(options, tmp_path):
    network, _ = tiny_network(**options)
    save_network(tmp_path, network.classifier())
    found = Network.of_saved(load_network(tmp_path))
    images = random_images(3)
    assert (found.image_shape, found.map_shape) == (network.image_shape, network.map_shape)
    for ours, theirs in ((found.feature_map(), network.feature_map()), (found.classifier(), network.classifier())):
        np.testing.assert_allclose(ours.predict(images, verbose=0), theirs.predict(images, verbose=0), rtol=1e-5, atol=1e-5)
    features = network.feature_extractor().predict(images, verbose=0)
    np.testing.assert_allclose(
        found.head.predict(features, verbose=0), network.head.predict(features, verbose=0), rtol=1e-5, atol=1e-5
    )


def test_a_classifier_that_an_older_version_saved_with_augmentation_is_taken_apart_without():
    network, _ = tiny_network()
    found = Network.of_saved(network.augmented())
    assert "augmentation" not in [layer.name for layer in found.classifier().layers]
    images = random_images(3)
    np.testing.assert_allclose(found.classifier()(images), network.classifier()(images), rtol=1e-5, atol=1e-5)
