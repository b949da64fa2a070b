"""Load a backbone as a Keras model: a registered one by name, or one from a file."""

import warnings
from pathlib import Path

from headstart.config import HUB, Config
from headstart.errors import HeadstartError
from headstart.model import efficientnetlite0, starter
from headstart.model.from_hub import load_hub_backbone
from headstart.model.registry import BACKBONES, Backbone, preprocess_by_name, refuse_unusable
from headstart.model.saved import load_keras_file, load_weights_file, try_out
from headstart.system.backend import keras
from headstart.system.download import explained_download
from headstart.system.keras_internals import give_memory, without_memory

# Those that `keras.applications` does not have.
OURS = {"starter": starter, "efficientnetlite0": efficientnetlite0}


def load_backbone(config: Config) -> tuple[keras.Model, str]:
    """Load the backbone that the configuration names, with its weights.

    Returns:
        The model without top, from images, float (B, h, w, 3), to the feature map, (B, h / s, w / s, channels); and its
        preprocessing mode, see `headstart.model.preprocessing.normalisation`.

    Raises:
        HeadstartError: the backbone is unknown or its file unreadable; its weights cannot be downloaded or do not fit; or
            `image_size` is too small for it.
    """
    refuse_unusable(config)
    if config.backbone.startswith(HUB):
        return load_hub_backbone(config)
    if not config.backbone.endswith(".keras"):
        entry = BACKBONES[config.backbone]
        preprocess = entry.preprocess if config.preprocess == "auto" else config.preprocess
        return registered(config.backbone, entry, config.weights), preprocess
    model = backbone_file(Path(config.backbone).expanduser(), config)
    preprocess = preprocess_by_name(model.name) if config.preprocess == "auto" else config.preprocess
    return keras.models.clone_model(model) if config.from_scratch else model, preprocess


def registered(name: str, entry: Backbone, weights: str) -> keras.Model:
    """Build a registered backbone with random weights, pretrained weights or the user's own."""
    if weights == "none":
        return built(name, entry, None)
    pretrained = weights in ("auto", "imagenet")
    with without_memory() as scope:
        model = built(name, entry, "imagenet" if pretrained else None)
    if pretrained and name not in OURS:  # Keras has loaded them inside the block
        give_memory(model, [scope.get_current_value(weight) for weight in model.weights])
        return model
    give_memory(model)
    if pretrained:
        OURS[name].load_weights(model)
    else:
        load_weights_file(model, Path(weights).expanduser())
    return model


def built(name: str, entry: Backbone, weights: str | None) -> keras.Model:
    """Build a registered backbone with random weights, or with those that `keras.applications` has under a name."""
    if name in OURS:
        return OURS[name].build()
    instead = "bring the weights file from another machine (--weights FILE), or take --backbone efficientnetlite0, which is here"
    with explained_download(instead), warnings.catch_warnings():
        # MobileNetV2 warns that its weights were trained at a fixed size, and here the size is open.
        warnings.simplefilter("ignore")
        return getattr(keras.applications, entry.factory)(include_top=False, weights=weights, input_shape=(None, None, 3))


def backbone_file(path: Path, config: Config) -> keras.Model:
    """Load a model without top from a `.keras` file.

    Raises:
        HeadstartError: the file cannot be loaded, or its model does not map RGB images of this size to a feature map.
    """
    model, size = load_keras_file(path, trust=config.trust), config.image_size
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.input_shape) != 4 or len(model.output_shape) != 4:
        raise HeadstartError(f"{path} is no backbone: it must map one image to one feature map (B, h, w, channels)")
    model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # a Sequential has no single input
    _, *sides, channels = model.input_shape
    if channels != 3 or "float" not in model.input.dtype:
        raise HeadstartError(f"{path} takes {model.input.dtype} images of {channels} channels: a backbone must take float RGB")
    if any(side not in (size, None) for side in sides):
        raise HeadstartError(f"{path} takes images of {sides[0]} x {sides[1]} px alone, and not of --image-size {size}")
    try_out(model, (size, size, 3), path)
    if not model.output_shape[-1]:
        raise HeadstartError(f"{path} is no backbone: the channels of its feature map have no fixed number")
    return model
