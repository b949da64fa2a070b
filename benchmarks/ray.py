"""Workers of a Ray cluster on this machine: time with one and with two of them, and whether what they compute is the same.

python -m benchmarks.ray                                             # 20,000 files, and the features of 10,000 images
python -m benchmarks.ray --images 2000 --limit 1000 --repeats 1      # a trial
"""

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import common
from benchmarks.bulk import train, write_files

TEXT = """JPEG files to a table by `predict --out`, and the features of the recipe `quick` with an empty cache: in one process,
which uses all cores, and by one and two workers of a local Ray cluster, each of one core. The time of a table is that of the
call, with the start of the workers and without that of Ray; the time of features has neither. Tables and features are compared
with those of one process, byte by byte."""
WORKERS = {"one process": 0, "one worker": 1, "two workers": 2}


@dataclass(frozen=True)
class Options(common.Options):
    """Measure what workers of a local Ray cluster take."""

    size: int = 64  # side in pixels of the network
    images: int = 20_000  # JPEG files: the test split's images, again and again under other names
    limit: int = 10_000  # images of each split whose features are computed
    repeats: int = 3  # measurements of each contender


def main(options: Options) -> None:
    import headstart as hs

    table = common.Table("ray", "Workers of a Ray cluster", TEXT, options)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = common.in_own_process(train, options, name)
        data = common.load(hs.Run(run).config)
        write_files(data.images(data.test), work / "files", options.images, 0)
        found = common.alternate({
            title: lambda number=number: (
                common.in_own_process(classified, run, work, number)
                | common.in_own_process(trained, options, tempfile.mkdtemp(dir=work), number)
            ) for title, number in WORKERS.items()
        }, options.repeats)  # fmt: skip
    for title, samples in found.items():
        alone = found["one process"]
        table.rows.append({
            "": title,
            f"table of {options.images:,} files, s": common.median([one["table_seconds"] for one in samples]),
            "the same table": "yes" if all(one["table"] == alone[0]["table"] for one in samples) else "no",
            "features, s": common.median([one["features_seconds"] for one in samples]),
            "the same features": "yes" if all(one["features"] == alone[0]["features"] for one in samples) else "no",
            "frozen accuracy": samples[0]["accuracy"],
        })  # fmt: skip
    table.samples = found
    table.write()


def start(workers: int) -> dict[str, str]:
    """Start a cluster of so many workers, if any, and return the option that uses it."""
    if not workers:
        return {}
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    return {"ray": "auto"}


def classified(run: str, work: Path, workers: int) -> dict[str, Any]:
    import headstart as hs

    where, begin = start(workers), time.perf_counter()
    hs.Run(run).predict_to(work / "found.csv", work / "files", overwrite=True, **where)
    return {"table_seconds": time.perf_counter() - begin, "table": checksum([work / "found.csv"])}


def trained(options: Options, folder: str, workers: int) -> dict[str, Any]:
    import headstart as hs

    os.environ["HEADSTART_CACHE"] = f"{folder}/cache"
    config = common.configuration(options, options.size, epochs=0, limit=options.limit, out=f"{folder}/run")
    run = hs.train(config, **start(workers))
    features = sorted(Path(folder, "cache", "features").glob("*.npy"))
    return {
        "features": checksum(features), "accuracy": common.accuracy(run.metrics["test"]["frozen"]),
        "features_seconds": run.metrics["seconds"]["features"],
    }  # fmt: skip


def checksum(files: list[Path]) -> str:
    """Return a checksum of the names and contents of files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main(tyro.cli(Options))
