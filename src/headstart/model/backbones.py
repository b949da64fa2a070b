"""The registry of backbones: where each comes from and how it wants its images."""

import warnings
from pathlib import Path
from typing import NamedTuple

from headstart.config import Config, suggestion
from headstart.errors import HeadstartError
from headstart.model import starter
from headstart.system.backend import keras
from headstart.system.download import explained_download


class Backbone(NamedTuple):
    """A registered backbone.

    Attributes:
        factory: name in `keras.applications`.
        preprocess: what its ImageNet weights were trained with, see `headstart.model.network`.
            "none" where the network normalises inside.
        smallest: smallest side in pixels that it accepts.
    """

    factory: str
    preprocess: str
    smallest: int = 32


BACKBONES = {
    "resnet50": Backbone("ResNet50", "caffe"),
    "resnet101": Backbone("ResNet101", "caffe"),
    "resnet152": Backbone("ResNet152", "caffe"),
    "resnet50v2": Backbone("ResNet50V2", "tf"),
    "resnet101v2": Backbone("ResNet101V2", "tf"),
    "resnet152v2": Backbone("ResNet152V2", "tf"),
    "mobilenetv2": Backbone("MobileNetV2", "tf"),
    "mobilenetv3small": Backbone("MobileNetV3Small", "none"),
    "mobilenetv3large": Backbone("MobileNetV3Large", "none"),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", "none"),
    "efficientnetv2b1": Backbone("EfficientNetV2B1", "none"),
    "efficientnetv2b2": Backbone("EfficientNetV2B2", "none"),
    "efficientnetv2b3": Backbone("EfficientNetV2B3", "none"),
    "efficientnetv2s": Backbone("EfficientNetV2S", "none"),
    "efficientnetv2m": Backbone("EfficientNetV2M", "none"),
    "efficientnetv2l": Backbone("EfficientNetV2L", "none"),
    "convnexttiny": Backbone("ConvNeXtTiny", "none"),
    "convnextsmall": Backbone("ConvNeXtSmall", "none"),
    "convnextbase": Backbone("ConvNeXtBase", "none"),
    "convnextlarge": Backbone("ConvNeXtLarge", "none"),
    "densenet121": Backbone("DenseNet121", "torch"),
    "densenet169": Backbone("DenseNet169", "torch"),
    "densenet201": Backbone("DenseNet201", "torch"),
    "starter": Backbone("", "none", smallest=8),
}


def load_backbone(config: Config) -> tuple[keras.Model, str]:
    """Load the backbone that the configuration names, with its weights.

    Returns:
        The network without top, float (B, h, w, 3) to (B, h / s, w / s, channels), and its
        preprocessing mode.

    Raises:
        HeadstartError: the backbone is unknown or its file unreadable, its weights cannot be
            fetched or do not fit, or `image_size` is below its minimum.
    """
    refuse_unusable(config)
    if not config.backbone.endswith(".keras"):
        entry = BACKBONES[config.backbone]
        preprocess = entry.preprocess if config.preprocess == "auto" else config.preprocess
        return registered(config.backbone, entry, config.weights), preprocess
    model = backbone_file(Path(config.backbone).expanduser())
    preprocess = preprocess_by_name(model.name) if config.preprocess == "auto" else config.preprocess
    return keras.models.clone_model(model) if config.from_scratch else model, preprocess


def refuse_unusable(config: Config) -> None:
    """Refuse an unknown backbone, a missing file and too small an image size, before anything slow starts."""
    if config.backbone.endswith(".keras"):
        smallest = 32
        if not Path(config.backbone).expanduser().is_file():
            raise HeadstartError(f"there is no backbone file {config.backbone}")
    elif config.backbone in BACKBONES:
        smallest = BACKBONES[config.backbone].smallest
    else:
        raise HeadstartError(f"there is no backbone {config.backbone!r}{suggestion(config.backbone, BACKBONES)}")
    if config.image_size < smallest:
        raise HeadstartError(f"--image-size {config.image_size} is too small for {config.backbone}, whose smallest is {smallest}")


def registered(name: str, entry: Backbone, weights: str) -> keras.Model:
    """Build a registered backbone with random, pretrained or the user's weights."""
    pretrained = weights in ("auto", "imagenet")
    if name == "starter":
        model = starter.build()
        if pretrained:
            starter.load_weights(model)
    else:
        instead = "bring the weights file from another machine (--weights FILE), or take --backbone starter"
        with explained_download(instead), warnings.catch_warnings():
            # MobileNetV2 warns that its weights were trained at another size than the open one asked for here.
            warnings.simplefilter("ignore")
            model = getattr(keras.applications, entry.factory)(
                include_top=False, weights="imagenet" if pretrained else None, input_shape=(None, None, 3)
            )
    if not pretrained and weights != "none":
        load_weights_file(model, Path(weights).expanduser())
    return model


def load_weights_file(model: keras.Model, path: Path) -> None:
    """Put a weights file of the user's into a registered backbone."""
    if not path.is_file():
        raise HeadstartError(f"--weights is auto, imagenet, none or a file; there is no file {path}")
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
        raise HeadstartError(f"{path} holds no weights for {model.name}: {str(error).splitlines()[0]}") from None


def backbone_file(path: Path) -> keras.Model:
    """Load a network without top from a `.keras` file, in safe mode."""
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged zip, an unknown layer, code that safe mode refuses, ...
        raise HeadstartError(f"{path} is not a Keras model that can be loaded: {str(error).splitlines()[0]}") from None
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.output_shape) != 4:
        raise HeadstartError(f"{path} is no backbone: it must map one image to one feature map (B, h, w, channels)")
    return model


def preprocess_by_name(name: str) -> str:
    """Return the preprocessing of the family that a model's own name shows.

    A wrong guess would cost tens of points in silence, so without a known name there is none.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    families = [known for known in BACKBONES if plain.startswith(known)]
    if not families:
        raise HeadstartError(
            f"the backbone file's model is named {name!r}, which shows no known family: "
            "say with --preprocess caffe, torch, tf, unit or none what it was trained with"
        )
    return BACKBONES[max(families, key=len)].preprocess
