"""The audit of a data set from top to bottom: counts, duplicates, labels; what it finds is told, and nothing is changed."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import eigh

from headstart.audit.duplicates import near_duplicates, redundant
from headstart.audit.labels import LEAST_SKILL, out_of_fold_probabilities, rank_suspects, skill
from headstart.config import Config
from headstart.data.dataset import SPLIT_NAMES, Dataset
from headstart.errors import HeadstartError
from headstart.metrics.calibration import probabilities
from headstart.metrics.classification import wilson_interval
from headstart.record.folder import Run
from headstart.report.audit_page import write_audit_page
from headstart.report.plots import figure
from headstart.report.sheets import draw_pairs, draw_suspects
from headstart.system.files import write_csv, write_json
from headstart.system.memory import give_back_freed_memory
from headstart.system.text import count

logger = logging.getLogger("headstart")

# Principal components of the features: for the labels, and of these the first for finding similar images.
LABEL_COMPONENTS, PAIR_COMPONENTS = 256, 128
# With fewer images for each component, a class's regression learns noise, and whitening makes all images equally unlike.
IMAGES_PER_COMPONENT = 10
# Where more than this share of the images have a near-duplicate, they are alike by kind or come in series.
MOST_ALIKE = 1 / 3
# So many images determine the components.
PCA_SAMPLE = 10_000


def audit_data(config: Config, data: Dataset | None = None) -> dict[str, Any]:
    """Audit a data set with a frozen backbone's features, and write what is found to the folder `config.out`.

    Args:
        config: its data, splits and backbone are used; a training with the same ones shares the cached features.
        data: the data set, if it is loaded already; else `config.data` is.

    Returns:
        The content of `audit.json`.

    Raises:
        HeadstartError: bad input, a folder that holds something else, no network, no memory.
    """
    from headstart.data.load import configured_data, resolved
    from headstart.model.backbones import load_backbone, refuse_unusable
    from headstart.model.network import build_model
    from headstart.system.backend import resolve_precision
    from headstart.training.features import FrozenLayers

    if not can_audit(config):
        raise HeadstartError("an audit needs a pretrained backbone: leave out --weights none")
    config = resolved(config, data)
    folder = Path(config.out or "audit").expanduser()
    if folder.exists() and not (folder / "audit.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise HeadstartError(f"{folder} holds something else than an audit: choose another folder with --out")
    refuse_unusable(config)
    data = data or configured_data(config)
    precision = resolve_precision(config.precision)
    model = build_model(*load_backbone(config), data.image_shape, len(data.class_names), config, precision)
    folder.mkdir(parents=True, exist_ok=True)
    content = examine(data, principal_components(all_features(FrozenLayers(model, data, config), data)), folder, config.flip)
    write_audit_page(folder, data, content)
    return content


def can_audit(config: Config) -> bool:
    """Whether a run computes the features that an audit stands on."""
    return config.cache_features and not config.from_scratch


def all_features(frozen: Any, data: Dataset) -> np.ndarray:
    """Return the features of every image as it is, float (N, C): training, validation and test after each other.

    Args:
        frozen: `headstart.training.features.FrozenLayers` of the same data.
    """
    splits = zip(SPLIT_NAMES, (data.train, data.validation, data.test), strict=True)
    return np.concatenate([frozen.features(rows, 0, f"{name} images") for name, rows in splits if len(rows)])


def examine(data: Dataset, components: np.ndarray, folder: Path, mirrored: bool = True) -> dict[str, Any]:
    """Find what is wrong with a data set; write `audit.json`, two lists and two contact sheets, and return the first's content.

    Args:
        components: float32 (N, C), of the features of every image, in the order of `all_features`.
        folder: an existing one.
        mirrored: whether an image and its mirror image are near-duplicates.
    """
    begin = time.monotonic()
    rows = np.concatenate([data.train, data.validation, data.test])
    splits = np.repeat(SPLIT_NAMES, [len(data.train), len(data.validation), len(data.test)])
    names, labels, class_names = [data.source.names[row] for row in rows], data.labels(rows), data.class_names
    most = max(2, len(rows) // IMAGES_PER_COMPONENT)
    give_back_freed_memory()
    pairs, similarity = near_duplicates(
        data.source.images, rows, components[:, : min(PAIR_COMPONENTS, most)], mirrored
    )  # fmt: skip
    training = splits == SPLIT_NAMES[0]
    left_out = redundant(pairs, training, labels)
    # Classes that --drop-duplicates would leave without training images, which it refuses to do.
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
    twins = [entry for entry, same in zip(described, equal, strict=True) if not same]
    pairs = pairs[~equal]
    alike = len(np.unique(pairs)) > MOST_ALIKE * len(rows)
    give_back_freed_memory()
    suspects, note = doubt_labels(components[:, :most], data, rows, splits)

    (folder / "images").mkdir(exist_ok=True)
    with figure(folder / "images" / "near_duplicates.png", (9, 8)) as canvas:
        draw_pairs(canvas, data, rows[pairs], twins)
    write_suspects(folder, data, suspects)
    header = ["first", "second", "first_split", "second_split", "similarity", "first_label", "second_label"]
    write_csv(folder / "near_duplicates.csv", header, [
        [entry["first"], entry["second"], *entry["splits"], entry["similarity"], *entry["labels"]] for entry in twins
    ])  # fmt: skip
    counts = np.bincount(labels, minlength=len(class_names))
    content = {
        "classes": data.class_counts(),
        "sizes": data.source.sizes or {key: list(data.image_shape[1::-1]) for key in ("smallest", "median", "largest")},
        "imbalance": round(float(counts.max() / counts.min()), 3),
        "unreadable": list(data.source.unreadable),
        "exact_duplicates": list(data.duplicates),
        "near_duplicates": twins,
        # More than a third of the images have a near-duplicate.
        "alike": bool(alike),
        # Pairs of equal or nearly equal images with different labels: one of both is wrong, or the images only look alike.
        "label_conflicts": conflicts,
        "suspects": suspects,
        "suspects_note": note,
        # What --drop-duplicates leaves out, or would; and the classes of which nothing would be left to train on.
        "redundant": [names[row] for row in left_out],
        "classes_emptied": [class_names[label] for label in sorted(emptied)],
        "accuracy_without_twins": {},
        "seconds": round(time.monotonic() - begin, 2),
    }
    write_json(folder / "audit.json", content)
    twinned = twinned_test_images(content, set(names[: len(data.train)]))
    logger.info(
        "audit: %s, %d of %s a near-duplicate in training; %s (%.0f s)",
        count(len(twins), "near-duplicate"), len(twinned), count(len(data.test), "test image has", "test images have"),
        suspects_in_words(suspects), content["seconds"],
    )  # fmt: skip
    if note:
        logger.info("audit: %s", note)
    if alike:
        logger.info(
            "audit: more than a third of the images have a near-duplicate: they are alike by kind (as X-rays are) or come in "
            "series (frames of a video), so that a random split cannot say how good a network is on other ones"
        )
    elif conflicts:
        logger.info("audit: %s of nearly the same image with different labels", count(len(conflicts), "pair"))
    return content


def suspects_in_words(suspects: list[dict[str, Any]]) -> str:
    """Return how many labels are suspects by each cut."""
    if not suspects:
        return "no label is suspect"
    surely = sum(entry["certainty"] == "surely" for entry in suspects)
    return f"{count(surely, 'label is', 'labels are')} strongly suspect, {len(suspects) - surely:,} more may be wrong"


def doubt_labels(components: np.ndarray, data: Dataset, rows: np.ndarray, splits: np.ndarray) -> tuple[list[dict[str, Any]], str]:
    """Return what `audit.json` says of the labels that may be wrong, and what could not be checked, or nothing.

    Args:
        components: float32 (R, C), of the features of images; `rows`, int (R,), the images; `splits`, str (R,), their splits.
    """
    labels = data.labels(rows)
    counts = np.bincount(labels, minlength=len(data.class_names))
    checked = np.flatnonzero(counts[labels] > 1)  # a class's only image leaves none to learn the class from
    single = [data.class_names[label] for label in np.flatnonzero(counts == 1)]
    alone = f"labels with a single image are not checked: {', '.join(single[:10])}" if single else ""
    if (counts > 1).sum() < 2:
        return [], "no label is checked: that takes two classes with two images each"
    chances = out_of_fold_probabilities(components[checked], labels[checked], len(data.class_names))
    suspects, note = describe_suspects(chances, data, rows[checked], splits[checked])
    return suspects, "; ".join(filter(None, [note, alone]))


def principal_components(features: np.ndarray) -> np.ndarray:
    """Return features on their first principal components, float32 (N, up to 256)."""
    chosen = np.random.default_rng(0).choice(len(features), min(PCA_SAMPLE, len(features)), replace=False)
    sample, channels = np.float32(features[chosen]), features.shape[1]
    mean = sample.mean(axis=0)
    sample -= mean
    # Of a ResNet-50's 2,048 components an eighth is wanted, and found in a quarter of the time of all.
    wanted = [max(0, channels - min(LABEL_COMPONENTS, len(sample))), channels - 1]
    _, axes = eigh(sample.T @ sample / len(sample), subset_by_index=wanted)
    axes = axes[:, ::-1]  # the largest first
    return np.concatenate([(features[start : start + 4096] - mean) @ axes for start in range(0, len(features), 4096)])


def describe_suspects(
    chances: np.ndarray, data: Dataset, rows: np.ndarray, splits: np.ndarray
) -> tuple[list[dict[str, Any]], str]:
    """Return what `audit.json` says of the labels that may be wrong, and why none is named, or nothing.

    Args:
        chances: float (R, classes), by models that were not trained on the image.
        rows: int (R,), the images; `splits`, str (R,), the split of each.
    """
    names, labels, class_names = data.source.names, data.labels(rows), data.class_names
    if skill(chances, labels) < LEAST_SKILL:
        agreement = (chances.argmax(axis=1) == labels).mean()
        return [], (
            f"no label is doubted: models that had not seen the images predict {100 * agreement:.0f} % of the labels, "
            "too few to tell a wrong label from a hard image"
        )
    return ranked([
        {
            "name": names[rows[row]], "split": str(splits[row]), "given": class_names[labels[row]],
            "suggested": class_names[label],
            "given_probability": round(float(chances[row, labels[row]]), 4),
            "suggested_probability": round(float(chances[row, label]), 4), "certainty": "surely" if surely else "perhaps",
        }
        for row, label, surely in zip(*rank_suspects(chances, labels), strict=True)
    ]), ""  # fmt: skip


def ranked(suspects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return suspects in order, the least probable given label first, each with its rank from 1 on."""
    ordered = sorted(suspects, key=lambda entry: entry["given_probability"])
    return [{**entry, "rank": rank} for rank, entry in enumerate(ordered, start=1)]


def write_suspects(folder: Path, data: Dataset, suspects: list[dict[str, Any]]) -> None:
    """Write `suspects.csv` and the contact sheet of the labels that may be wrong."""
    places = {name: index for index, name in enumerate(data.source.names)}
    with figure(folder / "images" / "suspects.png", (10, 6.5)) as canvas:
        draw_suspects(canvas, data, np.array([places[entry["name"]] for entry in suspects], int), suspects)
    columns = ["rank", "name", "split", "given", "suggested", "given_probability", "suggested_probability", "certainty"]
    write_csv(folder / "suspects.csv", columns, [[entry[column] for column in columns] for entry in suspects])


def twinned_test_images(content: dict[str, Any], trained: set[str]) -> set[str]:
    """Return the names of the test images that have a near-duplicate among the images trained on."""
    pairs = [(entry[side], entry[twin], entry["splits"]) for entry in content["near_duplicates"]
             for side, twin in (("first", "second"), ("second", "first"))]  # fmt: skip
    return {name for name, twin, splits in pairs if set(splits) == {SPLIT_NAMES[0], SPLIT_NAMES[2]} and twin in trained}


def audit_run(run: Run, frozen: Any, data: Dataset, checkpoint: Any) -> Dataset:
    """Audit a run's data before it trains, once, and return them, on request without the redundant training images.

    Where a run has no features, from scratch or with images passed anew at every epoch, nothing is audited.

    Args:
        frozen: see `all_features`.
        checkpoint: what time and memory this takes is added to it.
    """
    config = run.config
    if not can_audit(config):
        logger.info("no audit of the data: this run caches no features")
        return data
    if (run.path / "audit.json").exists():
        content = run.read_json("audit.json")
    else:
        checkpoint.start_clock()
        features = all_features(frozen, data)
        checkpoint.stop_clock("features")
        components = principal_components(features)
        del features  # up to half a gigabyte for CIFAR-10
        content = examine(data, components, run.path, config.flip)
        checkpoint.stop_clock("audit")
    return without_redundant(data, content) if config.drop_duplicates else data


def finish_audit(run: Run, data: Dataset, stages: list[str]) -> None:
    """Bring a run's audit up to date with what it has learned.

    `audit.json` gets the accuracy of each stage without the test images that have a twin in training, and the
    suspects of the validation and test splits as the fine-tuned network sees them.
    """
    if not can_audit(run.config):
        return
    content, labels = run.read_json("audit.json"), data.labels(data.test)
    if "fine_tuned" in stages:
        content["suspects"], content["suspects_note"] = judged_again(run, data, content, "fine_tuned")
        write_suspects(run.path, data, content["suspects"])
    correct = {stage: run.test_logits(stage).argmax(axis=1) == labels for stage in stages}
    figures = accuracies_without_twins(content, data, correct)
    write_json(run.path / "audit.json", content | {"accuracy_without_twins": figures})
    for stage, found in figures.items():
        if not found["left_out"]:
            continue
        left_out = count(found["left_out"], "image that has", "images that have")
        logger.info(
            "test, %s, without %s a near-duplicate in training: %.2f %% (95 %% interval %.2f to %.2f)",
            stage.replace("_", "-"), left_out, 100 * found["accuracy"], *(100 * end for end in found["interval"]),
        )  # fmt: skip


def judged_again(run: Run, data: Dataset, content: dict[str, Any], stage: str) -> tuple[list[dict[str, Any]], str]:
    """Return suspects with those of the validation and test splits found anew by a stage's probabilities, and the note on them.

    The trained network knows these images' classes better than a regression on frozen features does, and was trained
    on none of them. It was on the training split, whose suspects stay. A network that is too weak changes nothing.

    Args:
        content: of `audit.json`.
    """
    splits = {"validation": data.validation, "test": data.test}
    logits = np.concatenate([run.array(f"{split}_{stage}") for split in splits])
    found, weak = describe_suspects(
        probabilities(logits, run.metrics["test"][stage]["temperature"]), data,
        np.concatenate(list(splits.values())), np.repeat(list(splits), [len(rows) for rows in splits.values()]),
    )  # fmt: skip
    note = content.get("suspects_note", "")
    if weak:
        return content["suspects"], note
    kept = [entry for entry in content["suspects"] if entry["split"] not in splits]
    return ranked(kept + found), f"of the training images, {note}" if note else ""


def without_redundant(data: Dataset, content: dict[str, Any]) -> Dataset:
    """Return a data set whose training split lacks the images that an audit found redundant.

    Raises:
        HeadstartError: a class would have no training image left.
    """
    names, redundant_names = data.source.names, set(content["redundant"])
    candidates = data.training_candidates  # a run that goes on has left them out already
    left_out = np.array([names[row] in redundant_names for row in candidates])
    kept = candidates[~left_out]
    missing = sorted(set(range(len(data.class_names))) - set(data.labels(kept).tolist()))
    if missing:
        raise HeadstartError(
            f"{data.source.name}: without its near-duplicates, class {data.class_names[missing[0]]!r} has no training image "
            f"left{', since most of these images resemble each other' if content.get('alike') else ''}: "
            "run it without --drop-duplicates"
        )
    logger.info("%s left out as near-duplicates", count(int(left_out.sum()), "training image is", "training images are"))
    return dataclasses.replace(data, train=kept, left_out=candidates[left_out])


def accuracies_without_twins(content: dict[str, Any], data: Dataset, correct: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the accuracy of each stage, with its 95 % interval, on the test images without a twin in training.

    Args:
        content: of `audit.json`.
        correct: for each stage, bool (N,): which test images it classified rightly.
    """
    names = data.source.names
    trained = {names[row] for row in data.train}  # twins that --drop-duplicates left out did not help
    twins = twinned_test_images(content, trained)
    alone = np.array([names[row] not in twins for row in data.test])
    figures = {}
    for stage, right in correct.items():
        if alone.any():
            figures[stage] = {
                "accuracy": float(right[alone].mean()), "interval": wilson_interval(int(right[alone].sum()), int(alone.sum())),
                "images": int(alone.sum()), "left_out": int((~alone).sum()),
            }  # fmt: skip
    return figures
