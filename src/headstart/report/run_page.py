"""`report.html`: the answer first, then what it stands on."""

import dataclasses
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from headstart.config import ALL, LAST_STAGE, Config, option_name
from headstart.data.dataset import Dataset
from headstart.data.walk import skipped_words
from headstart.metrics.calibration import calibration_in_words, is_applied, probabilities, reliability
from headstart.metrics.claim import between, known_images, what_it_holds_for
from headstart.metrics.comparison import SIGNIFICANT
from headstart.metrics.mirroring import mirror_in_words
from headstart.model.network import Network
from headstart.recipes import RECIPES
from headstart.record.folder import RunFolder
from headstart.report import charts, gallery
from headstart.report.advice import advice, taken_for
from headstart.report.html import E, contents, duration, embedded, named, p_value, percent, points, section, table, write_page
from headstart.report.plots import STAGE_NAMES
from headstart.system.text import count, printable, shortened

# Beyond this a matrix of numbers is an image, and the list of confusions says more.
MOST_CELLS = 20
# Columns of a class's name beside and above the matrix.
MOST_HEADING = 14
MOST_CONFUSIONS, MOST_PAIRS, MOST_SUSPECTS = 8, 12, 24
SECONDS_NAMES = {
    "preparation": "preparation", "features": "features of the frozen backbone", "head": "training the head",
    "fine_tuning": "fine-tuning", "training": "training", "audit": "audit of the data",
}  # fmt: skip
# Of environment.json, beside the versions of packages.
NOT_VERSIONS = ("command", "precision", "preprocess")


def write_report(run: RunFolder, network: Network, data: Dataset) -> None:
    """Write `report.html` into a run's folder, from the files that lie there.

    What a file does not hold is left out of the page.

    Args:
        network: the trained one; it explains some images of the test split.
        data: the data set, for the images themselves.
    """
    metrics, audit = run.metrics, run.read_json("audit.json") if (run.path / "audit.json").exists() else {}
    stage, figures = list(metrics["test"].items())[-1]
    labels, logits = run.array("labels_test"), run.test_logits(stage)
    calibrated = probabilities(logits, figures.get("temperature", 1.0))
    galleries, method = gallery.explained(gallery.choose(calibrated, labels), network, data, calibrated)
    cells = network.map_shape[0]
    sections = [
        section("Training", training(run.history)),
        section("Classes", classes(figures)),
        section("Confusions", confusions(figures)),
        section("Calibration", calibration(figures, logits, labels)),
        section("What it looked at", looked_at(galleries, method)),
        section("The data", the_data(run, data, audit)),
        section("Time and memory", cost(run)),
        section("How to do it again", again(run)),
    ]
    write_page(
        run.path / "report.html",
        f"{title(run)}: {percent(figures['accuracy'])}{' on images like those in training' if known_images(figures) else ''}",
        E("header", answer(run, figures), next_steps(advice(run.config, metrics, run.history, audit, cells, run.mirror))),
        contents(sections),
        E("main", *sections),
        E("footer", "Written by Headstart from the files of the run's own folder."),
    )


def title(run: RunFolder) -> str:
    """Return what was trained on what."""
    return f"{short(run.config.backbone)} on {short(run.config.data)}"


def short(source: str) -> str:
    return source.rstrip("/").rsplit("/", 1)[-1]


def answer(run: RunFolder, figures: dict[str, Any]) -> list[Element]:
    """What was trained on what, how good it is, how sure that is, and what fine-tuning gained."""
    metrics, config = run.metrics, run.config
    known = known_images(figures)
    images = run.read_json("data.json")["images"]
    rows = {STAGE_NAMES[stage].split()[0] if stage == "frozen" else STAGE_NAMES[stage]:
            (one["interval"][0], one["accuracy"], one["interval"][1]) for stage, one in metrics["test"].items()}  # fmt: skip
    words = ", ".join(
        f"{name} {percent(middle)} ({percent(low)} to {percent(high)})" for name, (low, middle, high) in rows.items()
    )
    scale = "accuracy in %, 95 % interval" + (": images like those in training" if known else "")
    return [
        E("p", f"{title(run)}, recipe {config.recipe}", class_="kicker"),
        E("h1", percent(figures["accuracy"]), E("span", f" of the test images are named right{known and f', but {known}'}")),
        E(
            "div",
            E(
                "div",
                E("p", what_it_holds_for(figures) if known else certainty(figures), class_="lead"),
                E("p", gain(metrics), class_="lead"),
                E("p", f"{run_in_words(run)} on {count(images['training'], 'image')} of {len(figures['per_class'])} "
                       f"classes at {config.image_size} px, and {images['validation']:,} more chose the epoch to keep. It "
                       f"took {duration(metrics['seconds']['total'])}.", class_="note"),
            ),
            E("figure", charts.intervals(f"Test accuracy with 95 % intervals: {words}", rows, scale)),
            class_="two",
        ),
        E("dl", key_figures(run, figures), class_="figures"),
    ]  # fmt: skip


def certainty(figures: dict[str, Any]) -> list[Element | str]:
    """Say how sure an accuracy is that holds for new images."""
    new, known = figures.get("without_near_duplicates"), figures.get("near_duplicates_in_training", 0)
    without = (
        f" {known:,} of them {'has' if known == 1 else 'have'} a near-duplicate in training; it is {percent(new['accuracy'])} "
        "on the others." if new and known else ""
    )  # fmt: skip
    return [
        "With 95 % confidence the true figure lies ", E("b", between(figures)),
        f". It was measured on {count(figures['images'], 'image')} that chose nothing in training.{without}",
    ]  # fmt: skip


def run_in_words(run: RunFolder) -> str:
    """Return what learned, and for how long."""
    start = run.config.fine_tune_from
    unfrozen = {ALL: "the whole network", LAST_STAGE: "the network's last stage"}.get(start, f"the network from {start} on")
    what = {"frozen": "the head learned", "fine_tuned": f"then {unfrozen}", "scratch": "all of it learned from nothing"}
    epochs = Counter(row["stage"] for row in run.history)
    words = ", ".join(f"{what[stage]} for {count(number, 'epoch')}" for stage, number in epochs.items())
    return words[0].upper() + words[1:]


def gain(metrics: dict[str, Any]) -> list[Element | str] | None:
    """Say what fine-tuning gained, and whether that could be chance."""
    comparison = metrics.get("comparison")
    if not comparison:
        return None
    won, lost, chance = comparison["only_fine_tuned_right"], comparison["only_frozen_right"], comparison["p_value"]
    difference = points(metrics["test"]["fine_tuned"]["accuracy"] - metrics["test"]["frozen"]["accuracy"])
    if not won + lost:
        return ["Fine-tuning ", E("b", "changed no answer"), ": the frozen network was kept, or all agree."]
    verdict = "cannot be told from chance" if chance >= SIGNIFICANT else "is more than chance" if won > lost else "is a real loss"
    return [
        "Fine-tuning changed the accuracy by ", E("b", difference), f", which {verdict}: {won:,} images are right only after "
        f"it, {lost:,} only before it (exact McNemar test, {p_value(chance)}).",
    ]  # fmt: skip


def key_figures(run: RunFolder, figures: dict[str, Any]) -> Iterator[Element]:
    """The few other figures that a reader asks for first."""

    def one(name: str, value: str, remark: str) -> Element:
        return E("div", E("dt", name), E("dd", E("b", value), E("span", remark)))

    if "top_5" in figures:
        yield one("Top 5", percent(figures["top_5"]), "the right class is among the five likeliest")
    if "macro" in figures:
        yield one("Macro F1", percent(figures["macro"]["f1-score"]), "every class counting the same")
    if "calibrated" in figures:
        remark = f"{percent(figures['ece'])} before scaling" if is_applied(figures) else "no temperature is applied"
        yield one("Calibration error", percent(figures["calibrated"]["ece"]), remark)
    yield one("Log loss", f"{figures.get('calibrated', figures)['loss']:.3f}", "0 is perfect")


def next_steps(steps: list[tuple[str, str]]) -> Element | None:
    """What to do next, from the run's figures."""
    if not steps:
        return None
    items = [E("li", E("b", options_marked(what)), " ", options_marked(why)) for what, why in steps]
    return E("div", E("h2", "What to do next"), E("ol", *items), class_="next")


def options_marked(text: str) -> list[Element | str]:
    """Return a sentence with the options in it, such as `--epochs 4`, as code."""
    parts = re.split(r"(--[a-z-]+(?: [0-9.e-]*[0-9])?)", text)
    return [E("code", part) if part.startswith("--") else part for part in parts]


def training(history: list[dict[str, Any]]) -> list[Element]:
    """Accuracy and loss over the epochs."""
    boundary = sum(row["stage"] == "frozen" for row in history)
    figures = []
    for name, key, scale, unit in (("Accuracy", "accuracy", 100, "accuracy in %"), ("Loss", "loss", 1, "loss")):
        series = {
            kind: [scale * row[prefix + key] for row in history] for kind, prefix in (("training", ""), ("validation", "val_"))
        }
        ends = " and ".join(f"{kind} from {values[0]:.3g} to {values[-1]:.3g}" for kind, values in series.items())
        label = f"{name} over {count(len(history), 'epoch')}: {ends}"
        figures.append(E("figure", charts.curves(label, series, boundary if boundary < len(history) else 0, unit)))
    return [charts.legend("training", "validation"), E("div", figures, class_="two")]


def classes(figures: dict[str, Any]) -> list[Element]:
    """The table of classes, weakest first."""
    rows = []
    for name, one in sorted(figures["per_class"].items(), key=lambda item: item[1]["recall"]):
        mistaken = taken_for(figures, name)
        rows.append([
            named(name), share(one["recall"]), share(one["precision"]), (one["f1-score"], percent(one["f1-score"])),
            (one["support"], f"{one['support']:,.0f}"), E("span", named(mistaken[0]), f" ({mistaken[1]})") if mistaken else "",
        ])  # fmt: skip
    columns = ["Class", "Recall", "Precision", "F1", "Source", "Mistaken for"]
    return [
        table(columns, rows, sorted_by=1, caption="Figures of each class on the test split"),
        E("p", "Recall: how many of a class's images are found. Precision: how many of those called so are so. F1: both in "
               "one. A click on a heading sorts.", class_="note"),
    ]  # fmt: skip


def share(value: float, digits: int = 1) -> tuple[float, Element]:
    """Return a table's cell with a part of the whole as number and bar."""
    return value, E("span", percent(value, digits), class_="bar", style=f"--share: {100 * value:.1f}%")


def confusions(figures: dict[str, Any]) -> list[Element | None]:
    """The confusion matrix, and the commonest confusions."""
    if "confusion" not in figures:
        return []
    names, matrix = list(figures["per_class"]), np.array(figures["confusion"])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    mistakes = matrix * (1 - np.eye(len(names), dtype=int))
    commonest = [place for place in np.argsort(-mistakes, axis=None, kind="stable")[:MOST_CONFUSIONS] if mistakes.flat[place]]
    rows = [
        [named(names[given]), named(names[said]), (times, f"{times:,}"), (share, percent(share))]
        for given, said, times, share in (
            (given, said, int(matrix[given, said]), float(shares[given, said]))
            for given, said in (divmod(int(place), len(names)) for place in commonest)
        )
    ]
    listing = table(["Given", "Called", "Source", "Of the class"], rows, sorted_by=None, caption="The commonest confusions")
    if len(names) > MOST_CELLS:
        grey = Image.fromarray(np.uint8(255 - 255 * np.sqrt(shares))).resize((480, 480), Image.Resampling.NEAREST)
        drawn = E(
            "figure", embedded(grey, f"confusion matrix of {len(names)} classes; a dark diagonal is right"), class_="matrix"
        )
        return [E("div", drawn, listing if rows else None, class_="two")]
    header = E("tr", E("td"), *[E("th", E("span", named(name, MOST_HEADING)), scope="col") for name in names])
    body = [
        E("tr", E("th", named(name, MOST_HEADING), scope="row"), *[
            E("td", f"{100 * share:.0f}" if share >= 0.005 else "", style=f"--share: {100 * share:.0f}%",
              class_=" ".join(filter(None, ["right" if said == given else "", "dark" if share > 0.5 else ""])) or None,
              title=f"{name} called {names[said]}: {matrix[given, said]} images")
            for said, share in enumerate(shares[given])
        ])
        for given, name in enumerate(names)
    ]  # fmt: skip
    whole = E("table", E("caption", "Row: the given class. Column: what it was called. In % of the row."),
              E("thead", header), E("tbody", *body), class_="confusion", style=f"--classes: {len(names)}")  # fmt: skip
    matrix_or_scroll = E("div", whole, class_="wide", tabindex=0, role="region", aria_label="Confusion matrix")
    return [E("div", matrix_or_scroll, listing if rows else None, class_="two")]


def calibration(figures: dict[str, Any], logits: np.ndarray, labels: np.ndarray) -> list[Element | None]:
    """Whether 90 % means 90 %, before and, where a temperature is applied, after temperature scaling."""
    if "calibrated" not in figures:
        return []
    temperature, applied = figures["temperature"], is_applied(figures)
    columns = {"the network's own": (1.0, figures)}
    if applied:
        columns[f"with temperature {temperature:.2f}"] = (temperature, figures["calibrated"])
    series = {name: reliability(probabilities(logits, divisor), labels) for name, (divisor, _) in columns.items()}
    errors = " and ".join(f"{percent(one['ece'])} {name}" for name, (_, one) in columns.items())
    quantities = {"ece": ("Calibration error (ECE)", percent), "brier": ("Brier score", "{:.4f}".format),
                  "loss": ("Log loss", "{:.4f}".format)}  # fmt: skip
    rows = [[name, *[(one[key], shown(one[key])) for _, one in columns.values()]] for key, (name, shown) in quantities.items()]
    effect = f" The network is {'too sure of itself' if temperature > 1 else 'too modest'}." if applied else ""
    said = calibration_in_words(figures)
    caption = "Probabilities before and after temperature scaling" if applied else "Probabilities on the test images"
    return [
        E(
            "div",
            E("figure", charts.reliability_diagram(f"Reliability diagram: calibration error {errors}", series),
              charts.legend(*series)),
            E(
                "div",
                table(["", "Before", "After"] if applied else ["", "As it is"], rows, caption=caption),
                E("p", "On the diagonal, of the images that the network is 90 % sure of, 90 % are right; below it, it is too "
                       "sure. A dot's area is the share of the images.", class_="note"),
                E("p", f"{said[0].upper()}{said[1:]}.{effect} A temperature divides the logits before the softmax (Guo et al. "
                       "2017); where it is applied, headstart predict applies it. Lower is better in all three "
                       "figures.", class_="note"),
            ),
            class_="two",
        )
    ]  # fmt: skip


def looked_at(galleries: list[Element], method: str) -> list[Element]:
    """The galleries, and how their heat maps were made."""
    explanation = (
        "Right of each image is the same image with what spoke for the answer in colour, bright yellow strongest; "
        f"what did not is grey. Method: {method}."
    )
    return [E("p", explanation, class_="note"), *galleries]


def the_data(run: RunFolder, data: Dataset, audit: dict[str, Any]) -> list[Element | None]:
    """What the run was trained and tested on, and what the audit found in it."""
    summary = run.read_json("data.json")
    height, width = summary["image_shape"][:2]
    facts = [
        f"Kept at {height} x {width} pixels.",
        unreadable(summary),
        f"{count(len(summary['duplicates']), 'exact duplicate')}.",
        f"Not used: {skipped_words(summary['skipped'])}." if summary.get("skipped") else "",
        f"Mirroring: {mirror_in_words(run.mirror)}." if "images" in run.mirror else "",
    ]
    remarks = [E("li", printable(line)) for line in summary.get("remarks", [])]
    notes = [E("p", " ".join(filter(None, facts)), class_="note"), E("ul", remarks, class_="note") if remarks else None]
    found: list[Element | None] = [E("div", split_table(summary), E("div", notes), class_="two")]
    return [*found, *audited(data, audit)]


def split_table(summary: dict[str, Any]) -> Element:
    """The images of each split, and of each class in it unless there are many classes."""
    splits, by_class = summary["images"], summary.get("images_by_class", {})
    rows = [["all classes", *((number, f"{number:,}") for number in splits.values())]]
    if by_class and len(summary["classes"]) <= MOST_CELLS:
        for name in summary["classes"]:
            rows.append([shortened(name), *((by_class[split][name], f"{by_class[split][name]:,}") for split in splits)])
    return table(["Class", *(split.capitalize() for split in splits)], rows, caption="Images of each split")


def unreadable(summary: dict[str, Any]) -> str:
    files = summary["unreadable"]
    first = f": {', '.join(map(printable, files[:3]))}" if files else ""
    return f"{count(len(files), 'file')} could not be read{first}."


def audited(data: Dataset, audit: dict[str, Any]) -> Iterator[Element]:
    """What `audit.json` says: imbalance, near-duplicates, accuracy without twins, labels that may be wrong."""
    images = dict(zip(data.source.names, data.source.images, strict=True))
    if "imbalance" in audit:
        yield E("p", f"The largest class has {audit['imbalance']:.1f} times the images of the smallest.", class_="note")
    if "near_duplicates" in audit:
        pairs = audit["near_duplicates"]
        across = sum(pair["splits"][0] != pair["splits"][1] for pair in pairs)
        yield E("h3", "Near-duplicates")
        yield E("p", f"{count(len(pairs), 'pair')}, {across:,} of them across two splits.")
        if audit.get("alike"):
            yield E("p", "More than a third of the images have a near-duplicate: they are alike by kind (as X-rays are) or come "
                         "in series (frames of a video). A random split then cannot say how good a network is on others: test "
                         "on images of other patients, videos or places.")  # fmt: skip
        shown = sorted(pairs, key=lambda pair: (pair["splits"][0] == pair["splits"][1], -pair["similarity"]))[:MOST_PAIRS]
        yield E("div", [twins(images, pair) for pair in shown], class_="gallery")
        if (conflicts := audit.get("label_conflicts")) and not audit.get("alike"):
            yield E("p", f"{count(len(conflicts), 'pair')} of nearly the same image with different labels: one of both is wrong, "
                         "the images only look alike, or mirroring changes the class (--no-flip).")  # fmt: skip
            yield E("ul", [E("li", ", ".join(f"{pair[key]} ({label})" for key, label in zip(("first", "second"), pair["labels"],
                    strict=True))) for pair in conflicts[:MOST_PAIRS]])  # fmt: skip
            yield E("div", [twins(images, pair) for pair in conflicts[:MOST_PAIRS]], class_="gallery")
    if without := audit.get("accuracy_without_near_duplicates"):
        rows = [
            [STAGE_NAMES[stage], (one["accuracy"], percent(one["accuracy"], 2)),
             f"{percent(one['interval'][0], 2)} to {percent(one['interval'][1], 2)}", (one["left_out"], f"{one['left_out']:,}")]
            for stage, one in without.items()
        ]  # fmt: skip
        yield table(["Stage", "Accuracy", "95 % interval", "Left out"], rows,
                    caption="Without the test images that have a twin in training")  # fmt: skip
    if "suspects" in audit:
        suspects, note = audit["suspects"], audit.get("suspects_note", "")
        surely = sum(one.get("certainty") == "surely" for one in suspects)
        yield E("h3", "Labels that may be wrong")
        if note:
            yield E("p", f"{note[0].upper()}{note[1:]}.")
        if suspects:
            words = (
                f"{count(surely, 'strong suspect')} (“surely”) and {len(suspects) - surely:,} more labels that may be wrong "
                "(“perhaps”), ranked by the probability of the given label, the lowest first. The predictions are of models "
                "that had not seen the images (confident learning, Northcutt et al. 2021). Many suspects are only hard images. "
                "Go through suspects.csv in its order: after 58 labels in a row that are right, fewer than 5 % of the rest are "
                "wrong, with 95 % confidence. Correcting these alone in the test split would make the accuracy look better "
                "than it is."
            )
            yield E("p", words)
        elif not note:
            yield E("p", "None.")
        yield E("div", [suspicion(images, one) for one in suspects[:MOST_SUSPECTS]], class_="gallery small")


def twins(by_name: dict[str, np.ndarray], pair: dict[str, Any]) -> Element:
    keys = ("first", "second")
    images = [embedded(gallery.thumbnail(by_name[pair[key]]), pair[key]) for key in keys]
    names = [f"{split}: {pair[key]}" for split, key in zip(pair["splits"], keys, strict=True)]
    words = [E("b", " and ".join(pair["splits"])), f" correlation {pair['similarity']:.2f}"]
    return E("figure", E("div", images, class_="pair"), E("figcaption", words), title="; ".join(names))


def suspicion(images: dict[str, np.ndarray], suspect: dict[str, Any]) -> Element:
    rank = f"{suspect['rank']}, {suspect['certainty']}: " if "rank" in suspect else ""  # older runs have none
    words = [rank, E("b", f"{suspect['suggested']}?"), f" {percent(suspect['suggested_probability'], 0)}", E("br"),
             E("span", f"label: {suspect['given']}", class_="given")]  # fmt: skip
    drawn = embedded(gallery.thumbnail(images[suspect["name"]]), suspect["name"])
    return E("figure", drawn, E("figcaption", words), title=suspect["name"])


def cost(run: RunFolder) -> list[Element]:
    """Time and memory of each stage."""
    held = run.metrics.get("memory_mb", {})  # of runs by an older Headstart nothing
    seconds = {name: value for name, value in run.metrics["seconds"].items() if name != "total"}
    total = run.metrics["seconds"]["total"]
    rows = [
        [SECONDS_NAMES.get(name, name), (value, duration(value)), share(value / (total or 1), 0),
         *([(held[name], f"{held[name] / 1000:.1f}\N{NO-BREAK SPACE}GB")] if held else [])]
        for name, value in seconds.items()
    ]  # fmt: skip
    memory = f" The process held at most {run.metrics['peak_memory_mb'] / 1000:.1f} GB of memory."
    weights = f" The network has {run.metrics['parameters'] / 1e6:.1f} million weights."
    return [
        table(
            ["Stage", "Time", "Share", *(["Memory"] if held else [])],
            rows,
            caption="Time of each stage, and the most memory in it",
        ),
        E("p", f"{duration(total)} in all.{memory}{weights}", class_="note"),
    ]


def again(run: RunFolder, folder: RunFolder | None = None) -> list[Element]:
    """The command, the versions, the data's fingerprint and every option; of a folder of seeds, if it is one of these."""
    whole = folder or run
    environment = run.read_json("environment.json")
    options = (whole.path / "config.toml").read_text(encoding="utf-8", errors="surrogateescape")  # a path may be no UTF-8
    versions = [[name, value] for name, value in environment.items() if name not in NOT_VERSIONS]
    return [
        E("pre", E("code", [[E("span", word), " "] for word in command(whole.config)])),
        E("p", "Fingerprint of the data: ", E("code", run.read_json("data.json")["fingerprint"]), class_="note"),
        E("details", E("summary", "Versions and machine"), table(["Package", "Version"], versions)),
        E("details", E("summary", "Every option"), E("pre", E("code", options))),
    ]


def command(config: Config) -> list[str]:
    """Return the command line that gives a configuration again, an option with its value being one word."""
    words = ["headstart train", f"--recipe {config.recipe}"]
    defaults = RECIPES[config.recipe]() if config.recipe in RECIPES else Config()
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if field.name in ("recipe", "out") or value == getattr(defaults, field.name):
            continue
        if isinstance(value, bool):
            words.append(option_name(field.name) if value else "--no-" + option_name(field.name)[2:])
        else:
            words.append(f"{option_name(field.name)} {shlex.quote(str(value))}")
    return words
