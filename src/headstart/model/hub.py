"""KerasHub's presets of image backbones as data: what each is, the licence of its weights, and where its files are.

Nothing here needs Keras, so a wrong name is refused before Keras starts. KerasHub's own functions build whatever class a
preset's files name; here, a preset is its numbers alone, and `headstart.model.from_hub` makes plain layers of them.
"""

import importlib.metadata
import importlib.util
import runpy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from headstart.config import HUB, Config, hub_folder, suggestion
from headstart.errors import DamagedError, HeadstartError
from headstart.system.download import explained_download
from headstart.system.files import read_bytes
from headstart.system.reading import MOST_JSON, parse_json
from headstart.system.text import first_line

# The files of a preset.
CONFIG, CONVERTER, WEIGHTS = "config.json", "image_converter.json", "model.weights.h5"
# Each has classes and presets of its own.
KNOWN = "0.32."
# Without its dependencies: they would bring a second TensorFlow, which overwrites files of the first.
INSTALL = f"pip install 'headstart[hub]', then pip install --no-deps keras-hub=={KNOWN}0"
SMALLEST = 32


class Family(NamedTuple):
    """A kind of backbone.

    Attributes:
        kind: KerasHub's class.
        paper: the paper that describes it.
        licence: of the weights of its presets, as their model card says: an SPDX identifier or a name; "" if no card was found,
            or if cards contradict each other.
        card: the model card or licence where that was read: of those who trained the weights, or of the copy that KerasHub took.
    """

    kind: str
    paper: str
    licence: str = ""
    card: str = ""


# The cards were read in November 2026. Where they contradict each other, nothing is claimed: KerasHub's card of VGG says
# Apache-2.0, and that of the weights which it took, timm/vgg16.tv_in1k, BSD-3-Clause.
HUGGING_FACE = "https://huggingface.co/"
# By KerasHub's name of their folder.
FAMILIES = {
    "dinov2": Family(
        "DINOV2Backbone",
        "Oquab et al. 2023",
        "Apache-2.0",
        "https://github.com/facebookresearch/dinov2/blob/main/MODEL_CARD.md",
    ),
    "dinov3": Family(
        "DINOV3Backbone", "Siméoni et al. 2025", "DINOv3 License", f"{HUGGING_FACE}facebook/dinov3-vitl16-pretrain-lvd1689m"
    ),
    "siglip": Family("SigLIPBackbone", "Zhai et al. 2023", "Apache-2.0", f"{HUGGING_FACE}google/siglip-so400m-patch14-384"),
    "vit": Family("ViTBackbone", "Dosovitskiy et al. 2020", "Apache-2.0", f"{HUGGING_FACE}google/vit-large-patch32-384"),
    "deit": Family(
        "DeiTBackbone", "Touvron et al. 2020", "Apache-2.0", f"{HUGGING_FACE}facebook/deit-base-distilled-patch16-224"
    ),
    "hgnetv2": Family("HGNetV2Backbone", "PaddleClas 2023", "Apache-2.0", f"{HUGGING_FACE}timm/hgnetv2_b5.ssld_stage2_ft_in1k"),
    "efficientnet": Family(
        "EfficientNetBackbone", "Tan, Le 2019", "Apache-2.0", f"{HUGGING_FACE}keras/efficientnet_b0_ra_imagenet"
    ),
    "mobilenet": Family(
        "MobileNetBackbone", "Howard et al. 2019", "Apache-2.0", f"{HUGGING_FACE}timm/mobilenetv3_small_100.lamb_in1k"
    ),
    "resnet": Family("ResNetBackbone", "He et al. 2015", "Apache-2.0", f"{HUGGING_FACE}keras/resnet_50_imagenet"),
    "cspnet": Family("CSPNetBackbone", "Wang et al. 2020", "Apache-2.0", f"{HUGGING_FACE}timm/cspdarknet53.ra_in1k"),
    "xception": Family("XceptionBackbone", "Chollet 2017", "Apache-2.0", f"{HUGGING_FACE}timm/xception41.tf_in1k"),
    "densenet": Family("DenseNetBackbone", "Huang et al. 2017", "BSD-3-Clause", f"{HUGGING_FACE}keras/densenet_121_imagenet"),
    "vgg": Family("VGGBackbone", "Simonyan, Zisserman 2015"),
}
# Presets whose weights have another licence than those of their family.
OTHER_LICENCES = {"medsiglip_900m_448": "Health AI Developer Foundations terms of use"}


class Preset(NamedTuple):
    """A preset of KerasHub.

    Attributes:
        family: a key of `FAMILIES`.
        parameters: their number; of SigLIP, with those of the network for text, which is not used.
        handle: where Kaggle has it, `keras/dinov2/keras/dinov2_small/1`.
        licence: see `Family`.
    """

    family: str
    parameters: int
    handle: str
    licence: str

    @property
    def page(self) -> str:
        """The page of its weights, where their licence stands."""
        return "https://www.kaggle.com/models/" + "/".join(self.handle.split("/")[:2])


def missing() -> str:
    """Return why KerasHub cannot be used: it is not installed, or in a version that is not known here; "" if it can."""
    try:
        version = importlib.metadata.version("keras-hub")
    except importlib.metadata.PackageNotFoundError:
        return f"KerasHub is not installed: {INSTALL}"
    return "" if version.startswith(KNOWN) else f"KerasHub {version} is installed, and {KNOWN}x is needed: {INSTALL}"


@cache
def presets() -> dict[str, Preset]:
    """Return KerasHub's presets of the known families, by name; none if it is not there. KerasHub is not loaded."""
    spec, found = importlib.util.find_spec("keras_hub"), {}
    for folder in (spec and spec.submodule_search_locations) or ():
        for family, one in FAMILIES.items():
            file = Path(folder, "src", "models", family, f"{family}_presets.py")
            for name, about in runpy.run_path(str(file))["backbone_presets"].items():
                handle = about["kaggle_handle"].removeprefix("kaggle://")
                found[name] = Preset(family, about["metadata"]["params"], handle, OTHER_LICENCES.get(name, one.licence))
    return found


def refuse_unusable_preset(config: Config) -> None:
    """Refuse what can be refused of `--backbone hub:NAME` without Keras and without a download.

    Raises:
        HeadstartError: KerasHub is not installed, there is no such preset or folder, or the images' size does not fit it.
    """
    if why := missing():
        raise HeadstartError(f"--backbone {config.backbone}: {why}")
    name, folder = config.backbone.removeprefix(HUB), hub_folder(config.backbone)
    if folder:
        if not Path(folder).expanduser().is_dir():
            raise HeadstartError(f"--backbone: there is no folder {folder}")
        refuse_size(config, described(config.backbone)[1])
    elif name not in presets():
        raise HeadstartError(
            f"--backbone: KerasHub has no backbone for images {name!r}{suggestion(name, presets())}\n"
            "`headstart backbones` lists them; the folder of a preset has a slash in it, such as hub:./mine"
        )


def refuse_size(config: Config, options: dict[str, Any]) -> None:
    """Refuse a size of images that is no multiple of the patches of a transformer, or too small."""
    for inner in ("vision_encoder", "config"):  # of SigLIP
        options = options[inner] if isinstance(options.get(inner), dict) else options
    patch, size = options.get("patch_size", 1), config.image_size
    patch = patch[0] if isinstance(patch, list) and patch else patch
    if not isinstance(patch, int) or patch < 1:
        raise HeadstartError(f"--backbone {config.backbone} has patches of {str(patch)[:50]!r}, which is no size")
    smallest = max(2 * patch, SMALLEST) // patch * patch
    if size < smallest:
        raise HeadstartError(f"--image-size {size} is too small for {config.backbone}, whose smallest is {smallest}")
    if size % patch:
        below = size // patch * patch
        raise HeadstartError(
            f"--image-size {size}: {config.backbone} divides images into patches of {patch} px: give {below} or {below + patch}"
        )


def described(backbone: str) -> tuple[str, dict[str, Any]]:
    """Return the family of a preset, and the options of its network, from its `config.json`.

    Raises:
        HeadstartError: the file cannot be downloaded, is damaged, or describes no network of a known family.
    """
    path = preset_file(backbone, CONFIG)
    content = parse_json(read_bytes(path, MOST_JSON), path)
    kind, options = (content.get("registered_name"), content.get("config")) if isinstance(content, dict) else (None, None)
    family = next((name for name, one in FAMILIES.items() if kind == f"keras_hub>{one.kind}"), "")
    if not family or not isinstance(options, dict):
        known = ", ".join(one.kind.removesuffix("Backbone") for one in FAMILIES.values())
        raise HeadstartError(f"{path} describes {str(kind)[:50]!r}, which cannot be used; those of KerasHub that can: {known}")
    return family, options


def converter(backbone: str) -> dict[str, Any]:
    """Return the options of a preset's `ImageConverter`, from its `image_converter.json`."""
    path = preset_file(backbone, CONVERTER)
    content = parse_json(read_bytes(path, MOST_JSON), path)
    options = content.get("config") if isinstance(content, dict) else None
    if not isinstance(options, dict):
        raise DamagedError(f"{path} is damaged: it describes no preprocessing")
    return options


def preset_file(backbone: str, file: str) -> Path:
    """Return the path of a file of a preset, which is downloaded if it is not there.

    Raises:
        HeadstartError: it cannot be downloaded, or is missing.
    """
    if name := hub_folder(backbone):
        folder = Path(name).expanduser()
        if not (folder / file).is_file():
            raise HeadstartError(f"{folder} is no preset of KerasHub: it has no {file}")
        return folder / file
    preset = presets()[backbone.removeprefix(HUB)]
    try:
        import kagglehub
    except ImportError:
        raise HeadstartError(f"--backbone {backbone} is downloaded by kagglehub, which is not installed: {INSTALL}") from None
    instead = f"bring the preset's folder from another machine (--backbone {HUB}FOLDER), or take --backbone starter"
    with explained_download(instead):
        try:
            return Path(kagglehub.model_download(preset.handle, file))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # of requests, of Kaggle's server, of its client
            why = f"{file} of {preset.page} cannot be downloaded: {first_line(error, 200)}"
            raise HeadstartError(f"{why}\nWithout it, {instead}") from None


def licence_of_preset(backbone: str) -> str:
    """Return the licence of a preset's weights: an SPDX identifier or a name, or where it stands."""
    preset = presets().get(backbone.removeprefix(HUB))
    if preset is None:
        return "that of the preset which you gave"
    return preset.licence or f"see its model card, {preset.page}"
