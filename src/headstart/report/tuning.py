"""`report.html` of a search: all its trials, which choices mattered, and what became of the winner."""

from collections import defaultdict
from typing import Any

import numpy as np
from markupsafe import Markup

from headstart.config import option_name
from headstart.plan.search import RATE, UNFROZEN, learned_on, shown_choices
from headstart.record.folder import WINNER, RunFolder
from headstart.record.schema import Tuning
from headstart.report import plots
from headstart.report.pages import Number, duration, percent, points, write_page
from headstart.report.plots import svg
from headstart.report.run_page import again, claim, to_send, trained
from headstart.system.text import count, last_part

# What stands in the table of trials, by the choice that it shows.
COLUMNS = ("backbone", "image size", UNFROZEN, RATE, "epochs", "augmentation")


def write_tuning_report(run: RunFolder, winner: RunFolder, content: Tuning) -> None:
    """Write `report.html` into the folder of a search.

    Args:
        run: the search.
        winner: the finished run of its winner.
        content: of `tuning.json`.

    Raises:
        UnwritableError: the file cannot be written.
    """
    trials = made(content)
    test = list(winner.metrics["test"].values())[-1]
    chosen = next((one for one in trials if one["winner"]), None)
    write_page(
        run.path / "report.html",
        "tuning.html.j2",
        trained=trained(winner.config),
        budget=content["budget"],
        total=duration(content["seconds"]["total"]),
        trials=len(trials),
        test=test,
        **claim(test),
        winner_choices=", ".join(shown_choices(content["winner"]["choices"])),
        winner_options=[[option_name(name), str(to_send(winner.config)[name])] for name in content["winner"]["options"]],
        winner_folder=WINNER,
        chosen=chosen,
        ranked_by=content["ranked_by"],
        chart=trials_chart(trials) if trials else "",
        rungs=[rung["title"] for rung in content["rungs"] if rung["trials"]],
        rung_classes=[("muted", "first", "second")[number] for number, rung in enumerate(content["rungs"]) if rung["trials"]],
        backbones=backbones_of(trials),
        rung_tables=[rung_table(number, content, trials) for number, rung in enumerate(content["rungs"]) if rung["trials"]],
        matter_rows=[[one["what"], one["values"], one["range"], one["verdict"]] for one in effects(trials)],
        matter_words=in_words(effects(trials)),
        not_tried=[
            [without_paths(reason["why"], content["backbones"]), Number(reason["trials"], f"{reason['trials']:,}"), rung["title"]]
            for rung in content["rungs"] for reason in rung["not_tried"]
        ],
        seconds=[
            [name, Number(value, duration(value))] for name, value in content["seconds"].items() if name != "total"
        ],
        again=again(winner),
    )  # fmt: skip


def without_paths(text: str, paths: list[str]) -> str:
    """Return a text in which each of these paths is its last part: the page may be sent to others."""
    for path in paths:
        text = text.replace(path, last_part(path))
    return text


def made(content: Tuning) -> list[dict[str, Any]]:
    """Return the trials that were made, in order, each with its rung, choices and result."""
    found = []
    place = content["winner"].get("rung"), content["winner"].get("trial")
    for number, (rung, results) in enumerate(zip(content["rungs"], content["results"], strict=True)):
        for trial, (plan, result) in enumerate(zip(rung["trials"], results, strict=True)):
            if result:
                about = {"rung": number, "number": trial + 1, "choices": plan["choices"], "winner": (number, trial) == place}
                found.append(dict(result) | about)
    return found


def backbones_of(trials: list[dict[str, Any]]) -> list[str]:
    """Return the names of the backbones of trials, in the order of their first trial."""
    return list(dict.fromkeys(one["choices"]["backbone"] for one in trials))


def trials_chart(trials: list[dict[str, Any]]) -> Markup:
    """Return the accuracy of all trials over the time as a chart."""
    points_of = [
        {
            "rung": one["rung"], "backbone": one["choices"]["backbone"], "accuracy": one["accuracy"], "winner": one["winner"],
            "began": max(0.0, one["ended"] - one["seconds"]) / 60, "ended": one["ended"] / 60,
        }
        for one in trials
    ]  # fmt: skip
    worst, best = (choose(trials, key=lambda one: one["accuracy"]) for choose in (min, max))
    label = (
        f"Validation accuracy of {count(len(trials), 'trial')} over the time: from {percent(worst['accuracy'])} "
        f"to {percent(best['accuracy'])}, reached after {duration(best['ended'])}"
    )
    return svg(label, plots.HEIGHT, plots.draw_trials, points_of, backbones_of(trials))


def rung_table(number: int, content: Tuning, trials: list[dict[str, Any]]) -> tuple[str, list[str], list[list[Any]]]:
    """Return a rung's caption, and its trials as a table, the best first: what they differ in, their figures and seconds."""
    rung = content["rungs"][number]
    own = sorted((one for one in trials if one["rung"] == number), key=lambda one: -one["score"])
    differ = [name for name in COLUMNS if len({one["choices"].get(name) for one in own}) > 1]
    recall = content["ranked_by"] != "accuracy"
    rows = [
        [
            f"{one['number']}{' (winner)' if one['winner'] else ''}", *(one["choices"].get(name, "") for name in differ),
            Number(one["accuracy"], percent(one["accuracy"]), one["accuracy"]),
            f"{percent(one['interval'][0])} to {percent(one['interval'][1])}",
            *([Number(one["macro_recall"], percent(one["macro_recall"]))] if recall else []),
            Number(one["seconds"], duration(one["seconds"])),
        ]
        for one in own
    ]  # fmt: skip
    columns = [
        "Trial",
        *(name.capitalize() for name in differ),
        "Accuracy",
        "95 % interval",
        *(["Macro recall"] if recall else []),
        "Time",
    ]
    same = {name: own[0]["choices"][name] for name in COLUMNS if name not in differ and own and name in own[0]["choices"]}
    of_all = "; all of them: " + ", ".join(shown_choices(same)) if same and shown_choices(same) else ""
    caption = (
        f"{rung['title'].capitalize()}: on {learned_on(rung)}, ranked on {count(rung['validation'], 'validation image')}{of_all}"
    )
    return caption, columns, rows


def effects(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each choice, how much its values differ, largest first.

    Trials are compared that differ in nothing else. A value's effect is the mean of how far its trials lie from the mean of
    those that they are compared with.
    """
    found = []
    for what in COLUMNS:
        groups = defaultdict(list)
        for one in trials:
            if what in one["choices"]:
                others = tuple((name, value) for name, value in one["choices"].items() if name != what)
                groups[one["rung"], others].append(one)
        away, errors = defaultdict(list), []
        for group in groups.values():
            if len(group) > 1:
                middle = float(np.mean([one["score"] for one in group]))
                errors += [one["error"] for one in group]
                for one in group:
                    away[one["choices"][what]].append(one["score"] - middle)
        if not away:
            continue
        means = sorted(((float(np.mean(values)), value, len(values)) for value, values in away.items()), reverse=True)
        spread = means[0][0] - means[-1][0]
        # The standard error of a difference of two trials; several pairs make it smaller.
        noise = 2 * float(np.sqrt(2)) * float(np.mean(errors)) / float(np.sqrt(max(1, min(number for *_, number in means))))
        found.append({
            "what": what.capitalize(), "best": means[0][1], "worst": means[-1][1], "spread": spread, "matters": spread > noise,
            "values": ", ".join(f"{value} {points(mean)}" for mean, value, _ in means),
            "range": Number(spread, f"{100 * spread:.1f}"),
            "verdict": "more than chance" if spread > noise else "may be chance",
        })  # fmt: skip
    return sorted(found, key=lambda one: -one["spread"])


def ahead(one: dict[str, Any]) -> str:
    return f"{one['best']} is {100 * one['spread']:.1f} points above {one['worst']}"


def in_words(found: list[dict[str, Any]]) -> str:
    """Return which choices mattered, in a few sentences."""
    if not found:
        return "No two trials differ in one choice alone, so nothing can be said of single choices."
    clear = [one for one in found if one["matters"]]
    if not clear:
        return "No choice made a difference that is larger than chance."
    first, *others = clear
    words = [f"{first['what']} mattered most: {ahead(first)}, all else being equal."]
    words += [f"{one['what']}: {ahead(one)}." for one in others]
    rest = [one["what"].lower() for one in found if not one["matters"]]
    if rest:
        words.append(f"For {' and '.join(rest)}, the difference may be chance.")
    return " ".join(words)
