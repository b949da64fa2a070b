"""A trained network with its manifest: all that is needed to use it, and nothing of training."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, repeat, tee
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from headstart import inference, model
from headstart.data.decode import Decoding
from headstart.errors import DamagedError, HeadstartError
from headstart.inference.inputs import (
    Inputs,
    ReadImage,
    in_batches,
    named_images,
    read_ahead,
    refuse_nothing,
    refuse_only_unreadable,
)
from headstart.inference.limits import FILE, Limits, read_limits
from headstart.inference.logits import network_outputs
from headstart.inference.openvino import FEWEST_IMAGES, compiled_file, overlapped, shapes
from headstart.inference.predictions import NONE_OF_THESE, Answer, Predictions
from headstart.metrics.calibration import probabilities
from headstart.record.manifest import read_manifest, verify
from headstart.record.split import decoding_of
from headstart.system.backend import has_gpu, load_keras
from headstart.system.files import checksum
from headstart.system.progress import track

# The model of runs of format 1.
OLD_FILE = "model.keras"
# The most values that a layer's output may have for a batch: 1 GB. It makes batches of very large images smaller.
MOST_AT_ONCE = 1 << 28
# Stands for the number of images where nobody has counted them.
MANY = FEWEST_IMAGES
# Lower means of probabilities count as this one, whose logarithm is finite.
SMALLEST = np.finfo(np.float32).tiny


class Classifier:
    """A model that a run has saved. Keras is not started if OpenVINO computes.

    Args:
        path: the folder of the model.
        trust: load layers that may run code, see `headstart.Config`.

    Raises:
        HeadstartError: the folder holds no finished model, its manifest is damaged, or a newer version of Headstart wrote it.

    Attributes:
        manifest: content of `manifest.json`.
        class_names: in the order of the model's outputs.
        model: the Keras model, its checksum verified; uint8 images (B, H, W, 3) to logits (B, classes).
    """

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        self.path, self.trust, self.manifest = path, trust, read_manifest(path)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])

    @property
    def identity(self) -> str:
        """SHA-256 of the manifest, which has the checksums of the model's files: no other model has it."""
        return checksum(self.path / "manifest.json")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the model takes."""
        height, width, channels = self.manifest["input"]["shape"]
        return height, width, channels

    @property
    def decoding(self) -> Decoding:
        """How image files become the model's input. Models of older versions, which do not record it, crop them."""
        return decoding_of(dict(self.manifest["input"]))

    @property
    def temperature(self) -> float:
        """The number that logits are divided by before the softmax; 1 in runs of older versions, which had none."""
        return self.manifest.get("temperature", 1.0)

    @cached_property
    def model(self) -> Any:
        keras = load_keras()
        try:
            if self.manifest["format"] == 1:
                verify(self.path, self.manifest, OLD_FILE)
                network = model.saved.load_keras_file(self.path / OLD_FILE, trust=self.trust)
            else:
                verify(self.path, self.manifest, model.saved.GRAPH, model.saved.WEIGHTS)
                network = model.saved.load_network(self.path, trust=self.trust)
        except DamagedError:
            raise
        except HeadstartError as error:
            wanted = self.manifest.get("versions", {}).get("keras", keras.version())
            how = f"\nKeras {wanted} saved it: pip install keras=={wanted}" if wanted != keras.version() else ""
            raise HeadstartError(f"{error}{how}") from None
        self.refuse_misfit(network.input_shape, network.output_shape)
        return network

    @cached_property
    def model_with_features(self) -> Any:
        """The same model, which gives logits and pooled features, float32 (B, channels)."""
        return model.network.with_features(self.model)

    @cached_property
    def limits(self) -> Limits | None:
        """How far the model's answers can be trusted; None in runs of older versions, which did not record it."""
        if FILE not in self.manifest["sha256"]:
            return None
        verify(self.path, self.manifest, FILE)
        return read_limits(self.path)

    @property
    def tells_outsiders(self) -> bool:
        """Whether it can say which images are unlike the training images; runs of older versions cannot."""
        return self.limits is not None

    def outsiders(self, features: np.ndarray) -> np.ndarray:
        """Return which images are unlike the training images, bool (N,).

        Args:
            features: float32 (N, channels), as `outputs_with_features` gives them.
        """
        assert self.limits
        return self.limits.outsiders(features)

    @cached_property
    def largest_output(self) -> int:
        """How many values the largest output of the Keras model's layers has for one image."""
        _, values = model.saved.largest_output(self.model)
        return int(values)

    @property
    def models(self) -> list[Any]:
        """The Keras models that answer together: one, or those of all folds."""
        return [self.model]

    @cached_property
    def compiled(self) -> Any:
        """The same model compiled by OpenVINO; None if OpenVINO is not installed or fails, or the run saved no files for it."""
        if "model.xml" not in self.manifest["sha256"]:
            return None
        compiled = compiled_file(self.path / "model.xml", self.manifest["precision"], self.manifest["sha256"])
        if compiled is not None:
            self.refuse_misfit(*shapes(compiled))
        return compiled

    def refuse_misfit(self, input_shape: tuple[int | None, ...], output_shape: tuple[int | None, ...]) -> None:
        """Refuse a network that takes other images than the manifest says, or has another number of outputs."""
        # PyTorch's conversion to OpenVINO leaves the sides of the images open.
        fits = len(input_shape) == 1 + len(self.image_shape) and all(
            length in (None, ours) for length, ours in zip(input_shape[1:], self.image_shape, strict=True)
        )
        if not fits or output_shape[1:] != (len(self.class_names),):
            raise DamagedError(
                f"{self.path / 'manifest.json'} does not fit the network, which gives {output_shape[1:]} for images of "
                f"{input_shape[1:]}: bring the original back, or train again"
            )

    def outputs(self, batches: Iterable[np.ndarray], total: int) -> Iterator[list[np.ndarray]]:
        """Yield the logits, float32 (B, classes), of each batch of images.

        OpenVINO computes if it can: it has classified a few images before Keras would have started. For many images, a GPU is
        faster, and is used.

        Args:
            total: the number of images in all batches.
        """
        if self.by_openvino(total):
            return overlapped(self.compiled, batches, 1)
        return self.keras_outputs(batches, total)

    def outputs_with_features(self, batches: Iterable[np.ndarray], total: int) -> Iterator[list[np.ndarray]]:
        """Yield the logits and the pooled features, float32 (B, channels), of each batch of images; see `outputs`."""
        if self.by_openvino(total) and len(self.compiled.outputs) > 1:
            return overlapped(self.compiled, batches, 2)
        outputs: Iterator[list[np.ndarray]] = inference.engine.Engine(self.model_with_features).outputs(batches, total)
        return outputs

    def by_openvino(self, total: int) -> bool:
        """Whether OpenVINO computes the outputs for so many images."""
        return (total < FEWEST_IMAGES or not has_gpu()) and self.compiled is not None

    def largest_for(self, total: int) -> int:
        """How many values the largest output of the layers that compute has for one of so many images."""
        return int(self.compiled.largest) if self.by_openvino(total) else self.largest_output

    def keras_outputs(self, batches: Iterable[np.ndarray], total: int) -> Iterator[list[np.ndarray]]:
        """Yield the Keras model's logits for each batch, by the fastest engine that computes the same."""
        outputs: Iterator[list[np.ndarray]] = inference.engine.Engine(self.model).outputs(batches, total)
        return outputs

    def predict(
        self, images: Any, batch_size: int = 64, *, mirror: bool = False, reject: float = 0.0, file_column: str = ""
    ) -> Predictions:
        """Classify images in batches, and mark those that are unlike the training images.

        Args:
            images: a path, a folder, an archive (`.zip`, `.tar`), a table of files (`.csv`, `.tsv`, `.jsonl` or `.parquet`), the
                bytes or an open file of an encoded image, a Pillow image or an array, or several of them. Arrays are uint8,
                0..255, of any size: (H, W), grey; (H, W, C) or (N, H, W, C), with 1 (grey), 3 (RGB) or 4 (RGBA) channels.
            batch_size: images per batch.
            mirror: average the logits of each image and its mirror image, see `headstart.inference.logits.network_outputs`.
            reject: the precision that is wanted, above 0 and below 1: where the confidence is too low for it, the label is
                "none of these". The threshold is chosen on validation, see `headstart.metrics.rejection`. 0 rejects nothing.
            file_column: the column of a table that names the files; by default one with a usual name, such as `file_name`,
                `path` or `image`.

        Raises:
            HeadstartError: there is no image, or none can be read; or validation does not support the precision, or the run
                is of an older version, which did not record what rejection needs.
        """
        threshold = self.threshold(reject, mirror) if reject else 0.0
        inputs = Inputs()
        named = list(named_images(images, inputs, file_column))
        refuse_nothing(named, inputs)
        batch_size = fitting(batch_size, self.largest_for(len(named)))
        batches = (named[start : start + batch_size] for start in track(range(0, len(named), batch_size), "classifying"))
        of_classes, unlike = [], []
        for read, found, far in self.classified(batches, len(named), mirror):
            inputs.note(read)
            of_classes.append(found)
            unlike += [far] if far is not None else []
        refuse_only_unreadable(inputs)
        return Predictions(
            inputs.names, np.concatenate(of_classes), self.class_names, inputs.unreadable, dict(inputs.skipped),
            dict(inputs.remarks), threshold, np.concatenate(unlike) if unlike else None,
        )  # fmt: skip

    def stream(
        self, images: Any, batch_size: int = 64, *, mirror: bool = False, reject: float = 0.0, file_column: str = ""
    ) -> Iterator[Answer]:
        """Classify any number of images in constant memory, and yield an answer for each, in the order in which they are given.

        The answers are those of `predict`, to the bit if the same engine computes both: on a machine with a GPU, `predict`
        classifies a few images without it.

        Args:
            images: as for `predict`, also an iterable without an end. It is read only a few batches ahead.
            batch_size, mirror, reject, file_column: see `predict`.

        Raises:
            HeadstartError: as for `predict`. An image that cannot be read is no error: its answer says why.
        """
        threshold = self.threshold(reject, mirror) if reject else 0.0
        named = named_images(images, Inputs(), file_column)
        return chain.from_iterable(self.answers([named], batch_size, MANY, mirror, threshold))

    def answers(
        self, blocks: Iterable[Iterable[tuple[str, Any]]], batch_size: int, total: int, mirror: bool, threshold: float
    ) -> Iterator[list[Answer]]:
        """Yield the answers for each batch of images. Each block begins with a batch of its own.

        Args:
            blocks: of images from `headstart.inference.inputs.named_images`.
            total: the number of images; with `MANY`, a GPU is used if there is one.
            threshold: a lower confidence is rejected; 0 rejects nothing.
        """
        names, size = self.class_names, fitting(batch_size, self.largest_for(total))
        batches = chain.from_iterable(in_batches(block, size) for block in blocks)
        for read, found, far in self.classified(batches, total, mirror):
            rows = zip(found, repeat(None) if far is None else far.tolist(), strict=False)
            answers = []
            for one in read:
                if one.error:
                    answers.append(Answer(one.name, error=one.error))
                    continue
                row, unlike = next(rows)
                place = int(row.argmax())
                rejected = bool(row[place] < threshold) if threshold else None
                label = NONE_OF_THESE if rejected else names[place]
                answers.append(Answer(one.name, label, float(row[place]), row, rejected, unlike, "", one.remarks))
            yield answers

    def classified(
        self, batches: Iterable[Sequence[tuple[str, Any]]], total: int, mirror: bool = False
    ) -> Iterator[tuple[list[ReadImage], np.ndarray, np.ndarray | None]]:
        """Yield each batch of named images as it was read, and what was found of those that could be read.

        Reading, decoding and computing overlap: the engine takes the next batches while it computes one.

        Returns:
            The images, without their pixels; float32 (R, classes), the probabilities of the R that could be read; and bool (R,),
            which of these are unlike the training images, or None of runs of older versions.
        """
        waiting: deque[list[ReadImage]] = deque()

        def pixels() -> Iterator[np.ndarray]:
            for read in read_ahead(batches, self.image_shape, self.decoding):
                waiting.append([ReadImage(one.name, None, one.error, one.remarks) for one in read])
                readable = [one.pixels for one in read if one.pixels is not None]
                # Each batch has one of the network, so that those without a readable image do not gather.
                yield np.stack(readable or [np.zeros(self.image_shape, np.uint8)])

        network, blas = self.outputs_with_features if self.tells_outsiders else self.outputs, ThreadpoolController()
        for logits, *features in network_outputs(network, pixels(), total, mirror):
            read = waiting.popleft()
            readable = sum(not one.error for one in read)
            refuse_infinite(logits[:readable], self.path)
            found = probabilities(logits[:readable], self.temperature).astype(np.float32)
            # Threads of BLAS spin until they get more work: between two batches they took a third of the processor's time.
            with blas.limit(limits=1, user_api="blas"):
                far = self.outsiders(features[0][:readable]) if features else None
            yield read, found, far

    def threshold(self, wanted: float, mirror: bool = False) -> float:
        """Return the confidence from which on answers have a wanted precision, see `Limits.threshold`.

        Raises:
            HeadstartError: as for `predict`; or `mirror`, whose confidences are others than those of validation.
        """
        if mirror:
            raise HeadstartError("the threshold of --reject was chosen without mirror images: leave out --mirror, or --reject")
        if not self.limits:
            raise HeadstartError(
                f"{self.path} was written by an older version, which did not record what --reject needs: train again"
            )
        return self.limits.threshold(wanted)


class Ensemble(Classifier):
    """The classifiers of several folds, which answer by the mean of their probabilities.

    What it computes for an image are the logarithms of these means. Their softmax are the means again, so they stand where a
    classifier has its logits.

    Args:
        path: the folder that holds the folders of the classifiers.
        members: their folders.
        trust: see `Classifier`.

    Attributes:
        members: the classifiers.
    """

    def __init__(self, path: Path, members: Sequence[Path], *, trust: bool = False) -> None:
        self.members = [Classifier(member, trust=trust) for member in members]
        self.path, self.trust, self.manifest = path, trust, self.members[0].manifest
        for one in self.members:
            if (one.class_names, one.image_shape, one.decoding) != (self.class_names, self.image_shape, self.decoding):
                raise DamagedError(f"{one.path} is of another training: its classes or images are not those of {members[0]}")

    @property
    def temperature(self) -> float:
        return 1.0

    @property
    def identity(self) -> str:
        return hashlib.sha256("".join(one.identity for one in self.members).encode()).hexdigest()

    @cached_property
    def model(self) -> Any:
        raise HeadstartError(f"{self.path} holds {len(self.members)} models: name one, such as {self.members[0].path}")

    @property
    def models(self) -> list[Any]:
        return [one.model for one in self.members]

    @cached_property
    def limits(self) -> None:
        """None: what was recorded of each model does not hold for the mean of their answers."""
        return None

    @property
    def tells_outsiders(self) -> bool:
        return all(one.tells_outsiders for one in self.members)

    def outsiders(self, features: np.ndarray) -> np.ndarray:
        """Return which images most of the members mark, each by its own part of the features."""
        channels = [one.limits.references.shape[1] for one in self.members if one.limits]
        parts = np.split(features, np.cumsum(channels)[:-1], axis=1)
        marked: np.ndarray = np.mean([one.outsiders(part) for one, part in zip(self.members, parts, strict=True)], axis=0) > 0.5
        return marked

    def threshold(self, wanted: float, mirror: bool = False) -> float:
        raise HeadstartError(
            f"{self.path} holds {len(self.members)} models, and no threshold was chosen for the mean of their answers: "
            f"for --reject, name one, such as {self.members[0].path}"
        )

    @cached_property
    def largest_output(self) -> int:
        return max(one.largest_output for one in self.members)

    def largest_for(self, total: int) -> int:
        return max(one.largest_for(total) for one in self.members)

    def outputs(self, batches: Iterable[np.ndarray], total: int) -> Iterator[list[np.ndarray]]:
        copies = tee(batches, len(self.members))
        return self.together([one.outputs(copy, total) for one, copy in zip(self.members, copies, strict=True)])

    def outputs_with_features(self, batches: Iterable[np.ndarray], total: int) -> Iterator[list[np.ndarray]]:
        """Yield what `outputs` does, and the features of all members beside each other, float32 (B, channels)."""
        copies = tee(batches, len(self.members))
        return self.together([one.outputs_with_features(copy, total) for one, copy in zip(self.members, copies, strict=True)])

    def keras_outputs(self, batches: Iterable[np.ndarray], total: int) -> Iterator[list[np.ndarray]]:
        copies = tee(batches, len(self.members))
        return self.together([one.keras_outputs(copy, total) for one, copy in zip(self.members, copies, strict=True)])

    def together(self, outputs: Iterable[Iterator[list[np.ndarray]]]) -> Iterator[list[np.ndarray]]:
        """Yield for each batch the logarithms of the mean probabilities, float32 (B, classes), from the logits of all members.

        If the members give features, these follow.
        """
        for of_batch in zip(*outputs, strict=True):
            each = [probabilities(logits, one.temperature) for one, (logits, *_) in zip(self.members, of_batch, strict=True)]
            features = [part for _, *of_member in of_batch for part in of_member]
            logs = np.log(np.maximum(np.mean(each, axis=0), SMALLEST)).astype(np.float32)
            yield [logs, np.concatenate(features, axis=1)] if features else [logs]


def fitting(batch_size: int, largest: int) -> int:
    """Return the batch size, or a smaller one if a layer's `largest` output, in values for one image, demands it."""
    return min(batch_size, max(1, MOST_AT_ONCE // largest))


def refuse_infinite(logits: np.ndarray, path: Path) -> None:
    """Refuse logits that are no numbers: whatever is made of them would be no answer."""
    if not np.isfinite(logits).all():
        raise HeadstartError(f"the model of {path} gives no finite numbers: its training has failed, or its files are damaged")
