"""Choose the trials of `headstart tune`: which backbones and options, on how many images, by what they cost on this machine."""

import dataclasses
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import ALL, AUTO, DATA, DENSE, LAST_STAGE, MACHINE, RUN, TRACKING, Config, replace
from headstart.data.dataset import Dataset
from headstart.data.source import TRAIN, VALIDATION
from headstart.data.splits import folds_by_class, stratified_subset
from headstart.errors import HeadstartError
from headstart.metrics.heads import MOST_LINEAR
from headstart.model.registry import BACKBONES, refuse_unusable
from headstart.plan.budget import REFERENCE_SIZES, own_way, sizes_for, worth_measuring
from headstart.plan.costs import Costs, NotMeasured, costs_at, load_costs, measured, save_costs
from headstart.plan.estimate import MARGIN, duration, fit_memory, predict
from headstart.recipes import RECIPES
from headstart.record.schema import Rung
from headstart.system.memory import available_memory
from headstart.system.text import count

logger = logging.getLogger("headstart")

# The share of the budget that the winner's training gets, and the share that measuring this machine may take.
WINNERS_SHARE, MEASURING_SHARE = 1 / 2, 1 / 8
# What a measurement is expected to take before there was one, in seconds: the starter takes 20, a ResNet-50 60.
MEASURING = 30.0
# What the report and the model's files take where no run has told it yet, in seconds.
REPORT = 15.0
# Fewer images than these tell too little: so many of each class, and so many in all.
OF_EACH_CLASS, FEWEST = 10, 200
# On so many images it is tested whether mirror images contradict the labels, where no trial was made before.
FEWEST_FOR_MIRROR = 1000
# The first two rungs need no more validation images: their standard error is 1 point at 80 %.
MOST_SCORED = 2000
# With fewer, which is a standard error of 2 points, trials are made in folds if there is time. Of a folder of 241 photographs,
# 19 were for validation, and two trials had them all right. A trial has its share of the steps, so three folds take twice the
# time of one split, and two folds take no more.
ENOUGH_SCORED, FOLDS = 400, (3, 2)
# How many backbones and sizes are looked at more closely, and how many of their variants at the end.
SURVIVORS, FINALISTS = 3, 2
# The most training images of each rung: so many, or this share of all.
MOST_IMAGES = ((1000, 1 / 4), (2000, 1 / 2), (0, 1.0))
# Rather than fewer trials than these, a rung has fewer images.
WANTED = (1000, 8, 5)
# The learning rate as a multiple of the configured one.
RATES = {"x 1": 1.0, "x 3": 3.0, "x 1/3": 1 / 3}
NOTHING, TWO_STAGES = "nothing", "last two stages"
# How the log and the page call what is compared.
BACKBONE, SIZE, UNFROZEN, RATE, LENGTH, AUGMENTATION = (
    "backbone", "image size", "what is unfrozen", "learning rate", "epochs", "augmentation",
)  # fmt: skip
TITLES = ("backbone and image size", "what is unfrozen, and its learning rate", "augmentation and epochs")
# Options that a search changes.
SEARCHED = (
    "backbone", "image_size", "fine_tune_from", "epochs", "fewest_steps", "learning_rate", "views", "flip", "rand_augment", "mix",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """Options that are tried.

    Attributes:
        config: the options as a training on all images would have them.
        choices: what distinguishes it from others, in words, by what is compared.
    """

    config: Config
    choices: dict[str, str]

    def __str__(self) -> str:
        return ", ".join(shown_choices(self.choices))

    def changed(self, choices: dict[str, str], **options: Any) -> "Candidate":
        """Return it with some options changed.

        Raises:
            HeadstartError: these options cannot be combined.
        """
        return Candidate(replace(self.config, **options), self.choices | choices)


def shown_choices(choices: dict[str, str]) -> list[str]:
    """Return what distinguishes a trial from others, without what is as usual."""
    usual = {RATE: "x 1", LENGTH: "x 1", AUGMENTATION: "as configured"}
    words = {RATE: "rate {}", LENGTH: "epochs {}", UNFROZEN: "{} unfrozen"}
    return [words.get(name, "{}").format(value) for name, value in choices.items() if usual.get(name) != value]


def options_of(config: Config) -> dict[str, Any]:
    """Return the options of a configuration that a search changes."""
    return {name: getattr(config, name) for name in SEARCHED}


def local_backbones(config: Config, explicit: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the backbones to try, and a line for each one or group of them that says why it is tried or not.

    Without an explicit one, those are tried whose weights are on this machine: nothing is downloaded.
    """
    if {"backbone", "weights"} & set(explicit) or config.backbone not in BACKBONES:
        return [config.backbone], [f"{config.backbone} is tried, since it was given"]
    downloaded = downloaded_backbones()
    tried, lines = [], []
    for name, one in BACKBONES.items():
        if not one.factory or name in downloaded:
            tried.append(name)
            where = "were downloaded before" if one.factory else "come with a package"
            lines.append(f"{name} is tried: its weights {where}")
    # The smallest first: it is measured first, and its trials are the cheapest.
    tried.sort(key=lambda name: BACKBONES[name].parameters)
    lines.append(
        f"{len(BACKBONES) - len(tried)} backbones are not tried, whose weights would have to be downloaded: "
        "--backbone NAME tries one of them"
    )
    return tried, lines


def downloaded_backbones() -> set[str]:
    """Return the registered backbones whose weights lie in Keras' cache."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    found = set()
    for file in folder.glob("*no*top*.h5"):
        plain = re.sub("[^a-z0-9]", "", file.name.lower())
        if names := [name for name in BACKBONES if name in plain]:
            found.add(max(names, key=len))
    return found


def with_backbone(config: Config, backbone: str, explicit: Collection[str]) -> Config:
    """Return the configuration with a backbone, as this machine's device has it.

    A backbone that has a recipe of its own gets the recipe's options, unless a recipe is explicit; explicit options stay.

    Raises:
        HeadstartError: the explicit options cannot be combined with it.
    """
    own = next((one for one in (make() for make in RECIPES.values()) if one.backbone == backbone and one.keeps_features), None)
    if own is None or config.backbone == backbone or "recipe" in explicit:
        return own_way(replace(config, backbone=backbone), explicit)
    groups = {one.name for one in dataclasses.fields(Config) if one.metadata["group"] in (RUN, DATA, MACHINE, TRACKING)}
    kept = (groups - {"recipe", "batch_size"} | set(explicit)) - {"backbone"}
    return own_way(replace(own, **{name: getattr(config, name) for name in kept}), explicit)


class Prices:
    """What trainings and trials take on this machine.

    A backbone is measured once, with every layer unfrozen: that is the most that any part of it takes. Parts are measured as
    well, as long as measuring takes no more than its share. Trials that are done correct what is expected of the next ones.

    Args:
        data: the whole data set.
        bases: the configuration of each backbone.
        allowance: seconds that measuring may take.
    """

    def __init__(self, data: Dataset, bases: dict[str, Config], allowance: float) -> None:
        self.data, self.bases, self.allowance, self.spent = data, bases, allowance, 0.0
        self.known: dict[tuple[str, str], dict[int, Costs]] = {}
        self.taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self.longest = MEASURING
        self.features: set[tuple[Any, ...]] = set()

    def measure(self, config: Config, sizes: Collection[int], *, anew: bool = True) -> None:
        """Measure a configuration, unless it is known or its part would take too long to measure.

        Args:
            sizes: image sizes that are wanted.
            anew: measure parts that were not measured before.

        Raises:
            HeadstartError: bad input, with the message of the training; or nothing could be measured.
        """
        part = config.fine_tune_from if config.epochs else ALL
        base = self.bases[config.backbone]
        canonical = replace(base, fine_tune_from=part, epochs=max(base.epochs, min(1, config.epochs)))
        costs = self.known.get((config.backbone, part)) or load_costs(canonical, self.data)
        sizes = sorted(set(sizes))
        if len(sizes) > 2:
            sizes = list(REFERENCE_SIZES)
        if not set(sizes) <= costs.keys() and len(costs) < 2:
            bounded = (config.backbone, ALL) in self.known
            if bounded and not anew:
                return
            if self.known and self.spent + self.longest > self.allowance:
                if bounded:
                    return
                raise NotMeasured(f"to measure it would take more than {duration(self.allowance - self.spent)}")
            begin = time.monotonic()
            costs = measured(canonical, self.data, sizes)
            took = time.monotonic() - begin
            self.spent += took
            self.longest = took if not self.known else max(took, self.longest)
        self.known[config.backbone, part] = costs

    def costs(self, config: Config) -> Costs:
        """Return the costs of a measured configuration, or of its backbone with every layer unfrozen."""
        part = config.fine_tune_from if config.epochs else ALL
        return costs_at(self.known.get((config.backbone, part)) or self.known[config.backbone, ALL], config.image_size)

    def exact(self, config: Config) -> bool:
        """Whether a configuration was measured itself, and not only its backbone with every layer unfrozen."""
        return not config.epochs or (config.backbone, config.fine_tune_from) in self.known

    def correction(self, config: Config) -> float:
        """Return what trials with the same backbone and unfrozen layers took, as a multiple of what was expected."""
        key = config.backbone, config.fine_tune_from if config.epochs else NOTHING
        pairs = self.taken.get(key, [])
        ratio = sum(took for took, _ in pairs) / max(1e-9, sum(expected for _, expected in pairs)) if pairs else 1.0
        # A trial is short, and much of it is preparation: where it was faster than expected, a long training need not be.
        return min(4.0, max(ratio, 1.0 if self.exact(config) else 0.25))

    def training(self, config: Config, *, corrected: bool = True) -> float:
        """Return how long a whole training takes, in seconds: infinitely long if it does not fit the memory.

        Args:
            corrected: by what trials took, which differs each time.
        """
        cost = self.costs(config)
        try:
            prediction = predict(fit_memory(config, self.data, cost), self.data, cost)
        except NotMeasured:
            return math.inf
        if prediction.memory > available_memory():
            return math.inf
        # What was not measured is, when it is trained.
        measuring = 0.0 if not corrected or self.exact(config) or not worth_measuring(config, self.data) else self.longest
        correction = self.correction(config) if corrected else 1.0
        return prediction.total * correction + measuring + (0.0 if "report" in cost else REPORT)

    def trial(self, config: Config, data: Dataset, seen: set[tuple[Any, ...]]) -> float:
        """Return how long a trial takes, in seconds, without what was found by earlier ones.

        Args:
            config: as the trial has it, see `as_tried`.
            data: of the trial.
            seen: features that are there, to which this trial's are added.
        """
        files = feature_files(config, data)
        missing = [number for key, number in files.items() if key not in seen]
        seen |= files.keys()
        seconds = predict(config, data, self.costs(config), missing=missing).seconds
        return sum(value for name, value in seconds.items() if name not in ("audit", "results"))

    def learn(self, config: Config, took: float, expected: float) -> None:
        """Remember how long a trial took, and how long it was expected to take before any correction."""
        self.taken.setdefault((config.backbone, config.fine_tune_from if config.epochs else NOTHING), []).append((took, expected))

    def save(self, config: Config) -> None:
        """Let the planning of a training find what was measured for it, so that it does not measure again."""
        known = self.known.get((config.backbone, config.fine_tune_from))
        if known and config.epochs:
            save_costs(config, self.data, known | load_costs(config, self.data))


def feature_files(config: Config, data: Dataset) -> dict[tuple[Any, ...], int]:
    """Return a name for each file of features that a trial reads, with the number of its images."""
    cut = config.fine_tune_from if config.epochs and config.fine_tune_from != ALL else ""
    common = (config.backbone, config.image_size, cut)
    views = {(*common, "training", len(data.train), view, config.flip and view): len(data.train) for view in range(config.views)}
    return views | {(*common, "validation", len(data.validation)): len(data.validation)}


def seen_by_trials(data: Dataset, folds: int, scored: int, seed: int) -> list[Dataset]:
    """Return the images that a trial may see, once for each of its folds: all that it may learn from, and those that it ranks on.

    The validation images stand in the place of the test split too. So no trial can see a test image.

    Args:
        folds: 1: the splits stay as they are. Else the training and validation images are divided, so that each of them is a
            validation image once, and what no split tears apart lies in one fold.
        scored: the number of validation images without folds.
        seed: of the drawing.
    """
    if folds == 1:
        validation = some_of(data, data.validation, VALIDATION, scored, seed)
        return [Dataset(data.source, data.train, validation, validation)]
    rows = np.concatenate([data.train, data.validation])
    parts = folds_by_class(data.labels(rows), data.source.units[rows], folds, seed)
    return [Dataset(data.source, rows[learned], rows[asked], rows[asked]) for learned, asked in parts]


def folds_for(data: Dataset, seed: int) -> list[int]:
    """Return in how many folds trials may be made, the best first: only 1 if enough images validate, or a user's own split."""
    if len(data.validation) >= ENOUGH_SCORED or (data.source.splits == VALIDATION).any():
        return [1]
    every = len(data.class_names)
    return [
        folds for folds in (*FOLDS, 1)
        if folds == 1 or all(len(np.unique(data.labels(one.train))) == every for one in seen_by_trials(data, folds, 0, seed))
    ]  # fmt: skip


def some_of(data: Dataset, rows: np.ndarray, split: int, number: int, seed: int) -> np.ndarray:
    """Return about so many of some images, stratified; all if there are no more."""
    return stratified_subset(data.source, rows, split, number, seed) if number < len(rows) else rows


def part_of(data: Dataset, images: int, seed: int) -> Dataset:
    """Return data with about so many training images, stratified."""
    return dataclasses.replace(data, train=some_of(data, data.train, TRAIN, images, seed))


def learned_on(rung: Rung) -> str:
    """Return in words what the trials of a rung learn on."""
    folds = rung.get("folds", 1)
    return count(rung["images"], "training image") + (f" in each of {folds} folds" if folds > 1 else "")


def as_tried(one: Candidate, images: int, of: int) -> Config:
    """Return the options of a trial on some of the training images: with as many epochs, and so a share of the steps.

    As long as it is not chosen what is unfrozen, nothing is.
    """
    config, share = one.config if UNFROZEN in one.choices else replace(one.config, epochs=0, mix="none"), images / of
    steps, warmup = math.ceil(share * config.fewest_steps), round(share * config.warmup_steps)
    # A trial chooses its head as the winner's training does, which takes the dense one where there are many images.
    head = DENSE if config.head == AUTO and of > MOST_LINEAR else config.head
    return replace(config, fewest_steps=steps, warmup_steps=warmup, head=head)


def ways_to_train(config: Config, explicit: Collection[str]) -> list[Config]:
    """Return a configuration, and then with fewer and fewer epochs, at last with none, if they are not explicit."""
    if "epochs" in explicit or not config.epochs:
        return [config]
    fewer = [
        replace(config, epochs=epochs, fewest_steps=math.ceil(config.fewest_steps * epochs / config.epochs))
        for epochs in range(config.epochs, 0, -1)
    ]
    return [*fewer, replace(config, epochs=0, mix="none")]


def most_images(rung: int, images: int) -> int:
    """Return the most training images that the trials of a rung (from 0) learn on, of so many in all."""
    number, share = MOST_IMAGES[rung]
    return min(images, max(number, math.ceil(share * images)))


def first_candidates(
    bases: dict[str, Config], data: Dataset, explicit: Collection[str], left: Counter[str]
) -> list[Candidate]:  # fmt: skip
    """Return backbones at image sizes, the cheapest first; what cannot be is added to `left`, by its reason."""
    found = []
    for backbone, base in bases.items():
        for size in sizes_for(base, data, explicit):
            config = replace(base, image_size=size)
            try:
                refuse_unusable(config)
            except HeadstartError as error:
                left[str(error)] += 1
                continue
            found.append(Candidate(config, {BACKBONE: name_of(backbone), SIZE: f"{size} px"}))
    return sorted(found, key=lambda one: one.config.image_size)


def name_of(backbone: str) -> str:
    """Return a backbone's name; of a file, its last part."""
    return Path(backbone).name


def second_candidates(
    survivors: Sequence[Candidate], explicit: Collection[str], two_stages: dict[str, str]
) -> list[Candidate]:  # fmt: skip
    """Return what may be unfrozen of each backbone and size, at which rate, the likeliest first.

    Args:
        survivors: backbones and sizes, the best first.
        two_stages: by backbone and size, the layer with which the last two stages begin, see
            `headstart.model.unfreeze.begin_of_stages`; "" if there is none.
    """
    found: list[tuple[int, Candidate]] = []
    rates = {"x 1": 1.0} if "learning_rate" in explicit else RATES
    for place, one in enumerate(survivors):
        config = one.config
        kinds = {LAST_STAGE: "last stage", ALL: "all layers", two_stages.get(str(one), ""): TWO_STAGES}
        kinds.pop("", None)
        if "fine_tune_from" in explicit:
            kinds = {config.fine_tune_from: kinds.get(config.fine_tune_from, f"from {config.fine_tune_from}")}
        # What the recipe does comes first.
        order = sorted(kinds, key=lambda start: start != config.fine_tune_from)
        for number, start in enumerate(order if config.epochs else []):
            for step, (words, factor) in enumerate(rates.items()):
                options = {"fine_tune_from": start, "learning_rate": factor * rate_for(config, start, explicit)}
                found.append((place + number + step, one.changed({UNFROZEN: kinds[start], RATE: words}, **options)))
        if not config.epochs or not {"epochs", "fine_tune_from"} & set(explicit):
            nothing = one.changed({UNFROZEN: NOTHING, RATE: "x 1"}, epochs=0, mix="none")
            found.append((place + 1, nothing))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def rate_for(config: Config, start: str, explicit: Collection[str]) -> float:
    """Return the learning rate to begin with: the rate of a recipe for the last stage is too high for every layer."""
    if start == ALL != config.fine_tune_from and "learning_rate" not in explicit:
        return min(config.learning_rate, Config.learning_rate)
    return config.learning_rate


def third_candidates(finalists: Sequence[Candidate], explicit: Collection[str]) -> list[Candidate]:
    """Return the best so far, and what else they may do with their images, the likeliest first."""
    found: list[tuple[int, Candidate]] = []
    for place, one in enumerate(finalists):
        config, same = one.config, one.changed({LENGTH: "x 1", AUGMENTATION: "as configured"})
        variants = [same]
        if config.epochs and "epochs" not in explicit:
            longer = {"epochs": 3 * config.epochs, "fewest_steps": 3 * config.fewest_steps}
            variants.append(same.changed({LENGTH: "x 3"}, **longer))
        from_images = config.epochs and config.fine_tune_from == ALL
        if not from_images and "views" not in explicit and config.views == 1:
            if config.flip:
                variants.append(same.changed({AUGMENTATION: "mirror images"}, views=2))
            random = one.config if "flip" in explicit else replace(config, views=2, flip=False)
            if random.views == 2:  # without random augmentation there is no such view
                variants.append(same.changed({AUGMENTATION: "a random view"}, views=2, flip=False))
        if from_images and "flip" not in explicit:
            words = "without mirror images" if config.flip else "mirror images"
            variants.append(same.changed({AUGMENTATION: words}, flip=not config.flip))
        if from_images and not config.rand_augment and "rand_augment" not in explicit:
            variants.append(same.changed({AUGMENTATION: "RandAugment"}, rand_augment=True))
        found += [(place + number, variant) for number, variant in enumerate(variants)]
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def choose_trials(
    candidates: Sequence[Candidate],
    data: Dataset,
    seen: Sequence[Dataset],
    least: int,
    wanted: int,
    seconds: float,
    prices: Prices,
    most: int = 0,
    sharing: int = 4,
) -> tuple[int, list[Candidate], list[float]]:
    """Choose on how many images trials learn, and which of them fit the time.

    Args:
        candidates: the likeliest first.
        data: the whole data set.
        seen: what trials see of it, see `seen_by_trials`.
        least: the fewest training images.
        wanted: rather than fewer trials than these, there are fewer images.
        seconds: for all trials together.
        most: the most training images; 0: all.
        sharing: no trial takes more than 1.5 times the share of so many trials: one long trial would be compared with nothing.

    Returns:
        The number of images, the trials, and the seconds that each is expected to take, without correction.
    """
    longest = 1.5 * seconds / max(1, min(sharing, len(candidates)))
    full, best = min(len(one.train) for one in seen), (0, list[Candidate](), list[float]())
    for halvings in range(32):
        images = max(min(least, full), min(most or full, full) >> halvings)
        part = part_of(seen[0], images, 0)
        left, there, fit, expected = seconds, set(prices.features), list[Candidate](), list[float]()
        for one in candidates:
            needs = set(there)
            config = as_tried(one, images, len(data.train))
            takes = len(seen) * prices.trial(config, part, needs)
            if (corrected := takes * prices.correction(config)) <= min(left, longest):
                left, there = left - corrected, needs
                fit.append(one)
                expected.append(takes)
        # Fewer images only where more trials fit for it.
        if len(fit) > len(best[1]):
            best = images, fit, expected
        if len(fit) >= min(wanted, len(candidates)) or images <= min(least, full):
            break
    return best


def best_first(scores: Sequence[tuple[float, float]], prices: Sequence[float]) -> list[int]:
    """Return the numbers of trials, the best first: of those within one standard error of the best, the cheapest is the first.

    Args:
        scores: of each trial, on validation, with its standard error.
        prices: of each trial.
    """
    order = sorted(range(len(scores)), key=lambda number: (-scores[number][0], prices[number]))
    if not order:
        return []
    best, error = scores[order[0]]
    near = [number for number in order if scores[number][0] >= best - error]
    first = min(near, key=lambda number: (prices[number], -scores[number][0]))
    return [first, *(number for number in order if number != first)]


def least_that_fits(trainings: Iterable[float], spent: float) -> str:
    """Return the least budget with which one trial and one of these trainings would end in time."""
    least = min(trainings, default=math.inf)
    if math.isinf(least):
        raise HeadstartError("nothing that could be tried fits this machine's memory and disk: give a smaller --image-size")
    return f"{math.ceil((spent + least / MARGIN) / (1 - WINNERS_SHARE) / 60)}m"
