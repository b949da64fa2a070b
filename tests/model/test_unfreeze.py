import keras
import numpy as np
import pytest

import headstart as hs
from headstart.model.backbones import load_backbone
from headstart.model.fast.folding import fold_batch_norm
from headstart.model.unfreeze import first_unfrozen, frozen_cut, refuse_unknown_layer, unfreeze
from helpers import PLAIN, random_images, tiny_backbone, tiny_network


def fit(learner: keras.Model) -> None:
    learner.compile("sgd", "mse")
    learner.fit(random_images(16), np.ones((16, 5)), verbose=0)


def moving_statistics(backbone: keras.Model) -> list[np.ndarray]:
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms, "the test needs a batch norm that is not folded"
    return [array for norm in norms for array in norm.get_weights()[2:]]


def test_batch_norm_stays_in_inference_mode_when_the_backbone_is_unfrozen():
    network, config = tiny_network(dropout=0.0, **PLAIN)
    unfreeze(network.backbone, config)
    before, kernel = moving_statistics(network.backbone), network.backbone.get_layer("stage0_conv").get_weights()[0]
    learner, images = network.learner(), random_images(16)
    np.testing.assert_allclose(learner(images, training=True), learner(images, training=False), rtol=1e-5, atol=1e-5)
    fit(learner)
    network.take(learner)
    assert not np.array_equal(network.backbone.get_layer("stage0_conv").get_weights()[0], kernel)
    for now, then in zip(moving_statistics(network.backbone), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_batch_norm_learns_where_it_is_told_to():
    network, config = tiny_network(batch_norm="training")
    unfreeze(network.backbone, config)
    before, learner = moving_statistics(network.backbone), network.learner()
    fit(learner)
    network.take(learner)
    for now, then in zip(moving_statistics(network.backbone), before, strict=True):
        assert not np.allclose(now, then)


def test_unfreezing_from_a_stage_leaves_what_lies_before_it():
    network, config = tiny_network(fine_tune_from="stage1")
    unfreeze(network.backbone, config)
    assert not network.backbone.get_layer("stage0_conv").trainable
    assert network.backbone.get_layer("stage1_conv").trainable


def test_a_cut_lies_between_the_stages_and_not_inside_one():
    assert frozen_cut(tiny_backbone(), hs.recipe("quick", fine_tune_from="stage1")) == "stage0_relu"
    assert frozen_cut(tiny_backbone(), hs.recipe("quick", fine_tune_from="all")) == ""
    # The sum reads what comes before the last batch norm, too.
    assert frozen_cut(tiny_backbone(), hs.recipe("quick", fine_tune_from="last_bn")) == "stage1_relu"


@pytest.mark.parametrize(
    ("backbone", "first"),
    [("resnet50", "conv5_block1_1_conv"), ("mobilenetv2", "block_13_expand"), ("densenet121", "pool4_pool"),
     ("efficientnetlite0", "block6a_expand_conv"), ("efficientnetv2b0", "block6a_expand_conv"),
     ("convnexttiny", "convnext_tiny_stage_2_block_0_depthwise_conv")],
)  # fmt: skip
def test_the_last_stage_begins_where_the_last_larger_map_can_be_cut_off(backbone, first):
    config = hs.recipe("quick", backbone=backbone, weights="none", fine_tune_from="all", image_size=64)
    folded = fold_batch_norm(load_backbone(config)[0], "float32")
    config = hs.recipe("quick", backbone=backbone, fine_tune_from="last-stage", image_size=64)
    assert first_unfrozen(folded, config) == first
    unfreeze(folded, config)
    assert 0 < len(folded.trainable_weights) < len(folded.weights)


def test_an_unknown_layer_is_refused_with_the_nearest_that_has_weights():
    backbone = tiny_backbone()
    refuse_unknown_layer(backbone, hs.recipe("quick", fine_tune_from="stage1"))
    with pytest.raises(hs.HeadstartError, match=r"no layer of resnet50 begins with 'stag1_conv'; did you mean stage1_conv\?"):
        refuse_unknown_layer(backbone, hs.recipe("quick", fine_tune_from="stag1_conv"))
