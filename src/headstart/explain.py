"""What a model looked at: heat maps of the evidence for a class, for any backbone, on any of Keras' backends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib import colormaps
from PIL import Image

from headstart.backend import resolve_jit
from headstart.errors import HeadstartError
from headstart.files import written_whole
from headstart.predict import Inputs, Predictions, named_pictures, predict, read_inputs, refuse_nothing, refuse_only_unreadable
from headstart.progress import track
from headstart.run.folder import Run

# A feature map with fewer cells a side cannot say where something is.
LEAST_CELLS = 4
# Occlusion covers squares of a quarter of the side, centred on a grid of so many a side.
OCCLUSION_CELLS = 7
BATCH = 32
# Overlays of smaller pictures are enlarged, so that the map can be seen.
SMALLEST_OVERLAY = 224


@dataclass(frozen=True, eq=False)
class Explanations:
    """Where in some pictures the evidence for a class lies.

    Attributes:
        pictures: uint8 (N, H, W, 3), as the model saw them.
        maps: float32 (N, H, W), 0..1: 1 where the evidence for the class is strongest, 0 where there is none.
        predictions: the names, classes and probabilities of the same pictures.
        method: how the maps were made, see `heat_maps`.
    """

    pictures: np.ndarray
    maps: np.ndarray
    predictions: Predictions
    method: str

    def save(self, folder: str | Path) -> list[Path]:
        """Write each picture under its heat map as a PNG, and return the files."""
        folder = Path(folder).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HeadstartError(f"cannot write to {folder}: {error.strerror}") from None
        files = []
        for number, (name, picture, heat_map) in enumerate(
            zip(self.predictions.names, self.pictures, self.maps, strict=True), start=1
        ):
            # Pictures of different folders may share their names.
            file = folder / f"{number:03d}-{Path(name).stem}.png"
            with written_whole(file) as partial:
                overlay(picture, heat_map, SMALLEST_OVERLAY).save(partial)
            files.append(file)
        return files


def explain(run: Run, pictures: Any) -> Explanations:
    """Show where in some pictures the evidence for their likeliest class lies.

    Args:
        pictures: as for `headstart.predict.predict`.

    Raises:
        HeadstartError: there is nothing to explain, or nothing that can be read.
    """
    inputs = Inputs()
    named = list(named_pictures(pictures, inputs))
    refuse_nothing(named, inputs)
    images = read_inputs(named, run, inputs)
    refuse_only_unreadable(inputs)
    probabilities = predict(run, images).probabilities
    maps, method = heat_maps(run.model, images, probabilities.argmax(axis=1))
    return Explanations(
        images,
        maps,
        Predictions(inputs.names, probabilities, run.class_names, inputs.unreadable, dict(inputs.skipped), dict(inputs.remarks)),
        method,
    )


def heat_maps(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, str]:
    """Return where in each picture the evidence for a class lies, and by which method that was found.

    HiResCAM (Draelos & Carin 2020): feature map times gradient, summed over channels. Of the
    Grad-CAM family it is the one whose map provably sums to what the class gets; behind global
    average pooling, which all our networks have, Grad-CAM (Selvaraju et al. 2017) gives the same
    map. Where the feature map has fewer than 4 cells a side it cannot point at anything, and
    occlusion (Zeiler & Fergus 2014) says by how much the class suffers when a square is covered.

    Both explain a class's logit above the mean of all logits, since softmax does not see what these share.

    Args:
        model: of `headstart.model.graph.build_model`, or as a run saved it.
        images: uint8 (N, H, W, 3).
        classes: int (N,), the class to explain in each picture.

    Returns:
        float32 (N, H, W) in 0..1, each map's largest value being 1 unless nothing speaks for the
        class; and a few words on the method and its resolution.
    """
    # The nested backbone's own output belongs to another graph; what the pooling reads belongs to this one.
    until_pooling = keras.Model(model.input, model.get_layer("features").input)
    until_pooling.compile(jit_compile=resolve_jit())
    rows, columns = keras.ops.shape(model.get_layer("features").input)[1:3]
    if min(rows, columns) < LEAST_CELLS:
        method = f"occlusion, {OCCLUSION_CELLS} x {OCCLUSION_CELLS} positions (the feature map has only {rows} x {columns} cells)"
        coarse = [occlusion(model, images[row], classes[row]) for row in track(range(len(images)), "covering squares")]
    else:
        method = f"HiResCAM, {rows} x {columns} cells"
        coarse = []
        for start in range(0, len(images), BATCH):
            features = np.asarray(until_pooling.predict_on_batch(images[start : start + BATCH]), np.float32)
            gradients = logit_gradients(model, features.mean(axis=(1, 2)), classes[start : start + BATCH])
            shares = np.einsum("nhwc,nc->nhw", features, gradients)
            # The same network can be written with any constant moved between these and its biases, so only
            # differences between cells mean something: what lies above the average speaks for the class.
            coarse += list(shares - shares.mean(axis=(1, 2), keepdims=True))
    maps = np.stack([resized(np.maximum(one, 0), (images.shape[2], images.shape[1])) for one in coarse])
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny), method


def logit_gradients(model: keras.Model, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the gradient of a class's logit, above the mean of all, with respect to the pooled features.

    The head is at most a ReLU layer and a linear one, so this is a product of its weights, and
    needs no backend's differentiation.

    Args:
        features: float32 (N, channels), pooled.
        classes: int (N,).

    Returns:
        float32 (N, channels).
    """
    kernel, _ = model.get_layer("logits").get_weights()
    gradients = (kernel - kernel.mean(axis=1, keepdims=True)).T[classes]
    if any(layer.name == "hidden" for layer in model.layers):
        kernel, bias = model.get_layer("hidden").get_weights()
        gradients = (gradients * (features @ kernel + bias > 0)) @ kernel.T
    return gradients


def occlusion(model: keras.Model, image: np.ndarray, label: int) -> np.ndarray:
    """Return by how much a class's logit, above the mean of all, falls when a square of a picture is covered.

    Args:
        image: uint8 (H, W, 3); squares take its mean colour.

    Returns:
        float32 (7, 7), a value for each square's centre.
    """
    height, width, _ = image.shape
    covered = np.repeat(image[None], 1 + OCCLUSION_CELLS**2, axis=0)
    for number, (row, column) in enumerate(np.ndindex(OCCLUSION_CELLS, OCCLUSION_CELLS), start=1):
        top, left = ((place + 0.5) / OCCLUSION_CELLS - 1 / 8 for place in (row, column))
        rows = slice(max(0, round(top * height)), max(1, round((top + 1 / 4) * height)))
        columns = slice(max(0, round(left * width)), max(1, round((left + 1 / 4) * width)))
        covered[number, rows, columns] = image.mean(axis=(0, 1))
    logits = np.asarray(model.predict_on_batch(covered), np.float32)
    above_mean = logits[:, label] - logits.mean(axis=1)
    return (above_mean[0] - above_mean[1:]).reshape(OCCLUSION_CELLS, OCCLUSION_CELLS)


def overlay(picture: np.ndarray, heat_map: np.ndarray, smallest: int) -> Image.Image:
    """Return a picture under its heat map, its shorter side at least `smallest` pixels.

    Args:
        picture: uint8 (H, W, 3).
        heat_map: float (H, W), 0..1.
    """
    height, width, _ = picture.shape
    scale = max(1.0, smallest / min(height, width))
    size = round(width * scale), round(height * scale)
    base = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), np.float32)
    strength = resized(heat_map, size)[..., None]
    colour = 255 * colormaps["plasma"](strength[..., 0])[..., :3]
    # What carries no evidence turns grey and dim, so that the eye finds the rest on any picture.
    grey = 0.6 * base.mean(axis=2, keepdims=True) + 30
    mixed = (1 - strength) * grey + strength * (0.5 * base + 0.5 * colour)
    return Image.fromarray(np.uint8(mixed.clip(0, 255)))


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a float (h, w) map as float32 of `size`, (width, height), with linear steps between."""
    return np.asarray(Image.fromarray(np.float32(values)).resize(size, Image.Resampling.BILINEAR))
