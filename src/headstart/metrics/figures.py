"""Types of the figures that a run reports, as they are written to `metrics.json`."""

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from headstart.system.reading import Count, Fraction, NotNegative, Positive

# A key of `headstart.record.history.STAGES`.
StageKey = Annotated[str, Meta(pattern="^(frozen|fine_tuned|scratch)$")]
Interval = Annotated[list[Fraction], Meta(min_length=2, max_length=2)]


class ProbabilityFigures(TypedDict):
    """How far probabilities can be trusted: log loss in nats, Brier score (0 to 2), calibration error (0 to 1)."""

    loss: float
    brier: NotNegative
    ece: Fraction


class SubsetFigures(TypedDict):
    """Accuracy on some images (0 to 1), its 95 % interval, how many images these are, and how many others were left out."""

    accuracy: NotRequired[Fraction]
    interval: NotRequired[Interval]
    images: Count
    left_out: Count


class CalibrationFigures(TypedDict):
    """The fitted temperature, and whether the validation images support it: `headstart.metrics.calibration.Calibration`."""

    images: Count
    fitted: Positive
    gain: float
    standard_error: float
    applied: bool
    reason: str


class RejectionPoint(TypedDict):
    """What a threshold reaches that validation chose for a wanted precision; without `threshold`, none could be promised.

    `coverage` is the share of the test images that are answered, `images` their number, and `precision` the share of these
    answers that are right, which is missing if there are none. `validation_coverage` is the coverage on validation.
    """

    wanted: Fraction
    threshold: NotRequired[Fraction]
    validation_coverage: NotRequired[Fraction]
    coverage: NotRequired[Fraction]
    images: NotRequired[Count]
    precision: NotRequired[Fraction]


class RejectionFigures(TypedDict):
    """How far confidence tells right answers from wrong ones: `headstart.metrics.rejection.rejection_figures`.

    `aurc` is the area under the risk-coverage curve of the test split: the mean risk over all thresholds, 0 is perfect.
    `best_promise` is the highest precision that validation allows to promise. Where images have groups, `groups` is how many the
    validation split has, and promises are those for new groups.
    """

    aurc: Fraction
    points: list[RejectionPoint]
    best_promise: Fraction
    groups: NotRequired[Count]


class OutsiderFigures(TypedDict):
    """How images unlike the training images are told: see `headstart.metrics.outsiders`.

    `images` are the training images that others are compared with, `distance` is the largest that passes, `share` the share of
    the validation images that pass, and `flagged` the share of the test images that do not.
    """

    images: Count
    distance: NotNegative
    share: Fraction
    flagged: Fraction


class Figures(TypedDict):
    """How good a network is on a split.

    `accuracy`, `top_5` and the values of `macro` lie in 0..1; `interval` is the 95 % interval of the accuracy. `per_class` has
    precision, recall and f1-score (0..1) and support (images) of each class. `confusion` counts images, with a row for each
    true class. `loss`, `brier` and `ece` are those of the plain softmax, `calibrated` those of logits divided by `temperature`.

    With an audit, `near_duplicates_in_training` counts the test images that have a near-duplicate in training, `images_alike`
    says that most images resemble each other, and `without_near_duplicates` has the figures on the other test images.

    Where images have groups, `groups` is how many the split has, the interval is that for new groups
    (`headstart.metrics.classification.interval_of`), and `of_known_groups` counts the test images of groups that training has
    images of too, which only given splits can have.
    """

    accuracy: Fraction
    interval: Interval
    top_5: NotRequired[Fraction]
    loss: float
    brier: NotNegative
    ece: Fraction
    images: Count
    macro: dict[str, Fraction]
    per_class: dict[str, dict[str, NotNegative]]
    confusion: list[list[Count]]
    temperature: Positive
    calibrated: ProbabilityFigures
    calibration: NotRequired[CalibrationFigures]
    rejection: NotRequired[RejectionFigures]
    outsiders: NotRequired[OutsiderFigures]
    near_duplicates_in_training: NotRequired[Count]
    images_alike: NotRequired[bool]
    without_near_duplicates: NotRequired[SubsetFigures]
    left_out: NotRequired[dict[str, Count]]
    groups: NotRequired[Count]
    of_known_groups: NotRequired[Count]


class WeightingChoice(TypedDict):
    """Content of `weighting.json`: how classes are weighted in the loss, see `headstart.training.weighting`.

    `unevenness` is how many times the images of the smallest class the largest one has, `macro_recall` that of each rule on
    `images` images that were left out in turn.
    """

    chosen: Literal["none", "root", "balanced"]
    unevenness: NotNegative
    macro_recall: dict[str, Fraction]
    images: Count


class PairedTest(TypedDict):
    """On how many images only one of two networks is right, and the p value of McNemar's exact test, of whole groups if there
    are any, whose number is `groups`."""

    only_frozen_right: Count
    only_fine_tuned_right: Count
    p_value: Fraction
    groups: NotRequired[Count]


class Metrics(TypedDict):
    """Content of `metrics.json`: figures by stage; seconds and peak memory (MB of 10**6 bytes) by part of the run."""

    test: Annotated[dict[StageKey, Figures], Meta(min_length=1)]
    comparison: NotRequired[PairedTest]
    seconds: dict[str, NotNegative]
    memory_mb: NotRequired[dict[str, NotNegative]]
    peak_memory_mb: NotNegative
    parameters: Count
