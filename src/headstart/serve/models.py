"""The runs that are served: what their models are, what they answer, and how a newer one takes an older one's place."""

import asyncio
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from headstart import inference
from headstart.data.cifar import read_cifar
from headstart.data.decode import read_image
from headstart.data.load import image_folder, read_source
from headstart.data.on_demand import digest
from headstart.data.source import SPLIT_NAMES, TEST
from headstart.errors import HeadstartError
from headstart.inference.predictions import NONE_OF_THESE
from headstart.metrics.calibration import is_applied
from headstart.record.manifest import Manifest, read_manifest
from headstart.record.split import SplitRow
from headstart.run import Run
from headstart.serve.batching import Batcher, Found
from headstart.serve.images import decoded, in_thread
from headstart.serve.limits import MOST_BYTES, MOST_IMAGES, MOST_PIXELS, Refusal, busy
from headstart.serve.measures import Measures
from headstart.system.files import read_bytes
from headstart.system.reading import seal
from headstart.system.remote import is_address
from headstart.system.text import count, first_line, last_part, printable

logger = logging.getLogger("headstart")

MOST_EXAMPLES = 8
REPORT = "report.html"
CHARTS = {
    f"{name}.png" for name in (
        "calibration", "confusion", "gain", "history", "mistakes", "near_duplicates", "rejection", "samples",
        "suspects",
    )
}  # fmt: skip
MOST_REPORT = 256 << 20  # bytes


class Served:
    """A finished run, loaded and warm.

    Args:
        path: its folder.
        trust: load layers that may run code, see `headstart.Config`.
        measures: counts images and batches.
        reject: the precision that is wanted of answers, as for `Classifier.predict`; 0 withholds none.
        reject_below: predictions with a lower probability are marked as rejected, 0..1.

    Raises:
        HeadstartError: the folder holds no finished run, it is damaged, or its validation does not support the precision.
    """

    def __init__(self, path: Path, trust: bool, measures: Measures, reject: float = 0.0, reject_below: float = 0.0) -> None:
        self.run, self.measures = Run(path, trust=trust), measures
        self.run.require_model()  # the models of several folds would take as many times as long
        self.name, self.classifier = name_of(path), self.run.classifier
        self.version = version_of(self.classifier.manifest)
        self.class_names = [printable(name) for name in self.classifier.class_names]
        self.withholds = bool(reject)
        self.threshold = self.classifier.threshold(reject) if reject else reject_below
        self.examples = examples(self.run)
        self.about = self.described()
        self.batcher = Batcher(self.classifier, measures.batches.add)
        self.batcher.warm_up()

    def described(self) -> dict[str, Any]:
        """Return what the page says of the model."""
        run, data = self.run, self.run.read_json("data.json")
        figures = list(run.metrics["test"].values())[-1]
        height, width, _ = self.classifier.image_shape
        path = quote(self.name, safe="")
        return {
            "name": self.name, "version": self.version, "classes": self.class_names,
            "image": {"height": height, "width": width},
            "backbone": printable(last_part(run.config.backbone).removesuffix(".keras")), "recipe": run.config.recipe,
            "accuracy": figures["accuracy"], "interval": figures["interval"], "test_images": figures["images"],
            "calibration_error": (figures["calibrated"] if is_applied(figures) else figures)["ece"],
            "trained_on": f"{printable(last_part(data['source']))}, {count(data['images']['training'], 'image')}",
            "report": f"/report/{path}/{REPORT}" if (run.path / REPORT).is_file() else None,
            "reject_below": self.threshold,
            "examples": [
                {"image": f"/examples/{path}/{number}", "class": printable(label)}
                for number, (label, _) in enumerate(self.examples)
            ],
        }  # fmt: skip

    async def pixels(self, contents: Sequence[bytes]) -> list[np.ndarray | Refusal]:
        """Return encoded images as the model takes them, each uint8 (H, W, 3), or why one is refused."""
        height, width, _ = self.classifier.image_shape
        tasks = (in_thread(decoded, content, height, width, self.classifier.decoding) for content in contents)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, Refusal):
                raise one
        return found  # type: ignore[return-value]  # checked above

    def label(self, found: Found) -> str:
        """Return the class that is answered: the likeliest, or "none of these" if answers like this are withheld."""
        return NONE_OF_THESE if self.withholds and self.rejects(found) else self.class_names[found.probabilities.argmax()]

    def rejects(self, found: Found) -> bool:
        """Whether an answer is not sure enough."""
        return bool(found.probabilities.max() < self.threshold)

    async def answers(self, contents: Sequence[bytes]) -> list[Found | Refusal]:
        """Return what the model says of each encoded image, or why it is refused."""
        with self.batcher.expected(len(contents)):
            pixels = await self.pixels(contents)
        images = [one for one in pixels if not isinstance(one, Refusal)]
        found = iter(await self.classify(images))
        return [one if isinstance(one, Refusal) else next(found) for one in pixels]

    async def classify(self, images: list[np.ndarray]) -> list[Found]:
        """Return what the model says of images as it takes them, each uint8 (H, W, 3)."""
        if not images:
            return []
        self.measures.images[self.name] += len(images)
        return await self.batcher.classify(images)

    def heat_map(self, pixels: np.ndarray) -> tuple[bytes, str, str]:
        """Return a PNG of an image with the evidence for its likeliest class over it, the class, and how that was found.

        Keras is started for it, which takes seconds.

        Args:
            pixels: uint8 (H, W, 3), as the model takes it.

        Raises:
            HeadstartError: the run's folder holds another model by now.
        """
        found = inference.explain.explain(self.classifier, pixels[None])
        overlay = inference.explain.overlay(pixels, found.maps[0], inference.explain.SMALLEST_OVERLAY)
        return png(overlay), printable(found.predictions.labels[0]), found.method

    def report_file(self, name: str) -> bytes:
        """Return the report or one of its charts; of the run's folder, nothing else is handed out.

        Raises:
            Refusal: it is another file, a link, or not there.
        """
        file = self.run.path / name
        if name == REPORT or (name.startswith("images/") and name.removeprefix("images/") in CHARTS):
            try:
                if not file.is_symlink() and not file.parent.is_symlink():
                    return read_bytes(file, MOST_REPORT)
            except (OSError, HeadstartError) as error:
                logger.info("%s: %s", file, first_line(error))
        raise Refusal(404, "the run's report has no such file")


class Models:
    """The runs that are served, by name.

    Args:
        paths: their folders. The first is asked if a request names none.
        trust, measures, reject, reject_below: see `Served`.

    Raises:
        HeadstartError: two have the same name, or one cannot be loaded.
    """

    def __init__(
        self, paths: Sequence[Path], trust: bool, measures: Measures, reject: float = 0.0, reject_below: float = 0.0
    ) -> None:
        names = [name_of(path) for path in paths]
        if twice := [name for name in names if names.count(name) > 1]:
            raise HeadstartError(f"two runs are named {twice[0]!r}, the name of their folder: rename one, or link to it")
        self.paths = dict(zip(names, paths, strict=True))
        self.options = trust, measures, reject, reject_below
        self.served = {name: Served(path, *self.options) for name, path in self.paths.items()}
        self.explaining = False

    def named(self, name: str | None) -> Served:
        """Return a run by its name; the first one for None.

        Raises:
            Refusal: there is none.
        """
        if name is None:
            return next(iter(self.served.values()))
        if name not in self.served:
            raise Refusal(404, f"no model has that name; there is {', '.join(self.served)}")
        return self.served[name]

    def about(self) -> dict[str, Any]:
        """Return what the page says of all models, and which limits requests have."""
        limits = {"bytes": MOST_BYTES, "pixels": MOST_PIXELS, "images": MOST_IMAGES}
        return {"models": [served.about for served in self.served.values()], "limits": limits}

    async def explain(self, served: Served, content: bytes) -> tuple[bytes, str, str]:
        """Return a PNG with the evidence for an image's likeliest class, the class, and the method.

        Raises:
            Refusal: the image cannot be read, another one is being explained, or the run's folder has changed.
        """
        if self.explaining:
            raise busy("another image is being explained")
        self.explaining = True
        try:
            (pixels,) = await served.pixels([content])
            if isinstance(pixels, Refusal):
                raise pixels
            return await asyncio.get_running_loop().run_in_executor(None, served.heat_map, pixels)
        except HeadstartError as error:
            logger.warning("an image could not be explained: %s", error)
            raise Refusal(503, "the model cannot be loaded to explain images: see the server's log", retry_after="60") from None
        finally:
            self.explaining = False

    def reload(self) -> None:
        """Load every run whose manifest has changed; from then on it answers. One that cannot be loaded changes nothing."""
        for name, path in self.paths.items():
            try:
                if version_of(read_manifest(path)) == self.served[name].version:
                    continue
                served = Served(path, *self.options)
            except Exception as error:  # whatever is wrong with the new one, the old one answers
                logger.warning("%s stays at version %s: %s", name, self.served[name].version, first_line(error))
                continue
            # Requests that have begun keep the old one until they are answered.
            logger.info("%s is now version %s, and was %s", name, served.version, self.served[name].version)
            self.served[name] = served


def name_of(path: Path) -> str:
    """Return the name that a run is served under: its folder's."""
    return printable(os.path.basename(os.path.abspath(path)))


def version_of(manifest: Manifest) -> str:
    """Return 12 hexadecimal digits that change with the model."""
    return (manifest.get("seal") or seal(manifest))[:12]


def examples(run: Run) -> list[tuple[str, bytes]]:
    """Return a few images of the test split, one of each class in turn, with their class and as PNG, as the model sees them.

    They are those that the run was tested on, or none: their digests are compared. There are none if the data are gone, or would
    have to be downloaded.
    """
    try:
        rows = chosen(run.split)
        images = example_images(run, rows)
        return [(row["class"], png(Image.fromarray(image))) for row, image in zip(rows, images, strict=True)]
    except Exception as error:  # data that somebody has changed may be anything
        logger.info("%s has no examples to show: %s", name_of(run.path), first_line(error))
        return []


def chosen(rows: list[SplitRow]) -> list[SplitRow]:
    """Return the first test image of each class, then the second of each, up to `MOST_EXAMPLES`."""
    by_class: dict[str, list[SplitRow]] = {}
    for row in rows:
        if row["split"] == SPLIT_NAMES[TEST]:
            by_class.setdefault(row["class"], []).append(row)
    in_turn = [one[place] for place in range(MOST_EXAMPLES) for one in by_class.values() if place < len(one)]
    return in_turn[:MOST_EXAMPLES]


def example_images(run: Run, rows: list[SplitRow]) -> list[np.ndarray]:
    """Return the images of some rows of a split, each uint8 (H, W, 3).

    Raises:
        HeadstartError: they are gone, or others.
        Exception: they cannot be read.
    """
    if is_address(run.config.data):  # a server does not begin by waiting for another
        raise HeadstartError("its data are not on this machine")
    data, (height, width, _) = Path(run.config.data), run.image_shape
    folder = image_folder(run.config.data)
    if folder and all((folder / row["image"]).is_file() for row in rows):
        images = np.array([read_image(folder / row["image"], height, width, run.decoding) for row in rows])
    else:
        source = read_source("digits", height) if run.config.data == "digits" else read_cifar(data) if data.exists() else None
        if source is None:
            raise HeadstartError("its data are not on this machine")
        places = {name: place for place, name in enumerate(source.names)}
        images = source.images[[places[row["image"]] for row in rows]]
    if [digest(image).hex() for image in images] != [row["digest"] for row in rows]:
        raise HeadstartError("its data have changed")
    return list(images)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
