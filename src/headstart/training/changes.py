"""Random changes of a batch that are made on the host, ahead of the device: RandAugment, MixUp and CutMix.

MixUp and CutMix change labels too, and RandAugment's operations are Pillow's, so neither can be a layer of the network.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from headstart.config import Config

# Images, uint8 (B, H, W, 3), one-hot labels, float32 (B, classes), and a random generator to both again.
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]

# RandAugment's two parameters: operations for each image, and their strength as a fraction of the strongest.
OPERATIONS, STRENGTH = 2, 0.3
# The parameter of both beta distributions: small blends for MixUp as for ImageNet in its paper, any share for CutMix.
MIXUP, CUTMIX = 0.2, 1.0


def changes(config: Config, *, one_hot: bool = True) -> list[Change]:
    """Return the changes that the configuration asks for, in order; without one-hot labels, neither MixUp nor CutMix."""
    mixes: dict[str, list[Change]] = {"mixup": [mixup], "cutmix": [cutmix], "none": []}
    return [*([rand_augmented] if config.rand_augment else []), *(mixes[config.mix] if one_hot else [])]


def rand_augmented(
    images: np.ndarray, labels: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Change each image by `OPERATIONS` random operations (RandAugment, Cubuk et al. 2020); the labels stay."""
    return np.stack([rand_augment(image, random) for image in images]), labels


def rand_augment(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return one image, uint8 (H, W, 3), after `OPERATIONS` random operations."""
    picture = Image.fromarray(image)
    for number in random.integers(len(RAND_AUGMENT), size=OPERATIONS):
        picture = RAND_AUGMENT[number](picture, STRENGTH * random.choice((-1, 1)))
    return np.asarray(picture)


def enhanced(kind: Callable[[Image.Image], Any]) -> Callable[[Image.Image, float], Image.Image]:
    """Return the operation that weakens or strengthens a property of an image."""
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


def moved(matrix: Callable[[float, int, int], tuple[float, ...]]) -> Callable[[Image.Image, float], Image.Image]:
    """Return the operation that maps an image by (a, b, c, d, e, f), as `PIL.Image.Image.transform` takes them."""
    return lambda image, strength: image.transform(
        image.size, Image.Transform.AFFINE, matrix(strength, *image.size), Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )


# The operations of the paper, with the strongest that it allows at strength 1 or -1.
RAND_AUGMENT: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, strength: image,
    lambda image, strength: ImageOps.autocontrast(image),
    lambda image, strength: ImageOps.equalize(image),
    lambda image, strength: ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    lambda image, strength: image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)),
    moved(lambda strength, width, height: (1, 0.3 * strength, -0.15 * strength * height, 0, 1, 0)),
    moved(lambda strength, width, height: (1, 0, 0, 0.3 * strength, 1, -0.15 * strength * width)),
    moved(lambda strength, width, height: (1, 0, 0.45 * strength * width, 0, 1, 0)),
    moved(lambda strength, width, height: (1, 0, 0, 0, 1, 0.45 * strength * height)),
    enhanced(ImageEnhance.Color),
    enhanced(ImageEnhance.Contrast),
    enhanced(ImageEnhance.Brightness),
    enhanced(ImageEnhance.Sharpness),
)


def mixup(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Blend each image, and its label, with another of the batch (Zhang et al. 2018)."""
    partners, shares = random.permutation(len(images)), random.beta(MIXUP, MIXUP, len(images)).astype(np.float32)
    share = shares[:, None, None, None]
    blended = share * images + (1 - share) * images[partners]
    return np.rint(blended).astype(np.uint8), mixed_labels(labels, partners, shares)


def cutmix(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put a rectangle of another image of the batch into each image, and mix their labels by area (Yun et al. 2019)."""
    partners, (height, width) = random.permutation(len(images)), images.shape[1:3]
    sides = np.sqrt(1 - random.beta(CUTMIX, CUTMIX, len(images)))[:, None] * (height, width)
    centres = random.uniform(size=(len(images), 2)) * (height, width)
    starts = np.rint(np.maximum(centres - sides / 2, 0)).astype(int)
    ends = np.rint(np.minimum(centres + sides / 2, (height, width))).astype(int)
    cut = images.copy()
    for image, partner, (top, left), (bottom, right) in zip(cut, partners, starts, ends, strict=True):
        image[top:bottom, left:right] = images[partner, top:bottom, left:right]
    shares = (1 - (ends - starts).prod(axis=1) / (height * width)).astype(np.float32)
    return cut, mixed_labels(labels, partners, shares)


def mixed_labels(labels: np.ndarray, partners: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return labels of which `shares` are each image's own, and the rest its partner's."""
    return shares[:, None] * labels + (1 - shares[:, None]) * labels[partners]
