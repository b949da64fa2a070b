"""A model's predictions for some images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from headstart.system.text import shortened

# The label of an image that no answer is given for.
NONE_OF_THESE = "none of these"


class Prediction(NamedTuple):
    """A model's prediction for one image.

    Attributes:
        name: the image's file or number.
        label: the likeliest class, or "none of these".
        confidence: the probability of the likeliest class, 0 to 1.
    """

    name: str
    label: str
    confidence: float


class Answer(NamedTuple):
    """What `Run.stream` gives for one image.

    Attributes:
        name: the image's file or number.
        label: the likeliest class, or "none of these"; empty if the image cannot be read.
        confidence: the probability of the likeliest class, 0 to 1; 0 if the image cannot be read.
        probabilities: float32 (classes,), in the order of the model's classes; None if the image cannot be read.
        rejected: whether the confidence is too low for an answer; None if no rejection was asked for.
        unlike: whether it is unlike the training images; None if the run is of an older version, which cannot tell.
        error: why the image cannot be read; empty if it can.
        remarks: what a user might not expect about how it was read.
    """

    name: str
    label: str = ""
    confidence: float = 0.0
    probabilities: np.ndarray | None = None
    rejected: bool | None = None
    unlike: bool | None = None
    error: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions for some images.

    Attributes:
        names: file or number of each image that could be read.
        probabilities: float32 (N, classes), each row sums to 1; of logits divided by the run's temperature.
        class_names: the class of each column.
        unreadable: a line with name and reason for each image that could not be read.
        skipped: how many files and folders in the given folders are no images, by kind.
        remarks: what a user might not expect about how images were read, with the number of images.
        threshold: answers with a lower confidence are rejected, 0..1; 0 if no rejection was asked for.
        outsiders: bool (N,), which images are unlike the training images; None of runs of older versions, which cannot tell.
    """

    names: list[str]
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    unreadable: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    threshold: float = 0.0
    outsiders: np.ndarray | None = None

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image, or "none of these" if the answer is rejected."""
        likeliest = self.probabilities.argmax(axis=1)
        return [
            NONE_OF_THESE if rejected else self.class_names[index]
            for index, rejected in zip(likeliest, self.rejected, strict=True)
        ]

    @property
    def rejected(self) -> np.ndarray:
        """bool (N,): whether the confidence is too low for an answer."""
        below: np.ndarray = self.confidences < self.threshold
        return below

    @property
    def marks(self) -> dict[str, np.ndarray]:
        """What is said of each image beside its class, by name: `rejected` if that was asked for, `unlike` if it is known."""
        found = {"rejected": self.rejected} if self.threshold else {}
        return found if self.outsiders is None else found | {"unlike": self.outsiders}

    @property
    def confidences(self) -> np.ndarray:
        """float32 (N,): the probability of the likeliest class."""
        return self.probabilities.max(axis=1)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Prediction]:
        return map(Prediction, self.names, self.labels, self.confidences.tolist())

    def __repr__(self) -> str:
        shown = ", ".join(f"{shortened(one.name)}: {shortened(one.label)} {100 * one.confidence:.0f} %" for one in list(self)[:3])
        return f"Predictions({len(self)}: {shown}{', ...' if len(self) > 3 else ''})"

    def to_frame(self) -> Any:
        """Return a pandas data frame with a row for each image: `image`, `class`, `confidence`, the `marks`, and the classes.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas  # an optional package

        columns = {"image": self.names, "class": self.labels, "confidence": self.confidences} | self.marks
        by_class = {name: self.probabilities[:, place] for place, name in enumerate(self.class_names)}
        return pandas.concat([pandas.DataFrame(columns), pandas.DataFrame(by_class)], axis="columns")
