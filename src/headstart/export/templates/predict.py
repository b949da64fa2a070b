"""Classify images with the model beside this file: python predict.py image.jpg ...

It needs the model's runtime (see README.md), NumPy and Pillow. What the classes are called and how large images must be, the
model itself says.
"""

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
BICUBIC, PADDING = Image.Resampling.BICUBIC, (124, 116, 104)


def load(folder: Path) -> tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]:
    """Return what a model says of itself, and its function from images, uint8 (N, height, width, 3), to probabilities."""
    if (file := folder / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map["headstart"])
        return about, lambda images: session.run(["probabilities"], {"images": images})[0]
    if (file := folder / "model.xml").exists():
        import openvino

        model = openvino.Core().read_model(file)
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return json.loads(model.get_rt_info(["headstart"]).astype(str)), lambda images: compiled(images)["probabilities"]
    if (file := folder / "model.tflite").exists():
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(str(file), num_threads=os.cpu_count()).get_signature_runner()
        return in_archive(file), lambda images: run(images=images)["probabilities"]
    import keras

    model = keras.saving.load_model(folder / "model.keras")
    return in_archive(folder / "model.keras"), lambda images: keras.ops.convert_to_numpy(model(images)["probabilities"])


def in_archive(file: Path) -> dict[str, Any]:
    """Return what lies in a file that is, or ends with, a zip archive."""
    with zipfile.ZipFile(file) as archive:
        return json.loads(archive.read("headstart.json"))


def opened(path: str | Path, about: dict[str, Any]) -> np.ndarray:
    """Return the image in a file, uint8 (height, width, 3), RGB: upright, on white, of the size that the model was trained on."""
    with Image.open(path) as file:
        size = about["image"]["width"], about["image"]["height"]
        file.draft("RGB", (2 * size[0], 2 * size[1]))  # a large JPEG is decoded at a half, a quarter or an eighth
        image: Image.Image = ImageOps.exif_transpose(file)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # grey with more than 8 bits
        low, high = about["image"].get("grey_range") or (0, 65535)
        shades = (np.asarray(image, np.float64) - low) / max(high - low, 1e-30) * 255
        image = Image.fromarray(np.uint8(np.clip(np.nan_to_num(shades, nan=0.0), 0, 255)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if about["image"]["fit"] == "squash":
        return np.asarray(image.resize(size, BICUBIC))
    if about["image"]["fit"] == "pad":
        return np.asarray(ImageOps.pad(image, size, BICUBIC, PADDING))
    return np.asarray(ImageOps.fit(image, size, BICUBIC))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__.splitlines()[0])
    about, classify = load(FOLDER)
    unreadable = False
    for path in sys.argv[1:]:
        try:
            image = opened(path, about)
        except (OSError, ValueError) as error:
            unreadable = True
            print(f"{path} cannot be read: {error}", file=sys.stderr)
            continue
        probabilities = classify(image[None])[0]
        best = int(probabilities.argmax())
        print(f"{path}: {about['classes'][best]}, {probabilities[best]:.1%}")
    sys.exit(unreadable)


if __name__ == "__main__":
    main()
