"""`report.html` of an audit, and what a run's report says of its data."""

from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.dataset import Dataset
from headstart.data.walk import skipped_words
from headstart.record.history import STAGES
from headstart.report.advice import about_imbalance, about_labels
from headstart.report.gallery import thumbnail
from headstart.report.pages import Number, embedded, percent, write_page
from headstart.report.plots import MOST_LABELLED
from headstart.system.text import last_part

MOST_PAIRS, MOST_SUSPECTS = 12, 24


def write_audit_page(folder: Path, data: Dataset, content: dict[str, Any]) -> None:
    """Write `report.html` into the folder of an audit.

    Args:
        data: the data set, for the images themselves.
        content: of `audit.json`.

    Raises:
        UnwritableError: the file cannot be written.
    """
    summary = data.summary()
    sizes = {
        name: "{:,}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{:,} pixels".format(*size) for name, size in content["sizes"].items()
    }
    alike = len(set(sizes.values())) == 1
    write_page(
        folder / "report.html",
        "audit.html.j2",
        source=last_part(data.source.name),
        images=sum(summary["images"].values()),
        sizes=f"All images have {sizes['median']}." if alike else
        "The smallest image has {smallest}, the median {median}, the largest {largest}.".format(**sizes),
        steps=about_labels(content) + about_imbalance(content),
        of=described(summary),
        found=findings(content, data),
    )  # fmt: skip


def described(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a page says of the images of each split, and of those that are in none.

    Args:
        summary: content of `data.json`.
    """
    splits, by_class = summary["images"], summary["images_by_class"]
    rows = {"all classes": splits}
    if len(summary["classes"]) <= MOST_LABELLED:
        rows |= {name: {split: by_class[split][name] for split in splits} for name in summary["classes"]}
    if groups := summary.get("groups"):
        rows |= {"groups": groups}
    return {
        "classes": len(summary["classes"]),
        "splits": [split.capitalize() for split in splits],
        "split_rows": [[name, *(Number(images, f"{images:,}") for images in row.values())] for name, row in rows.items()],
        "stored_size": "{}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{}".format(*summary["image_shape"][1::-1]),
        "unreadable": summary["unreadable"],
        "skipped": skipped_words(summary["skipped"]),
        "remarks": [*summary["remarks"], *summary.get("torn_groups", [])],
        "exact_duplicates": len(summary["duplicates"]),
    }


def findings(audit: dict[str, Any], data: Dataset) -> dict[str, Any]:
    """Return what a page says of near-duplicates and of labels that may be wrong; of a run without an audit, nothing.

    Args:
        audit: content of `audit.json`.
    """
    if not audit:
        return {}
    places = {name: place for place, name in enumerate(data.source.names)}

    def picture(name: str) -> dict[str, Any]:
        return embedded(thumbnail(data.images(np.array([places[name]]))[0]), name)

    def shown(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [pair | {"images": [picture(pair[side]) for side in ("first", "second")]} for pair in pairs[:MOST_PAIRS]]

    pairs, suspects, alike = audit["near_duplicates"], audit["suspects"], audit["alike"]
    conflicts = audit["label_conflicts"]
    across_first = sorted(pairs, key=lambda pair: (pair["splits"][0] == pair["splits"][1], -pair["similarity"]))
    note, compared = audit["suspects_note"], audit.get("near_duplicates_note", "")
    without = audit.get("accuracy_without_near_duplicates", {})
    return {
        "imbalance": audit["imbalance"],
        "near_duplicates": len(pairs),
        "near_duplicates_note": f"{compared[0].upper()}{compared[1:]}." if compared else "",
        "across": sum(pair["splits"][0] != pair["splits"][1] for pair in pairs),
        "alike": alike,
        "pairs": shown(across_first),
        "conflicts": len(conflicts),
        "conflict_pairs": [] if alike else shown(conflicts),  # of images that are alike by kind or series they say nothing
        "suspects": len(suspects),
        "strong_suspects": sum(one["certainty"] == "surely" for one in suspects),
        "suspects_note": f"{note[0].upper()}{note[1:]}." if note else "",
        "suspects_shown": [one | {"image": picture(one["name"])} for one in suspects[:MOST_SUSPECTS]],
        "without_rows": [
            [STAGES[stage].title, Number(one["accuracy"], percent(one["accuracy"], 2)),
             " to ".join(percent(end, 2) for end in one["interval"]), Number(one["left_out"], f"{one['left_out']:,}")]
            for stage, one in without.items()
        ],
    }  # fmt: skip
