"""The logits of batches of images, each as it is or in the mean with its mirror image."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np


def network_logits(
    network: Callable[[Iterable[np.ndarray], int], Iterator[list[np.ndarray]]],
    batches: Iterable[np.ndarray],
    total: int,
    mirror: bool = False,
) -> Iterator[np.ndarray]:
    """Yield the logits of each batch of images, float32 (B, classes).

    Args:
        network: gives its outputs for each of some batches in turn; it is told how many images these hold.
        batches: uint8 (B, H, W, 3).
        mirror: give the mean of the logits for each image and for its mirror image. Two looks err less than one
            (test-time augmentation, as in Krizhevsky et al. 2012), at twice the work.
    """
    if not mirror:
        yield from (logits for (logits,) in network(batches, total))
        return
    both = (images for batch in batches for images in (batch, np.ascontiguousarray(batch[:, :, ::-1])))
    outputs = network(both, 2 * total)
    for (logits,), (mirrored,) in zip(outputs, outputs, strict=True):
        yield (logits + mirrored) / 2
