"""Write docs/benchmarks.md from the results of all tables: `python -m benchmarks`."""

import json
from pathlib import Path

import tyro

from benchmarks.common import RESULTS, section
from headstart.system.files import written_whole

TABLES = (
    "extraction", "augmentation", "steps", "frozen", "heads", "fine-tuning", "tuning", "folding", "curve", "prediction",
    "exports", "bulk", "ray", "serving", "uneven", "memory", "gpu",
)  # fmt: skip
INTRODUCTION = """# Headstart beside its peers

Written by `python -m benchmarks` from `benchmarks/results/`; each table's command stands below it and makes it again.
The contenders of a table take turns on one machine, each in a process of its own; figures are medians of the repeats,
and ratios are medians of the repeats' own ratios. Peers run as their users run them: plain Keras as its guide to
transfer learning (`benchmarks/keras_guide.py`), PyTorch as its tutorial (`benchmarks/pytorch_tutorial.py`), on the same
weights, image size and batch.
"""
NOT_ON_A_GPU = """## On a GPU

There are no figures of a GPU yet. `python -m benchmarks.gpu --data cifar-10-batches-py --backbone resnet50.keras` measures
them in six minutes, the most telling rows first; the same command with `--go-on` measures the rows that are missing. It has
training and forward at 224, 128 and 64 px in bfloat16: ours from a data set in memory, with and without augmentation,
beside the same step as an ideal loop, beside the same network in PyTorch (channels last, compiled, fused optimizer, images
on the device) and beside Keras' `fit`, each as a share of the device's rate at multiplying matrices. Then it trains to 97 %
on CIFAR-10 twice, with nothing cached and with the compiled step kept, and compares `headstart plan` with that. `--part
best` trains the recipe `best` instead. Nothing is downloaded: without the two files, it measures rates alone, with random
images and weights.
"""


def main(results: Path = RESULTS, out: Path = Path("docs/benchmarks.md")) -> None:
    """Write one Markdown page from the results of all tables.

    Args:
        results: folder of the tables' JSON files.
        out: the page.
    """
    files = [file for name in TABLES for file in sorted(results.glob(f"{name}*.json"), key=lambda file: file.stem)]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    found = [result for result in found if result["rows"]]
    missing = [] if any(result["name"].startswith("gpu") for result in found) else [NOT_ON_A_GPU]
    with written_whole(out) as partial:
        partial.write_text("\n".join([INTRODUCTION, *map(section, found), *missing]), encoding="utf-8")
    print(f"{out}: {', '.join(result['title'] for result in found)}")


if __name__ == "__main__":
    tyro.cli(main)
