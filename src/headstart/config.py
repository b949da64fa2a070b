"""The configuration of a training run: every option once, with its default, range and reason.

The command line, the TOML file and the Python interface are all made from `Config`.
"""

import dataclasses
import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from headstart.errors import HeadstartError
from headstart.system.files import written_whole

# Source smaller than this give a backbone nothing to look at; larger ones do not fit memory.
SMALLEST_IMAGE, LARGEST_IMAGE = 8, 1024
# What `fine_tune_from` calls all layers of a backbone, and those after its last downsampling.
ALL, LAST_STAGE = "all", "last-stage"
MOST_SEED = 2**31 - 1


def option(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A field of `Config` with its help and, for a number, the range it must lie in."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class Config:
    """Everything that determines a training run.

    Raises:
        HeadstartError: a value has the wrong type, lies outside its range, or cannot be combined
            with another; the message names the option and what it accepts.
    """

    # What to learn from
    data: str = option("cifar10", "cifar10, cifar100, digits, or the path of an image folder or CIFAR files")
    out: str = option("", "folder of the run; empty: runs/DATA-BACKBONE-RECIPE")
    recipe: str = option(
        "quick", "recipe that sets the other defaults: notebook, quick, standard, best, starter, laptop, scratch"
    )
    layout: Literal["auto", "classes", "splits"] = option(
        "auto",
        "what the folders of an image folder are; classes: each is one; splits: those called train, val or test are "
        "splits; auto: by what they hold",
    )
    fit: Literal["auto", "crop", "squash", "pad"] = option(
        "auto",
        "how images of a folder become square; auto: photographs are cropped to their centre, longer ones squashed "
        "where they share a shape and padded where they do not",
    )
    validation_fraction: float = option(0.1, "part of the training images held out to choose the best epoch", 0.01, 0.5)
    test_fraction: float = option(0.2, "part held out for the test where the source has no test split", 0.01, 0.5)
    drop_duplicates: bool = option(
        False, "leave images out of training that nearly equal one of validation, the test or training"
    )
    limit: int = option(0, "use at most this many images of each part; 0: all", 0)
    seed: int = option(0, "seed of the splits, the head, the shuffling and the augmentation", 0, MOST_SEED)
    split_seed: int = option(-1, "seed of the splits and of cached random views, if not --seed; -1: --seed", -1, MOST_SEED)
    seeds: int = option(1, "train this many runs, with --seed and the numbers after it, on one split", 1, 1000)

    # The network
    backbone: str = option("resnet50", "name of a registered backbone, or the path of a .keras file without top")
    weights: str = option("auto", "auto: the backbone's pretrained ones; imagenet; none: from scratch; or a weights file")
    preprocess: Literal["auto", "caffe", "torch", "tf", "unit", "none"] = option(
        "auto", "what the backbone wants to be fed; auto: what its family was trained with; unit: [0, 1]; none: 0..255"
    )
    image_size: int = option(64, "side in pixels to which images are enlarged for the backbone", SMALLEST_IMAGE, LARGEST_IMAGE)
    hidden_units: int = option(256, "units of the head's hidden layer; 0: a linear head", 0, 65536)
    dropout: float = option(0.2, "dropout before the hidden layer and before the classes", 0, 0.9)

    # Augmentation, in training only, at the data's own size
    flip: bool = option(True, "mirror images left to right (switch it off for digits and text)")
    rotation: float = option(0.02, "largest rotation, as a part of a full turn", 0, 0.5)
    zoom: float = option(0.1, "largest zoom in or out, as a part of the side", 0, 0.9)
    translation: float = option(0.1, "largest shift, as a part of the side", 0, 0.9)
    rand_augment: bool = option(False, "RandAugment (Cubuk et al. 2020): two random colour and shape operations an image")
    mix: Literal["none", "mixup", "cutmix"] = option("none", "blend pairs of images and their labels while fine-tuning")

    # Frozen stage: the head learns on the features of a backbone that stays as it is
    cache_features: bool = option(True, "pass each image once through what is frozen; off: at every epoch, as tutorials do")
    views: int = option(2, "versions of a training image to cache: itself, its mirror image, then random ones, as far as the "
                           "augmentation makes any", 1, 64)  # fmt: skip
    head_epochs: int = option(10, "epochs of the frozen stage", 1, 10_000)
    head_learning_rate: float = option(1e-3, "Adam's learning rate in the frozen stage", 1e-8, 10)

    # Fine-tuning
    epochs: int = option(2, "epochs of fine-tuning; 0: stop after the frozen stage", 0, 10_000)
    fewest_steps: int = option(0, "add epochs of fine-tuning until there are this many steps, for few images", 0)
    learning_rate: float = option(3e-4, "AdamW's highest learning rate in fine-tuning", 1e-8, 10)
    warmup_steps: int = option(100, "steps in which the rate rises to it, before it falls as a cosine; fewer than 5 times "
                               "as many steps in all lower the highest rate in proportion", 0)  # fmt: skip
    weight_decay: float = option(0.01, "AdamW's decoupled weight decay", 0, 10)
    layer_decay: float = option(1.0, "learning rate of the first layer as a part of the last one's", 1e-4, 1)
    label_smoothing: float = option(0.0, "probability taken from the label and spread over all classes", 0, 0.9)
    class_weights: bool = option(False, "weigh classes inversely to their frequency, in both stages")
    ema: float = option(0.0, "momentum of an average of the weights that replaces them at the end; 0: none", 0, 0.99999)
    patience: int = option(0, "stop after this many epochs without a better validation accuracy; 0: never", 0)
    fine_tune_from: str = option(ALL, "what to unfreeze: all; last-stage: what follows the last downsampling; or from the "
                                 "first layer on whose name starts so. Unless all, on cached maps")  # fmt: skip
    batch_norm: Literal["auto", "inference", "training"] = option(
        "auto", "batch norm in fine-tuning; auto: inference, and training only from scratch"
    )

    # The machine
    batch_size: int = option(64, "images a training step", 1, 65536)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "what the backbone computes in; auto: bfloat16 where the machine is faster with it"
    )
    budget: str = option("", "time to end within, such as 90s, 20m or 1.5h: chooses image size, epochs and views, those that "
                             "are not given, by what they take on this machine")  # fmt: skip
    deterministic: bool = option(False, "only operations whose result is the same to the last bit every time")

    # Copies of the figures for other tools; what counts is the run folder
    tensorboard: bool = option(False, "write event files for TensorBoard into the run's folder tensorboard")
    mlflow: str = option("", "log to the MLflow server of this address too, such as http://localhost:5000")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        if not (self.rotation or self.zoom or self.translation or self.rand_augment):
            object.__setattr__(self, "views", min(self.views, 2 if self.flip else 1))  # there are no others
        refuse_impossible(self)

    @property
    def from_scratch(self) -> bool:
        """Whether the backbone starts from random weights, so that there is no frozen stage."""
        return self.weights == "none"

    @property
    def keeps_features(self) -> bool:
        """Whether the features of a pretrained backbone are computed once and kept, for the head and for the audit."""
        return self.cache_features and not self.from_scratch

    @property
    def data_seed(self) -> int:
        """What the splits and the cached random views are drawn by."""
        return self.seed if self.split_seed == -1 else self.split_seed

    @property
    def learns_batch_norm(self) -> bool:
        """Whether batch norm runs in training mode while the backbone is trained."""
        return self.batch_norm == "training" or self.from_scratch

    @property
    def adapts_batch_norm(self) -> bool:
        """Whether batch norm takes over the images' statistics before the frozen stage.

        It does where it learns from them later; not with --no-cache-features, the plain way, which is there to be compared with.
        """
        return self.learns_batch_norm and not self.from_scratch and self.cache_features and self.epochs > 0


def checked(field: dataclasses.Field, value: Any) -> Any:
    """Return `value` in the type of `field`, or say what the option accepts."""
    name, choices = option_name(field.name), get_args(field.type)
    wanted = type(field.default)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise HeadstartError(f"{name} wants {wanted.__name__}, not {value!r}")
    if isinstance(value, str) and "\0" in value:
        raise HeadstartError(f"{name} holds a zero byte, which no path or name can")
    if choices and value not in choices:
        raise HeadstartError(f"{name} does not know {value!r}{suggestion(str(value), choices)}")
    low, high = field.metadata["low"], field.metadata["high"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise HeadstartError(f"{name} is {value}, outside its range: {range_text(field)}")
    return value


def refuse_impossible(config: Config) -> None:
    """Refuse options that contradict each other, before anything slow starts."""
    for impossible, why in [
        (bool(config.budget) and not budget_seconds(config.budget),
         f"--budget {config.budget!r} is no time: give seconds, minutes or hours, such as 90s, 20m or 1.5h"),
        (config.from_scratch and config.epochs == 0,
         "--weights none has no frozen stage, so --epochs 0 trains nothing: give --epochs 1 or more"),
        (config.from_scratch and config.fine_tune_from != ALL,
         f"--weights none trains every layer, and --fine-tune-from is {config.fine_tune_from}: give --fine-tune-from all"),
        (config.from_scratch and config.batch_norm == "inference",
         "--weights none must learn its batch norm: leave out --batch-norm inference"),
        (config.backbone.endswith(".keras") and config.weights not in ("auto", "none"),
         "a .keras backbone brings its own weights: leave out --weights"),
        (config.backbone == "starter" and config.weights == "imagenet",
         "the starter backbone was not trained on ImageNet: leave out --weights, or take --backbone resnet50"),
        (config.drop_duplicates and (config.from_scratch or not config.cache_features),
         "--drop-duplicates needs cached features of a pretrained backbone: leave out --weights none and --no-cache-features"),
        (config.epochs == 0 and config.mix != "none",
         f"--mix {config.mix} acts in fine-tuning, and --epochs 0 leaves it out"),
        (config.fine_tune_from != ALL and config.cache_features and config.mix != "none",
         f"--mix {config.mix} blends images, and --fine-tune-from {config.fine_tune_from} learns on cached maps: "
         "give --fine-tune-from all, or --no-cache-features"),
        (bool(re.search(r"//[^/]*:[^/]*@", config.mlflow)),
         "--mlflow is kept in the run, so it must hold no password: give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (config.seed + config.seeds - 1 > MOST_SEED,
         f"--seeds {config.seeds} from --seed {config.seed} go beyond {MOST_SEED}: lower --seed"),
    ]:  # fmt: skip
        if impossible:
            raise HeadstartError(why)


def budget_seconds(budget: str) -> float:
    """Return the seconds of a time such as `90s`, `20m` or `1.5h`; 0 where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0


def option_name(field_name: str) -> str:
    """Return a field's name as it is typed: `image_size` is `--image-size`."""
    return "--" + field_name.replace("_", "-")


def range_text(field: dataclasses.Field) -> str:
    """Return the range of a number as text, `8 to 1024`, or an empty string."""
    low, high = field.metadata["low"], field.metadata["high"]
    if low is None:
        return ""
    return f"{low:g} or more" if high is None else f"{low:g} to {high:g}"


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or the known names where none is near and they are few."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1) or [name for name in known if wrong and name.startswith(wrong)]
    if near:
        return f"; did you mean {near[0]}?"
    return f"; it knows {', '.join(known)}" if len(known) <= 12 else ""


def replace(config: Config, /, **changes: Any) -> Config:
    """Return `config` with some options changed; an unknown one is refused with a suggestion."""
    known = [field.name for field in dataclasses.fields(Config)]
    for name in changes:
        if name not in known:
            raise HeadstartError(f"there is no option {name!r}{suggestion(name, known)}")
    return dataclasses.replace(config, **changes)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options that a TOML file sets."""
    try:
        # Paths that are no UTF-8 stand in it as they are; an editor may have marked it as UTF-8 at its beginning.
        return tomllib.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except FileNotFoundError:
        raise HeadstartError(f"there is no configuration file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise HeadstartError(f"{path} is not TOML: {error}") from None


def write_toml(config: Config, path: Path) -> None:
    """Write `config` as a TOML file that `read_toml` gives back unchanged."""
    # JSON's scalars are TOML's, but for characters that JSON writes as two halves, or need not escape.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in dataclasses.asdict(config).items()]
    with written_whole(path) as partial:
        partial.write_text("".join(lines).replace("\x7f", "\\u007f"), encoding="utf-8", errors="surrogateescape")
