"""A model's predictions for some images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from headstart.system.text import shortened


class Prediction(NamedTuple):
    """A model's prediction for one image.

    Attributes:
        name: the image's file or number.
        label: the likeliest class.
        confidence: the probability of that class, 0 to 1.
    """

    name: str
    label: str
    confidence: float


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
    """

    names: list[str]
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    unreadable: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.class_names[index] for index in self.probabilities.argmax(axis=1)]

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
        """Return a pandas data frame with a row for each image: `image`, `class`, `confidence`, and a column for each class.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas  # an optional package

        columns = {"image": self.names, "class": self.labels, "confidence": self.confidences}
        by_class = {name: self.probabilities[:, place] for place, name in enumerate(self.class_names)}
        return pandas.concat([pandas.DataFrame(columns), pandas.DataFrame(by_class)], axis="columns")
