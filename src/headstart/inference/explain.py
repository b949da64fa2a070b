"""What a model looked at: heat maps of the evidence for a class, for any backbone and any backend of Keras."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from headstart.inference.classifier import Classifier
from headstart.inference.engine import keras_outputs
from headstart.inference.inputs import Inputs, named_images, read_ahead, refuse_nothing, refuse_only_unreadable
from headstart.inference.predictions import Predictions
from headstart.model.head import logit_gradients
from headstart.model.network import Network
from headstart.system.backend import resolve_jit, small_convolutions_are_slow
from headstart.system.files import unwritable, written_whole
from headstart.system.progress import track

# A feature map with fewer positions per side cannot show where something is.
LEAST_POSITIONS = 4
# Occlusion covers squares of a quarter of the side, with their centres on a grid of so many per side.
OCCLUSION_GRID = 7
# With small convolutions as products, JAX takes 6 seconds longer to compile a ResNet-50, and 0.5 instead of 2.1 seconds per
# image.
FEWEST_FOR_PRODUCTS = 5
BATCH = 32
# Overlays of smaller images are enlarged, so that the heat map can be seen.
SMALLEST_OVERLAY = 224
MOST_STEM_BYTES = 100


@dataclass(frozen=True, eq=False)
class Explanations:
    """Where in each image the evidence for its likeliest class lies.

    Attributes:
        images: uint8 (N, H, W, 3), as the model saw them.
        maps: float32 (N, H, W), 0..1: 1 where the evidence for the class is strongest, 0 where there is none.
        predictions: names, classes and probabilities of the same images.
        method: how the maps were computed, see `heat_maps`.
    """

    images: np.ndarray
    maps: np.ndarray
    predictions: Predictions
    method: str

    def save(self, folder: str | Path) -> list[Path]:
        """Write a PNG for each image, with its heat map over it, and return the files.

        Raises:
            HeadstartError: the folder or a file cannot be written.
        """
        files = []
        try:
            folder = Path(folder).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            for number, (name, image, heat_map) in enumerate(
                zip(self.predictions.names, self.images, self.maps, strict=True), start=1
            ):
                file = folder / file_name(number, name)
                with written_whole(file) as partial:
                    overlay(image, heat_map, SMALLEST_OVERLAY).save(partial)
                files.append(file)
        except (OSError, RuntimeError) as error:  # RuntimeError: no home of a user for ~ or ~NAME
            raise unwritable(Path(folder), error) from None
        return files


def file_name(number: int, name: str) -> str:
    """Return the name of the PNG for an image: its number, since files of different folders may share a name, and its stem.

    It is a valid name on every system. Characters that cannot be printed or have a meaning in paths become `_`. The stem is
    cut to 100 bytes of UTF-8: some systems allow 143 bytes for a name, and a file that is being written has a longer name.
    """
    stem = "".join(one if one.isprintable() and one not in '<>:"/\\|?*' else "_" for one in Path(name).stem)
    return f"{number:03d}-{stem.encode()[:MOST_STEM_BYTES].decode(errors='ignore')}.png"


def explain(classifier: Classifier, images: Any) -> Explanations:
    """Find where in each image the evidence for its likeliest class lies; of several folds' models, the mean of their maps.

    Args:
        images: as for `headstart.inference.classifier.Classifier.predict`.

    Raises:
        HeadstartError: there is no image, or none can be read.
    """
    inputs = Inputs()
    named = list(named_images(images, inputs))
    refuse_nothing(named, inputs)
    (read,) = read_ahead([named], classifier.image_shape, classifier.decoding)
    inputs.note(read)
    refuse_only_unreadable(inputs)
    pixels = np.stack([one.pixels for one in read if one.pixels is not None])
    probabilities = classifier.predict(pixels).probabilities
    likeliest = probabilities.argmax(axis=1)
    of_models = [heat_maps(Network.of_saved(model), pixels, likeliest) for model in classifier.models]
    maps, method = np.mean([maps for maps, _ in of_models], axis=0), of_models[0][1]
    found = dict(inputs.skipped), dict(inputs.remarks)
    return Explanations(
        pixels, maps, Predictions(inputs.names, probabilities, classifier.class_names, inputs.unreadable, *found), method
    )


def heat_maps(network: Network, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, str]:
    """Return where in each image the evidence for a class lies, and the method.

    The method is HiResCAM (Draelos & Carin 2020): feature map times gradient, summed over channels. Within the Grad-CAM
    family, it is the one whose map provably sums to the class's score. With global average pooling, which all our networks
    have, Grad-CAM (Selvaraju et al. 2017) gives the same map. A feature map with fewer than 4 positions per side cannot point
    at anything; then occlusion (Zeiler & Fergus 2014) measures how much the logit falls when a square is covered.

    Both explain a class's logit minus the mean of all logits, since the softmax ignores what all logits share.

    Args:
        images: uint8 (N, H, W, 3).
        classes: int (N,), the class to explain in each image.

    Returns:
        float32 (N, H, W), 0..1; the largest value of a map is 1, or 0 if there is no evidence for the class. And a few words
        on the method and its resolution.
    """
    before_pooling = network.feature_map()
    rows, columns = before_pooling.output_shape[1:3]
    if min(rows, columns) < LEAST_POSITIONS:
        method = f"occlusion, {OCCLUSION_GRID} x {OCCLUSION_GRID} positions (the feature map has only {rows} x {columns})"
        coarse = occlusion(network, images, classes)
    else:
        method = f"HiResCAM, {rows} x {columns} positions"
        before_pooling.compile(jit_compile=resolve_jit())
        coarse = np.zeros((len(images), rows, columns), np.float32)
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            (features,) = keras_outputs(before_pooling, images[batch])
            gradients = logit_gradients(network.head, features.mean(axis=(1, 2)), classes[batch])
            coarse[batch] = np.einsum("nhwc,nc->nhw", features, gradients)
        # A constant can be moved between these values and the network's biases without changing its function. So only
        # differences between positions mean something: values above the average are evidence for the class.
        coarse -= coarse.mean(axis=(1, 2), keepdims=True)
    maps = np.stack([resized(np.maximum(one, 0), (images.shape[2], images.shape[1])) for one in coarse])
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny), method


def occlusion(network: Network, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return how much a class's logit, minus the mean of all logits, falls when a square of an image is covered.

    Args:
        images: uint8 (N, H, W, 3). A covered square has the image's mean colour.
        classes: int (N,).

    Returns:
        float32 (N, 7, 7), a value for each square, by its centre.
    """
    fast = len(images) >= FEWEST_FOR_PRODUCTS and small_convolutions_are_slow()
    model = network.classifier(for_speed=fast)
    falls = np.zeros((len(images), OCCLUSION_GRID, OCCLUSION_GRID), np.float32)
    for row in track(range(len(images)), "covering squares"):
        # Always the same number of images, so that the network is compiled once. Larger batches are no faster.
        (logits,) = keras_outputs(model, covered(images[row]))
        above_mean = logits[:, classes[row]] - logits.mean(axis=1)
        falls[row] = (above_mean[0] - above_mean[1:]).reshape(OCCLUSION_GRID, OCCLUSION_GRID)
    return falls


def covered(image: np.ndarray) -> np.ndarray:
    """Return an image and 49 copies of it, each with one square in its mean colour, uint8 (50, H, W, 3).

    Args:
        image: uint8 (H, W, 3).
    """
    height, width, _ = image.shape
    copies = np.repeat(image[None], 1 + OCCLUSION_GRID**2, axis=0)
    for copy, (row, column) in zip(copies[1:], np.ndindex(OCCLUSION_GRID, OCCLUSION_GRID), strict=True):
        top, left = ((place + 0.5) / OCCLUSION_GRID - 1 / 8 for place in (row, column))
        rows = slice(max(0, round(top * height)), max(1, round((top + 1 / 4) * height)))
        columns = slice(max(0, round(left * width)), max(1, round((left + 1 / 4) * width)))
        copy[rows, columns] = image.mean(axis=(0, 1))
    return copies


def overlay(image: np.ndarray, heat_map: np.ndarray, smallest: int) -> Image.Image:
    """Return an image with its heat map over it; its shorter side has at least `smallest` pixels.

    Args:
        image: uint8 (H, W, 3).
        heat_map: float (H, W), 0..1.
    """
    height, width, _ = image.shape
    scale = max(1.0, smallest / min(height, width))
    size = round(width * scale), round(height * scale)
    base = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32)
    strength = resized(heat_map, size)[..., None]
    colour = 255 * colormaps["plasma"](strength[..., 0])[..., :3]
    # Areas without evidence turn grey and dim, so that the others can be seen on any image.
    grey = 0.6 * base.mean(axis=2, keepdims=True) + 30
    mixed = (1 - strength) * grey + strength * (0.5 * base + 0.5 * colour)
    return Image.fromarray(np.uint8(mixed.clip(0, 255)))


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a float (h, w) map, bilinearly resized to `size`, (width, height), as float32 (height, width)."""
    return np.asarray(Image.fromarray(np.float32(values)).resize(size, Image.Resampling.BILINEAR))
