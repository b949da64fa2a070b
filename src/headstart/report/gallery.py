"""Source of the test split that tell most, each beside what the network looked at."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from headstart.data.dataset import Dataset
from headstart.inference.explain import heat_maps, overlay
from headstart.model.network import Network
from headstart.report.html import E, embedded, named, percent

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
    """Return the galleries of a test split: surest mistakes, least sure, clearest of each class.

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
    more = f" The first {len(shown)} of {probabilities.shape[1]} classes." if len(clearest) > len(shown) else ""
    return [
        Gallery("Surest mistakes", "Wrong, and sure of it: hard images, wrong labels, or a habit worth knowing.",
                surest, predicted[surest]),
        Gallery("Least sure", "Where the network hesitates most, right or not.", unsure, predicted[unsure]),
        Gallery("Typical of each class", f"For each class the image that is named right with most confidence.{more}",
                shown, labels[shown]),
    ]  # fmt: skip


def explained(galleries: list[Gallery], network: Network, data: Dataset, probabilities: np.ndarray) -> tuple[list[Element], str]:
    """Return the galleries as elements, every image with its heat map, and the maps' method.

    Args:
        probabilities: float (N, classes), of the test split.
    """
    rows = np.concatenate([gallery.rows for gallery in galleries])
    images = data.images(data.test[rows])
    maps, method = heat_maps(network, images, np.concatenate([gallery.explained for gallery in galleries]))
    labels, elements, done = data.labels(data.test), [], 0
    for gallery in galleries:
        figures = []
        for row, image, heat_map in zip(gallery.rows, images[done:], maps[done:], strict=False):
            said, given = probabilities[row].argmax(), labels[row]
            words = caption(data.class_names[said], probabilities[row, said], data.class_names[given])
            figures.append(pair(image, heat_map, data.class_names[said], words, data.source.names[data.test[row]]))
        done += len(gallery.rows)
        if figures:
            elements.append(E("div", E("h3", gallery.title), E("p", gallery.remark, class_="note"),
                              E("div", figures, class_="gallery")))  # fmt: skip
    return elements, method


def caption(said: str, sure: float, given: str) -> list[Element | str]:
    """Return what a network says of an image, and its label where that differs."""
    answer: list[Element | str] = [E("b", named(said)), f" {percent(sure, 0)}"]
    return answer if said == given else [*answer, E("br"), E("span", "label: ", named(given), class_="given")]


def pair(image: np.ndarray, heat_map: np.ndarray, said: str, words: list[Element | str], name: str) -> Element:
    """Return an image and its explanation as one figure."""
    seen = thumbnail(image)
    looked = overlay(np.asarray(seen), np.asarray(Image.fromarray(heat_map).resize(seen.size)), SIDE)
    images = [
        embedded(seen, f"test image {name}"),
        embedded(looked, f"the same image, bright where the evidence for {said} lies"),
    ]
    return E("figure", E("div", images, class_="pair"), E("figcaption", words), title=name)


def thumbnail(image: np.ndarray) -> Image.Image:
    """Return a uint8 (H, W, 3) image with a shorter side of 144 pixels."""
    height, width, _ = image.shape
    scale = SIDE / min(height, width)
    return Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
