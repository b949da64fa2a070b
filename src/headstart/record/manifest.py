"""`manifest.json`: what anybody needs to know to use a trained model. It is written last, and marks a run as finished."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from headstart.errors import DamagedError, HeadstartError
from headstart.record.schema import KINDS, ClassName, DecodingEntry, ImageShape
from headstart.record.upgrade import upgraded
from headstart.system.files import checksum, read_bytes, write_json
from headstart.system.reading import MOST_JSON, Checksum, Count, Positive, as_kind, parse_json, seal

# A manifest with a higher format comes from a newer version of Headstart. In format 1, the model was a Keras file, and the
# manifest had checksums of the model's files alone.
FORMAT = 2
# Files of a run that its manifest has checksums of, besides the model's: what was found. The user's own record (options, log,
# environment) and what is written after the manifest is not among them.
FINDINGS = (
    "metrics.json", "history.csv", "data.json", "split.csv", "audit.json", "mirror.json", "head.json", "weighting.json", "*.npy",
)  # fmt: skip


class FormatEntry(TypedDict):
    """What every manifest has, of newer versions too."""

    format: Count
    versions: NotRequired[dict[str, str]]


class ManifestInput(TypedDict):
    shape: ImageShape
    dtype: Literal["uint8"]
    colours: Literal["RGB"]
    range: tuple[Literal[0], Literal[255]]
    decoding: NotRequired[DecodingEntry]


class Manifest(TypedDict):
    """Content of `manifest.json`.

    `input` describes the model's input: shape (height, width, 3), uint8, RGB, 0..255, and how image files are decoded to it.
    `classes` are in the order of the outputs. Probabilities are the softmax of the logits divided by `temperature`, which is
    missing in old runs. `sha256` has the checksum of each file of the model and of each file of findings, and `seal` that of
    the manifest's other entries; it is missing in old runs.
    """

    format: Count
    versions: NotRequired[dict[str, str]]
    classes: Annotated[list[ClassName], Meta(min_length=2)]
    input: ManifestInput
    output: NotRequired[str]
    temperature: NotRequired[Positive]
    precision: Literal["float32", "bfloat16"]
    sha256: dict[str, Checksum]
    seal: NotRequired[Checksum]


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest in a model's folder.

    Raises:
        HeadstartError: there is none, it is damaged or was changed, or a newer version of Headstart wrote it.
    """
    file = folder / "manifest.json"
    try:
        content = parse_json(read_bytes(file, MOST_JSON), file)
    except FileNotFoundError:
        raise HeadstartError(f"{folder} holds no finished model: there is no manifest.json in it") from None
    head: FormatEntry = as_kind(content, FormatEntry, file)
    if head["format"] > FORMAT:
        which = head.get("versions", {}).get("headstart", f"format {head['format']}")
        raise HeadstartError(f"{folder} was written by a newer Headstart ({which}): upgrade this one")
    manifest: Manifest = as_kind(content, Manifest, file)
    if len(set(manifest["classes"])) < len(manifest["classes"]):
        raise DamagedError(f"{file} is damaged: classes: two have the same name")
    if manifest["format"] > 1 and manifest.get("seal") != seal(content):
        raise DamagedError(f"{file} was changed after the training: bring the original back, or train again")
    return manifest


def write_manifest(folder: Path, files: list[str], content: dict[str, Any]) -> None:
    """Write the manifest of a model, with the checksums of its files and of the run's findings.

    Args:
        folder: where the files of the model are, and where the manifest is written.
        files: their names.
        content: the rest of the manifest.
    """
    findings = sorted(file.name for pattern in FINDINGS for file in folder.glob(pattern))
    sums = {name: checksum(folder / name) for name in (*files, *findings)}
    manifest = {"format": FORMAT} | content | {"sha256": sums}
    write_json(folder / "manifest.json", manifest | {"seal": seal(manifest)})


def verify(folder: Path, manifest: Manifest, *names: str) -> None:
    """Raise `DamagedError` if one of a model's files is missing, or is not the one that the manifest describes."""
    for name in names:
        file = folder / name
        if not file.is_file() or checksum(file) != manifest["sha256"].get(name):
            raise DamagedError(
                f"{file} is {'not the file that its manifest describes' if file.exists() else 'missing'}: train again, or bring "
                "the original back"
            )


def refuse_changed(folder: Path, name: str) -> None:
    """Raise `DamagedError` if a run's manifest has a checksum of this file, and the file has another one."""
    if (folder / "manifest.json").exists() and name in (manifest := read_manifest(folder))["sha256"]:
        verify(folder, manifest, name)


def read_entries(folder: Path, name: str, default: Any = None) -> Any:
    """Return the content of one of a run's JSON files; names of older versions become those of this one.

    Args:
        name: a key of `headstart.record.schema.KINDS`.
        default: what a missing file stands for; without one, it is an error.

    Raises:
        HeadstartError: the file is missing or damaged.
    """
    file = folder / name
    try:
        content = upgraded(parse_json(read_bytes(file, MOST_JSON), file))
    except FileNotFoundError:
        if default is not None:
            return default
        raise HeadstartError(f"{folder} is not a finished run: there is no {name} in it") from None
    refuse_changed(folder, name)
    return as_kind(content, KINDS[name], file)
