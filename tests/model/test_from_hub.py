"""KerasHub's backbones as networks of plain layers, from presets with random weights."""

import dataclasses
import json
import sys

import h5py
import numpy as np
import pytest

import headstart as hs
from headstart.model import from_hub, hub
from headstart.model.backbones import load_backbone
from headstart.model.preprocessing import normalisation
from headstart.model.saved import load_network, save_network
from headstart.system.backend import keras
from helpers import random_images, save_images

keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")
models, layers = keras_hub.models, keras_hub.layers

SHAPE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}
DINO = SHAPE | {"patch_size": 8, "intermediate_dim": 32, "image_shape": (32, 32, 3)}
# Another scaling for each channel, which no mode has.
SCALING = {"scale": [0.01, 0.02, 0.03], "offset": [-1.0, -2.0, -3.0]}


def siglip() -> keras.Model:
    text = {"vocabulary_size": 10, "embedding_dim": 16, "max_sequence_length": 8, "projection_dim": 16}
    return models.SigLIPBackbone(
        models.SigLIPVisionEncoder(8, 16, 2, 2, 32, image_shape=(32, 32, 3)),
        models.SigLIPTextEncoder(**text, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=16),
    )


def hgnet(learnable_affine: bool = False) -> keras.Model:
    return models.HGNetV2Backbone(
        depths=[1, 2], embedding_size=8, hidden_sizes=[16, 16], stem_channels=[3, 8, 8], hidden_act="relu",
        use_learnable_affine_block=learnable_affine, stackwise_stage_filters=[(8, 8, 16, 1, 2, 3), (16, 8, 16, 2, 2, 5)],
        apply_downsample=[False, True], use_lightweight_conv_block=[False, True],
    )  # fmt: skip


def efficientnet() -> keras.Model:
    options = {
        "width_coefficients": [0.5] * 2, "depth_coefficients": [1.0] * 2, "kernel_sizes": [3, 3], "num_repeats": [1, 2],
        "input_filters": [32, 16], "output_filters": [16, 24], "expansion_ratios": [1, 4], "strides": [1, 2],
        "squeeze_and_excite_ratios": [0.25] * 2, "block_types": ["v1", "v1"], "force_input_filters": [0, 0],
        "nores_option": [False, False],
    }  # fmt: skip
    return models.EfficientNetBackbone(**{f"stackwise_{name}": value for name, value in options.items()})


# By a name: the backbone, and its kind of `ImageConverter`.
BACKBONES = {
    "vit": (lambda: models.ViTBackbone((32, 32, 3), 8, 2, 2, 16, 32), layers.ViTImageConverter),
    "deit": (
        lambda: models.DeiTBackbone(image_shape=(32, 32, 3), patch_size=8, intermediate_dim=32, **SHAPE),
        layers.DeiTImageConverter,
    ),
    "dinov2": (
        lambda: models.DINOV2Backbone(**DINO, position_embedding_shape=(48, 48, 3), layer_scale_init_value=0.3),
        layers.DINOV2ImageConverter,
    ),
    "dinov2 with registers": (
        lambda: models.DINOV2Backbone(**DINO, position_embedding_shape=(32, 32, 3), num_register_tokens=2, use_swiglu_ffn=True),
        layers.DINOV2ImageConverter,
    ),
    "dinov3": (lambda: models.DINOV3Backbone(**DINO, use_key_bias=False), layers.DINOV3ImageConverter),
    "dinov3, gated": (
        lambda: models.DINOV3Backbone(**DINO, use_gated_mlp=True, hidden_activation="silu"), layers.DINOV3ImageConverter
    ),
    "siglip": (siglip, layers.SigLIPImageConverter),
    "hgnetv2": (hgnet, layers.HGNetV2ImageConverter),
    "hgnetv2, affine": (lambda: hgnet(True), layers.HGNetV2ImageConverter),
    "resnet": (
        lambda: models.ResNetBackbone([64], [7], [64, 64], [1, 1], [1, 2], "basic_block", use_pre_activation=True),
        layers.ResNetImageConverter,
    ),
    "efficientnet": (efficientnet, layers.EfficientNetImageConverter),
}  # fmt: skip


def written(name: str, folder):
    """Write a preset whose weights all differ from where they start, and return its folder."""
    make, converter = BACKBONES[name]
    keras.utils.set_random_seed(0)
    backbone, random = make(), np.random.default_rng(0)
    for weight in backbone.weights:
        if weight.dtype == "float32" and "variance" not in weight.name:
            weight.assign(weight + 0.1 * random.normal(size=weight.shape))
    backbone.save_to_preset(str(folder))
    converter(**SCALING).save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def presets(shared):
    return lambda name: shared(f"preset {name}", lambda folder: written(name, folder))


def config(folder, **options) -> hs.Config:
    return hs.recipe("quick", **{"backbone": f"hub:{folder}", "image_size": 32} | options)


def change(source, target, **changes):
    """Copy the preset of a transformer, with options of its network changed."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    content = json.loads((target / hub.CONFIG).read_text())
    content["config"] |= changes
    (target / hub.CONFIG).write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("name", sorted(BACKBONES.keys() - {"hgnetv2, affine"}))
def test_a_backbone_gives_kerashubs_features_and_is_saved_as_plain_layers(presets, name, tmp_path):
    """Loading compares the feature map with KerasHub's, and refuses what is not the same."""
    network, preprocess = load_backbone(config(presets(name)))
    assert network.compute_output_shape((1, 32, 32, 3))[1] in (2, 4, 8)
    assert [float(number) for number in preprocess.split()] == [2.55, 5.1, 7.65, -1.0, -2.0, -3.0]
    save_network(tmp_path, network)
    images = np.float32(random_images(2)) / 100
    np.testing.assert_array_equal(load_network(tmp_path)(images), network(images))


def test_layers_with_weights_of_their_own_are_refused(presets):
    with pytest.raises(hs.HeadstartError, match="weights of their own"):
        load_backbone(config(presets("hgnetv2, affine")))


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_second_network_of_a_process_is_described_by_the_same_words(presets, name):
    """The cache of features knows a network by its description."""
    first, second = (load_backbone(config(presets(name)))[0].to_json() for _ in range(2))
    assert first == second


def test_a_difference_from_kerashubs_features_is_refused(presets, monkeypatch):
    def wrong(original, family):
        transformer, expected = from_hub.of_vit(original, family)
        return dataclasses.replace(transformer, classes=0), expected

    monkeypatch.setitem(from_hub.TRANSFORMERS, "vit", wrong)
    with pytest.raises(hs.HeadstartError, match="another feature map than KerasHub's"):
        load_backbone(config(presets("vit")))


@pytest.mark.parametrize("name", ["vit", "siglip", "dinov2", "dinov3"])
def test_images_may_be_larger_than_in_the_pretraining(presets, name):
    network, _ = load_backbone(config(presets(name), image_size=48))
    assert network.output_shape == (None, 6, 6, 32)


def test_the_preprocessing_is_that_of_kerashubs_converter(presets):
    _, preprocess = load_backbone(config(presets("vit")))
    images = random_images(2)
    (layer,) = normalisation(preprocess)
    np.testing.assert_allclose(layer(np.float32(images) / 255), layers.ViTImageConverter(**SCALING)(images), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 24}, "holds no weights for"),
        ({"mlp_dim": "many"}, "cannot be built by KerasHub"),
        ({"num_heads": {"module": "os", "class_name": "system", "config": {}}}, "names classes"),
    ],
)
def test_a_preset_that_does_not_fit_or_names_code_is_refused(presets, tmp_path, changes, message):
    with pytest.raises(hs.HeadstartError, match=message):
        load_backbone(config(change(presets("vit"), tmp_path / "mine", **changes)))


def test_a_file_that_lacks_weights_is_refused(presets, tmp_path):
    folder = change(presets("vit"), tmp_path / "mine")
    with h5py.File(folder / hub.WEIGHTS, "r+") as file:
        groups: list[str] = []
        file.visit(lambda name: groups.append(name) if name.endswith("dense_1") else None)
        del file[groups[0]]
    with pytest.raises(hs.HeadstartError, match=r"lacks weights|holds no weights"):
        load_backbone(config(folder))


def test_the_last_third_of_the_blocks_learns_and_positions_of_queries_never_do(presets):
    from headstart.model.unfreeze import frozen_cut, unfreeze

    network, _ = load_backbone(config(presets("dinov3")))
    assert frozen_cut(network, config("x/y", fine_tune_from="last-stage")) == "block01_out"
    assert frozen_cut(network, config("x/y", fine_tune_from="block02")) == "block01_out"
    unfreeze(network, config("x/y", fine_tune_from="last-stage"))
    learning = {layer.name for layer in network.layers if layer.trainable_weights}
    assert {"block02_norm1", "block02_attention_query", "norm"} <= learning
    assert not any(name.startswith(("block01", "rotary", "tokens")) for name in learning)


@pytest.mark.slow
def test_a_transformer_goes_through_all_stages_and_needs_kerashub_no_more_when_it_is_used(presets, tmp_path, monkeypatch, caplog):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = np.uint8(rng.integers(0, 100, (60, 32, 32, 3)) + 120 * labels[:, None, None, None])
    save_images(images, labels, tmp_path / "data", ("dark", "bright"))
    short = {"head_epochs": 5, "epochs": 1, "fewest_steps": 4, "batch_size": 16, "views": 1, "precision": "float32"}
    caplog.set_level("INFO", "headstart")
    run = hs.train(config(presets("dinov3"), data=str(tmp_path / "data"), out=str(tmp_path / "run"), **short))
    assert "licence of the weights" in caplog.messages[0]  # before anything is loaded
    assert run.metrics["test"]["fine_tuned"]["accuracy"] > 0.7
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    used = hs.Run(tmp_path / "run")
    assert len(used.predict(list(images[:3])).labels) == 3
    explained = used.explain(list(images[:2]))
    assert explained.method == "HiResCAM, 4 x 4 positions"
    assert np.isfinite(explained.maps).all()
    assert "licence" in used.read_json("environment.json")
    used.export("keras")
