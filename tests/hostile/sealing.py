"""How a run's files are sealed: the one place that knows where the checksums of a run are, and how they are computed.

`manifest.json` has checksums of files beside it, the state of a checkpoint that of its arrays, and both one of themselves,
under `seal`. Runs of old versions have fewer of them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from case import put

SEALED = ("manifest.json", "checkpoint/state.json")


def covered(run: Path, file: str) -> bool:
    """Whether a checksum in a run covers one of its files."""
    content = read(run / file) if file in SEALED else {}
    state = read(run / "checkpoint" / "state.json")
    of_arrays = bool(state.get("sha256")) and file == f"checkpoint/{state.get('arrays')}"
    return "seal" in content or of_arrays or file in read(run / "manifest.json").get("sha256", {})


def reseal(run: Path) -> None:
    """Let the checksums in a run fit the files that lie there."""
    for name in SEALED:
        file, content = run / name, read(run / name)
        sums = content.get("sha256")
        if isinstance(sums, dict):
            content["sha256"] = {one: checksum(run / str(one)) or old for one, old in sums.items()}
        elif sums and isinstance(content.get("arrays"), str):
            content["sha256"] = checksum(file.parent / content["arrays"]) or sums
        if "seal" in content:
            entries = {key: value for key, value in content.items() if key != "seal"}
            content["seal"] = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
        if content and content != read(file):
            put(file, json.dumps(content, indent=2) + "\n")


def read(file: Path) -> dict[str, Any]:
    """Return the entries of a JSON file; none if it is not one."""
    try:
        content = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file, or nothing if there is none."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() and file.stat().st_size else ""
    except (OSError, ValueError):
        return ""
