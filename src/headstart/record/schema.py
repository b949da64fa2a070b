"""What each JSON file of a run holds, as types with limits: whatever does not fit is refused when it is read."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from headstart.config import LARGEST_IMAGE
from headstart.data.arrays import MOST_CHARACTERS
from headstart.metrics.figures import Metrics, StageKey, SubsetFigures, WeightingChoice
from headstart.system.reading import Checksum, Count, Finite, Fraction, NotNegative

ClassName = Annotated[str, Meta(max_length=MOST_CHARACTERS)]
Pair = Annotated[list[str], Meta(min_length=2, max_length=2)]
Size = Annotated[list[Count], Meta(min_length=2, max_length=2)]
Side = Annotated[int, Meta(ge=1, le=LARGEST_IMAGE)]
# Height, width and channels.
ImageShape = tuple[Side, Side, Literal[3]]


class DecodingEntry(TypedDict):
    """How image files are decoded, see `headstart.data.decode.Decoding`."""

    fit: Literal["crop", "squash", "pad"]
    grey_range: NotRequired[tuple[Finite, Finite] | None]


class Counts(TypedDict):
    """A number of images for each split."""

    training: Count
    validation: Count
    test: Count


class DataSummary(TypedDict):
    """Content of `data.json`; `headstart.data.dataset.Dataset.summary` makes it."""

    source: str
    fingerprint: Checksum
    test_fingerprint: NotRequired[Checksum]
    classes: Annotated[list[ClassName], Meta(min_length=2)]
    image_shape: ImageShape
    decoding: NotRequired[DecodingEntry]
    images: Counts
    images_by_class: dict[str, dict[str, Count]]
    skipped: dict[str, Count]
    unreadable: list[str]
    remarks: NotRequired[list[str]]
    duplicates: list[str]
    groups: NotRequired[Counts]
    torn_groups: NotRequired[list[str]]


class NearDuplicate(TypedDict):
    """Two images that look alike; `alike` says in old runs that most images do."""

    first: str
    second: str
    splits: Pair
    similarity: Finite
    labels: Pair
    alike: NotRequired[bool]


class Suspect(TypedDict):
    """An image whose label is probably wrong."""

    name: str
    split: str
    given: str
    suggested: str
    given_probability: Fraction
    suggested_probability: Fraction
    certainty: NotRequired[str]
    rank: NotRequired[Count]


class AuditFindings(TypedDict):
    """Content of `audit.json`; `headstart.audit.data.examine` makes it."""

    classes: dict[str, dict[str, Count]]
    sizes: NotRequired[dict[str, Size]]
    imbalance: NotRequired[float]
    unreadable: list[str]
    exact_duplicates: list[str]
    near_duplicates: list[NearDuplicate]
    alike: NotRequired[bool]
    label_conflicts: list[NearDuplicate]
    suspects: list[Suspect]
    near_duplicates_note: NotRequired[str]
    suspects_note: NotRequired[str]
    strength: NotRequired[NotNegative]
    redundant: list[str]
    classes_emptied: NotRequired[list[str]]
    accuracy_without_near_duplicates: NotRequired[dict[StageKey, SubsetFigures]]
    seconds: NotRequired[NotNegative]


class MirrorFinding(TypedDict, total=False):
    """Content of `mirror.json`, see `headstart.audit.mirror.judge`."""

    images: Count
    accuracy: Fraction
    mirrored_accuracy: Fraction
    contradicts: bool
    asked: bool
    flip: bool


class Candidate(TypedDict):
    """A head that was tried, and its figures on the validation split; the macro recall where classes are weighted."""

    accuracy: Fraction
    loss: float
    seconds: NotNegative
    macro_recall: NotRequired[Fraction]


class HeadChoice(TypedDict, total=False):
    """Content of `head.json`, see `headstart.training.heads.choose_head`."""

    chosen: Literal["dense", "linear"]
    why: str
    strength: NotNegative
    candidates: dict[Literal["dense", "linear"], Candidate]


class Resources(TypedDict):
    """What a run takes, or took: seconds by part of the run, memory and disk in MB of 10**6 bytes."""

    seconds: dict[str, NotNegative]
    memory_mb: NotNegative
    disk_mb: NotRequired[NotNegative]


class Plan(TypedDict, total=False):
    """Content of `plan.json`: what the device, a budget or the memory changed, and what was predicted and taken."""

    budget: str
    asked: dict[str, Any]
    chosen: dict[str, Any]
    why: dict[str, str]
    predicted: Resources
    costs: dict[str, Finite]
    took: Resources


class Spread(TypedDict):
    """A figure over several seeds or folds."""

    mean: float
    deviation: float
    range: Annotated[list[float], Meta(min_length=2, max_length=2)]
    values: list[float]


class Seeds(TypedDict):
    """Content of `seeds.json`, see `headstart.groups.write_seeds`."""

    seeds: list[Count]
    test: dict[StageKey, dict[str, Spread]]
    gain: NotRequired[Spread]


class Folds(Metrics):
    """Content of `folds.json`, see `headstart.groups.write_folds`."""

    folds: Count
    by_fold: dict[StageKey, dict[str, Spread]]
    gain: NotRequired[Spread]


class TrialPlan(TypedDict):
    """A trial of a search: what distinguishes it in words, the options that it changes, and what it is expected to take."""

    choices: dict[str, str]
    options: dict[str, Any]
    expected: NotNegative


class NotTried(TypedDict):
    """Trials that were not made, and why."""

    why: str
    trials: Count


class Rung(TypedDict):
    """Trials on the same images, which are compared with each other."""

    title: str
    images: Count
    validation: Count
    folds: NotRequired[Count]
    trials: list[TrialPlan]
    not_tried: list[NotTried]


class TrialResult(TypedDict):
    """Content of a trial's `trial.json`: its figures on the validation images, and when it was made, in seconds of the search."""

    accuracy: Fraction
    interval: tuple[Fraction, Fraction]
    macro_recall: Fraction
    score: Fraction
    error: NotNegative
    seconds: NotNegative
    ended: NotNegative


class Winner(TypedDict):
    """What a search ends with: which trial it was, and the options with which it is trained on all images."""

    rung: NotRequired[Count]
    trial: NotRequired[Count]
    choices: dict[str, str]
    options: dict[str, Any]


RankedBy = Literal["accuracy", "macro recall"]


class SearchState(TypedDict):
    """Content of `rungs.json` in the folder of a search's trials: what was planned so far."""

    explicit: list[str]
    ranked_by: RankedBy
    backbones: list[str]
    rungs: list[Rung]
    class_weights: NotRequired[Literal["none", "root", "balanced"]]
    winner: NotRequired[Winner]


class Tuning(SearchState):
    """Content of `tuning.json`, see `headstart.tuner.write_tuning`: what was planned, and what came of it."""

    budget: str
    results: list[list[TrialResult | None]]
    seconds: dict[str, NotNegative]
    test: NotRequired[Any]


class MlflowRun(TypedDict):
    """Content of `mlflow.json`."""

    uri: str
    run_id: str


KINDS: dict[str, Any] = {
    "metrics.json": Metrics,
    "data.json": DataSummary,
    "audit.json": AuditFindings,
    "mirror.json": MirrorFinding,
    "head.json": HeadChoice,
    "weighting.json": WeightingChoice,
    "plan.json": Plan,
    "seeds.json": Seeds,
    "folds.json": Folds,
    "rungs.json": SearchState,
    "trial.json": TrialResult,
    "tuning.json": Tuning,
    "environment.json": dict[str, str],
    "mlflow.json": MlflowRun,
}
