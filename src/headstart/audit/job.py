"""The audit of a data set from top to bottom: counts, duplicates, labels; what it finds is told, and nothing is changed."""

import csv
import dataclasses
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.linalg import eigh

from headstart.audit.duplicates import near_duplicates, redundant
from headstart.audit.labels import confident_suspects, out_of_fold_probabilities
from headstart.audit.sheet import draw_pairs, draw_suspects
from headstart.config import Config
from headstart.data.dataset import PART_NAMES, Dataset, Pictures
from headstart.data.picture import FORMATS
from headstart.errors import HeadstartError
from headstart.files import write_json, written_whole
from headstart.memory import give_back_freed_memory
from headstart.run.calibration import probabilities
from headstart.run.folder import Run
from headstart.run.metrics import wilson_interval
from headstart.run.plots import figure

logger = logging.getLogger("headstart")

# Principal components of the features: for the labels, and of these the first for finding similar pictures.
LABEL_COMPONENTS, PAIR_COMPONENTS = 256, 128
# Fewer pictures for each weight of a class, and its regression learns noise.
PICTURES_PER_COMPONENT = 10
# So many pictures determine the components.
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
    from headstart.backend import resolve_precision
    from headstart.data.load import configured_data
    from headstart.model.backbones import load_backbone, refuse_unusable
    from headstart.model.graph import build_model
    from headstart.training.features import FrozenLayers

    if not can_audit(config):
        raise HeadstartError("an audit needs a pretrained backbone: leave out --weights none")
    folder = Path(config.out or "audit").expanduser()
    if folder.exists() and not (folder / "audit.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise HeadstartError(f"{folder} holds something else than an audit: choose another folder with --out")
    refuse_unusable(config)
    data = data or configured_data(config)
    precision = resolve_precision(config.precision)
    model = build_model(*load_backbone(config), data.image_shape, len(data.class_names), config, precision)
    folder.mkdir(parents=True, exist_ok=True)
    return examine(data, principal_components(all_features(FrozenLayers(model, data, config), data)), folder)


def can_audit(config: Config) -> bool:
    """Whether a run computes the features that an audit stands on."""
    return config.cache_features and not config.from_scratch


def all_features(frozen: Any, data: Dataset) -> np.ndarray:
    """Return the features of every picture as it is, float (N, C): training, validation and test after each other.

    Args:
        frozen: `headstart.training.features.FrozenLayers` of the same data.
    """
    parts = zip(PART_NAMES, (data.train, data.validation, data.test), strict=True)
    return np.concatenate([frozen.features(rows, 0, f"{name} pictures") for name, rows in parts if len(rows)])


def examine(data: Dataset, components: np.ndarray, folder: Path) -> dict[str, Any]:
    """Find what is wrong with a data set; write `audit.json`, two lists and two contact sheets, and return the first's content.

    Args:
        components: float32 (N, C), of the features of every picture, in the order of `all_features`.
        folder: an existing one.
    """
    begin = time.monotonic()
    rows = np.concatenate([data.train, data.validation, data.test])
    parts = np.repeat(PART_NAMES, [len(data.train), len(data.validation), len(data.test)])
    names, labels, class_names = [data.pictures.names[row] for row in rows], data.labels(rows), data.class_names
    give_back_freed_memory()
    pairs, similarity = near_duplicates(data.pictures.images, rows, components[:, :PAIR_COMPONENTS])
    left_out = redundant(pairs, parts == PART_NAMES[0])
    equal = data.pictures.digests[rows[pairs[:, 0]]] == data.pictures.digests[rows[pairs[:, 1]]]
    pairs, similarity = pairs[~equal], similarity[~equal]
    twins = [
        {"first": names[one], "second": names[other], "parts": [str(parts[one]), str(parts[other])], "similarity": round(r, 4)}
        for (one, other), r in zip(pairs.tolist(), similarity.tolist(), strict=True)
    ]
    give_back_freed_memory()
    most = max(2, len(rows) // PICTURES_PER_COMPONENT)
    suspects = describe_suspects(out_of_fold_probabilities(components[:, :most], labels), data, rows, parts)

    (folder / "images").mkdir(exist_ok=True)
    with figure(folder / "images" / "near_duplicates.png", (9, 8)) as canvas:
        draw_pairs(canvas, data, rows[pairs], twins)
    write_suspects(folder, data, suspects)
    write_csv(folder / "near_duplicates.csv", ["first", "second", "first_part", "second_part", "similarity"], [
        [entry["first"], entry["second"], *entry["parts"], entry["similarity"]] for entry in twins
    ])  # fmt: skip
    classes = {
        name: dict(zip(class_names, np.bincount(data.labels(part), minlength=len(class_names)).tolist(), strict=True))
        for name, part in zip(PART_NAMES, (data.train, data.validation, data.test), strict=True)
    }
    counts = np.bincount(labels, minlength=len(class_names))
    content = {
        "classes": classes,
        "sizes": source_sizes(data.pictures),
        "imbalance": round(float(counts.max() / counts.min()), 3),
        "unreadable": list(data.pictures.unreadable),
        "exact_duplicates": list(data.duplicates),
        "near_duplicates": twins,
        "suspects": suspects,
        # What --drop-duplicates leaves out, or would.
        "redundant": [names[row] for row in left_out],
        "accuracy_without_twins": {},
        "seconds": round(time.monotonic() - begin, 2),
    }
    write_json(folder / "audit.json", content)
    twinned = twinned_test_pictures(content, set(names[: len(data.train)]))
    logger.info(
        "audit: %d near-duplicates, %d of %d test pictures have a twin in training; %d labels may be wrong (%.0f seconds)",
        len(twins), len(twinned), len(data.test), len(suspects), content["seconds"],
    )  # fmt: skip
    return content


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


def describe_suspects(chances: np.ndarray, data: Dataset, rows: np.ndarray, parts: np.ndarray) -> list[dict[str, Any]]:
    """Return what `audit.json` says of the labels that are probably wrong, the least probable given label first.

    Args:
        chances: float (R, classes), by models that were not trained on the picture.
        rows: int (R,), the pictures; `parts`, str (R,), the part of each.
    """
    names, labels, class_names = data.pictures.names, data.labels(rows), data.class_names
    return [
        {
            "name": names[rows[row]], "part": str(parts[row]), "given": class_names[labels[row]], "suggested": class_names[label],
            "given_probability": round(float(chances[row, labels[row]]), 4),
            "suggested_probability": round(float(chances[row, label]), 4),
        }
        for row, label in zip(*confident_suspects(chances, labels), strict=True)
    ]  # fmt: skip


def write_suspects(folder: Path, data: Dataset, suspects: list[dict[str, Any]]) -> None:
    """Write `suspects.csv` and the contact sheet of the labels that are probably wrong."""
    places = {name: index for index, name in enumerate(data.pictures.names)}
    with figure(folder / "images" / "suspects.png", (10, 6.5)) as canvas:
        draw_suspects(canvas, data, np.array([places[entry["name"]] for entry in suspects], int), suspects)
    columns = ["name", "part", "given", "suggested", "given_probability", "suggested_probability"]
    write_csv(folder / "suspects.csv", columns, [list(entry.values()) for entry in suspects])


def source_sizes(pictures: Pictures) -> dict[str, list[int]]:
    """Return width and height of the smallest, the median and the largest picture of a source, by area, before decoding."""
    if not pictures.files:
        height, width = pictures.images.shape[1:3]
        return {key: [width, height] for key in ("smallest", "median", "largest")}

    def size(file: str) -> tuple[int, int] | None:
        try:
            with Image.open(Path(pictures.source) / file, formats=FORMATS) as image:
                return image.size
        except Exception:  # it could be read before; Pillow raises almost anything
            return None

    with ThreadPoolExecutor() as pool:
        sizes = sorted(filter(None, pool.map(size, pictures.files)), key=lambda size: size[0] * size[1])
    if not sizes:
        return {}
    return {"smallest": list(sizes[0]), "median": list(sizes[len(sizes) // 2]), "largest": list(sizes[-1])}


def write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def twinned_test_pictures(content: dict[str, Any], trained: set[str]) -> set[str]:
    """Return the names of the test pictures that have a near-duplicate among the pictures trained on."""
    pairs = [(entry[side], entry[twin], entry["parts"]) for entry in content["near_duplicates"]
             for side, twin in (("first", "second"), ("second", "first"))]  # fmt: skip
    return {name for name, twin, parts in pairs if set(parts) == {PART_NAMES[0], PART_NAMES[2]} and twin in trained}


def audit_run(run: Run, frozen: Any, data: Dataset, checkpoint: Any) -> Dataset:
    """Audit a run's data before it trains, once, and return them, on request without the redundant training pictures.

    Where a run has no features, from scratch or with pictures passed anew at every epoch, nothing is audited.

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
        content = examine(data, components, run.path)
        checkpoint.stop_clock("audit")
    return without_redundant(data, content) if config.drop_duplicates else data


def finish_audit(run: Run, data: Dataset, stages: list[str]) -> None:
    """Bring a run's audit up to date with what it has learned.

    `audit.json` gets the accuracy of each stage without the test pictures that have a twin in training, and the
    suspects of the validation and test parts as the fine-tuned network sees them.
    """
    if not can_audit(run.config):
        return
    content, labels = run.read_json("audit.json"), data.labels(data.test)
    if "fine_tuned" in stages:
        content["suspects"] = judged_again(run, data, content["suspects"], "fine_tuned")
        write_suspects(run.path, data, content["suspects"])
    correct = {stage: run.test_logits(stage).argmax(axis=1) == labels for stage in stages}
    figures = accuracies_without_twins(content, data, correct)
    write_json(run.path / "audit.json", content | {"accuracy_without_twins": figures})
    for stage, found in figures.items():
        logger.info(
            "test, %s, without %d pictures that have a twin in training: %.2f %% (95 %% interval %.2f to %.2f)",
            stage.replace("_", "-"), found["left_out"], 100 * found["accuracy"], *(100 * end for end in found["interval"]),
        )  # fmt: skip


def judged_again(run: Run, data: Dataset, suspects: list[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    """Return suspects with those of the validation and test parts found anew by a stage's probabilities.

    The trained network knows these pictures' classes better than a regression on frozen features does, and was trained
    on none of them. It was on the training part, whose suspects stay.
    """
    parts = {"validation": data.validation, "test": data.test}
    logits = np.concatenate([run.array(f"{part}_{stage}") for part in parts])
    found = describe_suspects(
        probabilities(logits, run.metrics["test"][stage]["temperature"]), data,
        np.concatenate(list(parts.values())), np.repeat(list(parts), [len(rows) for rows in parts.values()]),
    )  # fmt: skip
    kept = [entry for entry in suspects if entry["part"] not in parts]
    return sorted(kept + found, key=lambda entry: entry["given_probability"])


def without_redundant(data: Dataset, content: dict[str, Any]) -> Dataset:
    """Return a data set whose training part lacks the pictures that an audit found redundant.

    Raises:
        HeadstartError: a class would have no training picture left.
    """
    names, redundant_names = data.pictures.names, set(content["redundant"])
    left_out = np.array([names[row] in redundant_names for row in data.train])
    kept = data.train[~left_out]
    missing = sorted(set(range(len(data.class_names))) - set(data.labels(kept).tolist()))
    if missing:
        raise HeadstartError(
            f"{data.pictures.source}: without its near-duplicates, class {data.class_names[missing[0]]!r} "
            "has no training picture left; leave out --drop-duplicates"
        )
    logger.info("%d training pictures are left out as near-duplicates", left_out.sum())
    return dataclasses.replace(data, train=kept, left_out=data.train[left_out])


def accuracies_without_twins(content: dict[str, Any], data: Dataset, correct: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the accuracy of each stage, with its 95 % interval, on the test pictures without a twin in training.

    Args:
        content: of `audit.json`.
        correct: for each stage, bool (N,): which test pictures it classified rightly.
    """
    names = data.pictures.names
    trained = {names[row] for row in data.train}  # twins that --drop-duplicates left out did not help
    twins = twinned_test_pictures(content, trained)
    alone = np.array([names[row] not in twins for row in data.test])
    figures = {}
    for stage, right in correct.items():
        if alone.any():
            figures[stage] = {
                "accuracy": float(right[alone].mean()), "interval": wilson_interval(int(right[alone].sum()), int(alone.sum())),
                "pictures": int(alone.sum()), "left_out": int((~alone).sum()),
            }  # fmt: skip
    return figures
