import keras
import numpy as np
import pytest

import headstart as hs
from headstart.model.head import build_head, forward, logit_gradients, standardise
from headstart.model.network import Network, build_network
from headstart.model.saved import load_network, save_network
from helpers import random_images

CLASSES = 5
FROM_SCRATCH = {"weights": "none", "fine_tune_from": "all"}


def one_convolution(**options) -> Network:
    """A network around a backbone of one convolution, whose head has weights that nothing is symmetric in."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    backbone = keras.Model(inputs, keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    config = hs.recipe("quick", **{"image_size": 32, "hidden_units": 16} | options)
    return build_network(backbone, "torch", (32, 32, 3), CLASSES, config, options.get("precision", "float32"))


def features_of_all_sizes(count: int) -> np.ndarray:
    """Features whose channels differ by a hundred times in mean and deviation, float32 (count, 8)."""
    sizes = np.geomspace(0.05, 5, 8)
    return np.random.default_rng(0).normal(2 * sizes, sizes, (count, 8)).astype(np.float32)


def numerical_gradients(head: keras.Model, features: np.ndarray, classes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The gradient of each class's logit minus the mean logit, by central differences of the head itself."""
    moved = np.diag(steps)[None]
    both = np.concatenate([features[:, None] + moved, features[:, None] - moved])
    logits = np.asarray(head.predict_on_batch(np.float32(both.reshape(-1, 8))), np.float64)
    logits = logits.reshape(2, len(features), 8, -1)
    above_mean = logits[:, np.arange(len(features)), :, classes].swapaxes(0, 1) - logits.mean(axis=-1)
    return (above_mean[0] - above_mean[1]) / (2 * steps)


# Every head that `build_head` makes: linear or hidden, features standardised or not, a float32 or a bfloat16 backbone.
@pytest.mark.parametrize("hidden_units", [0, 16])
@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}, {"cache_features": False}, FROM_SCRATCH])
def test_the_gradient_is_that_of_numerical_differences(hidden_units, options, tmp_path):
    network = one_convolution(hidden_units=hidden_units, **options)
    features = features_of_all_sizes(200)
    if standardised := not ("cache_features" in options or "weights" in options):
        standardise(network.head, [features])
    assert ("standardise" in [layer.name for layer in network.head.layers]) == standardised
    save_network(tmp_path, network.classifier())
    saved = Network.of_saved(load_network(tmp_path))
    features, classes = features[:20], np.arange(20) % CLASSES
    sizes = features.std(axis=0) if standardised else np.ones(8)
    expected = numerical_gradients(network.head, features, classes, steps=3e-3 * sizes)
    for each in (network, saved):
        gradients = logit_gradients(each.head, features, classes)
        assert gradients.dtype == np.float32
        # By channel, since a standardised head's gradients are as unlike in size as its features. A step may cross a kink.
        difference = np.abs(gradients - expected) / np.abs(expected).max(axis=0)
        assert np.median(difference) < 1e-3
        assert np.mean(difference < 1e-2) > 0.9


@pytest.mark.parametrize(
    "layer",
    [keras.layers.Dense(3, "gelu", name="odd"), keras.layers.LayerNormalization(name="odd"),
     keras.layers.Activation("tanh", name="odd"), type("Scaled", (keras.layers.Dense,), {})(3, name="odd")],
    ids=["another activation", "another layer", "an activation", "a subclass"],
)  # fmt: skip
def test_a_layer_whose_gradient_is_not_known_is_refused(layer):
    head = one_convolution(hidden_units=0).head
    changed = keras.Model(head.input, layer(head.output))
    with pytest.raises(hs.HeadstartError, match="layer 'odd' is of a kind whose gradient is not known"):
        logit_gradients(changed, np.ones((1, 8)), np.array([0]))


@pytest.mark.parametrize(
    "layer",
    [keras.layers.BatchNormalization(), keras.layers.BatchNormalization(scale=False), keras.layers.Dropout(0.5),
     keras.layers.Dense(4, "relu"), keras.layers.Dense(4, use_bias=False)],
    ids=["batch norm", "batch norm without scale", "dropout", "dense", "dense without bias"],
)  # fmt: skip
def test_a_known_layer_gives_what_keras_gives(layer):
    inputs = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    layer.build(inputs.shape)
    layer.set_weights([np.random.default_rng(1).uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    outputs, _ = forward(layer, np.float64(inputs))
    np.testing.assert_allclose(outputs, keras.ops.convert_to_numpy(layer(inputs)), rtol=1e-5, atol=1e-5)


def test_the_head_alone_continues_from_the_features():
    network = one_convolution()
    images = random_images(3)
    features = network.feature_extractor().predict(images, verbose=0)
    expected = network.classifier().predict(images, verbose=0)
    np.testing.assert_allclose(network.head.predict(features, verbose=0), expected, rtol=1e-5, atol=1e-5)


def test_the_head_reads_standardised_features():
    network = one_convolution()
    features = features_of_all_sizes(400).astype(np.float16)
    before = network.backbone.get_weights()
    standardise(network.head, np.array_split(features, 3))
    layer = next(layer for layer in network.head.layers if layer.name == "standardise")
    standardised = np.array(layer(np.float32(features)))
    # The layer adds 0.001 to each variance: channels whose own is as small stay smaller than 1.
    deviation = np.float32(features).std(axis=0)
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(standardised.std(axis=0), deviation / np.sqrt(deviation**2 + 1e-3), atol=1e-2)
    for now, then in zip(network.backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("options", [{"cache_features": False}, FROM_SCRATCH])
def test_where_the_features_are_not_known_beforehand_the_head_reads_them_as_they_are(options):
    names = [layer.name for layer in build_head(8, CLASSES, hs.recipe("quick", **options)).layers[1:]]
    assert names == ["dropout_features", "hidden", "dropout", "logits"]
