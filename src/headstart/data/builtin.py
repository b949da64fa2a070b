"""The data sets that have a name: CIFAR-10 and CIFAR-100, which Keras downloads, and the digits of scikit-learn."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from headstart.data.cifar import unpickle
from headstart.data.source import TEST, TRAIN, Source
from headstart.system.backend import load_keras
from headstart.system.download import explained_download

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits() -> Source:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels: real images that need no network."""
    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return Source(
        images=np.repeat(grey[..., None], 3, axis=-1),
        labels=bunch.target.astype(np.int32),
        class_names=tuple(str(name) for name in bunch.target_names),
        splits=np.full(len(grey), TRAIN, np.int8),
        name="digits",
    )


def cifar10() -> Source:
    """CIFAR-10 (Krizhevsky, 2009), downloaded and hash-checked by Keras at the first use."""
    return downloaded("cifar10", load_keras().datasets.cifar10.load_data, CIFAR10_CLASSES)


def cifar100() -> Source:
    """CIFAR-100 (Krizhevsky, 2009) with its fine labels, downloaded and hash-checked by Keras."""
    source = downloaded("cifar100", load_keras().datasets.cifar100.load_data, tuple(str(i) for i in range(100)))
    # Keras gives no class names, but keeps the file of the distribution that has them.
    datasets = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")) / "datasets"
    meta = next(datasets.glob("cifar-100-python*/**/meta"), None)
    if meta is None:
        return source
    names = tuple(name.decode() for name in unpickle(meta, meta.read_bytes())[b"fine_label_names"])
    return dataclasses.replace(source, class_names=names)


LOADERS = {"cifar10": cifar10, "cifar100": cifar100, "digits": digits}


def downloaded(name: str, load: Callable[[], Any], class_names: tuple[str, ...]) -> Source:
    """Load one of Keras' data sets.

    Raises:
        HeadstartError: it cannot be downloaded; the message says how to go on without a network.
    """
    archive = f"{name.replace('cifar', 'cifar-')}-python.tar.gz"
    with explained_download(f"bring {archive} from another machine and give --data {archive}"):
        (train_images, train_labels), (test_images, test_labels) = load()
    return Source(
        images=np.concatenate([train_images, test_images]),
        labels=np.concatenate([train_labels, test_labels]).ravel().astype(np.int32),
        class_names=class_names,
        splits=np.repeat(np.array([TRAIN, TEST], np.int8), [len(train_labels), len(test_labels)]),
        name=name,
    )
