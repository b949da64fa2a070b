"""`report.html` of several seeds: how good a run is in the mean, and how much of that is luck."""

from typing import Any
from xml.etree.ElementTree import Element

from headstart.metrics.calibration import is_applied
from headstart.metrics.claim import between, known_images, what_it_holds_for
from headstart.record.folder import RunFolder
from headstart.report import charts
from headstart.report.html import E, contents, duration, p_value, percent, points, section, signed, table, write_page
from headstart.report.run_page import again, title

FIGURE_NAMES = {
    "accuracy": "accuracy", "top_5": "top 5", "loss": "log loss", "brier": "Brier score", "ece": "calibration error (ECE)",
}  # fmt: skip


def write_seeds_report(run: RunFolder, runs: list[RunFolder], summary: dict[str, Any]) -> None:
    """Write `report.html` into the folder that holds a finished run for each seed, with links to theirs.

    Args:
        summary: content of `seeds.json`.
    """
    accuracy = list(summary["test"].values())[-1]["accuracy"]
    sections = [
        section("Seeds", seeds(runs)),
        section("Every figure", every_figure(summary["test"], runs)),
        section("How to do it again", again(runs[0], run)),
    ]
    write_page(
        run.path / "report.html",
        f"{title(run)}, {len(runs)} seeds: {percent(accuracy['mean'])}",
        E("header", answer(run, runs, summary["test"], accuracy), E("p", gain(summary), class_="lead")),
        contents(sections),
        E("main", *sections),
        E("footer", "Written by Headstart from the files of the seeds' own folders."),
    )


def answer(run: RunFolder, runs: list[RunFolder], test: dict[str, Any], accuracy: dict[str, Any]) -> list[Element]:
    """How good the last stage is in the mean, how far the seeds differ, and what that does not say."""
    low, high = accuracy["range"]
    first = list(runs[0].metrics["test"].values())[-1]
    known = known_images(first)
    images = (
        f"{what_it_holds_for(first)} These are figures of seed {runs[0].config.seed}." if known else
        "The luck of the test images is not in it, since all seeds have the same "
        f"{first['images']:,}: for seed {runs[0].config.seed} alone, the 95 % interval over images is {between(first)}."
    )  # fmt: skip
    rows = {
        stage_name(stage).lower(): (one["accuracy"]["range"][0], one["accuracy"]["mean"], one["accuracy"]["range"][1])
        for stage, one in test.items()
    }  # fmt: skip
    dots = [one["accuracy"]["values"] for one in test.values()]
    words = ", ".join(
        f"{name} {percent(mean)} ({percent(lowest)} to {percent(highest)})" for name, (lowest, mean, highest) in rows.items()
    )
    chart = charts.intervals(f"Mean and range of the test accuracy of {len(runs)} seeds: {words}", rows,
                             "test accuracy in %: mean, range, seeds", dots)  # fmt: skip
    return [
        E("p", f"{title(run)}, recipe {run.config.recipe}", class_="kicker"),
        E("h1", percent(accuracy["mean"]), E("span", f" of the test images are named right in the mean of {len(runs)} "
                                                   f"seeds{known and f', but {known}'}")),
        E(
            "div",
            E(
                "div",
                E("p", images, class_="lead") if known else None,
                E("p", "The seeds lie ", E("b", f"between {percent(low, 2)} and {percent(high, 2)}"), ", with a standard "
                  f"deviation of {100 * accuracy['deviation']:.2f} points.", class_="lead"),
                E("p", "That is the luck of training: of the head's first weights, the order of the images and their "
                       "augmentation.", class_="note"),
                None if known else E("p", images, class_="note"),
            ),
            E("figure", chart),
            class_="two",
        ),
    ]  # fmt: skip


def gain(summary: dict[str, Any]) -> list[Element | str] | None:
    """Say what fine-tuning gained in the mean, and in how many of the seeds."""
    if "gain" not in summary:
        return None
    one = summary["gain"]
    better, (worst, best) = sum(value > 0 for value in one["values"]), one["range"]
    return [
        "Fine-tuning changed the accuracy by ", E("b", points(one["mean"], 2)), f" in the mean, from {points(worst, 2)} to "
        f"{points(best, 2)}; it helped in {better} of {len(one['values'])} seeds.",
    ]  # fmt: skip


def seeds(runs: list[RunFolder]) -> Element:
    """The table of seeds: accuracy of each stage and what fine-tuning gained, with links to their own reports."""
    stages = list(runs[0].metrics["test"])
    both = "comparison" in runs[0].metrics
    rows = []
    for one in runs:
        accuracies = [one.metrics["test"][stage]["accuracy"] for stage in stages]
        row: list[Any] = [E("a", f"seed {one.config.seed}", href=f"{one.path.name}/report.html")]
        row += [(value, percent(value, 2)) for value in accuracies]
        if both:
            chance = one.metrics["comparison"]["p_value"]
            row += [(accuracies[1] - accuracies[0], signed(100 * (accuracies[1] - accuracies[0]), 2)), (chance, p_value(chance))]
        seconds = one.metrics["seconds"]["total"]
        rows.append([*row, (seconds, duration(seconds))])
    columns = ["Seed", *map(stage_name, stages), *(["Gain", "McNemar"] if both else []), "Time"]
    caption = "Test accuracy of each seed" + ("; gain in points, with its paired test" if both else "")
    return table(columns, rows, sorted_by=0, caption=caption)


def every_figure(test: dict[str, Any], runs: list[RunFolder]) -> list[Element]:
    """Mean, deviation and range of each figure of each stage."""
    return [
        table(
            ["Figure", "Mean", "Deviation", "Low", "High"],
            [
                [figure_name(name), *((value, f"{value:.4f}") for value in (one["mean"], one["deviation"], *one["range"]))]
                for name, one in figures.items()
            ],
            caption=f"{stage_name(stage)}, on the test split; scaled: after temperature scaling, which is applied in "
                    f"{sum(is_applied(run.metrics['test'][stage]) for run in runs)} of {len(runs)} seeds",
        )
        for stage, figures in test.items()
    ]  # fmt: skip


def stage_name(stage: str) -> str:
    return stage.replace("_", "-").capitalize()


def figure_name(name: str) -> str:
    """Return what a figure of `single_figures` is called on the page."""
    plain = name.removeprefix("calibrated_")
    return FIGURE_NAMES.get(plain, plain) + (", scaled" if plain != name else "")
