"""Image files that are none, or whose decoding would take all memory; see `hostile_images.py`."""

import sys
from pathlib import Path

from case import Case, Place
from driver import emptied
from honest import Honest

sys.path.append(str(Path(__file__).parents[1]))
from hostile_images import make

IMAGES = "images"


def image_cases(honest: Honest, folder: Path, count: int, seed: int) -> list[Case]:
    """Return a command for each hostile image, which is classified by an honest run."""
    emptied(folder)
    paths = make(folder, count, seed)

    def nothing(place: Place) -> None:
        pass

    return [
        Case(f"{IMAGES}/{path.name}", IMAGES, nothing, [["predict", str(honest.run), str(path), "--format", "csv"]])
        for path in paths
    ]
