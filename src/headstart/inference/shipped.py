"""A classifier that is sent to other machines: its files travel with it, and are opened there in a folder of their own."""

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from headstart.inference.classifier import OLD_FILE, Classifier, Ensemble
from headstart.inference.limits import FILE as LIMITS
from headstart.inference.predictions import Answer
from headstart.system.files import exists

# The files of a model, of any version. A run's folder has others beside them, which only its report needs.
FILES = ("network.json", "weights.safetensors", "model.xml", "model.bin", LIMITS, OLD_FILE)


@dataclass(frozen=True)
class Shipped:
    """A classifier as bytes.

    Attributes:
        folders: of each of its models, or of the only one, the content of each file by name.
        together: whether it answers by the mean of several.
        trust: see `headstart.Config`.
    """

    folders: list[dict[str, bytes]]
    together: bool
    trust: bool

    @classmethod
    def of(cls, classifier: Classifier) -> "Shipped":
        """Read the files of a classifier. They are verified where they are opened."""
        together = isinstance(classifier, Ensemble)
        members = classifier.members if isinstance(classifier, Ensemble) else [classifier]
        folders = [
            {file.name: file.read_bytes() for name in ("manifest.json", *FILES) if (file := one.path / name).is_file()}
            for one in members
        ]
        return cls(folders, together, classifier.trust)

    def opened(self) -> Classifier:
        """Return the classifier. Its files lie in a folder that goes with it."""
        folder = tempfile.TemporaryDirectory(prefix="headstart-")
        paths = [Path(folder.name, f"model-{number}") for number in range(len(self.folders))]
        for path, files in zip(paths, self.folders, strict=True):
            path.mkdir()
            for name, content in files.items():
                (path / name).write_bytes(content)
        one = Ensemble(Path(folder.name), paths, trust=self.trust) if self.together else Classifier(paths[0], trust=self.trust)
        one.files = folder  # type: ignore[attr-defined]  # removed when nobody needs it
        return one


def opening(classifier: Classifier, batch_size: int, total: int, mirror: bool, threshold: float) -> "partial[Classifying]":
    """Return what makes a `Classifying` in another process."""
    return partial(Classifying, Shipped.of(classifier), batch_size, total, mirror, threshold)


class Classifying:
    """Answers for blocks of images, in a process of a cluster.

    Args:
        model: the classifier.
        batch_size, total, mirror, threshold: see `headstart.inference.classifier.Classifier.answers`.

    Attributes:
        kind: what the answers depend on beside the model.
    """

    def __init__(self, model: Shipped, batch_size: int, total: int, mirror: bool, threshold: float) -> None:
        self.classifier, self.how = model.opened(), (batch_size, total, mirror, threshold)
        one = self.classifier.members[0] if isinstance(self.classifier, Ensemble) else self.classifier
        engine = "openvino" if one.by_openvino(total) else "keras"
        self.kind = {name: f"{name} {importlib.metadata.version(name)}" for name in ("headstart", engine)}

    def __call__(self, block: Sequence[tuple[str, Any]]) -> tuple[list[Answer], list[int]]:
        """Return the answer for each image of a block, and the places of those whose files are not to be seen here."""
        answers = list(chain.from_iterable(self.classifier.answers([block], *self.how)))
        failed = [place for place, one in enumerate(answers) if one.error]
        return answers, [place for place in failed if isinstance(block[place][1], Path) and not exists(block[place][1])]
