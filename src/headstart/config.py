"""The configuration of a training run: every option once, with its group, default, range and help.

The command line, the TOML file and the Python interface are all made from `Config`. Where a default was chosen and is not
merely the plainest value, `why` says for what reason.
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

from headstart.errors import DamagedError, HeadstartError
from headstart.system.files import read_bytes, written_whole
from headstart.system.remote import MOST_BYTES, public
from headstart.system.workers import wrong_address

# Smaller images give a backbone nothing to look at; larger ones do not fit memory.
SMALLEST_IMAGE, LARGEST_IMAGE = 8, 1024
# The largest output of a layer for one image, in values: 512 MB. VGG's first layers have 67 million at 1,024 px.
MOST_VALUES = 1 << 27
# What the name of a backbone of KerasHub begins with.
HUB = "hub:"
# What `fine_tune_from` calls all layers of a backbone, and those after its last downsampling.
ALL, LAST_STAGE = "all", "last-stage"
MOST_SEED = 2**31 - 1
# What `group` may be, beside a column and a pattern.
NO_GROUPS, SUBFOLDER = "none", "subfolder"
# What `head` may be.
AUTO, DENSE, LINEAR = "auto", "dense", "linear"
MOST_TOML = 1 << 20  # bytes of a file of options

# The time that `headstart tune` takes where none is given.
TUNE_BUDGET = "30m"

# Options that say only where a run lies, where it is computed, which server has a copy of its figures, and what a cache may take.
PLACES = ("out", "mlflow", "devices", "ray", "remote_cache")
# Options that no file of options keeps: a file from somebody else would trust itself, and a run goes on where it is resumed.
NOT_KEPT = ("trust", "devices", "ray")

# Options that were switched on or off in earlier versions, and what off and on have become.
FORMER_SWITCHES = {"class_weights": ("none", "balanced")}

# The groups of options, in the order of `Config`, each with what it is about.
RUN, DATA, NETWORK, AUGMENTATION = "run", "data", "network", "augmentation"
FROZEN_STAGE, FINE_TUNING, MACHINE, TRACKING = "frozen-stage", "fine-tuning", "machine", "tracking"
GROUPS = {
    RUN: "What to train, and where to write it.",
    DATA: "What to learn from, and how it is split.",
    NETWORK: "The pretrained network, its input, and the head on top of it.",
    AUGMENTATION: "Random changes of training images, at their own size.",
    FROZEN_STAGE: "First stage: the head learns on the features of a frozen backbone.",
    FINE_TUNING: "Second stage: backbone and head learn together.",
    MACHINE: "How this machine is used.",
    TRACKING: "Copies of the figures for other tools; the run's folder has them all.",
}


def option(
    group: str, default: Any, help: str, *, low: float | None = None, high: float | None = None, metavar: str = "", why: str = ""
) -> Any:
    """Return a field of `Config`.

    Args:
        group: a key of `GROUPS`.
        low: the least value of a number.
        high: its largest value.
        metavar: what stands for the value in help, if its type says too little.
        why: the reason for the default.
    """
    metadata = {"group": group, "help": help, "low": low, "high": high, "metavar": metavar, "why": why}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Everything that determines a training run.

    Raises:
        HeadstartError: a value has the wrong type, lies outside its range, or cannot be combined
            with another; the message names the option and what it accepts.
    """

    recipe: str = option(
        RUN, "quick", "sets the defaults of all other options: notebook, quick, standard, best, starter, laptop or scratch; "
        "`headstart recipes` compares them", metavar="RECIPE", why="minutes on two cores",
    )  # fmt: skip
    out: str = option(RUN, "", "folder to write the run to (default: runs/DATA-BACKBONE-RECIPE)", metavar="FOLDER")
    seed: int = option(RUN, 0, "seed of the split, the head's first weights, shuffling and augmentation", low=0, high=MOST_SEED)
    seeds: int = option(RUN, 1, "train this many runs on one split, with --seed and the numbers after it", low=1, high=1000)
    folds: int = option(
        RUN, 0, "for small data: divide all images into this many folds, and train a run for each, which is tested on that fold "
        "and trained on the others; 0: one split", low=0, high=100,
    )  # fmt: skip
    fold: int = option(RUN, -1, "of --folds, train this one alone, counted from 0; -1: all of them", low=-1, high=99)

    data: str = option(
        DATA, "cifar10", "cifar10, cifar100, digits; or the path of an image folder, of a table of files and labels (.csv, .tsv, "
        ".jsonl, .parquet), of an archive of these (.zip, .tar), or of CIFAR files; or an address of these, such as "
        "s3://bucket/photos", metavar="DATA",
    )  # fmt: skip
    layout: Literal["auto", "classes", "splits"] = option(
        DATA, "auto", "what the subfolders of an image folder are. classes: each is a class; splits: those named train, val or "
        "test are splits; auto: decided by what they hold",
    )  # fmt: skip
    label_pattern: str = option(
        DATA, "", "regular expression with a group named label, such as '(?P<label>cat|dog)_', which is searched in the path of "
        "each image below --data; what it finds there is the class", metavar="PATTERN",
    )  # fmt: skip
    file_column: str = option(DATA, "", "column of a table that names files (default: one with a usual name)", metavar="COLUMN")
    label_column: str = option(DATA, "", "column of a table with labels (default: one with a usual name)", metavar="COLUMN")
    group: str = option(
        DATA, "auto", "images that belong together, which no split tears apart: patients, videos, sites. A column of the table; "
        "subfolder: the first folder below that of the class; or a regular expression with a group named group, which is "
        "searched in the path of each image; auto: a table's column with a usual name, such as patient; none: no groups",
        metavar="{auto,none,subfolder,COLUMN,PATTERN}",
        why="images of one group are alike, so a test on groups that training has seen says nothing about new ones",
    )  # fmt: skip
    fit: Literal["auto", "crop", "squash", "pad"] = option(
        DATA, "auto", "how the images of a folder become square. crop: the centre is cut out; squash: the longer side is "
        "shortened; pad: margins are added; auto: crop for the shapes of photographs; for longer shapes squash if all images "
        "share one, else pad",
        why="a crop would cut off most of a long image; what all images share, squashing changes for all alike",
    )  # fmt: skip
    validation_fraction: float = option(
        DATA, 0.1, "fraction of the training images held out to choose the best epoch", low=0.01, high=0.5,
        why="5,000 images of CIFAR-10, whose accuracy has a standard error of 0.4 points at 90 %",
    )  # fmt: skip
    test_fraction: float = option(
        DATA, 0.2, "fraction of the images held out for the test, if the data have no test split", low=0.01, high=0.5,
        why="a tenth would make the interval of the accuracy 1.4 times as wide",
    )  # fmt: skip
    drop_duplicates: bool = option(
        DATA, False, "leave out of training every near-duplicate of a validation, test or other training image",
        why="the audit says how many there are; what becomes of them is the user's decision",
    )  # fmt: skip
    limit: int = option(
        DATA, 0, "use at most this many images (not groups) of each split, with --folds of all images; 0: all", low=0
    )
    split_seed: int = option(
        DATA, -1, "seed of the split and of cached random views; -1: the same as --seed", low=-1, high=MOST_SEED
    )

    backbone: str = option(
        NETWORK, "resnet50", "name of a backbone, which `headstart backbones` lists; path of a .keras file of a network without "
        "its classification layer; or hub:NAME, a backbone of KerasHub, and hub:FOLDER, a preset of your own",
        metavar="BACKBONE", why="the network of the founding notebook",
    )  # fmt: skip
    weights: str = option(
        NETWORK, "auto", "auto: the backbone's pretrained weights; imagenet: those of ImageNet; none: random ones, to train "
        "from scratch; or path of a weights file", metavar="WEIGHTS",
    )  # fmt: skip
    trust: bool = option(
        NETWORK, False, "load a .keras file with layers that may run code: of a kind that is not plain Keras; never kept in a "
        "file of options",
    )  # fmt: skip
    preprocess: Literal["auto", "caffe", "torch", "tf", "unit", "none"] = option(
        NETWORK, "auto", "how pixels are scaled for the backbone. auto: as in its pretraining; caffe, torch, tf: as in Keras' "
        "modes of these names; unit: to [0, 1]; none: left in 0 to 255",
        why="another scaling than that of the pretraining costs tens of points",
    )  # fmt: skip
    image_size: int = option(
        NETWORK, 64, "side in pixels to which images are resized for the backbone", low=SMALLEST_IMAGE, high=LARGEST_IMAGE,
        why="recipe quick on CIFAR-10: 77.8 % at 32 px, 88.6 % at 64, 91.6 % at 96, 93.0 % at 128, each for more time",
    )  # fmt: skip
    head: Literal["auto", "dense", "linear"] = option(
        NETWORK, AUTO, "dense: the head learns by Adam in epochs, with --hidden-units; linear: one layer, fitted at once by "
        "logistic regression; auto: up to 10,000 training images the better one on validation, else dense",
        why="CIFAR-10 with 10 images of each class: 67.4 % linear and 63.9 % dense; with all: 86.7 and 87.3 %",
    )  # fmt: skip
    hidden_units: int = option(
        NETWORK, 256, "units of the dense head's hidden layer; 0: one layer, by Adam all the same", low=0, high=65536
    )
    dropout: float = option(
        NETWORK, 0.2, "dropout rate before the head's hidden layer and before its output layer", low=0, high=0.9
    )

    flip: bool = option(
        AUGMENTATION, True, "mirror images left to right; switch it off for digits, text and whatever else has a direction",
        why="most photographs mean the same when mirrored; a run tries it, and stops it if it contradicts the labels",
    )  # fmt: skip
    rotation: float = option(AUGMENTATION, 0.02, "largest rotation, as a fraction of a full turn", low=0, high=0.5)
    zoom: float = option(AUGMENTATION, 0.1, "largest zoom in or out, as a fraction of the side", low=0, high=0.9)
    translation: float = option(AUGMENTATION, 0.1, "largest shift, as a fraction of the side", low=0, high=0.9)
    rand_augment: bool = option(
        AUGMENTATION, False, "RandAugment (Cubuk et al. 2020): two random colour or shape operations per image"
    )
    mix: Literal["none", "mixup", "cutmix"] = option(
        AUGMENTATION, "none", "in fine-tuning, blend pairs of images and their labels: MixUp (Zhang et al. 2018) or CutMix "
        "(Yun et al. 2019)", why="the recipes for two cores fine-tune on cached feature maps, of which images cannot be blended",
    )  # fmt: skip

    cache_features: bool = option(
        FROZEN_STAGE, True, "compute the frozen layers once per image and keep their features; off: again in every epoch",
        why="ten epochs of the head take seconds instead of ten passes of the backbone",
    )  # fmt: skip
    views: int = option(
        FROZEN_STAGE, 2, "versions of each training image to cache: the image itself, then its mirror image, then randomly "
        "augmented ones, as far as the augmentation makes any", low=1, high=64,
        why="mirror images raise the frozen stage of recipe quick on CIFAR-10 from 81.0 to 81.6 %, for twice the passes",
    )  # fmt: skip
    head_epochs: int = option(
        FROZEN_STAGE, 10, "epochs of the frozen stage", low=1, high=10_000, why="as in the founding notebook"
    )
    head_learning_rate: float = option(
        FROZEN_STAGE, 1e-3, "learning rate of Adam in the frozen stage", low=1e-8, high=10, why="Adam's own default"
    )

    epochs: int = option(FINE_TUNING, 2, "epochs of fine-tuning; 0: stop after the frozen stage", low=0, high=10_000)
    fewest_steps: int = option(
        FINE_TUNING, 0, "for small data sets: add epochs of fine-tuning until it has this many steps", low=0
    )
    learning_rate: float = option(FINE_TUNING, 3e-4, "peak learning rate of AdamW in fine-tuning", low=1e-8, high=10)
    warmup_steps: int = option(
        FINE_TUNING, 100, "warm-up steps before the cosine decay; if training has fewer than 5 times as many steps, the peak "
        "rate shrinks in proportion", low=0,
        why="Adam's first steps have their full size whatever the gradient, and would destroy pretrained weights",
    )  # fmt: skip
    weight_decay: float = option(
        FINE_TUNING, 0.01, "decoupled weight decay of AdamW", low=0, high=10, why="the default of PyTorch's AdamW"
    )
    layer_decay: float = option(
        FINE_TUNING, 1.0, "learning rate of the first layer's weights as a fraction of that of the last, growing geometrically "
        "in between; 1: one rate for all", low=1e-4, high=1,
    )  # fmt: skip
    label_smoothing: float = option(
        FINE_TUNING, 0.0, "probability taken from the label and spread evenly over all classes", low=0, high=0.9
    )
    class_weights: Literal["auto", "none", "root", "balanced"] = option(
        FINE_TUNING, "auto", "weight of each class in the loss of both stages. balanced: inverse to its frequency; root: to the "
        "square root of it; none: all alike; auto: none where classes are nearly even, else what finds most of every class on "
        "images left out in turn",
        why="400, 400 and 20 images: 1 to 6 points more macro recall, at most 1 less accuracy; even classes are left alone",
    )  # fmt: skip
    ema: float = option(
        FINE_TUNING, 0.0, "momentum of a moving average of the weights, which replaces them at the end; 0: none", low=0,
        high=0.99999,
    )  # fmt: skip
    patience: int = option(
        FINE_TUNING, 0, "end a stage after this many epochs without a better validation accuracy; 0: never", low=0,
        why="the best epoch is kept in any case, and the rates decay to the planned end",
    )  # fmt: skip
    fine_tune_from: str = option(
        FINE_TUNING, ALL, "all: fine-tune every layer; last-stage: those after the last downsampling; or the beginning of a "
        "layer's name: that layer and all after it. Unless all, the layers learn from cached feature maps", metavar="LAYER",
    )  # fmt: skip
    batch_norm: Literal["auto", "inference", "training"] = option(
        FINE_TUNING, "auto", "batch norm in fine-tuning. inference: with the statistics it has; training: it learns; auto: "
        "inference, but training from scratch",
        why="with small batches, training mode soon overwrites the pretrained statistics",
    )  # fmt: skip

    batch_size: int = option(MACHINE, 64, "images per training step", low=1, high=65536)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        MACHINE, "auto", "precision of the backbone. auto: bfloat16 if this machine is faster with it, else float32"
    )
    devices: str = option(
        MACHINE, "all", "what fine-tuning computes on, with JAX: all GPUs of this machine; so many of them; or cluster, those of "
        "all processes that srun, torchrun and the like have started together; never kept in a file of options",
        metavar="{all,cluster,N}", why="the result is the same to rounding, so whoever has several GPUs need not know",
    )  # fmt: skip
    ray: str = option(
        MACHINE, "", "let the workers of a Ray cluster compute the features of the frozen stage: local, on this machine, which "
        "is meant without an address; auto, HOST:PORT or ray://HOST:PORT; never kept in a file of options", metavar="ADDRESS",
    )  # fmt: skip
    budget: str = option(
        MACHINE, "", "end within this time, such as 90s, 20m or 1.5h: image size, epochs and views, where you do not give "
        "them, are chosen by how fast this machine is", metavar="TIME",
    )  # fmt: skip
    remote_cache: int = option(
        MACHINE, MOST_BYTES // 10**9, "GB of disk for copies of files from addresses such as s3://; those used least recently go",
        low=0, high=100_000, why="200,000 photographs of 100 kB; what does not fit is fetched again when it is looked at",
    )  # fmt: skip
    deterministic: bool = option(
        MACHINE, False, "use only operations whose results are the same to the last bit in every run", why="they are slower"
    )

    tensorboard: bool = option(TRACKING, False, "write event files for TensorBoard to the run's folder tensorboard")
    mlflow: str = option(
        TRACKING, "", "log to the MLflow server of this address, such as http://localhost:5000", metavar="ADDRESS"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        object.__setattr__(self, "data", public(self.data))  # no run, log or error has credentials
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
    def learns_on_images(self) -> bool:
        """Whether images pass through the network in every epoch, and not only their cached features and feature maps."""
        return not self.keeps_features or (self.epochs > 0 and self.fine_tune_from == ALL)

    @property
    def data_seed(self) -> int:
        """What the splits and the cached random views are drawn by."""
        return self.seed if self.split_seed == -1 else self.split_seed

    @property
    def divided(self) -> bool:
        """Whether this is a training of all folds, and not of one of them."""
        return self.folds > 0 and self.fold < 0

    @property
    def runs(self) -> int:
        """How many runs are trained: one for each seed or fold."""
        return self.folds if self.divided else self.seeds

    @property
    def run_names(self) -> list[str]:
        """The names of the folders of several runs, within the folder of all; none for a single run."""
        if self.divided:
            return [f"fold-{fold}" for fold in range(self.folds)]
        return [f"seed-{seed}" for seed in range(self.seed, self.seed + self.seeds)] if self.seeds > 1 else []

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


def checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return `value` in the type of `field`, or say what the option accepts."""
    if type(value) is bool and field.name in FORMER_SWITCHES:
        value = FORMER_SWITCHES[field.name][value]
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
        (config.backbone.startswith(HUB) and config.weights not in ("auto", "none"),
         "a backbone of KerasHub brings its own weights: leave out --weights"),
        (config.backbone == "starter" and config.weights == "imagenet",
         "the starter backbone was not trained on ImageNet: leave out --weights, or take --backbone resnet50"),
        (config.drop_duplicates and (config.from_scratch or not config.cache_features),
         "--drop-duplicates needs cached features of a pretrained backbone: leave out --weights none and --no-cache-features"),
        (config.head == LINEAR and (config.from_scratch or not config.cache_features),
         "--head linear learns from cached features of a pretrained backbone: leave out --weights none and --no-cache-features"),
        (config.epochs == 0 and config.mix != "none",
         f"--mix {config.mix} acts in fine-tuning, and --epochs 0 leaves it out"),
        (config.fine_tune_from != ALL and config.cache_features and config.mix != "none",
         f"--mix {config.mix} blends images, and --fine-tune-from {config.fine_tune_from} learns on cached maps: "
         "give --fine-tune-from all, or --no-cache-features"),
        (bool(re.search(r"//[^/]*:[^/]*@", config.mlflow)),
         "--mlflow is kept in the run, so it must hold no password: give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (not re.fullmatch("all|cluster|[1-9][0-9]{0,3}", config.devices),
         f"--devices {config.devices!r} is none of what it accepts: all, cluster, or a number such as 2"),
        (config.devices == "cluster" and bool(config.budget),
         "--budget measures one machine, so it cannot foresee a cluster: leave out --budget or --devices cluster"),
        (bool(wrong := wrong_address(config.ray)), wrong),
        (bool(config.ray) and not config.keeps_features,
         "--ray computes the cached features of a pretrained backbone: leave out --weights none and --no-cache-features"),
        (bool(config.ray) and bool(config.budget),
         "--budget measures one machine, so it cannot foresee a cluster: leave out --budget or --ray"),
        (bool(config.ray) and config.devices == "cluster",
         "--ray has workers of its own, and --devices cluster other processes: leave one of them out"),
        (config.seed + config.seeds - 1 > MOST_SEED,
         f"--seeds {config.seeds} from --seed {config.seed} go beyond {MOST_SEED}: lower --seed"),
        (config.folds == 1,
         "--folds 1 leaves nothing to train on: give 2 or more, 5 for example"),
        (config.folds > 0 and config.seeds > 1,
         "--seeds trains on one split, and --folds on several: leave one of them out"),
        (config.fold >= 0 and config.fold >= config.folds,
         f"--fold {config.fold} is none of --folds {config.folds}, which are counted from 0"
         if config.folds else f"--fold {config.fold} is one of several: say of how many with --folds"),
        (config.label_pattern != "" and (config.file_column or config.label_column) != "",
         "--label-pattern reads labels from the names of files, and --label-column from a table: leave one of them out"),
        (bool(wrong := config.label_pattern and wrong_pattern(config.label_pattern, "label")),
         f"--label-pattern {wrong}"),
        (not config.group,
         "--group is empty: give a column, subfolder, a pattern, or none"),
        (bool(wrong := "" if names_column(config.group) else wrong_pattern(config.group, "group")),
         f"--group {wrong}"),
    ]:  # fmt: skip
        if impossible:
            raise HeadstartError(why)


def names_column(group: str) -> bool:
    """Whether the option `group` is the name of a column, and not a pattern or a word with a meaning of its own."""
    return group not in ("", AUTO, NO_GROUPS, SUBFOLDER) and "(?P<" not in group


def wrong_pattern(pattern: str, name: str) -> str:
    """Return what is wrong with a regular expression that needs a named group; "" for one that is right, or for a plain word."""
    if "(?P<" not in pattern and name == "group":
        return ""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        place = f" at character {error.pos + 1}" if error.pos is not None else ""
        return f"{pattern!r} is no regular expression: {error.msg}{place}"
    if name not in compiled.groupindex:
        return f"{pattern!r} has no group named {name}: put (?P<{name}>...) around the part of the path that is the {name}"
    return ""


def refuse_unsearchable(config: Config) -> None:
    """Refuse options with which `headstart tune` cannot search.

    Raises:
        HeadstartError: the message names the option.
    """
    for impossible, why in [
        (config.from_scratch, "--weights none leaves no pretrained backbone to choose: leave it out"),
        (not config.cache_features, "tune learns on cached features: leave out --no-cache-features"),
        (config.seeds > 1, f"--seeds {config.seeds}: tune trains its winner once; leave it out, and train with the winner's "
         "config.toml and --seeds afterwards"),
        (config.folds > 0, "--folds divides the images in several ways, and tune compares trials on one split: leave it out"),
        (config.devices == "cluster", "tune runs in one process: leave out --devices cluster"),
        (bool(config.ray), "tune measures this machine, to end in time: leave out --ray"),
    ]:  # fmt: skip
        if impossible:
            raise HeadstartError(why)


def budget_seconds(budget: str) -> float:
    """Return the seconds of a time such as `90s`, `20m` or `1.5h`; 0 where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0


def hub_folder(backbone: str) -> str:
    """Return the folder in `hub:FOLDER`, in which there is a slash; "" for the name of a preset, or any other backbone."""
    name = backbone.removeprefix(HUB)
    return name if name != backbone and re.search(r"[/\\]|^~", name) else ""


def option_name(field_name: str) -> str:
    """Return the option of a field: `image_size` is `--image-size`."""
    return "--" + field_name.replace("_", "-")


def range_text(field: dataclasses.Field[Any]) -> str:
    """Return the range of a number as text, `8 to 1024`, or an empty string."""
    low, high = (
        end if isinstance(end, int) or end is None else f"{end:g}" for end in (field.metadata["low"], field.metadata["high"])
    )
    if low is None:
        return ""
    return f"{low} or more" if high is None else f"{low} to {high}"


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or the known names where none is near and they are few."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1) or [name for name in known if wrong and name.startswith(wrong)]
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(known)}" if len(known) <= 12 else ""


def replace(config: Config, /, **changes: Any) -> Config:
    """Return `config` with some options changed; an unknown one is refused with a suggestion."""
    known = [field.name for field in dataclasses.fields(Config)]
    for name in changes:
        if name not in known:
            raise HeadstartError(f"there is no option {name!r}{suggestion(name, known)}")
    return dataclasses.replace(config, **changes)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options that a TOML file sets.

    Raises:
        HeadstartError: there is no such file, or it is no TOML.
    """
    try:
        # Paths that are no UTF-8 stand in it as they are; an editor may have marked it as UTF-8 at its beginning.
        options = tomllib.loads(read_bytes(path, MOST_TOML).decode("utf-8-sig", errors="surrogateescape"))
    except FileNotFoundError:
        raise HeadstartError(f"there is no configuration file {path}") from None
    except RecursionError:
        raise DamagedError(f"{path} is not TOML: its entries are nested too deeply") from None
    except ValueError as error:
        raise DamagedError(f"{path} is not TOML: {error}") from None
    if "trust" in options:  # a file from somebody else would trust itself
        raise HeadstartError(f"{path} sets trust, which only the command line can: remove it, and give --trust")
    return options


def write_toml(config: Config, path: Path) -> None:
    """Write `config` as a TOML file that `read_toml` gives back unchanged, without the options of `NOT_KEPT`."""
    with written_whole(path) as partial:
        partial.write_text(toml(dataclasses.asdict(config)), encoding="utf-8", errors="surrogateescape")


def toml(options: dict[str, Any]) -> str:
    """Return options as TOML, a line for each; without those of `NOT_KEPT`."""
    # JSON's scalars are TOML's, but for characters that JSON writes as two halves, or need not escape.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in options.items() if name not in NOT_KEPT]
    return "".join(lines).replace("\x7f", "\\u007f")
