"""The README and the script beside an exported file, run where nothing but the runtime, NumPy and Pillow can be imported."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporting import ABOUT, PROOF, content, soft_images
from headstart.data.decode import Decoding, read_image
from headstart.export import keras_file, litert
from headstart.export.readme import TEMPLATES, write_readme
from headstart.system.backend import keras

FORMATS = ("keras", "litert", "onnx", "openvino")
RUNTIMES = {"litert": "ai-edge-litert", "onnx": "onnxruntime", "openvino": "openvino"}
ABSENT = ("headstart", "keras", "tensorflow", "jax", "torch", "scipy", "sklearn", "jinja2")


def write_onnx(path: Path, about: dict) -> None:
    """Write a network from images of any size to the shares of red, green and blue."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["features"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceSum", ["features", "channels"], ["sum"], keepdims=1),
        helper.make_node("Div", ["features", "sum"], ["probabilities"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("probabilities", "features")]
    channels = helper.make_tensor("channels", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "shares", [images], outputs, [channels])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"headstart": json.dumps(about), "labels": "\n".join(about["classes"])})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_openvino(path: Path, about: dict) -> None:
    """Write a network from images of any size to the shares of red, green and blue."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as opset

    images = opset.parameter([-1, -1, -1, 3], np.uint8, name="images")
    features = opset.reduce_mean(opset.convert(images, "f32"), [1, 2])
    shares = opset.divide(features, opset.reduce_sum(features, [1], keep_dims=True))
    images.output(0).set_names({"images"})
    features.output(0).set_names({"features"})
    shares.output(0).set_names({"probabilities"})
    model = openvino.Model([shares, features], [images])
    model.set_rt_info(json.dumps(about), ["headstart"])
    openvino.save_model(model, path)


def own_folders(package: str) -> set[str]:
    """Return what an installed package has put into the folder of packages: the first part of each of its files' names."""
    return {file.parts[0] for file in importlib.metadata.files(package) or [] if file.parts[0] != ".."}


def needed(package: str) -> set[str]:
    """Return an installed package, and all that it needs, by the names of their distributions."""
    found, waiting = set(), [package]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [re.split(r"[ ;<>=!~\[(]", one)[0] for one in requirements if "extra ==" not in one]
    return found


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Return a function that runs Python with a format's runtime, NumPy and Pillow, and nothing else that is installed here."""
    root = tmp_path_factory.mktemp("alone")

    def packages(format: str) -> Path:
        folder = root / format
        if not folder.exists():
            folder.mkdir()
            for package in set().union(*map(needed, (RUNTIMES[format], "numpy", "pillow"))):
                for name in own_folders(package):
                    place = Path(importlib.metadata.distribution(package).locate_file(name))
                    if place.exists() and not (folder / name).exists():
                        (folder / name).symlink_to(place)
        return folder

    def run(format: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
        # `-S`: no folder of installed packages; `-P`: not the one where the script lies. The folder comes by PYTHONPATH alone.
        environment = {"PYTHONPATH": str(packages(format)), "PATH": os.defpath, "PYTHONNOUSERSITE": "1"}
        return subprocess.run(
            [sys.executable, "-S", "-P", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def folders(network, tmp_path_factory):
    """Return a function that writes a file of a format, its README and its script into a folder, once."""
    root = tmp_path_factory.mktemp("exports")

    def written(format: str) -> Path:
        folder = root / format
        if format == "litert" and keras.backend.backend() != "tensorflow":
            pytest.skip("TensorFlow writes LiteRT files")
        if folder.exists():
            return folder
        folder.mkdir()
        colours = ABOUT | {"classes": ["red", "green", "blue"]}
        if format == "onnx":
            write_onnx(folder / "model.onnx", colours)
        elif format == "openvino":
            write_openvino(folder / "model.xml", colours)
        elif format == "litert":
            litert.write(network, folder / "model.tflite", ABOUT, "float32", None)
        else:
            keras_file.write(network, folder / "model.keras", ABOUT, "float32", None)
        write_readme(folder, content(format))
        Image.new("RGB", (90, 60), (200, 30, 20)).save(folder / "red.png")
        Image.fromarray(soft_images(1)[0]).resize((64, 96)).save(folder / "image.jpg")
        return folder

    return written


@pytest.mark.parametrize("format", RUNTIMES)
def test_the_environment_of_these_tests_has_the_runtime_alone(alone, tmp_path, format):
    pytest.importorskip(RUNTIMES[format].replace("-", "_"))
    code = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)], u.find_spec('numpy') is not None)"
    done = alone(format, "-c", code, folder=tmp_path)
    assert done.stdout == "[] True\n", done.stderr


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_script_names_class_and_probability(alone, folders, format):
    pytest.importorskip(RUNTIMES[format])
    folder = folders(format)
    done = alone(format, "predict.py", "red.png", "absent.png", folder=folder)
    # Padding, two of five rows and columns each, is part of the image that is classified.
    assert re.fullmatch(r"red\.png: red, \d\d\.\d%\n", done.stdout), done.stderr
    assert "absent.png cannot be read" in done.stderr
    assert done.returncode == 1


def test_the_script_of_a_litert_file_says_what_the_network_says(alone, folders, network):
    pytest.importorskip("ai_edge_litert")
    folder = folders("litert")
    done = alone("litert", "predict.py", "image.jpg", "red.png", folder=folder)
    assert done.stdout.splitlines() == expected(network, folder, "image.jpg", "red.png"), done.stderr


def test_the_script_of_a_keras_file_says_what_the_network_says(folders, network):
    """Keras and its backend are the runtime here."""
    folder = folders("keras")
    code = "import sys, runpy; sys.modules['headstart'] = None; runpy.run_path('predict.py', run_name='__main__')"
    environment = os.environ | {"KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code, "image.jpg", "red.png"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == expected(network, folder, "image.jpg", "red.png"), done.stderr


def expected(network: keras.Model, folder: Path, *names: str) -> list[str]:
    """Return the lines that the script must print, from the Keras network and Headstart's own decoding."""
    images = np.stack([read_image(folder / name, 32, 32, Decoding("pad")) for name in names])
    probabilities = keras.ops.convert_to_numpy(network(images, training=False)["probabilities"])
    return [f"{name}: {ABOUT['classes'][row.argmax()]}, {row.max():.1%}" for name, row in zip(names, probabilities, strict=True)]


@pytest.mark.parametrize("format", RUNTIMES)
def test_the_readme_example_runs(alone, folders, format):
    pytest.importorskip(RUNTIMES[format].replace("-", "_"))
    folder = folders(format)
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    done = alone(format, "-c", example, folder=folder)
    assert re.fullmatch(r".+ 0\.\d+\n", done.stdout), done.stderr


def load_script():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("predict", TEMPLATES / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds_of_images(folder: Path) -> list[Path]:
    """Write images that a program can get wrong."""
    colours = Image.fromarray(soft_images(1)[0]).resize((210, 150), Image.Resampling.BICUBIC)
    alpha = np.dstack([np.asarray(colours), np.tile(np.linspace(0, 255, 210).astype(np.uint8), (150, 1))])
    turned = Image.Exif()
    turned[0x0112] = 6
    images = {
        "turned.jpg": (colours, {"exif": turned}), "large.jpg": (colours.resize((1000, 700)), {}),
        "alpha.png": (Image.fromarray(alpha), {}), "grey.png": (colours.convert("L"), {}),
        "palette.png": (colours.quantize(30), {}), "cmyk.jpg": (colours.convert("CMYK"), {}),
        "deep.png": (Image.fromarray(np.uint16(np.asarray(colours.convert("L"), np.uint16) * 250)), {}),
    }  # fmt: skip
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return [folder / name for name in images]


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_script_decodes_as_headstart_does(tmp_path, fit):
    about = {"image": {"height": 32, "width": 48, "fit": fit}}
    for path in kinds_of_images(tmp_path):
        np.testing.assert_array_equal(
            load_script().opened(path, about), read_image(path, 32, 48, Decoding(fit)), err_msg=path.name
        )


def test_the_script_takes_the_range_of_deep_grey_images_from_the_model(tmp_path):
    about = {"image": {"height": 32, "width": 32, "fit": "crop", "grey_range": [1000.0, 40000.0]}}
    path = tmp_path / "deep.png"
    Image.fromarray(np.uint16(np.arange(64 * 64).reshape(64, 64) * 15)).save(path)
    wanted = read_image(path, 32, 32, Decoding("crop", (1000.0, 40000.0)))
    np.testing.assert_array_equal(load_script().opened(path, about), wanted)


@pytest.mark.parametrize("format", FORMATS)
def test_the_readme_says_what_the_file_is(tmp_path, format):
    write_readme(tmp_path, content(format))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for said in (
        "`images`",
        "`probabilities`",
        "`features`",
        "0  cat",
        "2  grey wolf",
        "91.2",
        "87.4",
        "94.3",
        "MIT",
        "340 test",
    ):
        assert said in text
    assert "{{" not in text
    assert "{%" not in text
    assert "\n\n\n\n" not in text


def test_names_cannot_change_the_readme(tmp_path):
    about = ABOUT | {
        "format": "onnx", "classes": ["a\n# Install", "```", "<script>", *(f"c{number}" for number in range(40))],
        "data": "[pets](javascript:alert)\n# Buy", "backbone": "net|`rm`<b>",
    }  # fmt: skip
    write_readme(tmp_path, content("onnx", about=about))
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("#") and "include" not in line]
    assert headings == [
        "# model.onnx: images to 43 classes", "## How good it is", "## Python", "## C++", "## JavaScript, in a web page",
        "## Licence",
    ]  # fmt: skip
    assert "      0  a\\n# Install" in lines
    assert "      2  <script>" in lines
    assert "     19  c16" in lines
    assert not any("c17" in line for line in lines)
    assert not any("](" in line.replace("\\]\\(", "") for line in lines)


def test_the_readme_has_what_was_proved_besides(tmp_path):
    validation = {"images": 200, "accuracy": 0.915, "accuracy_of_run": 0.92, "lost": 0.005}
    proof = PROOF | {"other_sizes": PROOF["test"] | {"images": 50}, "validation": validation}
    write_readme(tmp_path, content("openvino", precision="int8", proof=proof))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "On 50 images of other sizes" in text
    assert "On 200 validation images, its accuracy is 91.50\N{NO-BREAK SPACE}%" in text
    assert "int8" in text


def test_the_openvino_example_in_cpp_compiles_and_runs(folders, tmp_path):
    """OpenVINO's package for Python has its headers and libraries."""
    openvino = pytest.importorskip("openvino")
    compiler, home = shutil.which("g++"), Path(openvino.__file__).parent
    libraries = sorted((home / "libs").glob("libopenvino.so*"))
    if not compiler or not libraries or not (home / "include").is_dir():
        pytest.skip("no compiler, or a package without headers")
    folder = folders("openvino")
    (example,) = re.findall(r"```cpp\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    main = """
#include <cstdio>
int main() {
  ov::Core core; ov::CompiledModel model = core.compile_model("model.xml", "CPU");
  std::vector<uint8_t> pixels(20 * 30 * 3);
  for (size_t index = 0; index < pixels.size(); index += 3) { pixels[index] = 150; pixels[index + 2] = 50; }
  for (float one : classify(model, pixels, 20, 30)) std::printf("%.3f ", one);
}
"""
    (tmp_path / "main.cpp").write_text(example + main, encoding="utf-8")
    command = [compiler, "-std=c++17", f"-I{home / 'include'}", "main.cpp", str(libraries[0]), "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    environment = {"LD_LIBRARY_PATH": str(home / "libs")}
    done = subprocess.run([tmp_path / "main"], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.750", "0.000", "0.250"]
