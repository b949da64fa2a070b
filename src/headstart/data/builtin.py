"""The data sets that have a name: CIFAR-10 and CIFAR-100, which Keras downloads, and the digits of scikit-learn."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from headstart.data.cifar import read_cifar
from headstart.data.source import TRAIN, Source
from headstart.errors import HeadstartError
from headstart.system.backend import load_keras
from headstart.system.download import explained_download


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


class Archive(NamedTuple):
    """Where the authors of a data set distribute it, and the archive's SHA-256."""

    address: str
    sha256: str


# As Keras names them.
ARCHIVES = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
}
# What Keras itself calls the two archives in its folder: they are not downloaded again.
NAMES = {"cifar10": "cifar-10-batches-py-target_archive", "cifar100": "cifar-100-python-target_archive"}


def downloaded(name: str) -> Source:
    """CIFAR-10 or CIFAR-100 with its fine labels (Krizhevsky, 2009), downloaded once by Keras, which checks the hash.

    The archive is read as it is. Keras' own loaders would trust what lies unpacked beside it, and run what is pickled there.

    Raises:
        HeadstartError: it cannot be downloaded; the message says how to go on without a network.
    """
    archive, local = ARCHIVES[name], f"{name.replace('cifar', 'cifar-')}-python.tar.gz"
    with explained_download(f"bring {local} from another machine and give --data {local}"):
        path = load_keras().utils.get_file(NAMES[name], archive.address, file_hash=archive.sha256)
    source = read_cifar(Path(path))
    if source is None:
        raise HeadstartError(f"{path} holds no CIFAR files: remove it")
    return dataclasses.replace(source, name=name)


LOADERS = {"cifar10": partial(downloaded, "cifar10"), "cifar100": partial(downloaded, "cifar100"), "digits": digits}
