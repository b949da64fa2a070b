"""`report.html` of a run: the answer first, then what it stands on."""

import dataclasses
import shlex
from collections import Counter
from typing import Any

import numpy as np
from markupsafe import Markup

from headstart.config import ALL, LAST_STAGE, LINEAR, PLACES, Config, option_name, toml
from headstart.data.dataset import Dataset
from headstart.metrics.calibration import calibration_in_words, is_applied, probabilities
from headstart.metrics.claim import between, known_images, what_it_holds_for
from headstart.metrics.comparison import SIGNIFICANT
from headstart.metrics.figures import Figures, Metrics, RejectionPoint
from headstart.metrics.heads import head_in_words
from headstart.metrics.mirroring import mirror_in_words
from headstart.model.network import Network
from headstart.recipes import RECIPES
from headstart.record.folder import RunFolder
from headstart.record.history import EpochRow
from headstart.report import gallery, plots
from headstart.report.advice import advice, taken_for
from headstart.report.audit_page import described, findings
from headstart.report.pages import Number, duration, named, percent, share, write_page
from headstart.report.plots import MOST_LABELLED, SQUARE, svg
from headstart.system.text import count, last_part

MOST_CONFUSIONS = 8
SECONDS_NAMES = {
    "preparation": "preparation", "features": "features of the frozen backbone", "head": "training the head",
    "fine_tuning": "fine-tuning", "training": "training", "audit": "audit of the data",
}  # fmt: skip
# Of environment.json, beside the versions of packages.
NOT_VERSIONS = ("command", "precision", "preprocess", "licence")


def write_report(run: RunFolder, network: Network, data: Dataset) -> None:
    """Write `report.html` into a run's folder, from the files that lie there.

    Args:
        network: the trained one; it explains some images of the test split.
        data: the data set, for the images themselves.

    Raises:
        UnwritableError: the file cannot be written.
    """
    metrics, config, summary = run.metrics, run.config, run.read_json("data.json")
    audit = run.audit
    stage, figures = list(metrics["test"].items())[-1]
    labels, logits = run.array("labels_test"), run.test_logits(stage)
    calibrated = probabilities(logits, figures["temperature"])
    galleries, method = gallery.explained(gallery.choose(calibrated, labels), network, data, calibrated)
    write_page(
        run.path / "report.html",
        "run.html.j2",
        trained=trained(config),
        recipe=config.recipe,
        image_size=config.image_size,
        learned=learned(run),
        images=summary["images"],
        figures=figures,
        **claim(figures),
        accuracy_chart=accuracy_chart(metrics["test"]),
        comparison=metrics.get("comparison"),
        gain=gain(metrics),
        steps=advice(config, metrics, run.history, audit, network.map_shape[0], run.mirror),
        history_charts=[history_chart(run.history, quantity) for quantity in ("accuracy", "loss")],
        class_rows=class_rows(figures),
        **confusions(figures),
        **calibration(figures, logits, labels),
        **trust(figures, calibrated, labels),
        galleries=galleries,
        method=method,
        of=described(summary),
        mirror=mirror_in_words(run.mirror) if "images" in run.mirror else "",
        head=head_in_words(run.head).removeprefix("head: ") if run.head else "",
        found=findings(audit, data),
        cost_rows=cost_rows(metrics),
        seconds=metrics["seconds"]["total"],
        peak_memory_mb=metrics["peak_memory_mb"],
        parameters=metrics["parameters"],
        again=again(run),
    )


def trained(config: Config) -> str:
    """Return what was trained on what."""
    return " on ".join(last_part(source) for source in (config.backbone, config.data))


def claim(figures: Figures) -> dict[str, Any]:
    """Return which images an accuracy holds for, and how sure it is."""
    new, known = figures.get("without_near_duplicates"), known_images(figures)
    return {
        "known": known,
        "holds_for": what_it_holds_for(figures) if known else "",
        "between": between(figures),
        "without": new if figures.get("near_duplicates_in_training") else None,
    }


def accuracy_chart(test: dict[str, Figures]) -> Markup:
    """Return the test accuracy of each stage as a chart."""
    rows, known = plots.accuracies(test), known_images(list(test.values())[-1])
    words = ", ".join(
        f"{name} {percent(middle)} ({percent(low)} to {percent(high)})" for name, (low, middle, high) in rows.items()
    )
    scale = "test accuracy in %, 95 % interval" + (": images like those in training" if known else "")
    return svg(f"Test accuracy with 95 % intervals: {words}", plots.rows_height(rows), plots.draw_intervals, rows, scale)


def learned(run: RunFolder) -> str:
    """Return what learned, and for how long."""
    start = run.config.fine_tune_from
    unfrozen = {ALL: "the whole network", LAST_STAGE: "the network's last stage"}.get(start, f"the network from {start} on")
    what = {"frozen": "the head learned", "fine_tuned": f"then {unfrozen}", "scratch": "the whole network learned from nothing"}
    epochs = Counter(row["stage"] for row in run.history)
    linear = run.head.get("chosen") == LINEAR
    words = ", ".join(
        "the head was fitted at once, by logistic regression" if linear and stage == "frozen"
        else f"{what[stage]} for {count(number, 'epoch')}"
        for stage, number in epochs.items()
    )  # fmt: skip
    return words[0].upper() + words[1:]


def gain(metrics: Metrics) -> dict[str, Any]:
    """Return what fine-tuning changed, and whether that could be chance; nothing of a run of one stage."""
    if "comparison" not in metrics:
        return {}
    won, lost, chance = (metrics["comparison"][key] for key in ("only_fine_tuned_right", "only_frozen_right", "p_value"))
    verdict = "cannot be told from chance" if chance >= SIGNIFICANT else "is more than chance" if won > lost else "is a real loss"
    difference = metrics["test"]["fine_tuned"]["accuracy"] - metrics["test"]["frozen"]["accuracy"]
    return {"changed": won + lost > 0, "difference": difference, "verdict": verdict, "won": won, "lost": lost}


def history_chart(history: list[EpochRow], quantity: str) -> Markup:
    """Return the accuracy or the loss over the epochs as a chart."""
    scale = 100 if quantity == "accuracy" else 1
    first: Any = history[0]
    last: Any = history[-1]
    ends = " and ".join(
        f"{name} from {scale * first[key]:.3g} to {scale * last[key]:.3g}"
        for name, key in (("training", quantity), ("validation", f"val_{quantity}"))
    )
    label = f"{quantity.capitalize()} over {count(len(history), 'epoch')}: {ends}"
    return svg(label, plots.HEIGHT, plots.draw_history, history, quantity)


def class_rows(figures: Figures) -> list[list[Any]]:
    """Return the table of classes, the weakest first."""
    rows = []
    for name, one in sorted(figures["per_class"].items(), key=lambda item: item[1]["recall"]):
        mistaken = taken_for(figures, name)
        rows.append([
            named(name), share(one["recall"]), share(one["precision"]), Number(one["f1-score"], percent(one["f1-score"])),
            Number(one["support"], f"{one['support']:,.0f}"), named(mistaken[0]) + f" ({mistaken[1]:,})" if mistaken else "",
        ])  # fmt: skip
    return rows


def confusions(figures: Figures) -> dict[str, Any]:
    """Return the confusion matrix, as a table or of many classes as a chart, and the most frequent confusions."""
    names, matrix = list(figures["per_class"]), np.array(figures["confusion"])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    mistakes = matrix * (1 - np.eye(len(names), dtype=int))
    most = [divmod(int(place), len(names)) for place in np.argsort(-mistakes, axis=None, kind="stable")[:MOST_CONFUSIONS]]
    many = len(names) > MOST_LABELLED
    label = f"Confusion matrix of {len(names)} classes: the darker the diagonal, the more answers are right"
    return {
        "confusion_rows": [
            [named(names[given]), named(names[said]), Number(matrix[given, said], f"{matrix[given, said]:,}"),
             Number(shares[given, said], percent(shares[given, said]))]
            for given, said in most if mistakes[given, said]
        ],
        "matrix_chart": svg(label, SQUARE, plots.draw_confusion, matrix, names) if many else "",
        "matrix": [] if many else [
            (name, list(zip(names, counts, row, strict=True)))
            for name, counts, row in zip(names, matrix.tolist(), shares.tolist(), strict=True)
        ],
    }  # fmt: skip


def calibration(
    figures: Figures, logits: np.ndarray, labels: np.ndarray, plain: str = "without scaling"
) -> dict[str, Any]:  # fmt: skip
    """Return whether 90 % means 90 %, before and, where a temperature is applied, after temperature scaling.

    Args:
        plain: what the probabilities are called where none is applied.
    """
    series = plots.confidences(logits, labels, figures, plain)
    sides: dict[str, Any] = dict(zip(series, (figures, figures["calibrated"]), strict=False))
    errors = " and ".join(f"{percent(one['ece'])} {name}" for name, one in sides.items())
    shown = {
        "ece": ("Calibration error (ECE)", percent),
        "brier": ("Brier score", "{:.4f}".format),
        "loss": ("Log loss", "{:.4f}".format),
    }
    return {
        "scaled": is_applied(figures),
        "reliability_series": list(series),
        "reliability_chart": svg(f"Reliability diagram: calibration error {errors}", SQUARE, plots.draw_reliability, series),
        "calibration_rows": [
            [name, *(Number(one[key], text(one[key])) for one in sides.values())] for key, (name, text) in shown.items()
        ],
        "calibration_words": calibration_in_words(figures),
    }


def trust(figures: Figures, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return which precision is reached if answers that are not sure are withheld, and how outsiders are told.

    Args:
        probabilities: float (N, classes), of the test images.
    """
    rejection = figures["rejection"]
    sure, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    words = ", ".join(
        f"{percent(one['precision'])} of {percent(one['coverage'], 0)} for {100 * one['wanted']:g} %"
        for one in rejection["points"] if "precision" in one
    )  # fmt: skip
    reached = f"; reached: {words}" if words else ""
    label = f"Risk-coverage curve: area {rejection['aurc']:.4f}{reached}"
    return {
        "risk_chart": svg(label, plots.HEIGHT, plots.draw_risk, sure, correct, rejection),
        "rejection_rows": [rejection_row(one) for one in rejection["points"]],
        "best_promise": rejection["best_promise"],
        "of_groups": rejection.get("groups"),
        "aurc": rejection["aurc"],
        "outsiders": figures.get("outsiders"),
    }


def rejection_row(point: RejectionPoint) -> list[Any]:
    """Return a row of the table of thresholds."""
    wanted = Number(point["wanted"], f"{100 * point['wanted']:g}\N{NO-BREAK SPACE}%")
    if "threshold" not in point:
        return [wanted, "none", "", ""]
    threshold, reached = point["threshold"], point.get("precision")
    return [
        wanted, Number(threshold, percent(threshold)), share(point["coverage"]),
        "" if reached is None else Number(reached, percent(reached, 2)),
    ]  # fmt: skip


def cost_rows(metrics: Metrics) -> list[list[Any]]:
    """Return time and memory of each stage."""
    total = metrics["seconds"]["total"] or 1
    return [
        [SECONDS_NAMES.get(name, name), Number(value, duration(value)), share(value / total, 0),
         Number(metrics["memory_mb"][name], f"{metrics['memory_mb'][name] / 1000:.1f}\N{NO-BREAK SPACE}GB")]
        for name, value in metrics["seconds"].items() if name != "total"
    ]  # fmt: skip


def again(run: RunFolder, folder: RunFolder | None = None) -> dict[str, Any]:
    """Return the command, the versions, the data's fingerprint and every option; of a folder of seeds, if it is one of these."""
    whole, environment = folder or run, run.read_json("environment.json")
    return {
        "command": command(whole.config),
        "fingerprint": run.read_json("data.json")["fingerprint"],
        "licence": environment.get("licence", ""),
        "versions": [[name, str(value)] for name, value in environment.items() if name not in NOT_VERSIONS],
        "options": toml(to_send(whole.config)).rstrip("\n"),
    }


def command(config: Config) -> list[str]:
    """Return the command line that gives a configuration again, an option with its value being one word."""
    words = ["headstart train", f"--recipe {config.recipe}"]
    defaults = RECIPES[config.recipe]() if config.recipe in RECIPES else Config()
    for name, value in to_send(config).items():
        if name == "recipe" or getattr(config, name) == getattr(defaults, name):
            continue
        if isinstance(value, bool):
            words.append(option_name(name) if value else "--no-" + option_name(name)[2:])
        else:
            words.append(f"{option_name(name)} {shlex.quote(str(value))}")
    return words


def to_send(config: Config) -> dict[str, Any]:
    """Return the options as a page may show them that is sent to others.

    Of a path stays its last part. What says only where the run lies, and which server has a copy, is left out.
    """
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in PLACES}
    return {name: last_part(value) if isinstance(value, str) else value for name, value in options.items()}
