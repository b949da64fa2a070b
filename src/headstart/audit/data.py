"""The audit of a data set: near-duplicates, labels that may be wrong, counts. It reports, and changes nothing."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import eigh

from headstart.audit.duplicates import near_duplicates_of_grey, redundant, searched_among
from headstart.audit.labels import LEAST_SKILL, rank_suspects, skill
from headstart.data.dataset import Dataset
from headstart.data.source import SPLIT_NAMES
from headstart.data.splits import groups_by_class
from headstart.metrics.calibration import probabilities
from headstart.metrics.classification import unevenness
from headstart.system.files import write_csv, write_json
from headstart.system.memory import give_back_freed_memory
from headstart.system.rows import StoredRows, joined
from headstart.system.text import count
from headstart.training.features import FrozenLayers
from headstart.training.linear import cross_validate, fit_linear

logger = logging.getLogger("headstart")

# The numbers of principal components that judge labels and that find similar images.
LABEL_COMPONENTS, PAIR_COMPONENTS = 256, 128
# With fewer images per component, the regression on labels learns noise, and whitening makes all images equally dissimilar.
IMAGES_PER_COMPONENT = 10
# If more than this share of the images have a near-duplicate, the images are alike by kind or come in series.
MOST_ALIKE = 1 / 3
# At most so many images determine the components.
PCA_SAMPLE = 10_000


def all_features(frozen: FrozenLayers, data: Dataset) -> StoredRows:
    """Return the features of all images without augmentation, float (N, C): training, then validation, then test.

    They stay on disk.

    Args:
        frozen: the frozen layers for the same data.
    """
    splits = zip(SPLIT_NAMES, (data.train, data.validation, data.test), strict=True)
    return joined([frozen.features(rows, 0, f"{name} images") for name, rows in splits if len(rows)])


def examine(data: Dataset, components: np.ndarray, folder: Path, mirrored: bool = True) -> dict[str, Any]:
    """Find what may be wrong with a data set, write the findings (see `write_findings`), and return those of `audit.json`.

    Args:
        components: float32 (N, C), principal components of the features of all images, in the order of `all_features`.
        folder: an existing folder.
        mirrored: whether an image and its mirror image count as near-duplicates.
    """
    begin = time.monotonic()
    rows = np.concatenate([data.train, data.validation, data.test])
    splits = np.repeat(SPLIT_NAMES, [len(data.train), len(data.validation), len(data.test)])
    names, labels, class_names = [data.source.names[row] for row in rows], data.labels(rows), data.class_names
    most = max(2, len(rows) // IMAGES_PER_COMPONENT)
    give_back_freed_memory()
    searched, not_searched = searched_among(splits)
    compared = components[searched, : min(PAIR_COMPONENTS, most)]
    pairs, similarity = near_duplicates_of_grey(
        lambda places: data.source.grey(rows[searched[places]]), data.source.images.shape, compared, mirrored
    )
    pairs = searched[pairs]
    training = splits == SPLIT_NAMES[0]
    left_out = redundant(pairs, training, labels)
    # Classes that --drop-duplicates would leave without a training image, so that it would refuse.
    emptied = set(labels[training].tolist()) - set(np.delete(labels, left_out)[np.delete(training, left_out)].tolist())
    equal = data.source.digests[rows[pairs[:, 0]]] == data.source.digests[rows[pairs[:, 1]]]
    described = [
        {
            "first": names[one], "second": names[other], "splits": [str(splits[one]), str(splits[other])],
            "similarity": round(alike, 4), "labels": [class_names[labels[one]], class_names[labels[other]]],
        }
        for (one, other), alike in zip(pairs.tolist(), similarity.tolist(), strict=True)
    ]  # fmt: skip
    conflicts = [entry for entry in described if entry["labels"][0] != entry["labels"][1]]
    near = [entry for entry, same in zip(described, equal, strict=True) if not same]
    pairs = pairs[~equal]
    alike = len(np.unique(pairs)) > MOST_ALIKE * len(rows)
    give_back_freed_memory()
    suspects, note, strength = doubt_labels(components[:, :most], data, rows, splits)

    content = {
        "classes": data.class_counts(),
        "sizes": data.source.sizes or {key: list(data.image_shape[1::-1]) for key in ("smallest", "median", "largest")},
        "imbalance": round(unevenness(labels), 3),
        "unreadable": list(data.source.unreadable),
        "exact_duplicates": list(data.duplicates),
        "near_duplicates": near,
        # Which images were compared, if not all.
        "near_duplicates_note": not_searched,
        # Whether more than a third of the images have a near-duplicate.
        "alike": bool(alike),
        # Pairs of equal or nearly equal images with different labels: a label is wrong, or the images only look alike.
        "label_conflicts": conflicts,
        "suspects": suspects,
        "suspects_note": note,
        # Of the logistic regression that judges labels, chosen by cross-validation on the training split; see `training.linear`.
        "strength": strength,
        # The images that --drop-duplicates leaves out, or would; and the classes that would have no training image left.
        "redundant": [names[row] for row in left_out],
        "classes_emptied": [class_names[label] for label in sorted(emptied)],
        "accuracy_without_near_duplicates": {},
        "seconds": round(time.monotonic() - begin, 2),
    }
    write_findings(folder, content)
    known = test_images_like_training(content, set(names[: len(data.train)]))
    logger.info(
        "audit: %s, %d of %s a near-duplicate in training; %s (%.0f s)",
        count(len(near), "near-duplicate"), len(known), count(len(data.test), "test image has", "test images have"),
        suspects_in_words(suspects), content["seconds"],
    )  # fmt: skip
    for line in filter(None, [not_searched, note]):
        logger.info("audit: %s", line)
    if alike and not data.source.groups:
        logger.info(
            "audit: more than a third of the images have a near-duplicate: they are alike by kind (as X-rays are) or come in "
            "series (frames of a video), so a random split cannot say how good a network is on new images"
        )
    elif conflicts:
        logger.info("audit: %s of nearly the same image with different labels", count(len(conflicts), "pair"))
    return content


def write_findings(folder: Path, content: dict[str, Any]) -> None:
    """Write `audit.json`, and its near-duplicates and suspects as `near_duplicates.csv` and `suspects.csv`."""
    header = ["first", "second", "first_split", "second_split", "similarity", "first_label", "second_label"]
    write_csv(folder / "near_duplicates.csv", header, [
        [entry["first"], entry["second"], *entry["splits"], entry["similarity"], *entry["labels"]]
        for entry in content["near_duplicates"]
    ])  # fmt: skip
    columns = ["rank", "name", "split", "given", "suggested", "given_probability", "suggested_probability", "certainty"]
    write_csv(folder / "suspects.csv", columns, [[entry[column] for column in columns] for entry in content["suspects"]])
    write_json(folder / "audit.json", content)


def suspects_in_words(suspects: list[dict[str, Any]]) -> str:
    """Return the numbers of suspect labels in words: strongly suspect ones and others."""
    if not suspects:
        return "no label is suspect"
    surely = sum(entry["certainty"] == "surely" for entry in suspects)
    return f"{count(surely, 'label is', 'labels are')} strongly suspect, {len(suspects) - surely:,} more may be wrong"


def doubt_labels(
    components: np.ndarray, data: Dataset, rows: np.ndarray, splits: np.ndarray
) -> tuple[list[dict[str, Any]], str, float]:
    """Return the suspects for `audit.json`, a note on what could not be checked, or "", and the strength of the regression.

    Labels of the training split are judged by cross-validation within it, the others by a model of the whole training split. So
    the strength, which the head of the frozen stage may take over, does not depend on the validation and test splits. It is 0
    if no label is checked.

    Args:
        components: float32 (R, C), from `principal_components`.
        rows: int (R,), the images.
        splits: str (R,), the split of each image.
    """
    labels, classes, training = data.labels(rows), len(data.class_names), splits == SPLIT_NAMES[0]
    groups = data.groups(rows[training])
    counts = np.zeros(classes, int)
    of_classes = groups_by_class(labels[training], groups)
    counts[: len(of_classes)] = of_classes
    what = "images" if groups is None else "groups"
    single = [data.class_names[label] for label in np.unique(labels[counts[labels] < 2])]
    unchecked = f"classes with fewer than two training {what} are not checked: {', '.join(single[:10])}" if single else ""
    if (counts > 1).sum() < 2:
        return [], f"no label is checked: that needs two classes with two training {what} each", 0.0
    checked = counts[labels] > 1  # without its only image, a class cannot be learned
    learned = np.flatnonzero(training & checked)
    present, places = np.unique(labels[learned], return_inverse=True)
    found = cross_validate(components[learned], places, data.groups(rows[learned]))
    predicted = np.zeros((len(rows), classes))
    predicted[np.ix_(learned, present)] = found.probabilities
    if len(others := np.flatnonzero(~training & checked)):
        kernel, bias = fit_linear(components[learned], places, found.strength)
        predicted[np.ix_(others, present)] = probabilities(components[others] @ kernel + bias, 1.0)
    suspects, note = describe_suspects(predicted[checked], data, rows[checked], splits[checked])
    return suspects, "; ".join(filter(None, [note, unchecked])), found.strength


def principal_components(features: StoredRows | np.ndarray) -> np.ndarray:
    """Return features projected on their first principal components, float32 (N, up to 256).

    One number scales them, so that the mean variance of the features is 1.
    """
    chosen = np.random.default_rng(0).choice(len(features), min(PCA_SAMPLE, len(features)), replace=False)
    sample, channels = np.float32(features[chosen]), features.shape[1]
    mean = sample.mean(axis=0)
    sample -= mean
    # Only some are computed: an eighth of a ResNet-50's 2,048 components takes a quarter of the time of all.
    wanted = [max(0, channels - min(LABEL_COMPONENTS, len(sample))), channels - 1]
    _, axes = eigh(sample.T @ sample / len(sample), subset_by_index=wanted)
    axes = axes[:, ::-1] / max(float(np.sqrt(np.square(sample).mean())), 1e-12)  # the largest first
    return np.concatenate([(features[start : start + 4096] - mean) @ axes for start in range(0, len(features), 4096)])


def describe_suspects(
    probabilities: np.ndarray, data: Dataset, rows: np.ndarray, splits: np.ndarray
) -> tuple[list[dict[str, Any]], str]:
    """Return the suspects for `audit.json`, and if the models are too weak to find any, a note that says so, else "".

    Args:
        probabilities: float (R, classes), from models that were not trained on the image.
        rows: int (R,), the images.
        splits: str (R,), the split of each image.
    """
    names, labels, class_names = data.source.names, data.labels(rows), data.class_names
    if skill(probabilities, labels) < LEAST_SKILL:
        agreement = (probabilities.argmax(axis=1) == labels).mean()
        return [], (
            f"no label is suspected: models that had not seen the images predict {100 * agreement:.0f} % of the labels, "
            "too few to tell a wrong label from a hard image"
        )
    return ranked([
        {
            "name": names[rows[row]], "split": str(splits[row]), "given": class_names[labels[row]],
            "suggested": class_names[label],
            "given_probability": round(float(probabilities[row, labels[row]]), 4),
            "suggested_probability": round(float(probabilities[row, label]), 4), "certainty": "surely" if surely else "perhaps",
        }
        for row, label, surely in zip(*rank_suspects(probabilities, labels), strict=True)
    ]), ""  # fmt: skip


def ranked(suspects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the suspects ordered by the probability of their given label, the least probable first, with ranks from 1."""
    ordered = sorted(suspects, key=lambda entry: entry["given_probability"])
    return [{**entry, "rank": rank} for rank, entry in enumerate(ordered, start=1)]


def test_images_like_training(content: dict[str, Any], trained: set[str]) -> set[str]:
    """Return the names of the test images that have a near-duplicate among the images trained on.

    Args:
        content: of `audit.json`.
        trained: the names of the images trained on.
    """
    pairs = [(entry[side], entry[other], entry["splits"]) for entry in content["near_duplicates"]
             for side, other in (("first", "second"), ("second", "first"))]  # fmt: skip
    return {name for name, other, splits in pairs if set(splits) == {SPLIT_NAMES[0], SPLIT_NAMES[2]} and other in trained}
