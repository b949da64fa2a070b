"""`limits.safetensors`: how far a model's answers can be trusted, as validation and training images have shown it.

It travels with the model. From the confidence of each validation image and whether the answer was right follows the threshold
for any precision that is wanted; from features of training images follows which images are unlike all that the model has seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headstart.errors import DamagedError, HeadstartError
from headstart.metrics.outsiders import neighbour_distances, passing_distance
from headstart.metrics.rejection import best_promise, promised_threshold
from headstart.system.files import read_bytes, written_whole
from headstart.system.text import count

FILE = "limits.safetensors"
# The name, the type and the number of dimensions of each array.
ARRAYS = {"confidences": ("float32", 1), "correct": ("bool", 1), "distances": ("float32", 1), "references": ("float16", 2)}
# Where images have groups, this too.
GROUPS = {"groups": ("int32", 1)}
MOST_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Limits:
    """What validation and training images say of a model.

    Attributes:
        confidences: float32 (V,), 0..1, of the validation images, calibrated.
        correct: bool (V,), whether each of these answers is right.
        distances: float32 (V,), of each validation image to its neighbour among the references.
        references: float16 (M, channels), features of training images, each of length 1.
        groups: int32 (V,), which of the validation images belong together; None if each stands for itself.
    """

    confidences: np.ndarray
    correct: np.ndarray
    distances: np.ndarray
    references: np.ndarray
    groups: np.ndarray | None = None

    def threshold(self, wanted: float) -> float:
        """Return the confidence from which on answers have the wanted precision; see `headstart.metrics.rejection`.

        Raises:
            HeadstartError: no threshold can be promised to reach it, or it is no share.
        """
        if not 0 < wanted < 1:
            raise HeadstartError(f"--reject is {wanted:g}, and wants a precision above 0 and below 1, such as 0.99")
        threshold = promised_threshold(self.confidences, self.correct, wanted, self.groups)
        if threshold is None:
            best, images = best_promise(self.confidences, self.correct, self.groups), f"{len(self.correct):,} validation images"
            if self.groups is not None:
                images += f" of {count(len(np.unique(self.groups)), 'group')}, which count here,"
            most = f"the best that can be promised is --reject {best:g}" if best else "nor any other precision"
            more = "validation images" if self.groups is None else "groups"
            raise HeadstartError(
                f"the run's {images} do not support a precision of {100 * wanted:g} % with 95 % confidence: {most}; more {more} "
                "(--validation-fraction) or a better model support more"
            )
        return threshold

    def outsiders(self, features: np.ndarray) -> np.ndarray:
        """Return which images are farther from the training images than validation images are, bool (N,).

        Args:
            features: float32 (N, channels), the model's pooled features.

        Raises:
            DamagedError: the model has other features than those that were recorded.
        """
        if features.shape[1:] != self.references.shape[1:]:
            channels = self.references.shape[1]
            raise DamagedError(
                f"{FILE} does not fit the network: it has {channels} channels, and the features {features.shape[1:]}"
            )
        far: np.ndarray = neighbour_distances(features, self.neighbours) > self.passing
        return far

    @cached_property
    def neighbours(self) -> np.ndarray:
        """The references as they are computed with, float32 (M, channels)."""
        return self.references.astype(np.float32)

    @cached_property
    def passing(self) -> float:
        """The distance from which on an image counts as unlike the training images."""
        return passing_distance(self.distances)


def write_limits(folder: Path, limits: Limits) -> str:
    """Write `limits.safetensors`, and return its name."""
    stored = ARRAYS if limits.groups is None else ARRAYS | GROUPS
    with written_whole(folder / FILE) as partial:
        partial.write_bytes(save({name: np.ascontiguousarray(array) for name, array in vars(limits).items() if name in stored}))
    return FILE


def read_limits(folder: Path) -> Limits:
    """Return what `write_limits` has written.

    Raises:
        DamagedError: the file is missing, or not such a file.
    """
    file = folder / FILE
    try:
        arrays = load(read_bytes(file, MOST_BYTES))
    except FileNotFoundError:
        raise DamagedError(f"{file} is missing: train again, or bring the original back") from None
    except (SafetensorError, KeyError) as error:  # KeyError: a type that NumPy lacks
        raise DamagedError(f"{file} is damaged: {error}") from None
    if wrong := wrong_array(arrays):
        raise DamagedError(f"{file} is damaged: {wrong}")
    return Limits(**arrays)


def wrong_array(arrays: Mapping[str, np.ndarray]) -> str:
    """Return what is wrong with the content of the file, or an empty string."""
    expected = ARRAYS | GROUPS if "groups" in arrays else ARRAYS
    if arrays.keys() != expected.keys():
        return f"it holds {', '.join(sorted(arrays)) or 'nothing'}, not {', '.join(expected)}"
    for name, (dtype, dimensions) in expected.items():
        array = arrays[name]
        if str(array.dtype) != dtype or array.ndim != dimensions or not array.size or not np.isfinite(array).all():
            return f"{name} is no array of finite {dtype} in {dimensions} dimensions"
    images = {len(array) for name, array in arrays.items() if name != "references"}
    return "its arrays are not of the same images" if len(images) > 1 else ""
