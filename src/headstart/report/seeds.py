"""`report.html` of several seeds: how good a run is on average, and how much of that is luck."""

from typing import Any

from markupsafe import Markup

from headstart.metrics.calibration import is_applied
from headstart.record.folder import RunFolder
from headstart.record.history import STAGES
from headstart.report import plots
from headstart.report.pages import Number, duration, p_value, percent, signed, write_page
from headstart.report.plots import svg
from headstart.report.run_page import again, claim, trained

FIGURE_NAMES = {
    "accuracy": "accuracy", "top_5": "top 5", "loss": "log loss", "brier": "Brier score", "ece": "calibration error (ECE)",
}  # fmt: skip


def write_seeds_report(run: RunFolder, runs: list[RunFolder], summary: dict[str, Any]) -> None:
    """Write `report.html` into the folder that holds a finished run for each seed, with links to theirs.

    Args:
        summary: content of `seeds.json`.

    Raises:
        UnwritableError: the file cannot be written.
    """
    first = list(runs[0].metrics["test"].values())[-1]
    write_page(
        run.path / "report.html",
        "seeds.html.j2",
        trained=trained(run.config),
        recipe=run.config.recipe,
        seeds=len(runs),
        accuracy=list(summary["test"].values())[-1]["accuracy"],
        first_seed=runs[0].config.seed,
        test_images=first["images"],
        **claim(first),
        accuracy_chart=accuracy_chart(summary["test"]),
        gain=summary.get("gain"),
        seed_columns=columns("Seed", summary),
        seed_rows=[row_of(one, f"seed {one.config.seed}") for one in runs],
        figure_tables=figure_tables(summary["test"], runs, "seeds"),
        again=again(runs[0], run),
    )


def accuracy_chart(test: dict[str, Any]) -> Markup:
    """Return mean, range and seeds of the test accuracy of each stage as a chart."""
    figures = {STAGES[stage].name: one["accuracy"] for stage, one in test.items()}
    rows = {name: (one["range"][0], one["mean"], one["range"][1]) for name, one in figures.items()}
    marks = [one["values"] for one in figures.values()]
    words = ", ".join(f"{name} {percent(mean)} ({percent(low)} to {percent(high)})" for name, (low, mean, high) in rows.items())
    label = f"Mean and range of the test accuracy of {len(marks[0])} seeds: {words}"
    scale = "test accuracy in %: mean, range, seeds"
    return svg(label, plots.rows_height(rows), plots.draw_intervals, rows, scale, marks)


def columns(kind: str, summary: dict[str, Any]) -> list[str]:
    """Return the columns of the table of several runs.

    Args:
        kind: what tells the runs apart.
        summary: content of `seeds.json` or `folds.json`.
    """
    stages = [STAGES[stage].title.capitalize() for stage in summary["test"]]
    return [kind, *stages, *(["Gain", "McNemar"] if "gain" in summary else []), "Time"]


def row_of(run: RunFolder, name: str) -> list[Any]:
    """Return a run's accuracy in each stage and what fine-tuning gained, with a link to its own report."""
    accuracies = [figures["accuracy"] for figures in run.metrics["test"].values()]
    link = Markup('<a href="{}/report.html">{}</a>').format(run.path.name, name)
    row: list[Any] = [link, *(Number(value, percent(value, 2)) for value in accuracies)]
    if "comparison" in run.metrics:
        difference, chance = accuracies[1] - accuracies[0], run.metrics["comparison"]["p_value"]
        row += [Number(difference, signed(100 * difference, 2)), Number(chance, p_value(chance))]
    seconds = run.metrics["seconds"]["total"]
    return [*row, Number(seconds, duration(seconds))]


def figure_tables(spreads: dict[str, Any], runs: list[RunFolder], kind: str) -> list[tuple[str, list[list[Any]]]]:
    """Return mean, deviation and range of each figure of each stage: a caption and the rows.

    Args:
        spreads: what `headstart.groups.summaries` returns, by stage.
        kind: what tells the runs apart, in the plural.
    """
    tables = []
    for stage, figures in spreads.items():
        applied = sum(is_applied(run.metrics["test"][stage]) for run in runs)
        caption = (
            f"{STAGES[stage].title.capitalize()}, on the test split; scaled: after temperature scaling, which is applied in "
            f"{applied} of {len(runs)} {kind}"
        )
        rows = [[figure_name(name), *(Number(value, f"{value:.4f}") for value in (one["mean"], one["deviation"], *one["range"]))]
                for name, one in figures.items()]  # fmt: skip
        tables.append((caption, rows))
    return tables


def figure_name(name: str) -> str:
    """Return what a figure of `single_figures` is called on the page."""
    plain = name.removeprefix("calibrated_")
    return FIGURE_NAMES.get(plain, plain) + (", scaled" if plain != name else "")
