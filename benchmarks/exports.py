"""Every backbone of the registry as a file of every format, run by its own runtime, beside Keras.

python -m benchmarks.exports
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common
from headstart.model.registry import BACKBONES

TEXT = """Backbones of the registry, each with random weights and a head of ten classes, exported in float32 and run by the
format's own runtime on eight random images: how far the pooled features are from those of Keras, relative, in the L2 norm, and
in brackets the size of the file. ONNX and OpenVINO files take images of any size, the others images of 96 px."""
SIDE, IMAGES = 96, 8
# Of random kernels. At their usual size, features grow from layer to layer, until rounding alone decides what deep networks give.
TAMED = 0.7


@dataclass(frozen=True)
class Options(common.Options):
    """Try every export."""

    names: tuple[str, ...] = tuple(BACKBONES)  # backbones


def main(options: Options) -> None:
    table = common.Table("exports", "Exported files", TEXT, options)
    # Two at a time, the small ones first: much of a conversion keeps one core busy.
    names = sorted(options.names, key=lambda name: BACKBONES[name].parameters)
    with ThreadPoolExecutor(2) as threads:
        for name, found in zip(names, threads.map(in_own_process, names), strict=True):
            table.rows.append({"backbone": name} | found)
            table.save()
    table.write()


def in_own_process(name: str) -> dict[str, str]:
    return common.in_own_process(tried, name, KERAS_BACKEND="tensorflow")


def tried(name: str) -> dict[str, str]:
    """Return, for each format, how a backbone's file differs and how large it is, or why there is none."""
    import headstart as hs
    from headstart.export.exporter import WRITERS
    from headstart.export.formats import FORMATS
    from headstart.export.graph import exported_network
    from headstart.inference.engine import keras_outputs, relative_difference
    from headstart.system.text import first_line

    config = hs.recipe("quick", backbone=name, weights="none", fine_tune_from="all", image_size=SIDE, precision="float32")
    network, _ = common.built_network(config, (SIDE, SIDE, 3), 10)
    for weight in network.backbone.trainable_variables:
        if len(weight.shape) == 4:
            weight.assign(TAMED * weight)
    model = network.classifier()
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    exact = keras_outputs(network.feature_extractor(), images)[0]
    about: dict[str, Any] = {"classes": [str(number) for number in range(10)]}
    found = {}
    for format, one in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / one.file
            try:
                written = exported_network(model, 1.0, "crop" if one.any_size else "")
                WRITERS[format].write(written, file, about, "float32", None)
                _, features = WRITERS[format].Runtime(file).outputs(images)
            except Exception as error:  # whatever a converter raises is the answer
                found[one.name] = f"no: {first_line(error, 80)}"
                continue
            size = sum(one.stat().st_size for one in Path(folder).iterdir())
            found[one.name] = f"{relative_difference(features, exact):.0e} ({size / 1e6:.0f} MB)"
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
