"""Batch norm that is going to learn starts from the statistics of its training images."""

from collections.abc import Iterable

import numpy as np

from headstart.config import Config
from headstart.model.network import Network, all_layers
from headstart.model.unfreeze import unfreeze
from headstart.system.backend import keras


def adapt_batch_norm(network: Network, batches: Iterable[np.ndarray], config: Config) -> None:
    """Set the moving statistics of the batch norms that are going to learn to those of the training images.

    In training mode, a batch norm uses the statistics of its batch, not those of pretraining. The frozen stage would learn on
    features made with the latter, and fine-tuning's first step would lose what it learned (digits: from 99 to 36 %). Each
    batch norm gets the mean over all batches (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm"), as Li et al. 2016 did
    for new domains.

    Args:
        network: its backbone is frozen before and after.
        batches: training images, uint8 (B, H, W, 3). Nothing is random here, so runs of several seeds have the same features.
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
