"""Batch norm that will learn starts from the statistics of the images that it will learn from."""

from collections.abc import Iterable

import numpy as np

from headstart.config import Config
from headstart.model.network import Network, all_layers
from headstart.model.unfreeze import unfreeze
from headstart.system.backend import keras


def adapt_batch_norm(network: Network, batches: Iterable[np.ndarray], config: Config) -> None:
    """Give the batch norms that will learn the statistics of the training images.

    In training mode a batch norm goes by its batch, and not by the statistics it was pretrained with: without this, all that
    the frozen stage learned on features of the latter is lost in fine-tuning's first step (digits: from 99 to 36 %). Each gets
    the mean over all batches (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm"), as Li et al. 2016 did for new domains.

    Args:
        network: its backbone is frozen afterwards, as it was before.
        batches: training images, uint8 (B, H, W, 3). Nothing is drawn at random here, so that runs of several seeds
            have the same features.
    """
    unfreeze(network.backbone, config)
    norms = [layer for layer in all_layers(network.backbone)
             if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable]  # fmt: skip
    momentums = [layer.momentum for layer in norms]
    extractor = network.feature_extractor()
    for number, batch in enumerate(batches):
        for layer in norms:
            layer.momentum = number / (number + 1)  # so that the moving average is the mean
        extractor(batch, training=True)
    for layer, momentum in zip(norms, momentums, strict=True):
        layer.momentum = momentum
    network.backbone.trainable = False
