import keras
import numpy as np

from headstart.model.batch_norm import adapt_batch_norm
from headstart.model.unfreeze import unfreeze
from helpers import PLAIN, random_images, tiny_network


def test_adapted_batch_norms_give_in_inference_what_they_give_in_training():
    network, config = tiny_network(batch_norm="training", **PLAIN)
    extractor, batch = network.feature_extractor(), random_images(8)
    adapt_batch_norm(network, [batch], config)
    assert not network.backbone.trainable_variables
    inferred = keras.ops.convert_to_numpy(extractor(batch, training=False))
    unfreeze(network.backbone, config)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(extractor(batch, training=True)), inferred, rtol=1e-3, atol=1e-4)


def test_the_statistics_are_the_mean_over_all_batches():
    network, config = tiny_network(batch_norm="training", **PLAIN)
    first = network.backbone.get_layer("stage0_bn")
    before = keras.Model(network.backbone.input, network.backbone.get_layer("stage0_mix").output)
    momentum, batches = first.momentum, [random_images(4), 255 - random_images(4)]
    adapt_batch_norm(network, batches, config)
    prepared = network.feature_map().layers[1:-1]
    maps: list = batches
    for layer in prepared:
        maps = [layer(one) for one in maps]
    means = [keras.ops.convert_to_numpy(before(one)).mean(axis=(0, 1, 2)) for one in maps]
    np.testing.assert_allclose(first.moving_mean, np.mean(means, axis=0), rtol=1e-3, atol=1e-3)
    assert first.momentum == momentum
