"""The shape of the figures that a run reports, as they lie in `metrics.json`."""

from typing import NotRequired, TypedDict


class ProbabilityFigures(TypedDict):
    """How far probabilities can be trusted: log loss in nats, Brier score (0 to 2), calibration error (0 to 1)."""

    loss: float
    brier: float
    ece: float


class SubsetFigures(TypedDict):
    """Accuracy on some images: 0 to 1, its 95 % interval, on how many, and how many others were left out."""

    accuracy: NotRequired[float]
    interval: NotRequired[list[float]]
    images: int
    left_out: int


class CalibrationFigures(TypedDict):
    """The temperature that was fitted, and whether the validation images support it; see `metrics.calibration.Calibration`."""

    images: int
    fitted: float
    gain: float
    standard_error: float
    applied: bool
    reason: str


class Figures(TypedDict):
    """How good a network is on a split.

    `accuracy`, `top_5`, and the values of `macro` and `per_class` lie in 0..1; `interval` is the 95 % interval of the
    accuracy. `per_class` has precision, recall, f1-score and support of each class, and `confusion` counts images, a row for
    each given class. The probability figures are of the plain softmax, and `calibrated` of logits divided by `temperature`.
    """

    accuracy: float
    interval: list[float]
    top_5: NotRequired[float]
    loss: float
    brier: float
    ece: float
    images: int
    macro: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confusion: list[list[int]]
    temperature: float
    calibrated: ProbabilityFigures
    calibration: NotRequired[CalibrationFigures]
    near_duplicates_in_training: NotRequired[int]
    images_alike: NotRequired[bool]
    without_near_duplicates: NotRequired[SubsetFigures]
    left_out: NotRequired[dict[str, int]]


class PairedTest(TypedDict):
    """On how many images only one of two networks is right, and the p value of McNemar's exact test."""

    only_frozen_right: int
    only_fine_tuned_right: int
    p_value: float


class Metrics(TypedDict):
    """Content of `metrics.json`: figures by stage, seconds and megabytes (10**6 bytes) by what they were spent on."""

    test: dict[str, Figures]
    comparison: NotRequired[PairedTest]
    seconds: dict[str, float]
    memory_mb: dict[str, float]
    peak_memory_mb: float
    parameters: int
