"""From what the user typed after `--data` to a data set with splits."""

import dataclasses
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import Config, replace, suggestion
from headstart.data.cifar import read_cifar, unpickle
from headstart.data.dataset import TEST, TRAIN, Dataset, Source
from headstart.data.decode import Decoding
from headstart.data.folder import read_folder
from headstart.data.splits import split_source
from headstart.data.walk import is_ours
from headstart.errors import HeadstartError
from headstart.system.backend import load_keras
from headstart.system.download import explained_download

# What may stand before the name of a data set that comes with Headstart, where a folder has the same name.
BUILT_IN = "builtin:"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_data(
    source: str | Path = "cifar10", *, image_size: int = 64, validation_fraction: float = 0.1, test_fraction: float = 0.2,
    seed: int = 0, limit: int = 0, fit: str = "auto", layout: str = "auto",
) -> Dataset:  # fmt: skip
    """Load a data set by name or path, and split it.

    Args:
        source: `cifar10` or `cifar100` (downloaded once by Keras), `digits` (of scikit-learn), a
            folder or tar archive of CIFAR files, or a folder with a subfolder for each class.
        image_size: side in pixels to which a folder's images are decoded; the named sources and
            CIFAR files have a size of their own.
        validation_fraction, test_fraction, seed, limit: see `headstart.data.splits.split_source`.
        fit: how a folder's images become square, see `headstart.data.folder.read_folder`.
        layout: what a folder's folders mean, see `headstart.data.layout.read_layout`.

    Raises:
        HeadstartError: the source is unknown, unreachable, damaged or no data set.
    """
    options: dict[str, Any] = {"fit": fit, "layout": layout}
    config = Config(
        data=source if isinstance(source, str) else str(source.absolute()), image_size=image_size, seed=seed, limit=limit,
        validation_fraction=validation_fraction, test_fraction=test_fraction, **options,
    )  # fmt: skip
    return configured_data(resolved(config))


def resolved(config: Config, data: Dataset | None = None) -> Config:
    """Return a configuration whose paths hold wherever it is read again.

    Args:
        data: the data set, if it is loaded already; then its source is what counts.

    Raises:
        HeadstartError: `data` is the name of a data set, and of a folder that is here.
    """
    if data:
        source = data.source.name
        config = replace(config, data=BUILT_IN + source if source in NAMED else source)
    changes = {}
    for name, known in (("data", NAMED), ("backbone", ()), ("weights", ("auto", "imagenet", "none"))):
        value = getattr(config, name)
        if name == "data" and value in NAMED and Path(value).is_dir() and any(Path(value).iterdir()):
            raise HeadstartError(
                f"--data {value} is a data set that comes with Headstart, and a folder that is here: "
                f"type --data {BUILT_IN}{value} or --data ./{value}"
            )
        value = value.removeprefix(BUILT_IN) if name == "data" else value
        is_path = value not in known and (name != "backbone" or value.endswith(".keras"))
        changes[name] = str(Path(value).expanduser().absolute()) if is_path else value
    return replace(config, **changes)


def configured_data(config: Config) -> Dataset:
    """Load the data set that a resolved configuration names, split as it says."""
    return split_source(
        read_source(config.data, config.image_size, fit=config.fit, layout=config.layout),
        validation_fraction=config.validation_fraction, test_fraction=config.test_fraction, seed=config.data_seed,
        limit=config.limit,
    )  # fmt: skip


def read_source(
    source: str, image_size: int, *, fit: str = "auto", layout: str = "auto", decoding: Decoding | None = None,
    known: Collection[str] | None = None,
) -> Source:  # fmt: skip
    """Read the images of a source; see `load_data`, and `headstart.data.folder.read_folder` for the last two arguments."""
    if source in NAMED:
        return NAMED[source]()
    refuse_missing(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return read_cifar(path) or read_folder(path, image_size, fit=fit, layout=layout, decoding=decoding, known=known)
    if found := read_cifar(path):
        return found
    raise HeadstartError(f"{path} is neither a folder nor a .tar.gz of CIFAR files")


def refuse_missing(source: str) -> None:
    """Refuse a source that cannot be a data set, without reading it.

    Raises:
        HeadstartError: there is no such folder or file, or it is none of images.
    """
    path = Path(source).expanduser()
    if source.removeprefix(BUILT_IN) in NAMED or tarfile_name(path):
        return
    if path.is_dir():
        if is_ours(path):
            raise HeadstartError(f"{path} is a run or an audit of Headstart, and no data set: name the folder of the images")
    elif path.exists():
        raise HeadstartError(f"{path} is neither a folder nor a .tar.gz of CIFAR files")
    else:
        raise HeadstartError(f"there is no folder {path}, and no data set of that name{suggestion(path.name, NAMED)}")


def tarfile_name(path: Path) -> bool:
    return path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def digits() -> Source:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels: real images that need no network."""
    from sklearn.datasets import load_digits

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
    load_keras()
    from keras.datasets import cifar10

    return downloaded("cifar10", cifar10.load_data, CIFAR10_CLASSES)


def cifar100() -> Source:
    """CIFAR-100 (Krizhevsky, 2009) with its fine labels, downloaded and hash-checked by Keras."""
    load_keras()
    from keras.datasets import cifar100

    source = downloaded("cifar100", cifar100.load_data, tuple(str(i) for i in range(100)))
    # Keras gives no class names, but keeps the distribution's own file of them.
    datasets = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")) / "datasets"
    meta = next(datasets.glob("cifar-100-python*/**/meta"), None)
    if meta is None:
        return source
    names = tuple(name.decode() for name in unpickle(meta, meta.read_bytes())[b"fine_label_names"])
    return dataclasses.replace(source, class_names=names)


NAMED = {"cifar10": cifar10, "cifar100": cifar100, "digits": digits}


def downloaded(name: str, load: Callable, class_names: tuple[str, ...]) -> Source:
    """Load one of Keras' data sets, and say how to go on where it cannot be fetched."""
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
