"""Write docs/benchmarks.md from the results of all tables: `python -m benchmarks`."""

import json
from pathlib import Path

import tyro

from benchmarks.common import RESULTS, section
from headstart.system.files import written_whole

TABLES = ("extraction", "steps", "frozen", "folding", "curve", "prediction")
INTRODUCTION = """# Headstart beside its peers

Written by `python -m benchmarks` from `benchmarks/results/`; each table's command stands below it and makes it again.
The contenders of a table take turns on one machine, each in a process of its own; figures are medians of the repeats,
and ratios are medians of the repeats' own ratios. Peers run as their users run them: plain Keras as its guide to
transfer learning (`benchmarks/keras_guide.py`), PyTorch as its tutorial (`benchmarks/pytorch_tutorial.py`), on the same
weights, image size and batch.
"""


def main(results: Path = RESULTS, out: Path = Path("docs/benchmarks.md")) -> None:
    """Write one Markdown page from the results of all tables.

    Args:
        results: folder of the tables' JSON files.
        out: the page.
    """
    files = [file for name in TABLES for file in sorted(results.glob(f"{name}*.json"), key=lambda file: file.stem)]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    with written_whole(out) as partial:
        partial.write_text("\n".join([INTRODUCTION, *map(section, found)]), encoding="utf-8")
    print(f"{out}: {', '.join(result['title'] for result in found)}")


if __name__ == "__main__":
    tyro.cli(main)
