"""Contact sheets: what the audit found, as images."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from headstart.data.dataset import Dataset
from headstart.report.plots import figure, sheet, show, title
from headstart.system.text import count, printable, shortened

PAIRS, SUSPECTS = (5, 4), (4, 8)  # rows and columns
NAME = 11  # columns of a class's name that fit above an image


def draw_sheets(folder: Path, data: Dataset, content: dict[str, Any]) -> None:
    """Draw what an audit found into the folder `images`: near-duplicates, and labels that may be wrong.

    Args:
        content: of `audit.json`.
    """
    (folder / "images").mkdir(exist_ok=True)
    row_of = {name: row for row, name in enumerate(data.source.names)}
    pairs, suspects = content["near_duplicates"], content["suspects"]
    rows = np.array([[row_of[pair["first"]], row_of[pair["second"]]] for pair in pairs], int).reshape(-1, 2)
    with figure(folder / "images" / "near_duplicates.png", (9, 8)) as canvas:
        draw_pairs(canvas, data, rows, pairs)
    with figure(folder / "images" / "suspects.png", (10, 6.5)) as canvas:
        draw_suspects(canvas, data, np.array([row_of[entry["name"]] for entry in suspects], int), suspects)


def draw_pairs(canvas: Figure, data: Dataset, pairs: np.ndarray, found: list[dict[str, Any]]) -> None:
    """Near-duplicates side by side, from the surest to the least sure; those across two splits come before the others.

    Args:
        pairs: int (M, 2), indices of images.
        found: what `audit.json` says of each pair.
    """
    rows, columns = PAIRS
    across = [row for row, entry in enumerate(found) if entry["splits"][0] != entry["splits"][1]]
    canvas.suptitle(
        f"{count(len(found), 'near-duplicate')}, {len(across)} of them across two splits" if found else "no near-duplicates found"
    )
    # Those across two splits first; of a series of alike images, which makes hundreds of pairs, each one once.
    seen: set[int] = set()
    shown: list[int] = []
    for row in sorted(range(len(found)), key=lambda row: (found[row]["splits"][0] == found[row]["splits"][1], row)):
        inside = found[row]["splits"][0] == found[row]["splits"][1]
        if seen.isdisjoint(pairs[row].tolist()) and not (inside and len(shown) >= rows * columns):
            shown.append(row)
            seen.update(pairs[row].tolist())
    chosen = np.linspace(0, len(shown) - 1, min(rows * columns, len(shown))).round().astype(int)
    for axes, number in zip(sheet(canvas, rows, columns, len(chosen)), chosen, strict=True):
        row = shown[number]
        first, second = data.images(pairs[row])
        gap = np.full((first.shape[0], max(1, first.shape[1] // 16), 3), 255, np.uint8)
        show(axes, np.concatenate([first, gap, second], axis=1))
        title(axes, "\n".join(short(found[row][side]) for side in ("first", "second")), 7)


def draw_suspects(canvas: Figure, data: Dataset, indices: np.ndarray, found: list[dict[str, Any]]) -> None:
    """The first labels of the ranking, with what is given and what is suggested.

    Args:
        indices: int (M,), of images, ranked.
        found: what `audit.json` says of each.
    """
    rows, columns = SUSPECTS
    canvas.suptitle(f"the first of {count(len(found), 'suspect label')}" if found else "no label is suspect")
    chosen = list(zip(indices, found, strict=True))[: rows * columns]
    for axes, (index, entry) in zip(sheet(canvas, rows, columns, len(chosen)), chosen, strict=True):
        show(axes, data.images(np.array([index]))[0])
        given, suggested = (shortened(entry[key], NAME) for key in ("given", "suggested"))
        probability = 100 * entry["suggested_probability"]
        title(axes, f"{entry['rank']}, {entry['certainty']}: {given}\n{probability:.0f} %: {suggested}?")


def short(name: str, most: int = 24) -> str:
    """Return a printable file name, of a long one its end."""
    name = printable(name)
    return name if len(name) <= most else "…" + name[1 - most :]
