"""A run for its user: what its folder contains, and what its model can do."""

import base64
import html
import logging
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from headstart import audit, export, inference, metrics, report
from headstart.data.dataset import Dataset
from headstart.data.decode import Decoding
from headstart.data.labels import Labelling
from headstart.data.load import read_source
from headstart.data.source import TEST
from headstart.errors import HeadstartError
from headstart.export.formats import MOST_LOSS, RECORDS, default_name, in_words, refuse_export
from headstart.inference import bulk
from headstart.inference.bulk import Totals
from headstart.inference.logits import network_logits
from headstart.inference.predictions import Answer, Predictions
from headstart.metrics.figures import Figures
from headstart.record.folder import WINNER, RunFolder
from headstart.record.history import shown
from headstart.record.split import recorded_data
from headstart.system.files import open_regular, read_bytes
from headstart.system.progress import show_progress, track
from headstart.system.remote import KEPT
from headstart.system.text import printable, shortened

if TYPE_CHECKING:
    from headstart.inference.classifier import Classifier
    from headstart.inference.explain import Explanations

logger = logging.getLogger("headstart")

MOST_CHART = 16 << 20  # bytes


class Run(RunFolder):
    """A run folder, finished or not, with its model.

    Args:
        path: the folder.
        trust: load layers that may run code, see `headstart.Config`. Without it, nothing of a run is executed.

    Raises:
        HeadstartError: the folder is no run, or a newer version of Headstart wrote it.

    Attributes:
        classifier: the model with its manifest, or those of all folds together. It raises `HeadstartError` if the run is not
            finished, or if the folder holds the runs of several seeds.
    """

    @cached_property
    def classifier(self) -> "Classifier":
        self.require_result()
        if self.config.divided:
            return inference.classifier.Ensemble(self.path, self.members, trust=self.config.trust)
        return inference.classifier.Classifier(self.path, trust=self.config.trust)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the model's outputs."""
        return self.classifier.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the model takes."""
        return self.classifier.image_shape

    @property
    def decoding(self) -> Decoding:
        """How image files become the model's input."""
        return self.classifier.decoding

    @property
    def model(self) -> Any:
        """The trained Keras model, its checksum verified; uint8 images (B, H, W, 3) to logits (B, classes)."""
        return self.classifier.model

    def predict(
        self, images: Any, batch_size: int = 64, *, mirror: bool = False, reject: float = 0.0, file_column: str = ""
    ) -> Predictions:
        """Classify paths, folders, tables of files, bytes, open files, Pillow images or uint8 arrays.

        A folder of folds answers by the mean of the probabilities of its models.

        Args:
            images, batch_size, mirror, reject, file_column: see `headstart.inference.classifier.Classifier.predict`.

        Raises:
            HeadstartError: there is no image, none can be read, `mirror` is asked of a run that was trained with `--no-flip`, or
                the run's validation split does not support the precision that `reject` wants.
        """
        self.refuse_mirror_images(mirror)
        return self.classifier.predict(images, batch_size, mirror=mirror, reject=reject, file_column=file_column)

    def stream(
        self, images: Any, batch_size: int = 64, *, mirror: bool = False, reject: float = 0.0, file_column: str = ""
    ) -> Iterator[Answer]:
        """Classify any number of images in constant memory, and yield an answer for each, in order.

        Args:
            images, batch_size, mirror, reject, file_column: see `headstart.inference.classifier.Classifier.stream`.

        Raises:
            HeadstartError: as for `predict`; but an image that cannot be read is no error: its answer says why.
        """
        self.refuse_mirror_images(mirror)
        return self.classifier.stream(images, batch_size, mirror=mirror, reject=reject, file_column=file_column)

    def predict_to(
        self, out: str | Path, images: Any, batch_size: int = 64, *, mirror: bool = False, reject: float = 0.0,
        file_column: str = "", shard: tuple[int, int] = (1, 1), overwrite: bool = False, ray: str = "",
    ) -> Totals:  # fmt: skip
        """Classify any number of files into one table, in constant memory. The same call goes on with what was stopped.

        The table has a row for each image, in order: `image`, `class`, `confidence`, `rejected` and `unlike` where they are
        known, `error`, which says why an image could not be read, and the probability of each class. It is there when it is
        whole; until then, its finished blocks lie in `OUT.parts/` beside it, with the list of images as it was at the start.

        Args:
            out: a file that ends with `.csv`, `.jsonl` or `.parquet`.
            images: a file, a folder, an archive or a table of files, or several of them.
            batch_size, mirror, reject, file_column: see `headstart.inference.classifier.Classifier.stream`.
            shard: the number of a share, from 1, and of all shares: only the images of this share, which follow each other.
            overwrite: replace a table that is there, and parts that another call has begun.
            ray: let the workers of a Ray cluster classify. `local` starts one on this machine's cores; `auto`, `HOST:PORT` and
                `ray://HOST:PORT` are Ray's addresses of one. Every machine must see the images under the same paths.

        Returns:
            What became of the images: how many are `images`, `unreadable`, `rejected` and `unlike`; `remarks` and `skipped`.

        Raises:
            HeadstartError: as for `stream`; or the table exists, or its parts were begun by a call with other arguments; or
                with `ray`, the cluster does not answer, or its workers do not see the images.
            UnwritableError: it cannot be written. The same call goes on, as after a kill.
        """
        self.refuse_mirror_images(mirror)
        with show_progress():
            return bulk.predict_to(
                self.classifier, images, out, batch_size,
                mirror=mirror, reject=reject, file_column=file_column, shard=shard, overwrite=overwrite, ray=ray,
            )  # fmt: skip

    def explain(self, images: Any) -> "Explanations":
        """Find where in each image the evidence for its likeliest class lies; see `headstart.inference.explain.explain`."""
        return inference.explain.explain(self.classifier, images)

    def export(self, format: str, out: str | Path = "", *, precision: str = "float32", most_loss: float = MOST_LOSS) -> Path:
        """Write the model as a file for another program, and prove on the test split that it answers as this run does.

        The file takes raw images, uint8 RGB (N, H, W, 3), and gives `probabilities` and `features`. The proof is in
        `export.json` beside it, and on the run's report.

        Args:
            format: `keras`, `onnx`, `litert` or `openvino`.
            out: the folder to write to; by default one in the run's folder.
            precision: `float32`, `float16` or `int8`.
            most_loss: how much accuracy `int8` may lose on the validation split, 0..1.

        Returns:
            The folder.

        Raises:
            HeadstartError: the format, the precision or a package is missing, the run's data are gone or have changed, or the
                proof fails: then no file is kept.
        """
        refuse_export(format, precision)
        self.require_model()
        folder = Path(out).expanduser() if out else self.path / RECORDS / default_name(format, precision)
        exporter = export.exporter
        if not exporter.exports_here(format):
            exporter.export_elsewhere(self, format, precision, folder, most_loss)
            return folder
        with show_progress():
            content = exporter.export(self, self.classifier, self.load_data(), format, precision, folder, most_loss)
        for line in in_words(content):
            logger.info("%s", line)
        report.exports.add_to_report(self)
        return folder

    def load_data(self, source: str | Path = "") -> Dataset:
        """Load the run's own data, with the splits that it was trained with, or other data as a test split.

        Of other data, the test split is used, if they have one, else every image. They are decoded like the run's own.

        Args:
            source: the name or path of other data; by default the run's own are loaded.

        Raises:
            HeadstartError: the run's own data are gone or have changed since; or the other data cannot be read.
        """
        if not source:
            return recorded_data(self.path, self.config)
        KEPT.limit(self.config.remote_cache)
        other = read_source(
            str(source), self.image_shape[0], Labelling.of(self.config), decoding=self.decoding, known=self.class_names,
            often=False,
        )  # fmt: skip
        test, nothing = np.flatnonzero(other.splits == TEST), np.array([], dtype=np.int64)
        for line in other.remarks:
            logger.info("data: %s", line)
        if not len(test):
            test = np.arange(len(other.labels))
            logger.info("%s has no test split: all of its %d images are used", source, len(test))
        return Dataset(other, train=nothing, validation=nothing, test=test)

    def evaluate(self, data: Dataset | str | Path = "", batch_size: int = 64, *, mirror: bool = False) -> Figures:
        """Measure the model on the test split of a data set. Classes are matched by name.

        Images of the run's training and validation split are left out: on these the model would seem better than it is.

        Args:
            data: a data set, or a source for `load_data`; by default the run's own data.
            batch_size: images per batch.
            mirror: average the logits of each image and its mirror image, see `headstart.inference.logits.network_logits`.

        Returns:
            The figures of `headstart.metrics.classification.measure`; `left_out`, the number of images that were left out, by
            split; and `without_near_duplicates`, the accuracy on the images without a near-duplicate among the training
            images, if the data are not the run's own and some images have one.

        Raises:
            HeadstartError: the data have a class that the model does not know, another image size, or no image that the run
                has not seen; or `mirror` is asked of a run that was trained with `--no-flip`.
        """
        self.refuse_mirror_images(mirror)
        classifier = self.classifier
        if self.config.divided and not data:
            raise HeadstartError(
                f"{self.path} holds {self.config.folds} models, and all but one have learned from each image: its report has "
                "their figures on the images that they have not seen; --data measures all of them together on other images"
            )
        data = data if isinstance(data, Dataset) else self.load_data(data)
        name = data.source.name
        unknown = [one for one in data.class_names if one not in classifier.class_names]
        if unknown:
            raise HeadstartError(f"{name}: the model of {self.path} does not know the class {unknown[0]!r}")
        if data.image_shape != classifier.image_shape:
            raise HeadstartError(f"{name}: images of {data.image_shape} do not fit the model's {classifier.image_shape}")
        rows, left_out = audit.unseen.unseen_images(self, data)
        logits = self.logits(data, rows, batch_size, mirror)
        # The data may hold fewer classes, in another order.
        to_model = np.array([classifier.class_names.index(one) for one in data.class_names])
        labels = to_model[data.labels(rows)]
        figures = metrics.classification.measure(
            logits, labels, classifier.class_names, classifier.temperature, data.groups(rows)
        )
        figures["left_out"] = left_out
        right = logits.argmax(axis=1) == labels
        if known := audit.unseen.images_of_known_groups(self, data.source, rows):
            figures["of_known_groups"] = known
        if near := audit.unseen.figures_without_near_duplicates(self, data.source, rows, right):
            figures["without_near_duplicates"] = near
        return figures

    def logits(self, data: Dataset, rows: np.ndarray, batch_size: int = 64, mirror: bool = False) -> np.ndarray:
        """Return the Keras model's logits on some images of a data set, float32 (len(rows), classes)."""
        batch_size = inference.classifier.fitting(batch_size, self.classifier.largest_output)
        starts: Iterable[int] = track(range(0, len(rows), batch_size), "evaluating")
        batches = (data.images(rows[start : start + batch_size]) for start in starts)
        logits = np.concatenate(list(network_logits(self.classifier.keras_outputs, batches, len(rows), mirror)))
        inference.classifier.refuse_infinite(logits, self.path)
        return logits

    def refuse_mirror_images(self, mirror: bool) -> None:
        """Refuse `mirror` if the run was trained with `--no-flip`: mirror images may mean something else."""
        configs = [RunFolder(member).config for member in self.members] if mirror else []
        if mirror and not all(config.flip for config in [self.config, *configs]):
            raise HeadstartError(
                f"{self.path} was trained with --no-flip, on images whose mirror images mean something else: leave out --mirror"
            )

    def __repr__(self) -> str:
        return f"Run({shortened(str(self.path), 80)!r}: {self.summary()})"

    def summary(self) -> str:
        """Return the test accuracies of the stages in a line, those of all folds together; for several seeds, their number."""
        if not self.finished:
            return "not finished"
        if self.searches:
            return f"a search; its winner is {WINNER}"
        if self.config.seeds > 1:
            return f"{self.config.seeds} seeds"
        folds = [f"{self.config.folds} folds"] if self.config.divided else []
        return ", ".join(folds + [f"{shown(stage)} {100 * one['accuracy']:.2f} %" for stage, one in self.metrics["test"].items()])

    def image(self, name: str) -> Image.Image:
        """Return one of the run's charts, such as `history`, `gain` or `confusion`; a notebook shows it."""
        return Image.open(open_regular(self.path / "images" / f"{name}.png"), formats=["PNG"])

    def _repr_html_(self) -> str:
        """Show a finished run in a notebook: accuracy, curve, and a link to its report."""
        # A notebook may be sent to others: it names no folder above, where it can do without. A name such as `javascript:x` is
        # no address once it is quoted.
        summary = f"<b>{html.escape(printable(self.path.absolute().name))}</b>: {html.escape(self.summary())}"
        curve, report = self.path / "images" / "history.png", quote(os.fsencode(os.path.relpath(self.path / "report.html")))
        if not self.finished or not curve.is_file():
            return summary
        source = base64.b64encode(read_bytes(curve, MOST_CHART)).decode("ascii")
        chart = f'<img src="data:image/png;base64,{source}" width="800" alt="accuracy and loss over the epochs">'
        return f'<p>{summary}, <a href="{report}">report</a></p>{chart}'
