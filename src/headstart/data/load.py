"""From what the user typed after `--data` to a data set with splits."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headstart.backend import load_keras
from headstart.config import Config, suggestion
from headstart.data.cifar import read_cifar, unpickle
from headstart.data.dataset import TEST, TRAIN, Dataset, Pictures, split
from headstart.data.folder import read_folder
from headstart.download import explained_download
from headstart.errors import HeadstartError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_data(
    source: str | Path = "cifar10", *, image_size: int = 64,
    validation_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0, limit: int = 0,
) -> Dataset:  # fmt: skip
    """Load a data set by name or path, and split it.

    Args:
        source: `cifar10` or `cifar100` (downloaded once by Keras), `digits` (of scikit-learn), a
            folder or tar archive of CIFAR files, or a folder with a subfolder for each class.
        image_size: side in pixels to which a folder's pictures are decoded; the named sources and
            CIFAR files have a size of their own.
        validation_fraction, test_fraction, seed, limit: see `headstart.data.dataset.split`.

    Raises:
        HeadstartError: the source is unknown, unreachable, damaged or no data set.
    """
    return split(
        read_pictures(str(source), image_size),
        validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed, limit=limit,
    )  # fmt: skip


def configured_data(config: Config) -> Dataset:
    """Load the data set that a configuration names, split as it says."""
    return load_data(
        config.data, image_size=config.image_size, validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction, seed=config.data_seed, limit=config.limit,
    )  # fmt: skip


def read_pictures(source: str, image_size: int) -> Pictures:
    """Read the pictures of a source; see `load_data`."""
    if source in NAMED:
        return NAMED[source]()
    path = Path(source).expanduser()
    if path.is_dir():
        return read_cifar(path) or read_folder(path, image_size)
    if tarfile_name(path) and (pictures := read_cifar(path)):
        return pictures
    if path.exists():
        raise HeadstartError(f"{path} is neither a folder nor a .tar.gz of CIFAR files")
    raise HeadstartError(f"there is no folder {path}, and no data set of that name{suggestion(source, NAMED)}")


def tarfile_name(path: Path) -> bool:
    return path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def digits() -> Pictures:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels: real pictures that need no network."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return Pictures(
        images=np.repeat(grey[..., None], 3, axis=-1),
        labels=bunch.target.astype(np.int32),
        class_names=tuple(str(name) for name in bunch.target_names),
        parts=np.full(len(grey), TRAIN, np.int8),
        source="digits",
    )


def cifar10() -> Pictures:
    """CIFAR-10 (Krizhevsky, 2009), downloaded and hash-checked by Keras at the first use."""
    load_keras()
    from keras.datasets import cifar10

    return downloaded("cifar10", cifar10.load_data, CIFAR10_CLASSES)


def cifar100() -> Pictures:
    """CIFAR-100 (Krizhevsky, 2009) with its fine labels, downloaded and hash-checked by Keras."""
    load_keras()
    from keras.datasets import cifar100

    pictures = downloaded("cifar100", cifar100.load_data, tuple(str(i) for i in range(100)))
    # Keras gives no class names, but keeps the distribution's own file of them.
    datasets = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"
    meta = next(datasets.glob("cifar-100-python*/**/meta"), None)
    if meta is None:
        return pictures
    names = tuple(name.decode() for name in unpickle(meta, meta.read_bytes())[b"fine_label_names"])
    return dataclasses.replace(pictures, class_names=names)


NAMED = {"cifar10": cifar10, "cifar100": cifar100, "digits": digits}


def downloaded(name: str, load: Callable, class_names: tuple[str, ...]) -> Pictures:
    """Load one of Keras' data sets, and say how to go on where it cannot be fetched."""
    archive = f"{name.replace('cifar', 'cifar-')}-python.tar.gz"
    with explained_download(f"bring {archive} from another machine and give --data {archive}"):
        (train_images, train_labels), (test_images, test_labels) = load()
    return Pictures(
        images=np.concatenate([train_images, test_images]),
        labels=np.concatenate([train_labels, test_labels]).ravel().astype(np.int32),
        class_names=class_names,
        parts=np.repeat(np.array([TRAIN, TEST], np.int8), [len(train_labels), len(test_labels)]),
        source=name,
    )
