"""The folder of a run: what lies in it, and how it is read and written."""

import contextlib
import csv
import dataclasses
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.config import Config, read_toml, write_toml
from headstart.data.decode import Decoding
from headstart.errors import HeadstartError, UnwritableError
from headstart.record.split import decoding_of, read_split, write_record
from headstart.system.files import checksum, refuse_unwritable, unwritable, write_json, written_whole
from headstart.system.text import printable

if TYPE_CHECKING:
    import keras

    from headstart.data.dataset import Dataset
    from headstart.inference.explain import Explanations
    from headstart.inference.predict import Predictions

logger = logging.getLogger("headstart")

# Of the manifest; a run with a higher one was written by a newer Headstart.
FORMAT = 1
# By so many of the test split's, OpenVINO's form of the model is compared with Keras'.
IMAGES_TO_COMPARE = 64


class Run:
    """A run folder, finished or not.

    Args:
        path: the folder.

    Raises:
        HeadstartError: the folder is no run, or a newer version wrote it.

    Attributes:
        config: the resolved `Config`.
        metrics: content of `metrics.json`: `test.frozen`, `test.fine_tuned`, `seconds`, ...
        history: the rows of `history.csv`, one an epoch.
        class_names: in the order of the model's outputs.
        model: the trained Keras model, its checksum verified; uint8 images to logits.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not (self.path / "config.toml").is_file():
            raise HeadstartError(f"{self.path} is not a run: there is no config.toml in it")
        self.config = Config(**self._known_options())

    @classmethod
    def create(cls, config: Config, data: "Dataset", *, overwrite: bool = False) -> "Run":
        """Make the folder of a new run and write its configuration and what it learns from.

        Raises:
            HeadstartError: the folder holds something already, and `overwrite` was not asked for; or it cannot be written.
        """
        path = cls.refuse_taken(config, overwrite=overwrite)
        config = dataclasses.replace(config, out=str(path))
        try:
            if path.is_dir() and any(path.iterdir()):
                shutil.rmtree(path)
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from None
        write_record(path, data)
        write_toml(config, path / "config.toml")  # last, since it makes the folder a run, which must know its split
        return cls(path)

    @staticmethod
    def refuse_taken(config: Config, *, overwrite: bool) -> Path:
        """Return the folder that a new run would be in, or refuse it as `create` does."""
        path = Path(config.out).expanduser() if config.out else default_path(config)
        refuse_unwritable(path)
        if path.is_dir() and any(path.iterdir()):
            if not (path / "config.toml").exists() and not only_a_record(path):
                raise HeadstartError(f"{path} is not empty and not a run: choose another folder with --out")
            if (path / "config.toml").exists() and not overwrite:
                raise HeadstartError(
                    f"{path} holds a run already: go on with --resume {path}, replace it with --overwrite, "
                    "or choose another --out"
                )
        return path

    def _known_options(self) -> dict[str, Any]:
        options = read_toml(self.path / "config.toml")
        known = {field.name for field in dataclasses.fields(Config)}
        if newer := sorted(options.keys() - known):
            raise HeadstartError(
                f"{self.path} was written by a newer Headstart: this one does not know its option {newer[0]!r}; upgrade it"
            )
        return options

    @property
    def finished(self) -> bool:
        return (self.path / ("seeds.json" if self.config.seeds > 1 else "manifest.json")).exists()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        if self.config.seeds > 1:
            raise HeadstartError(
                f"{self.path} holds {self.config.seeds} runs: name one, such as {self.path}/seed-{self.config.seed}"
            )
        if not self.finished:
            raise HeadstartError(f"{self.path} is not finished: go on with headstart train --resume {self.path}")
        manifest = self.read_json("manifest.json")
        if manifest["format"] > FORMAT:
            which = manifest.get("versions", {}).get("headstart", f"format {manifest['format']}")
            raise HeadstartError(f"{self.path} was written by a newer Headstart ({which}): upgrade this one")
        return manifest

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return self.read_json("metrics.json")

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        with (self.path / "history.csv").open(encoding="utf-8", newline="") as file:
            return [
                {key: value if key == "stage" else float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the model takes."""
        height, width, channels = self.manifest["input"]["shape"]
        return height, width, channels

    @property
    def decoding(self) -> Decoding:
        """How image files become what the model takes; runs by an older Headstart cropped them."""
        return decoding_of(self.manifest["input"])

    @cached_property
    def split(self) -> list[dict[str, str]]:
        """The rows of `split.csv`: name, class, split and digest of each image; nothing in runs by an older Headstart."""
        return read_split(self.path)

    @property
    def mirror(self) -> dict[str, Any]:
        """What was found of mirror images, see `headstart.audit.mirror.judge`; nothing where nobody has looked."""
        return self.read_json("mirror.json") if (self.path / "mirror.json").exists() else {}

    def switch_off_flip(self) -> Config:
        """Let the run train without mirror images from now on, after a kill too; return its configuration."""
        self.config = dataclasses.replace(self.config, flip=False)
        write_toml(self.config, self.path / "config.toml")
        return self.config

    @property
    def temperature(self) -> float:
        """What the logits are divided by before the softmax; 1 in runs that knew none."""
        return self.manifest.get("temperature", 1.0)

    @cached_property
    def model(self) -> "keras.Model":
        from headstart.system.backend import load_keras

        file, keras = self.path / "model.keras", load_keras()
        self._verify(file.name)
        try:
            return keras.models.load_model(file, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises many kinds for what it does not know
            wanted = self.manifest.get("versions", {}).get("keras", keras.version())
            why = str(error).strip().splitlines()[:1] or [type(error).__name__]
            how = f"; Keras {wanted} saved it: pip install keras=={wanted}" if wanted != keras.version() else ""
            raise HeadstartError(f"{file} cannot be loaded by Keras {keras.version()} ({why[0]}){how}") from error

    @cached_property
    def compiled(self) -> Any:
        """The same model compiled by OpenVINO, without Keras; None where there is no OpenVINO, or was none for this run."""
        from headstart.inference.openvino import compile_file, reason

        if "model.xml" not in self.manifest["sha256"]:
            return None
        self._verify("model.xml", "model.bin")
        try:
            return compile_file(self.path / "model.xml", self.manifest["precision"])
        except Exception as error:  # not installed, a processor that it does not know, ...
            logger.info("OpenVINO cannot run %s (%s): Keras does", self.path, reason(error))
            return None

    def _verify(self, *names: str) -> None:
        described = self.manifest["sha256"]  # first: a run that is not finished is refused as such
        for name in names:
            file = self.path / name
            if not file.is_file() or checksum(file) != described[name]:
                raise HeadstartError(
                    f"{file} is missing or not the file that its manifest describes: train again, or bring the original back"
                )

    def predict(self, images: Any, batch_size: int = 64, *, mirror: bool = False) -> "Predictions":
        """Classify paths, folders, Pillow images or uint8 arrays; see `headstart.inference.predict.predict`."""
        from headstart.inference.predict import predict

        return predict(self, images, batch_size, mirror=mirror)

    def evaluate(self, data: "Dataset", batch_size: int = 64, *, mirror: bool = False) -> dict[str, Any]:
        """Measure the model on the test split of a data set; see `headstart.inference.evaluate.evaluate`."""
        from headstart.inference.evaluate import evaluate

        return evaluate(self, data, batch_size, mirror=mirror)

    def explain(self, images: Any) -> "Explanations":
        """Show where the evidence for the likeliest class lies in each image; see `headstart.inference.explain.explain`."""
        from headstart.inference.explain import explain

        return explain(self, images)

    def record_start(self, data: "Dataset", environment: dict[str, str]) -> None:
        """Write the labels that it is measured by, and the versions and command it runs under."""
        for split, indices in (("test", data.test), ("validation", data.validation)):
            self.save_array(f"labels_{split}", data.labels(indices))
        write_json(self.path / "environment.json", {"command": " ".join(sys.argv)} | environment)

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        with written_whole(self.path / "history.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def write_model(self, model: "keras.Model", data: "Dataset", temperature: float) -> None:
        """Write the model for Keras and, where it can, for OpenVINO; and last the manifest, by which the run is finished."""
        from headstart.inference.engine import compiled_by_openvino, precision_of
        from headstart.model.network import without_augmentation
        from headstart.system.backend import versions

        used, files = without_augmentation(model), ["model.keras"]
        with written_whole(self.path / "model.keras") as partial:
            used.save(partial)
        if compiled_by_openvino(used, data.images(data.test[:IMAGES_TO_COMPARE]), self.path / "model.xml") is not None:
            files += ["model.xml", "model.bin"]
        write_json(self.path / "manifest.json", {
            "format": FORMAT,
            "versions": {name: version for name, version in versions().items() if name in ("headstart", "keras")},
            "classes": list(data.class_names),
            "input": {
                "shape": list(data.image_shape), "dtype": "uint8", "colours": "RGB", "range": [0, 255],
                "decoding": dataclasses.asdict(data.source.decoding),
            },
            "output": "logits, one for each class, in this order; softmax of logits / temperature gives probabilities",
            "temperature": temperature,
            "precision": precision_of(used),
            "sha256": {name: checksum(self.path / name) for name in files},
        })  # fmt: skip

    def save_array(self, name: str, array: np.ndarray) -> None:
        """Keep an array as `NAME.npy`, whole or not at all."""
        with written_whole(self.path / f"{name}.npy") as partial:
            np.save(partial, array)

    def has_array(self, name: str) -> bool:
        return (self.path / f"{name}.npy").exists()

    def array(self, name: str) -> np.ndarray:
        """Return a kept array.

        `test_STAGE` and `validation_STAGE` are a stage's logits, float32 (N, classes); `labels_test`
        and `labels_validation`, int32 (N,), their labels in the same order.
        """
        return np.load(self.path / f"{name}.npy")

    def test_logits(self, stage: str) -> np.ndarray:
        """Return the float32 (N, classes) logits of a stage on the test split."""
        return self.array(f"test_{stage}")

    @contextlib.contextmanager
    def log(self) -> Iterator[None]:
        """Append what is logged inside the block to `log.txt`; what stops the run there gets a note how to go on with it."""
        handler = LogFile(self.path / "log.txt")
        level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield
        except (KeyboardInterrupt, OSError, UnwritableError) as error:
            error.add_note(f"go on with headstart train --resume {shlex.quote(str(self.path))}")
            raise
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            with contextlib.suppress(OSError):  # what it could not write has been an error already
                handler.close()

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of one of the run's JSON files."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise HeadstartError(f"{self.path} is not a finished run: there is no {name} in it") from None
        except ValueError as error:
            raise HeadstartError(f"{self.path / name} is damaged: {error}") from None


class LogFile(logging.FileHandler):
    """A line for each message. What cannot be written, as on a full disk, is an error and not a line on the terminal."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from None
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # what `emit`, which calls this, has caught


def only_a_record(path: Path) -> bool:
    """Whether a folder holds nothing but what a process that was killed while it made a run has left."""
    return all(file.name in ("split.csv", "data.json") or file.name.startswith(".partial-") for file in path.iterdir())


def default_path(config: Config) -> Path:
    """Return runs/DATA-BACKBONE-RECIPE."""

    def stem(text: str) -> str:
        return Path(text).expanduser().resolve().name.split(".")[0] if "/" in text or "." in text else text

    return Path("runs") / "-".join([stem(config.data), stem(config.backbone), config.recipe])
