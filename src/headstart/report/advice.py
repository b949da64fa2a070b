"""What to do next, as far as a run's own figures say it."""

from typing import Any

from headstart.config import Config
from headstart.metrics.calibration import is_applied
from headstart.metrics.claim import known_images
from headstart.metrics.classification import UNEVEN
from headstart.metrics.comparison import SIGNIFICANT
from headstart.metrics.figures import Figures, Metrics
from headstart.record.history import EpochRow
from headstart.report.pages import percent, points
from headstart.system.text import count, shortened

MOST_ADVICE = 5
# From where on a figure is worth a sentence.
WEAK_CLASS, LARGE_GAP, WIDE_INTERVAL, POOR_CALIBRATION = 0.1, 0.1, 0.02, 0.03
COARSE = 4


def advice(
    config: Config,
    metrics: Metrics,
    history: list[EpochRow],
    audit: dict[str, Any],
    positions: int,
    mirror: dict[str, Any] | None = None,
) -> list[tuple[str, str]]:
    """Return what to do and why, the most promising first.

    Args:
        audit: content of `audit.json`, or nothing.
        positions: positions a side of the backbone's feature map.
        mirror: content of `mirror.json`, or nothing.
    """
    stage, figures = list(metrics["test"].items())[-1]
    rules = [
        *about_mirror(config, mirror or {}),
        *about_labels(audit),
        *about_stages(config, metrics),
        *about_size(config, positions),
        *about_epochs(config, stage, history),
        *about_classes(figures),
        *(about_imbalance(audit) if config.class_weights == "none" else []),
        *about_calibration(figures),
        *about_test(figures),
    ]
    return rules[:MOST_ADVICE]


def about_mirror(config: Config, mirror: dict[str, Any]) -> list[tuple[str, str]]:
    if not (config.flip and mirror.get("contradicts")):
        return []
    return [(
        "Do not mirror these images: --no-flip.",
        f"Before training, {percent(mirror['accuracy'])} of {mirror['images']:,} images were classified correctly, but only "
        f"{percent(mirror['mirrored_accuracy'])} of their mirror images. The mirror images mean something else.",
    )]  # fmt: skip


def about_labels(audit: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    if suspects := audit.get("suspects"):
        surely = sum(one.get("certainty") == "surely" for one in suspects)
        found.append((
            f"Look at {count(len(suspects), 'label')} that may be wrong, {surely:,} of them strongly suspect.",
            "They are listed below, the most suspect first, and some are only hard images. Wrong labels in training lower the "
            "accuracy; wrong labels in the test split distort it.",
        ))  # fmt: skip
    if audit.get("alike"):
        found.append((
            "Test on images of another source.",
            "More than a third of the images have a near-duplicate, so the test split resembles the training split more than new "
            "images will. Put all images of one patient, video or place into the same split.",
        ))  # fmt: skip
        return found
    if conflicts := audit.get("label_conflicts"):
        found.append((
            f"Look at {count(len(conflicts), 'pair')} of nearly the same image with different labels.",
            "They are listed below. One of the two labels is wrong, the images only look alike, or mirroring changes the class "
            "(--no-flip).",
        ))  # fmt: skip
    across = [pair for pair in audit.get("near_duplicates", []) if "test" in pair["splits"] and set(pair["splits"]) != {"test"}]
    if across:
        without = ["“The data” gives the accuracy without them."] if audit.get("accuracy_without_near_duplicates") else []
        remedy = [] if audit.get("classes_emptied") else ["Leave them out of training with --drop-duplicates."]
        found.append((
            f"Do not test on what was trained on: {count(len(across), 'near-duplicate')} of test images lie in another split.",
            " ".join(without + remedy),
        ))  # fmt: skip
    return found


def about_stages(config: Config, metrics: Metrics) -> list[tuple[str, str]]:
    test, comparison = metrics["test"], metrics.get("comparison")
    if list(test) == ["frozen"]:
        return [("Fine-tune the backbone.", "So far only the head has learned. With --epochs 2 the backbone learns too.")]
    if not comparison or (comparison["p_value"] < SIGNIFICANT and test["fine_tuned"]["accuracy"] > test["frozen"]["accuracy"]):
        return []
    if not comparison["only_frozen_right"] + comparison["only_fine_tuned_right"]:
        return [(
            "Fine-tune at another learning rate.",
            f"With --learning-rate {config.learning_rate:g} and --epochs {config.epochs}, no epoch was better on validation than "
            "the frozen stage, so its weights were kept. Try a lower rate, or more epochs.",
        )]  # fmt: skip
    difference = points(test["fine_tuned"]["accuracy"] - test["frozen"]["accuracy"])
    if comparison["p_value"] < SIGNIFICANT:
        return [("Fine-tune more gently.", f"Fine-tuning changed the accuracy by {difference}. Try a lower --learning-rate.")]
    return [(
        "Do not count on fine-tuning yet.",
        f"The difference of {difference} could be chance. Try more epochs or another --learning-rate, and test on more images.",
    )]  # fmt: skip


def about_size(config: Config, positions: int) -> list[tuple[str, str]]:
    if positions >= COARSE:
        return []
    size = config.image_size * COARSE // positions
    return [(
        f"Show it larger images: --image-size {size}.",
        f"At {config.image_size} px, the backbone's feature map has only {positions} x {positions} positions. At {size} px it "
        f"has {COARSE} x {COARSE}, and training takes about {round((size / config.image_size) ** 2)} times as long.",
    )]  # fmt: skip


def about_epochs(config: Config, stage: str, history: list[EpochRow]) -> list[tuple[str, str]]:
    rows = [row for row in history if row["stage"] == stage]
    found = []
    if len(rows) > 1 and rows[-1]["val_accuracy"] > max(row["val_accuracy"] for row in rows[:-1]):
        option = "--head-epochs" if stage == "frozen" else "--epochs"
        found.append((
            f"Train longer: {option} {2 * len(rows)}.",
            f"The validation accuracy still rose in the last epoch, to {percent(rows[-1]['val_accuracy'])}.",
        ))  # fmt: skip
    best = max(rows, key=lambda row: row["val_accuracy"], default=None)
    if best and best["accuracy"] - best["val_accuracy"] > LARGE_GAP:
        remedy = "Add images" if config.rand_augment else "Add images, or augment more strongly (--rand-augment)"
        found.append((
            "Reduce overfitting.",
            f"The accuracy is {percent(best['accuracy'])} in training, and {percent(best['val_accuracy'])} on validation. "
            f"{remedy}.",
        ))  # fmt: skip
    return found


def about_classes(figures: Figures) -> list[tuple[str, str]]:
    occurring = {name: one for name, one in figures["per_class"].items() if one["support"]}
    weakest = min(occurring, key=lambda name: occurring[name]["recall"])
    if occurring[weakest]["recall"] >= figures["accuracy"] - WEAK_CLASS:
        return []
    mistaken = taken_for(figures, weakest)
    return [(
        f"Add images of {shortened(weakest)}.",
        f"It is the weakest class: {percent(occurring[weakest]['recall'])} of its {occurring[weakest]['support']:.0f} test "
        "images are found" + (f", and {mistaken[1]:,} are taken for {shortened(mistaken[0])}." if mistaken else "."),
    )]  # fmt: skip


def about_imbalance(audit: dict[str, Any]) -> list[tuple[str, str]]:
    if audit.get("imbalance", 0) <= UNEVEN:
        return []
    return [(
        "Weight the classes: --class-weights auto, which is the default.",
        f"The largest class has {audit['imbalance']:.1f} times the images of the smallest.",
    )]  # fmt: skip


def about_calibration(figures: Figures) -> list[tuple[str, str]]:
    if "calibrated" not in figures:
        return []
    plain, scaled, (low, high) = figures["ece"], figures["calibrated"], figures["interval"]
    if is_applied(figures) and scaled["ece"] < plain and scaled["loss"] < figures["loss"]:
        if plain < POOR_CALIBRATION:
            return []
        return [(
            "Use the calibrated probabilities.",
            f"Confidence and accuracy differ by {percent(plain)} on average, and by {percent(scaled['ece'])} with the "
            "temperature that headstart predict applies.",
        )]  # fmt: skip
    # The calibration error of a few images is large by chance, about as large as half the interval of their accuracy.
    if scaled["ece"] < max(POOR_CALIBRATION, (high - low) / 2):
        return []
    failed = "a temperature did not help on the test images" if is_applied(figures) else "validation supports no temperature"
    return [(
        "Do not rely on the probabilities.",
        f"Confidence and accuracy differ by {percent(scaled['ece'])} on average, and {failed}. Validate on more images.",
    )]  # fmt: skip


def about_test(figures: Figures) -> list[tuple[str, str]]:
    low, high = figures["interval"]
    if high - low < 2 * WIDE_INTERVAL or known_images(figures):  # more of the same would tell nothing of new ones
        return []
    return [(
        "Test on more images.",
        f"With {figures['images']:,} images, the accuracy is known to about ±{percent((high - low) / 2)}. "
        "Four times as many halve that.",
    )]  # fmt: skip


def taken_for(figures: Figures, name: str) -> tuple[str, int] | None:
    """Return the class that images of a class are most often mistaken for, and how many are."""
    if "confusion" not in figures:
        return None
    names = list(figures["per_class"])
    row = [0 if other == name else times for other, times in zip(names, figures["confusion"][names.index(name)], strict=True)]
    return (names[row.index(max(row))], max(row)) if max(row) else None
