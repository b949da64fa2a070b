"""The proof that an exported file answers as the run does: it is run by its own runtime, on images of the test split."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from headstart.data.dataset import Dataset
from headstart.data.decode import fit, to_rgb
from headstart.data.load import image_folder
from headstart.data.opening import opened
from headstart.errors import HeadstartError
from headstart.export.formats import Differences, Proof
from headstart.inference.classifier import Classifier, fitting
from headstart.inference.engine import keras_outputs, relative_difference
from headstart.inference.logits import network_logits
from headstart.metrics.classification import interval_of
from headstart.metrics.comparison import SIGNIFICANT, mcnemar
from headstart.model.fast.copies import recast
from headstart.model.network import Network
from headstart.system.backend import keras
from headstart.system.progress import track
from headstart.system.remote import below

MOST_IMAGES, MOST_OWN_SIZE, BATCH = 1000, 50, 64
# What may differ from the network in float32: logits and features by this share of their L2 norm, and this share of the
# decisions. Whatever computes the network in another way than was asked for differs by more: bfloat16 by 1 %, and augmentation,
# another normalisation or other labels by far more. For int8, the accuracy on validation images decides.
LARGEST_DIFFERENCE = {"float32": 1e-3, "float16": 2e-2}
FEWEST_EQUAL = {"float32": 0.998, "float16": 0.99}
# Images of other sizes: rounding to whole numbers differs, and a value in a hundred by 1 moves logits by less than this.
LARGEST_DIFFERENCE_OF_SIZES, FEWEST_EQUAL_OF_SIZES = 0.05, 0.95
# Images a second are the best of so many turns, in which file and run alternate.
TURNS, TIMED_IMAGES = 3, 256
# Below it, a probability in float32 is 0, and a logit cannot be told from it.
LEAST = 1e-30


class Runtime(Protocol):
    """An exported file in its own runtime. `about` is what the file says of itself, see `headstart.export.about.describe`."""

    about: dict[str, Any]

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, float32 (N, classes), and features, float32 (N, channels), of uint8 (N, H, W, 3)."""


def exact_outputs(classifier: Classifier) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the network in float32, run by Keras: a function from uint8 (N, height, width, 3) to logits and features."""
    network = Network.of_saved(recast(classifier.model, "float32"))
    features = network.feature_extractor()
    both = keras.Model(features.inputs, [network.head(features.output), features.output])

    def outputs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, pooled = keras_outputs(both, images)
        return logits, pooled

    return outputs


def prove(runtime: Runtime, classifier: Classifier, data: Dataset, precision: str, any_size: bool, most_loss: float) -> Proof:
    """Run an exported file on up to 1,000 test images, and measure how its answers differ.

    Args:
        runtime: the file.
        classifier: of the run.
        data: of the run, with its splits.
        precision: what the file was written in.
        any_size: whether it takes images of any size.
        most_loss: how much accuracy a file in int8 may lose on the validation split, 0..1.

    Raises:
        HeadstartError: the file differs by more than its precision explains. The message says what differs.
    """
    rows = spread(data.test, MOST_IMAGES)
    images, labels = data.images(rows), data.labels(rows)
    order = columns(runtime, classifier)
    exact = exact_outputs(classifier)
    size = fitting(BATCH, classifier.largest_output)
    wanted = joined(exact, images, size, "network in float32")
    found = joined(runtime.outputs, images, size, "exported file")
    found = found[0][:, order], found[1]
    test = differences(found, wanted, classifier.temperature)
    own = logits_of_run(classifier, images, size)
    right, right_of_run = (answers.argmax(axis=1) == labels for answers in (found[0], own))
    lost, won, p_value = mcnemar(right_of_run, right, data.groups(rows))
    speed = speeds(runtime, classifier, images[:TIMED_IMAGES], size)
    proof: Proof = {
        "test": test,
        "other_sizes": other_sizes(runtime, classifier, data, rows, exact, order) if any_size else None,
        "accuracy": float(right.mean()),
        "interval": interval_of(right, data.groups(rows)),
        "accuracy_of_run": float(right_of_run.mean()),
        "against_run": {"only_run_right": lost, "only_file_right": won, "p_value": p_value},
        "images_per_second": speed[0],
        "images_per_second_of_run": speed[1],
        "validation": validation_loss(runtime, classifier, data, order, size) if precision == "int8" else None,
    }
    refuse_different(proof, precision, most_loss)
    return proof


def refuse_different(proof: Proof, precision: str, most_loss: float) -> None:
    """Refuse a file whose answers differ by more than its precision explains."""
    test, sizes, validation, paired = proof["test"], proof["other_sizes"], proof["validation"], proof["against_run"]
    if validation:  # int8 changes many answers a little, so what counts is how many of them are right
        if not validation["lost"] <= most_loss:
            raise HeadstartError(
                f"on {validation['images']:,.0f} validation images, its accuracy is {100 * validation['lost']:.2f} points below "
                f"that of the run, and {100 * most_loss:g} were allowed (--most-loss)"
            )
        return
    allowed = LARGEST_DIFFERENCE[precision]
    for what, difference in (("logits", test["relative_difference"]), ("features", test["features"])):
        if not difference <= allowed:
            raise HeadstartError(
                f"its {what} differ from the network's by {100 * difference:.2g} %, and {precision} explains {100 * allowed:g} %"
            )
    if not test["equal_decisions"] >= FEWEST_EQUAL[precision]:
        raise HeadstartError(f"it decides like the network on {100 * test['equal_decisions']:.1f} % of the test images only")
    if paired["p_value"] < SIGNIFICANT and proof["accuracy"] < proof["accuracy_of_run"]:
        raise HeadstartError(f"it is worse than the run on the test images (McNemar test, p = {paired['p_value']:.2g})")
    if sizes and not (
        sizes["relative_difference"] <= LARGEST_DIFFERENCE_OF_SIZES and sizes["equal_decisions"] >= FEWEST_EQUAL_OF_SIZES
    ):
        raise HeadstartError(
            f"on images of other sizes, its logits differ by {100 * sizes['relative_difference']:.2g} %, and it decides like the "
            f"network on {100 * sizes['equal_decisions']:.1f} % of them"
        )


def columns(runtime: Runtime, classifier: Classifier) -> list[int]:
    """Return, for each class of the run, which of the file's outputs it is, by the names in the file."""
    names = list(runtime.about["classes"])
    if sorted(names) != sorted(classifier.class_names):
        raise HeadstartError("it names other classes than the run")
    return [names.index(name) for name in classifier.class_names]


def differences(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray], temperature: float) -> Differences:
    """Return how probabilities and features of a file differ from logits and features of the network.

    Args:
        found: probabilities, float32 (N, classes), and features, float32 (N, channels).
        wanted: logits and features of the same shapes.
    """
    logits = without_mean(temperature * np.log(np.maximum(np.nan_to_num(found[0]), LEAST)))
    exact = without_mean(wanted[0])
    # What float32 cannot hold as a probability cannot differ.
    exact = np.maximum(exact, exact.max(axis=1, keepdims=True) + temperature * np.log(LEAST))
    logits, exact = without_mean(logits), without_mean(exact)
    return {
        "images": len(logits),
        "largest_difference": float(np.abs(logits - exact).max()),
        "relative_difference": relative_difference(logits, exact),
        "features": relative_difference(np.nan_to_num(found[1], nan=np.inf), wanted[1]),
        "equal_decisions": float((found[0].argmax(axis=1) == wanted[0].argmax(axis=1)).mean()),
    }


def without_mean(logits: np.ndarray) -> np.ndarray:
    """Return logits, (N, classes), minus their mean over the classes."""
    return np.asarray(logits, np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)


def other_sizes(
    runtime: Runtime, classifier: Classifier, data: Dataset, rows: np.ndarray, exact: Any, order: list[int]
) -> Differences:
    """Return the differences on up to 50 test images in the size of their files; without files, on enlarged images.

    Each is given to the file as it is, and to the network as `headstart.data.decode.fit` fits it.
    """
    (height, width, _), folder = classifier.image_shape, image_folder(data.source.name)
    found, wanted = [], []
    for row in spread(rows, MOST_OWN_SIZE):
        if data.source.files and folder:
            image = whole_image(below(folder, data.source.files[row]))
        else:
            image = Image.fromarray(data.source.images[row]).resize((3 * width, 2 * height), Image.Resampling.BICUBIC)
        found.append(runtime.outputs(np.asarray(image)[None]))
        wanted.append(exact(fit(image, height, width, classifier.decoding)[None]))
    probabilities, features = (np.concatenate(part) for part in zip(*found, strict=True))
    logits, pooled = (np.concatenate(part) for part in zip(*wanted, strict=True))
    return differences((probabilities[:, order], features), (logits, pooled), classifier.temperature)


def whole_image(file: Path) -> Image.Image:
    """Return the upright image in a file in its own size, RGB."""
    with opened(file) as one, one.ready(one.image.size):
        return to_rgb(ImageOps.exif_transpose(one.image))


def validation_loss(runtime: Runtime, classifier: Classifier, data: Dataset, order: list[int], size: int) -> dict[str, float]:
    """Return how much of its accuracy on the validation split the run loses in this file."""
    images, labels = data.images(data.validation), data.labels(data.validation)
    probabilities, _ = joined(runtime.outputs, images, size, "validation images")
    own = logits_of_run(classifier, images, size)
    of_file, of_run = (float((answers.argmax(axis=1) == labels).mean()) for answers in (probabilities[:, order], own))
    return {"images": len(labels), "accuracy": of_file, "accuracy_of_run": of_run, "lost": of_run - of_file}


def speeds(runtime: Runtime, classifier: Classifier, images: np.ndarray, size: int) -> tuple[float, float]:
    """Return how many images a second the file and the run classify, each after one turn that is not counted."""

    def of_file() -> None:
        for batch in batches(images, size):
            runtime.outputs(batch)

    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 1):
        for work, times in zip((of_file, lambda: logits_of_run(classifier, images, size)), seconds, strict=True):
            start = time.perf_counter()
            work()
            if turn:
                times.append(time.perf_counter() - start)
    return len(images) / min(seconds[0]), len(images) / min(seconds[1])


def joined(outputs: Any, images: np.ndarray, size: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the two outputs of a function for all images."""
    parts = [outputs(batch) for batch in track(batches(images, size), what)]
    first, second = (np.concatenate(part) for part in zip(*parts, strict=True))
    return first, second


def logits_of_run(classifier: Classifier, images: np.ndarray, size: int) -> np.ndarray:
    """Return the logits, float32 (N, classes), that `predict` would answer by."""
    return np.concatenate(list(network_logits(classifier.outputs, batches(images, size), len(images))))


def batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, evenly spread over all."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]
