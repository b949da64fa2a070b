"""Images and labels given as arrays, in every usual shape."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from headstart.config import LARGEST_IMAGE
from headstart.data.decode import to_rgb
from headstart.data.source import SPLIT_NAMES, TRAIN, Source
from headstart.errors import HeadstartError

MOST_CHARACTERS = 1000  # of a class's name
# The name of a source that was given as arrays: it cannot be loaded again by name.
ARRAYS = "arrays"


def images_of_array(array: np.ndarray) -> Sequence[np.ndarray]:
    """Return the images in an array, each uint8 (H, W) or (H, W, C) with 1, 3 or 4 channels; none for an empty array.

    Raises:
        HeadstartError: the array holds no images; the message says how to convert it.
    """
    if not array.size and array.ndim:
        return []
    shape, cure = array.shape, ""
    if array.dtype != np.uint8:
        cure = "scale it to 0..255, from the range that your images have, and convert it to uint8"
        low, high = (float(array.min()), float(array.max())) if array.dtype.kind in "biuf" else (-1.0, -1.0)
        if low >= 0 and high <= 255:
            cure = f"numpy.uint8({'255 * array' if high <= 1 else 'array'})"
    elif array.ndim in (3, 4) and shape[-1] in (1, 3, 4):
        return list(array) if array.ndim == 4 else [array]
    elif array.ndim == 2 and shape[-1] > 4:
        return [array]
    elif array.ndim == 4:
        cure = "if its channels come first: numpy.moveaxis(array, 1, -1)"
    elif array.ndim == 3:
        cure = "if its channels come first: numpy.moveaxis(array, 0, -1); if it is several grey images: array[..., None]"
    raise HeadstartError(
        f"an array must be uint8 in 0..255, (H, W), (H, W, C) or (N, H, W, C) with 1, 3 or 4 channels, not {array.dtype} {shape}"
        + (f"; {cure}" if cure else "")
    )


def source_of_arrays(
    given: Sequence[tuple[Any, Any]], class_names: Sequence[str] | None, groups: Sequence[Any] = (None, None, None)
) -> Source:  # fmt: skip
    """Return arrays as a source; see `headstart.data.dataset.Dataset.from_arrays`.

    Args:
        given: images and labels of the training, validation and test split; None and None for a split that is missing.
        groups: the group of each image of these splits; None for a split without groups.

    Raises:
        HeadstartError: the arrays do not fit together, or are no images or labels.
    """
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    splits: list[np.ndarray] = []
    together: list[list[str]] = []
    for split, (x, y) in enumerate(given):
        name = SPLIT_NAMES[split]
        if x is None and y is None and split != TRAIN:
            if groups[split] is not None:
                raise HeadstartError(f"the {name} split has groups and no images: leave out its groups, or give its images")
            continue
        if x is None or y is None:
            raise HeadstartError(f"the {name} split needs images and labels: {'images' if x is None else 'labels'} are missing")
        found, classes = rgb_images(np.asarray(x)), labels_of_array(np.asarray(y), name)
        if len(found) != len(classes):
            raise HeadstartError(f"the {name} split has {len(found)} images and {len(classes)} labels: give one for each")
        if images and len(found) and found.shape[1:] != images[0].shape[1:]:
            raise HeadstartError(f"all images must have one size: training has {images[0].shape[1:3]}, {name} {found.shape[1:3]}")
        if labels and (classes.dtype.kind in "iu") != (labels[0].dtype.kind in "iu"):
            raise HeadstartError(f"labels of training and {name} are integers in one split and names in the other: give one kind")
        if max(found.shape[1:3]) > LARGEST_IMAGE:
            raise HeadstartError(
                f"images of {found.shape[1]} x {found.shape[2]} are larger than any network here takes: resize them to at most "
                f"{LARGEST_IMAGE} a side"
            )
        together.append(groups_of_array(groups[split], len(found), name))
        images.append(found)
        labels.append(classes)
        splits.append(np.full(len(found), split, np.int8))
    names, numbers = numbered(np.concatenate(labels), class_names)
    source = Source(np.concatenate(images), numbers, names, np.concatenate(splits), ARRAYS)
    if all(of_split is None for of_split in groups):
        return source
    each = (name for of_split in together for name in of_split)
    return dataclasses.replace(source, groups=tuple(group or own for group, own in zip(each, source.names, strict=True)))


def rgb_images(array: np.ndarray) -> np.ndarray:
    """Return an array of images as uint8 (N, H, W, 3), RGB."""
    several = array[..., None] if array.ndim == 3 and array.shape[-1] > 4 else array  # (N, H, W) are grey images
    if several.ndim != 4:
        raise HeadstartError(f"images must be an array (N, H, W) or (N, H, W, C), not {array.shape}")
    found = images_of_array(several)
    if several.shape[-1] == 3 or not len(found):
        return several
    if several.shape[-1] == 1:
        return np.repeat(several, 3, axis=-1)
    return np.stack([np.asarray(to_rgb(Image.fromarray(image))) for image in found])


def labels_of_array(array: np.ndarray, split: str) -> np.ndarray:
    """Return labels (N,), integers or names. Labels (N, 1), as in Keras' data sets, are flattened."""
    flat = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or flat.dtype.kind not in "iuUO":
        cure = ": if they are one-hot rows, give labels.argmax(axis=1)" if array.ndim == 2 else ""
        raise HeadstartError(f"labels of the {split} split must be names or integers (N,), not {array.dtype} {array.shape}{cure}")
    return flat


def groups_of_array(groups: Any, images: int, split: str) -> list[str]:
    """Return the group of each image of a split by its name, "" for an image that is in none."""
    if groups is None:
        return [""] * images
    found = np.asarray(groups)
    if found.ndim != 1 or found.dtype.kind not in "iuUO":
        raise HeadstartError(f"groups of the {split} split must be names or integers (N,), not {found.dtype} {found.shape}")
    if len(found) != images:
        raise HeadstartError(f"the {split} split has {images} images and {len(found)} groups: give one for each")
    names = [str(name) for name in found.tolist()]
    if missing := [place for place, one in enumerate(found.tolist()) if not isinstance(one, str | int)]:
        raise HeadstartError(
            f'the group of image {missing[0]} of the {split} split is {names[missing[0]]}: give a name or an integer, and "" for '
            "an image that is in no group"
        )
    return names


def numbered(labels: np.ndarray, class_names: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names, and the labels as int32 indices into these."""
    if class_names and (twice := [name for name, number in Counter(class_names).items() if number > 1]):
        raise HeadstartError(f"two classes have the name {twice[0]!r}: give each its own")
    if class_names and (long := [name for name in class_names if len(name) > MOST_CHARACTERS]):
        raise HeadstartError(f"the name of a class has {len(long[0]):,} characters: give it at most {MOST_CHARACTERS:,}")
    if labels.dtype.kind in "iu":
        names = tuple(class_names or map(str, range(int(labels.max(initial=0)) + 1)))
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            raise HeadstartError(
                f"labels reach from {labels.min()} to {labels.max()}, for {len(names)} class names: count from 0"
            )
        return names, labels.astype(np.int32)
    names = tuple(class_names or sorted(set(map(str, labels))))
    if unknown := sorted(set(map(str, labels)) - set(names)):
        raise HeadstartError(f"the label {unknown[0]!r} is not among the class names")
    return names, np.array([names.index(str(label)) for label in labels], np.int32)
