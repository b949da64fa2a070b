"""Classify a dataset of Ray Data with a run's model, in as many workers as the cluster has places for.

import headstart.ray

found = headstart.ray.predict(ray.data.read_images("photos/"), "runs/photos")
"""

from pathlib import Path
from typing import Any

import numpy as np

from headstart import inference
from headstart.data.table import parquet
from headstart.errors import HeadstartError
from headstart.inference.inputs import Inputs, named_images
from headstart.inference.rows import IMAGE, REJECTED, UNLIKE, ParquetRows
from headstart.run import Run
from headstart.system.processor import allow_cores
from headstart.system.remote import located
from headstart.system.workers import import_ray, machines, places

# What the column of images is called by Ray Data's own readers; the first that is there.
COLUMNS = ("bytes", "image", "path", "item")
# So many batches are given to a worker together: it decodes the next ones while the network works on one.
BATCHES = 4


def predict(
    dataset: Any, run: Run | str | Path, *, column: str = "", batch_size: int = 64, mirror: bool = False, reject: float = 0.0,
    **options: Any,
) -> Any:  # fmt: skip
    """Return a `ray.data.Dataset` with columns for the answers beside those that it had. Nothing is computed until it is read.

    The columns are those of the table that `headstart predict --out` writes, without the image's name: `class`, `confidence`,
    `rejected` and `unlike` where they are known, `error`, which says why an image could not be read, and the probability of
    each class, float32. Where there is an error, the others are null. The model travels to the workers.

    Args:
        dataset: a `ray.data.Dataset`.
        run: a finished run, or its folder.
        column: holds the images: bytes of encoded images; arrays, uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or paths
            and addresses, which every machine must see. By default, the first of `bytes`, `image`, `path` and `item`.
        batch_size, mirror, reject: see `headstart.Classifier.predict`.
        options: of `ray.data.Dataset.map_batches`, such as `concurrency` and `num_cpus`. By default, there is up to one worker
            for each GPU or, without any, for each core.

    Raises:
        HeadstartError: Ray or pyarrow is not installed; or as for `headstart.Run.stream`. While the dataset is read, Ray raises
            its own error, which names ours: there is no such column, or it holds something else, or one of the answers' is
            there already.
    """
    ray = import_ray()
    parquet()
    run = run if isinstance(run, Run) else Run(run)
    run.refuse_mirror_images(mirror)
    classifier = run.classifier
    threshold = classifier.threshold(reject, mirror) if reject else 0.0
    marks = [REJECTED] * bool(reject) + [UNLIKE] * classifier.tells_outsiders
    make = inference.shipped.opening(classifier, batch_size, inference.classifier.MANY, mirror, threshold)
    number, _, resources = places(machines())
    if "concurrency" not in options:
        options = {"compute": ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, number))} | options
    options = resources | options
    return dataset.map_batches(
        Answering, fn_constructor_args=([ray.put(make)], column, marks, max(1, int(options["num_cpus"]))),
        batch_size=BATCHES * batch_size, batch_format="pyarrow", **options,
    )  # fmt: skip


class Answering:
    """What a worker of Ray Data does with each table of images.

    Args:
        make: holds Ray's reference to what makes a `headstart.inference.shipped.Classifying`.
        column: of the images, or empty.
        marks: see `headstart.inference.rows.CsvRows`.
        cores: how many it may use.
    """

    def __init__(self, make: list[Any], column: str, marks: list[str], cores: int) -> None:
        allow_cores(cores)
        self.classify = import_ray().get(make[0])()
        self.column, self.rows = column, ParquetRows(self.classify.classifier.class_names, marks)

    def __call__(self, table: Any) -> Any:
        """Return a `pyarrow.Table` with the answers beside what it had."""
        column = self.column or next((name for name in COLUMNS if name in table.column_names), "")
        if column not in table.column_names:
            wanted = f"no column {column!r}" if column else f"none of the columns {', '.join(COLUMNS)}"
            raise HeadstartError(f"the dataset has {wanted}: name that of the images; there are {', '.join(table.column_names)}")
        # A tensor of Ray is an array for each row.
        images = [image for chunk in table.column(column).chunks for image in chunk.to_numpy(zero_copy_only=False)]
        answers, _ = self.classify([named(place, image) for place, image in enumerate(images)])
        found = self.rows.table(answers).drop_columns([IMAGE])
        for field, values in zip(found.schema, found.columns, strict=True):
            if field.name in table.column_names:
                raise HeadstartError(f"the dataset has a column {field.name!r}, and so have the answers: rename it first")
            table = table.append_column(field, values)
        return table


def named(place: int, image: Any) -> tuple[str, Any]:
    """Return an image of a dataset as `headstart.inference.classifier.Classifier.answers` takes it."""
    if image is None:
        return str(place), b""
    if isinstance(image, str):
        return image, located(image)
    ((_, one),) = named_images(image if isinstance(image, bytes) else np.asarray(image), Inputs())
    return str(place), one
