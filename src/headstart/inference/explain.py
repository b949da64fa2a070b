"""What a model looked at: heat maps of the evidence for a class, for any backbone, on any of Keras' backends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from headstart.inference.classifier import Classifier
from headstart.inference.inputs import Inputs, named_images, read_inputs, refuse_nothing, refuse_only_unreadable
from headstart.inference.predictions import Predictions
from headstart.model.head import logit_gradients
from headstart.model.network import Network
from headstart.system.backend import resolve_jit, small_convolutions_are_slow
from headstart.system.files import unwritable, written_whole
from headstart.system.progress import track

# A feature map with fewer positions a side cannot say where something is.
LEAST_POSITIONS = 4
# Occlusion covers squares of a quarter of the side, centred on a grid of so many a side.
OCCLUSION_GRID = 7
# Compiling a ResNet-50 whose small convolutions are products takes JAX 6 seconds more; each image then takes 0.5 instead of 2.1.
FEWEST_FOR_PRODUCTS = 5
BATCH = 32
# Overlays of smaller images are enlarged, so that the map can be seen.
SMALLEST_OVERLAY = 224
MOST_STEM_BYTES = 100


@dataclass(frozen=True, eq=False)
class Explanations:
    """Where in some images the evidence for a class lies.

    Attributes:
        images: uint8 (N, H, W, 3), as the model saw them.
        maps: float32 (N, H, W), 0..1: 1 where the evidence for the class is strongest, 0 where there is none.
        predictions: the names, classes and probabilities of the same images.
        method: how the maps were made, see `heat_maps`.
    """

    images: np.ndarray
    maps: np.ndarray
    predictions: Predictions
    method: str

    def save(self, folder: str | Path) -> list[Path]:
        """Write each image under its heat map as a PNG, and return the files.

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

    It is a valid name on every system. What cannot be printed or stands for something in paths becomes `_`, and the stem is
    cut to 100 bytes of UTF-8: some systems allow 143 for a whole name, and a file that is being written has a longer one.
    """
    stem = "".join(one if one.isprintable() and one not in '<>:"/\\|?*' else "_" for one in Path(name).stem)
    return f"{number:03d}-{stem.encode()[:MOST_STEM_BYTES].decode(errors='ignore')}.png"


def explain(classifier: Classifier, images: Any) -> Explanations:
    """Show where in some images the evidence for their likeliest class lies.

    Args:
        images: as for `Classifier.predict`.

    Raises:
        HeadstartError: there is nothing to explain, or nothing that can be read.
    """
    inputs = Inputs()
    named = list(named_images(images, inputs))
    refuse_nothing(named, inputs)
    pixels = read_inputs(named, classifier.image_shape, classifier.decoding, inputs)
    refuse_only_unreadable(inputs)
    probabilities = classifier.predict(pixels).probabilities
    maps, method = heat_maps(Network.of_saved(classifier.model), pixels, probabilities.argmax(axis=1))
    found = dict(inputs.skipped), dict(inputs.remarks)
    return Explanations(
        pixels, maps, Predictions(inputs.names, probabilities, classifier.class_names, inputs.unreadable, *found), method
    )


def heat_maps(network: Network, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, str]:
    """Return where in each image the evidence for a class lies, and by which method that was found.

    HiResCAM (Draelos & Carin 2020): feature map times gradient, summed over channels. Of the
    Grad-CAM family it is the one whose map provably sums to what the class gets; behind global
    average pooling, which all our networks have, Grad-CAM (Selvaraju et al. 2017) gives the same
    map. Where the feature map has fewer than 4 positions a side it cannot point at anything, and
    occlusion (Zeiler & Fergus 2014) says by how much the class suffers when a square is covered.

    Both explain a class's logit above the mean of all logits, since softmax does not see what these share.

    Args:
        images: uint8 (N, H, W, 3).
        classes: int (N,), the class to explain in each image.

    Returns:
        float32 (N, H, W) in 0..1, each map's largest value being 1 unless nothing speaks for the
        class; and a few words on the method and its resolution.
    """
    rows, columns = network.map_shape
    if min(rows, columns) < LEAST_POSITIONS:
        method = f"occlusion, {OCCLUSION_GRID} x {OCCLUSION_GRID} positions (the feature map has only {rows} x {columns})"
        coarse = occlusion(network, images, classes)
    else:
        method = f"HiResCAM, {rows} x {columns} positions"
        before_pooling = network.feature_map()
        before_pooling.compile(jit_compile=resolve_jit())
        coarse = np.zeros((len(images), rows, columns), np.float32)
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            features = np.asarray(before_pooling.predict_on_batch(images[batch]), np.float32)
            gradients = logit_gradients(network.head, features.mean(axis=(1, 2)), classes[batch])
            coarse[batch] = np.einsum("nhwc,nc->nhw", features, gradients)
        # The same network can be written with any constant moved between these and its biases, so only
        # differences between positions mean something: what lies above the average speaks for the class.
        coarse -= coarse.mean(axis=(1, 2), keepdims=True)
    maps = np.stack([resized(np.maximum(one, 0), (images.shape[2], images.shape[1])) for one in coarse])
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny), method


def occlusion(network: Network, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return by how much a class's logit, above the mean of all, falls when a square of an image is covered.

    Args:
        images: uint8 (N, H, W, 3); squares take an image's mean colour.
        classes: int (N,).

    Returns:
        float32 (N, 7, 7), a value for each square's centre.
    """
    fast = len(images) >= FEWEST_FOR_PRODUCTS and small_convolutions_are_slow()
    model = network.classifier(for_speed=fast)
    falls = np.zeros((len(images), OCCLUSION_GRID, OCCLUSION_GRID), np.float32)
    for row in track(range(len(images)), "covering squares"):
        # Always as many images, so that the network is compiled once; more at a time are no faster.
        logits = np.asarray(model.predict_on_batch(covered(images[row])), np.float32)
        above_mean = logits[:, classes[row]] - logits.mean(axis=1)
        falls[row] = (above_mean[0] - above_mean[1:]).reshape(OCCLUSION_GRID, OCCLUSION_GRID)
    return falls


def covered(image: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (H, W, 3), and then its copies in which one square each has its mean colour, (50, H, W, 3)."""
    height, width, _ = image.shape
    copies = np.repeat(image[None], 1 + OCCLUSION_GRID**2, axis=0)
    for copy, (row, column) in zip(copies[1:], np.ndindex(OCCLUSION_GRID, OCCLUSION_GRID), strict=True):
        top, left = ((place + 0.5) / OCCLUSION_GRID - 1 / 8 for place in (row, column))
        rows = slice(max(0, round(top * height)), max(1, round((top + 1 / 4) * height)))
        columns = slice(max(0, round(left * width)), max(1, round((left + 1 / 4) * width)))
        copy[rows, columns] = image.mean(axis=(0, 1))
    return copies


def overlay(image: np.ndarray, heat_map: np.ndarray, smallest: int) -> Image.Image:
    """Return an image under its heat map, its shorter side at least `smallest` pixels.

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
    # What carries no evidence turns grey and dim, so that the eye finds the rest on any image.
    grey = 0.6 * base.mean(axis=2, keepdims=True) + 30
    mixed = (1 - strength) * grey + strength * (0.5 * base + 0.5 * colour)
    return Image.fromarray(np.uint8(mixed.clip(0, 255)))


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a float (h, w) map as float32 of `size`, (width, height), with linear steps between."""
    return np.asarray(Image.fromarray(np.float32(values)).resize(size, Image.Resampling.BILINEAR))
