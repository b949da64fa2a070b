"""The outputs of a network for batches of images, its logits optionally averaged over each image and its mirror image."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

Outputs = Callable[[Iterable[np.ndarray], int], Iterator[list[np.ndarray]]]


def network_outputs(
    network: Outputs, batches: Iterable[np.ndarray], total: int, mirror: bool = False
) -> Iterator[list[np.ndarray]]:
    """Yield the outputs for each batch of images: logits, float32 (B, classes), and whatever else the network gives.

    Args:
        network: a function of batches and their total number of images; it yields the list of outputs for each batch.
        batches: uint8 (B, H, W, 3).
        total: the number of images in all batches.
        mirror: average the logits of each image and its mirror image. Two views err less than one (test-time augmentation,
            as in Krizhevsky et al. 2012), at twice the work. All other outputs are those of the image itself.
    """
    if not mirror:
        yield from network(batches, total)
        return
    both = (images for batch in batches for images in (batch, np.ascontiguousarray(batch[:, :, ::-1])))
    outputs = network(both, 2 * total)
    for (logits, *others), (mirrored, *_) in zip(outputs, outputs, strict=True):
        yield [(logits + mirrored) / 2, *others]


def network_logits(network: Outputs, batches: Iterable[np.ndarray], total: int, mirror: bool = False) -> Iterator[np.ndarray]:
    """Yield the logits of each batch of images, float32 (B, classes); see `network_outputs`."""
    return (logits for logits, *_ in network_outputs(network, batches, total, mirror))
