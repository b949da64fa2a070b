"""Two runs compared, for the terminal and as a page."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import PLACES, Config, option_name
from headstart.data.source import SPLIT_NAMES, TEST
from headstart.metrics.claim import known_images
from headstart.metrics.comparison import SIGNIFICANT, compare_stages, of_groups
from headstart.metrics.figures import Figures
from headstart.record.folder import RunFolder
from headstart.record.history import STAGES
from headstart.record.split import FOLD, SplitRow
from headstart.report.pages import Number, duration, named, p_value, percent, points, signed, write_page
from headstart.report.plots import draw_intervals, rows_height, svg
from headstart.system.text import printable


class Comparison:
    """Two finished runs, each by the last of its stages. Either may be a folder of folds, by its figures of all images.

    Raises:
        HeadstartError: a run is not finished.
    """

    def __init__(self, first: RunFolder, second: RunFolder) -> None:
        for run in (first, second):
            run.require_result()
        self.first, self.second = first, second

    @cached_property
    def names(self) -> tuple[str, str]:
        """What the runs are called: their folders' names, with as many folders above as tell them apart."""
        first, second = different_ends(str(self.first.path.absolute()), str(self.second.path.absolute()))
        return printable(first), printable(second)

    @cached_property
    def figures(self) -> list[tuple[str, Figures]]:
        """Stage and test figures of both."""
        return [list(run.metrics["test"].items())[-1] for run in (self.first, self.second)]

    def rows(self) -> list[tuple[str, ...]]:
        """Return what is compared, its value in either run, and the difference, as text."""
        (stage, one), (other_stage, other) = self.figures
        rows: list[tuple[str, ...]] = [
            ("stage", STAGES[stage].title, STAGES[other_stage].title, ""),
            ("test accuracy", percent(one["accuracy"], 2), percent(other["accuracy"], 2),
             points(other["accuracy"] - one["accuracy"], 2)),
            ("95 % interval", *(" to ".join(percent(end, 2) for end in each["interval"]) for each in (one, other)), ""),
            ("test images", f"{one['images']:,}", f"{other['images']:,}", ""),
        ]  # fmt: skip
        known = [each.get("near_duplicates_in_training", 0) for each in (one, other)]
        if any(known):
            new = [each.get("without_near_duplicates") for each in (one, other)]
            rows += [
                ("like a training image", *(f"{number:,}" for number in known), ""),
                ("accuracy on the others", *(percent(each["accuracy"], 2) if each else "" for each in new), ""),
            ]
        if "calibrated" in one and "calibrated" in other:
            errors = one["calibrated"]["ece"], other["calibrated"]["ece"]
            losses = one["calibrated"]["loss"], other["calibrated"]["loss"]
            rows += [
                ("calibration error", *(percent(error, 2) for error in errors), points(errors[1] - errors[0], 2)),
                ("log loss", *(f"{loss:.4f}" for loss in losses), signed(losses[1] - losses[0], 4)),
            ]
        seconds = [run.metrics["seconds"]["total"] for run in (self.first, self.second)]
        memory = [run.metrics["peak_memory_mb"] / 1000 for run in (self.first, self.second)]
        return [
            *rows,
            ("time", *(duration(value) for value in seconds), f"x {seconds[1] / seconds[0]:.2f}" if seconds[0] else ""),
            ("memory", *(f"{value:.1f} GB" for value in memory), f"{signed(memory[1] - memory[0], 1)} GB"),
        ]

    def options(self) -> list[tuple[str, ...]]:
        """Return the options that differ, with either value."""
        found: list[tuple[str, ...]] = []
        for field in dataclasses.fields(Config):
            first, second = (str(getattr(run.config, field.name)) for run in (self.first, self.second))
            if field.name not in PLACES and first != second:
                found.append((option_name(field.name), *map(printable, different_ends(first, second))))
        return found

    def verdict(self) -> str:
        """Say whether the difference could be chance, as far as the runs can be compared, and what the accuracies hold for."""
        caveats = [
            f"Of {name}, {known}: its accuracy holds for images like those, not for new ones."
            for name, (_, one) in zip(self.names, self.figures, strict=True) if (known := known_images(one))
        ]  # fmt: skip
        return " ".join([self.difference(), *caveats])

    def difference(self) -> str:
        summaries = [run.read_json("data.json") for run in (self.first, self.second)]
        if summaries[0]["classes"] != summaries[1]["classes"]:
            return "The runs know different classes, so their accuracies are answers to different questions."
        rows, other_rows = self.shared_images()
        if not len(rows):
            return "The runs were not tested on the same images, so no paired test says whether the difference is chance."
        (stage, _), (other_stage, _) = self.figures
        logits, other_logits = self.first.test_logits(stage), self.second.test_logits(other_stage)
        test = compare_stages(logits[rows], other_logits[other_rows], self.first.array("labels_test")[rows], self.groups(rows))
        lost, won, chance = test["only_frozen_right"], test["only_fine_tuned_right"], test["p_value"]
        answer = "could be chance" if chance >= SIGNIFICANT else "is more than chance"
        first, second = self.names
        some = f"Of the test images, {len(rows):,} are the same in both runs, and on these the difference"
        which = "The difference" if len(rows) == len(logits) == len(other_logits) else some
        return (
            f"{which} {answer}: {won:,} images are right only in {second}, {lost:,} only in {first} "
            f"(exact McNemar test{of_groups(test)}, {p_value(chance)})."
        )

    def groups(self, rows: np.ndarray) -> np.ndarray | None:
        """Return which of some test images of the first run belong together, int (len(rows),); None if no run records groups."""
        for run, places in ((self.first, rows), (self.second, self.shared_images()[1])):
            names = [row.get("group", "") for row in tested(run)]
            if any(names):
                numbers: np.ndarray = np.unique(np.array(names, dtype=object)[places], return_inverse=True)[1]
                return numbers
        return None

    def shared_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places within either test split of the images that both runs were tested on, int (N,) each."""
        first, second = ([row["digest"] for row in tested(run)] for run in (self.first, self.second))
        if first != second:
            _, rows, other_rows = np.intersect1d(first, second, return_indices=True)
            return rows, other_rows
        # Runs by an older Headstart kept no split.
        prints = [run.read_json("data.json").get("test_fingerprint") for run in (self.first, self.second)]
        same = bool(first) or prints[0] == prints[1]
        every = np.arange(len(self.first.array("labels_test")) if same else 0)
        return every, every

    def write_page(self, path: Path) -> None:
        """Write the comparison as a page of the report's style.

        Raises:
            UnwritableError: the file cannot be written.
        """
        (first, second), ((_, one), (_, other)) = self.names, self.figures
        rows = {name: (each["interval"][0], each["accuracy"], each["interval"][1])
                for name, each in ((first, one), (second, other))}  # fmt: skip
        label = f"Test accuracy with 95 % intervals: {first} {percent(one['accuracy'])}, {second} {percent(other['accuracy'])}"
        write_page(
            path,
            "compare.html.j2",
            first=first,
            second=second,
            difference=points(other["accuracy"] - one["accuracy"]),
            verdict=self.verdict(),
            accuracy_chart=svg(label, rows_height(rows), draw_intervals, rows),
            figure_rows=self.rows(),
            option_rows=self.options(),
            class_rows=self.class_rows(),
        )

    def class_rows(self) -> list[list[Any]]:
        """Return the recall of each class in both runs, what changed most first; nothing where the classes differ."""
        (_, one), (_, other) = self.figures
        if one["per_class"].keys() != other["per_class"].keys():
            return []
        recalls = [(name, one["per_class"][name]["recall"], other["per_class"][name]["recall"]) for name in one["per_class"]]
        return [
            [
                named(name),
                Number(before, percent(before)),
                Number(after, percent(after)),
                Number(after - before, points(after - before)),
            ]
            for name, before, after in sorted(recalls, key=lambda row: -abs(row[2] - row[1]))
        ]


def different_ends(first: str, second: str) -> tuple[str, str]:
    """Return the last parts of absolute paths, as many as tell them apart; anything else stays whole.

    A page may be sent to others, so it names no folders above these.
    """
    paths = Path(first), Path(second)
    for parts in range(1, max(len(path.parts) for path in paths)):
        ends = [str(Path(*path.parts[-parts:])) if path.is_absolute() else str(path) for path in paths]
        if ends[0] != ends[1]:
            return ends[0], ends[1]
    return first, second


def tested(run: RunFolder) -> list[SplitRow]:
    """Return the rows of a run's split that it was tested on."""
    return [row for row in run.split if row["split"] == SPLIT_NAMES[TEST] or row["split"].startswith(FOLD)]
