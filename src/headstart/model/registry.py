"""The registry of backbones as data: what each is, its preprocessing, and the licence of its weights.

Nothing here needs Keras, so a wrong name is refused before Keras starts.
"""

import logging
from pathlib import Path
from typing import NamedTuple

from headstart import model
from headstart.config import HUB, Config, suggestion
from headstart.errors import HeadstartError

logger = logging.getLogger("headstart")

# The smallest image size for a backbone from a file. Nothing is known about it, and ImageNet's networks halve an image five
# times.
SMALLEST_OF_A_FILE = 32


class Backbone(NamedTuple):
    """A registered backbone.

    Attributes:
        factory: its name in `keras.applications`; empty for those that pip installs.
        preprocess: the preprocessing that its pretrained weights were trained with, see
            `headstart.model.preprocessing.normalisation`; "none" if the network normalises inside.
        paper: the paper that describes it.
        parameters: the number of its parameters without top.
        top1: accuracy on ImageNet's validation images as Keras publishes it (https://keras.io/api/applications, and for
            MobileNetV3 its docstring) or its authors (EfficientNet-Lite0), 0..1; None if it was not trained on ImageNet.
        licence: SPDX identifier of the licence of its pretrained weights, that of the repository that published them.
        smallest: smallest image size that it accepts, in pixels.
        weight_bytes: bytes of one parameter in the file of its weights.
        note: what else one must know about it.
    """

    factory: str
    preprocess: str
    paper: str
    parameters: int
    top1: float | None
    licence: str
    smallest: int = 32
    weight_bytes: int = 4
    note: str = ""

    @property
    def megabytes(self) -> float:
        """Size of the pretrained weights without top, 10^6 bytes."""
        return self.parameters * self.weight_bytes / 1e6


RESNET, RESNET_V2, MOBILENET_V3 = "He et al. 2015", "He et al. 2016", "Howard et al. 2019"
EFFICIENTNET_V2, CONVNEXT, DENSENET = "Tan, Le 2021", "Liu et al. 2022", "Huang et al. 2017"
IMAGENET_21K = "learned from the 14 million images of ImageNet-21k first"

BACKBONES = {
    "resnet50": Backbone("ResNet50", "caffe", RESNET, 23_587_712, 0.749, "MIT"),
    "resnet101": Backbone("ResNet101", "caffe", RESNET, 42_658_176, 0.764, "MIT"),
    "resnet152": Backbone("ResNet152", "caffe", RESNET, 58_370_944, 0.766, "MIT"),
    "resnet50v2": Backbone("ResNet50V2", "tf", RESNET_V2, 23_564_800, 0.760, "BSD-3-Clause"),
    "resnet101v2": Backbone("ResNet101V2", "tf", RESNET_V2, 42_626_560, 0.772, "BSD-3-Clause"),
    "resnet152v2": Backbone("ResNet152V2", "tf", RESNET_V2, 58_331_648, 0.780, "BSD-3-Clause"),
    "mobilenetv2": Backbone("MobileNetV2", "tf", "Sandler et al. 2018", 2_257_984, 0.713, "Apache-2.0"),
    "mobilenetv3small": Backbone("MobileNetV3Small", "none", MOBILENET_V3, 939_120, 0.681, "Apache-2.0"),
    "mobilenetv3large": Backbone("MobileNetV3Large", "none", MOBILENET_V3, 2_996_352, 0.756, "Apache-2.0"),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", "none", EFFICIENTNET_V2, 5_919_312, 0.787, "Apache-2.0"),
    "efficientnetv2b1": Backbone("EfficientNetV2B1", "none", EFFICIENTNET_V2, 6_931_124, 0.798, "Apache-2.0"),
    "efficientnetv2b2": Backbone("EfficientNetV2B2", "none", EFFICIENTNET_V2, 8_769_374, 0.805, "Apache-2.0"),
    "efficientnetv2b3": Backbone("EfficientNetV2B3", "none", EFFICIENTNET_V2, 12_930_622, 0.820, "Apache-2.0"),
    "efficientnetv2s": Backbone("EfficientNetV2S", "none", EFFICIENTNET_V2, 20_331_360, 0.839, "Apache-2.0"),
    "efficientnetv2m": Backbone("EfficientNetV2M", "none", EFFICIENTNET_V2, 53_150_388, 0.853, "Apache-2.0"),
    "efficientnetv2l": Backbone("EfficientNetV2L", "none", EFFICIENTNET_V2, 117_746_848, 0.857, "Apache-2.0"),
    "convnexttiny": Backbone("ConvNeXtTiny", "none", CONVNEXT, 27_820_128, 0.813, "MIT"),
    "convnextsmall": Backbone("ConvNeXtSmall", "none", CONVNEXT, 49_454_688, 0.823, "MIT"),
    "convnextbase": Backbone("ConvNeXtBase", "none", CONVNEXT, 87_566_464, 0.853, "MIT", note=IMAGENET_21K),
    "convnextlarge": Backbone("ConvNeXtLarge", "none", CONVNEXT, 196_230_336, 0.863, "MIT", note=IMAGENET_21K),
    "densenet121": Backbone("DenseNet121", "torch", DENSENET, 7_037_504, 0.750, "BSD-3-Clause"),
    "densenet169": Backbone("DenseNet169", "torch", DENSENET, 12_642_880, 0.762, "BSD-3-Clause"),
    "densenet201": Backbone("DenseNet201", "torch", DENSENET, 18_321_984, 0.773, "BSD-3-Clause"),
    "efficientnetlite0": Backbone(
        "", "none", "Tan, Le 2019", 3_413_024, 0.751, "Apache-2.0", note="pip installs its weights with Headstart",
    ),
    "starter": Backbone(
        "", "none", "this package", 1_343_712, None, "MIT", smallest=8, weight_bytes=2,
        note="a small ResNet, trained on CIFAR-100; its weights come with Headstart",
    ),
}  # fmt: skip


def refuse_unusable(config: Config) -> None:
    """Refuse an unknown backbone, a missing file of a backbone or of weights, and an image size that is too small.

    Raises:
        HeadstartError: the message names the option, and the nearest backbone or the smallest size.
    """
    if config.backbone.startswith(HUB):
        return model.hub.refuse_unusable_preset(config)
    if config.backbone.endswith(".keras"):
        smallest = SMALLEST_OF_A_FILE
        if not Path(config.backbone).expanduser().is_file():
            raise HeadstartError(f"--backbone: there is no file {config.backbone}")
    elif config.backbone in BACKBONES:
        smallest = BACKBONES[config.backbone].smallest
    else:
        raise HeadstartError(
            f"--backbone: there is no backbone {config.backbone!r}{suggestion(config.backbone, BACKBONES)}\n"
            "`headstart backbones` lists them; a file of your own ends in .keras, and a backbone of KerasHub begins with hub:"
        )
    if config.image_size < smallest:
        raise HeadstartError(f"--image-size {config.image_size} is too small for {config.backbone}, whose smallest is {smallest}")
    if config.weights not in ("auto", "imagenet", "none") and not Path(config.weights).expanduser().is_file():
        raise HeadstartError(f"--weights is auto, imagenet, none or a file; there is no file {config.weights}")


def preprocess_by_name(name: str) -> str:
    """Return the preprocessing of the family that a model's own name begins with.

    Nothing is guessed for an unknown name: a wrong guess would cost tens of percentage points in silence.

    Raises:
        HeadstartError: the name begins with no known family.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    families = [known for known in BACKBONES if plain.startswith(known)]
    if not families:
        raise HeadstartError(
            f"the backbone file's model is named {name!r}, which is no known family: "
            "give the preprocessing it was trained with, --preprocess caffe, torch, tf, unit or none"
        )
    return BACKBONES[max(families, key=len)].preprocess


def licence_of(config: Config) -> str:
    """Return the licence of the weights that a run begins with: an SPDX identifier, or where it stands."""
    if config.weights == "none":
        return "yours: no pretrained weights were used"
    if config.backbone.startswith(HUB):
        return str(model.hub.licence_of_preset(config.backbone))
    if config.backbone in BACKBONES and config.weights in ("auto", "imagenet"):
        return BACKBONES[config.backbone].licence
    return "that of the weights file which you gave"


def say_licence(config: Config) -> None:
    """Log the licence of the weights of a backbone of KerasHub, before they are downloaded."""
    if config.backbone.startswith(HUB):
        logger.info("%s: licence of the weights: %s", config.backbone, licence_of(config))
