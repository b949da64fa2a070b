"""The images of the test split that tell most, each beside what the network looked at."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from headstart.data.dataset import Dataset
from headstart.inference.explain import heat_maps, overlay
from headstart.model.network import Network
from headstart.report.pages import embedded

MOST_IN_GALLERY = 10
# An image of each of a thousand classes would be nobody's pleasure, and 10 MB.
MOST_TYPICAL = 30
SIDE = 144


@dataclass(frozen=True)
class Gallery:
    """Some images under one heading.

    Attributes:
        rows: int (n,), places within the test split.
        explained: int (n,), the class whose evidence is shown in each.
    """

    title: str
    remark: str
    rows: np.ndarray
    explained: np.ndarray


def choose(probabilities: np.ndarray, labels: np.ndarray) -> list[Gallery]:
    """Return the galleries of a test split: most confident mistakes, least confident answers, clearest of each class.

    Args:
        probabilities: float (N, classes).
        labels: int (N,).
    """
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-sure[wrong], kind="stable")][:MOST_IN_GALLERY]
    unsure = np.argsort(sure, kind="stable")[:MOST_IN_GALLERY]
    right = np.flatnonzero(predicted == labels)
    clearest = [members[sure[members].argmax()] for label in range(probabilities.shape[1])
                if len(members := right[labels[right] == label])]  # fmt: skip
    shown = np.array(clearest[:MOST_TYPICAL], dtype=int)
    more = f" Only the first {len(shown)} of {probabilities.shape[1]} classes are shown." if len(clearest) > len(shown) else ""
    return [
        Gallery("Most confident mistakes", "They are hard images, wrong labels, or something that the network learned wrong.",
                surest, predicted[surest]),
        Gallery("Least confident", "Here the network hesitates most, whether it is right or wrong.", unsure, predicted[unsure]),
        Gallery("Typical of each class", f"Of each class, the image that is classified correctly with most confidence.{more}",
                shown, labels[shown]),
    ]  # fmt: skip


def explained(
    galleries: list[Gallery], network: Network, data: Dataset, probabilities: np.ndarray
) -> tuple[list[dict[str, Any]], str]:
    """Return the galleries as the page shows them, every image with its heat map, and the maps' method.

    Args:
        probabilities: float (N, classes), of the test split.
    """
    rows = np.concatenate([gallery.rows for gallery in galleries])
    images, labels = data.images(data.test[rows]), data.labels(data.test)
    maps, method = heat_maps(network, images, np.concatenate([gallery.explained for gallery in galleries]))
    figures = []
    for row, image, heat_map in zip(rows, images, maps, strict=True):
        name, said, given = data.source.names[data.test[row]], probabilities[row].argmax(), labels[row]
        figures.append({
            "name": name, "images": pair(image, heat_map, data.class_names[said], name), "said": data.class_names[said],
            "probability": float(probabilities[row, said]), "label": data.class_names[given] if said != given else "",
        })  # fmt: skip
    rest = iter(figures)
    shown = [{"title": one.title, "remark": one.remark, "figures": list(islice(rest, len(one.rows)))} for one in galleries]
    return [one for one in shown if one["figures"]], method


def pair(image: np.ndarray, heat_map: np.ndarray, said: str, name: str) -> list[dict[str, Any]]:
    """Return an image and its explanation as a page shows them."""
    seen = thumbnail(image)
    looked = overlay(np.asarray(seen), np.asarray(Image.fromarray(heat_map).resize(seen.size)), SIDE)
    return [
        embedded(seen, f"test image {name}"),
        embedded(looked, f"the same image, bright where the evidence for {said} lies"),
    ]


def thumbnail(image: np.ndarray) -> Image.Image:
    """Return a uint8 (H, W, 3) image with a shorter side of 144 pixels."""
    height, width, _ = image.shape
    scale = SIDE / min(height, width)
    return Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
