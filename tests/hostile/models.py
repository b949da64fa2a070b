"""Networks that are none, that are code, or that would take all memory: as a backbone, and as the model of a run."""

import base64
import copy
import io
import json
import marshal
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from case import Case, Place, chosen, copied, payloads, put, reseal
from driver import Worker
from honest import Honest
from tamper import flipped

BACKBONES, MODELS = "backbone files", "models of runs"
CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"
# A change of a network's configuration; it gets the place of the case too, and returns a configuration or JSON text.
Graph = Callable[[dict[str, Any], Place], Any]


def model_cases(honest: Honest, count: int, seed: int, worker: Worker) -> list[Case]:
    """Return hostile backbones, and runs whose model they are: two thirds and one third of the count."""
    save_unusual(honest, worker)
    rng = random.Random(seed)
    return [
        *chosen(backbones(honest, rng), count - count // 3, seed),
        *chosen(models(honest), count // 3, seed),
    ]


def backbones(honest: Honest, rng: random.Random) -> Iterator[Case]:
    members = read_members(honest.backbone)
    command = [word if word != "stage1" else "all" for word in honest.options("out")]
    command[command.index("--backbone") + 1] = "backbone.keras"
    command[command.index("--head-epochs") + 1], command[command.index("--epochs") + 1] = "1", "0"

    def case(name: str, make: Callable[[Place], bytes | None]) -> Case:
        def made(place: Place) -> None:
            content = make(place)
            if content is not None:
                put(place.folder / "backbone.keras", content)

        return Case(f"{BACKBONES}/{name}", BACKBONES, made, [command], compared=False)

    yield case("honest", lambda place: honest.backbone.read_bytes())
    for file in sorted((honest.root / "unusual").glob("*.keras")):
        yield case(f"unusual {file.stem}", lambda place, file=file: file.read_bytes())
    for name, change in graphs().items():
        yield case(f"graph {name}", lambda place, change=change: archive(members | {CONFIG: graph_text(members, change, place)}))
    for name, weights in hdf5(members[WEIGHTS]).items():
        yield case(f"weights {name}", lambda place, weights=weights: archive(members | {WEIGHTS: weights(place)}))
    for name, whole in archives(members).items():
        yield case(f"file {name}", whole)
    content = honest.backbone.read_bytes()
    for number in range(10):
        for part in (CONFIG, WEIGHTS):
            new = flipped(members[part], rng.randrange(10**6))
            yield case(f"{part} flipped {number}", lambda place, part=part, new=new: archive(members | {part: new}))
        new = flipped(content, rng.randrange(10**6))
        yield case(f"flipped {number}", lambda place, new=new: new)


def models(honest: Honest) -> Iterator[Case]:
    """Yield runs whose network is another, with checksums that fit."""
    image = str(honest.image)
    lines = [["evaluate", "run"], ["explain", "run", image, "--out", "explained"], ["predict", "run", image]]

    def case(name: str, change: Callable[[Place, Path], None]) -> Case:
        def make(place: Place) -> None:
            copied(honest.run, place.folder / "run")
            change(place, place.folder / "run")
            reseal(place.folder / "run")

        return Case(f"{MODELS}/{name}", MODELS, make, lines, compared=False)

    yield case("honest", lambda place, run: None)
    for name, change in graphs().items():
        yield case(f"graph {name}", lambda place, run, change=change: change_graph(run, change, place))
    if (honest.run / "model.keras").exists():
        members = read_members(honest.run / "model.keras")
        for name, weights in hdf5(members[WEIGHTS]).items():
            yield case(f"weights {name}", lambda place, run, weights=weights: put(
                run / "model.keras", archive(members | {WEIGHTS: weights(place)})))  # fmt: skip
        for name, whole in archives(members).items():

            def whole_file(place: Place, run: Path, whole: Callable[[Place], bytes | None] = whole) -> None:
                inner = Place(run, place.honest, place.marker, place.victim, place.pid)
                content = whole(inner)
                if content is not None:
                    put(run / "model.keras", content)

            yield case(f"file {name}", whole_file)
    for name in ("pickle", "h5", "SavedModel"):
        yield case(f"a {name} beside it", lambda place, run: put(run / "model.keras", payloads(place.marker)["exec"]))


def change_graph(run: Path, change: Graph, place: Place) -> None:
    """Change the description of a run's network, in `network.json` or, in old runs, in `model.keras`."""
    file = run / "network.json"
    if file.exists():
        put(file, graph_text({CONFIG: file.read_bytes()}, change, place))
    else:
        members = read_members(run / "model.keras")
        put(run / "model.keras", archive(members | {CONFIG: graph_text(members, change, place)}))


def graph_text(members: dict[str, bytes], change: Graph, place: Place) -> bytes:
    new = change(copy.deepcopy(json.loads(members[CONFIG])), place)
    return (new if isinstance(new, str) else json.dumps(new)).encode("utf-8", "surrogatepass")


# Graphs


def layers(graph: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects that are layers, at every depth."""
    if isinstance(graph, dict):
        if "inbound_nodes" in graph:
            yield graph
        for value in graph.values():
            yield from layers(value)
    elif isinstance(graph, list):
        for value in graph:
            yield from layers(value)


def first(graph: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(layer for layer in layers(graph) if layer["class_name"] == kind)


def put_layer(graph: dict[str, Any], module: str | None, kind: str, config: Any, registered: Any = None) -> dict[str, Any]:
    """Put another layer in the place of the first activation, where it gets and gives a feature map."""
    layer = first(graph, "Activation")
    if isinstance(config, dict) and "name" not in config:
        config = {"name": layer["name"], "trainable": True, "dtype": "float32"} | config
    layer |= {"module": module, "class_name": kind, "config": config, "registered_name": registered}
    layer.pop("build_config", None)
    return graph


def changed(graph: dict[str, Any], kind: str, **entries: Any) -> dict[str, Any]:
    """Change entries of the configuration of the first layer of a kind."""
    first(graph, kind)["config"] |= entries
    return graph


def lambda_code(marker: Path) -> dict[str, Any]:
    """Return a function as Keras wrote it once: compiled Python that makes the marker file."""
    code = compile(f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]", "evil", "eval").co_consts[0]
    text = base64.encodebytes(marshal.dumps(code)).decode()
    return {"class_name": "__lambda__", "config": {"code": text, "defaults": None, "closure": None}}


def function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def call(module: str, name: str, config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def graphs() -> dict[str, Graph]:
    """Return changes of a network's configuration by name."""
    touch = lambda place: f"open({str(place.marker)!r}, 'w').close()"  # noqa: E731
    shell = lambda place: f"touch '{place.marker}'"  # noqa: E731
    found: dict[str, Graph] = {
        "Lambda": lambda g, p: put_layer(g, "keras.layers", "Lambda", {"function": lambda_code(p.marker), "arguments": {}}),
        "Lambda, old": lambda g, p: put_layer(g, "keras.layers", "Lambda", {
            "function": [lambda_code(p.marker)["config"]["code"], None, None], "function_type": "lambda"}),
        "Lambda of os.system": lambda g, p: put_layer(g, "keras.layers", "Lambda", {
            "function": function("os", "system"), "arguments": {}}),
        "Lambda of exec": lambda g, p: put_layer(g, "keras.layers", "Lambda", {
            "function": function("builtins", "exec"), "arguments": {}}),
        "Lambda, registered as a layer": lambda g, p: put_layer(g, None, "Lambda", {
            "function": lambda_code(p.marker), "arguments": {}}, "Lambda"),
        "Lambda in keras.src": lambda g, p: put_layer(g, "keras.src.layers.core.lambda_layer", "Lambda", {
            "function": lambda_code(p.marker), "arguments": {}}),
        "Lambda in TimeDistributed": lambda g, p: put_layer(g, "keras.layers", "TimeDistributed", {
            "layer": call("keras.layers", "Lambda", {"function": lambda_code(p.marker)})}),
        "Lambda in a Sequential": lambda g, p: put_layer(g, "keras", "Sequential", {"layers": [
            call("keras.layers", "Lambda", {"function": lambda_code(p.marker)})]}),
        "an activation that is code": lambda g, p: changed(g, "Activation", activation=lambda_code(p.marker)),
        "an activation os.system": lambda g, p: changed(g, "Activation", activation=function("os", "system")),
        "an activation print": lambda g, p: changed(g, "Activation", activation=function("builtins", "print")),
        "an activation of a module": lambda g, p: changed(g, "Activation", activation="os.system"),
        "an initialiser that is code": lambda g, p: changed(g, "Conv2D", kernel_initializer=lambda_code(p.marker)),
        "an initialiser exec": lambda g, p: changed(g, "Conv2D", kernel_initializer=function("builtins", "exec")),
        "an initialiser Popen": lambda g, p: changed(g, "Conv2D", kernel_initializer=call("subprocess", "Popen", {
            "args": ["touch", str(p.marker)]})),
        "a regulariser that is code": lambda g, p: changed(g, "Conv2D", kernel_regularizer=lambda_code(p.marker)),
        "a constraint that is code": lambda g, p: changed(g, "Conv2D", kernel_constraint=lambda_code(p.marker)),
        "a type that is code": lambda g, p: changed(g, "Conv2D", dtype=call("subprocess", "Popen", {
            "args": ["touch", str(p.marker)]})),
        "a name that is code": lambda g, p: changed(g, "Conv2D", name=lambda_code(p.marker)),
        "filters that are code": lambda g, p: changed(g, "Conv2D", filters=lambda_code(p.marker)),
        "the network is code": lambda g, p: lambda_code(p.marker),
        "the network is Popen": lambda g, p: call("subprocess", "Popen", {"args": ["touch", str(p.marker)]}),
        "compiled with code": lambda g, p: g | {"compile_config": {"optimizer": lambda_code(p.marker), "loss": lambda_code(p.marker)}},
        "built with code": lambda g, p: g | {"build_config": {"input_shape": lambda_code(p.marker)}},
        "a module of the folder": lambda g, p: [
            put(p.folder / "evil_module.py", touch(p)), put_layer(g, "evil_module", "Evil", {})][1],
        "a registered name alone": lambda g, p: put_layer(g, None, "Evil", {}, "Custom>Evil"),
        "Keras Hub": lambda g, p: put_layer(g, "keras_hub.src.models.backbone", "Backbone", {}, "keras_hub>Backbone"),
        "an unknown layer": lambda g, p: put_layer(g, "keras.layers", "Evil", {}),
        "a layer of keras.src": lambda g, p: put_layer(g, "keras.src.layers.activations.relu", "ReLU", {}),
        "a private layer": lambda g, p: put_layer(g, "keras.src.layers.layer", "Layer", {}),
        "no module": lambda g, p: put_layer(g, "", "", {}), "a module of numbers": lambda g, p: put_layer(g, 3, 4, {}),
        "a dotted class": lambda g, p: put_layer(g, "keras", "layers.ReLU", {}),
        "a class of a class": lambda g, p: put_layer(g, "keras.layers", "ReLU.__init__", {}),
        "TorchModuleWrapper": lambda g, p: put_layer(g, "keras.layers", "TorchModuleWrapper", {
            "module": base64.b64encode(payloads(p.marker)["exec"]).decode()}),
        "TorchModuleWrapper, as bytes": lambda g, p: put_layer(g, "keras.layers", "TorchModuleWrapper", {
            "module": {"class_name": "__bytes__", "config": {"value": payloads(p.marker)["exec"].decode("latin-1")}}}),
        "TFSMLayer": lambda g, p: put_layer(g, "keras.layers", "TFSMLayer", {
            "filepath": str(p.victim), "call_endpoint": "serve"}),
        "JaxLayer": lambda g, p: put_layer(g, "keras.layers", "JaxLayer", {"call_fn": lambda_code(p.marker), "init_fn": None}),
        "FlaxLayer": lambda g, p: put_layer(g, "keras.layers", "FlaxLayer", {"module": function("os", "system")}),
        "StringLookup of a file": lambda g, p: put_layer(g, "keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
        "IntegerLookup of a file": lambda g, p: put_layer(g, "keras.layers", "IntegerLookup", {"vocabulary": "/etc/passwd"}),
        "TextVectorization of a file": lambda g, p: put_layer(g, "keras.layers", "TextVectorization", {
            "vocabulary": "/etc/passwd"}),
        "StringLookup of /dev/zero": lambda g, p: put_layer(g, "keras.layers", "StringLookup", {"vocabulary": "/dev/zero"}),
        "Hashing": lambda g, p: put_layer(g, "keras.layers", "Hashing", {"num_bins": 10**12}),
        "Pipeline": lambda g, p: put_layer(g, "keras.layers", "Pipeline", {"layers": [lambda_code(p.marker)]}),
        "RandomAugmentation": lambda g, p: put_layer(g, "keras.layers", "RandAugment", {"value_range": [0, 1]}),
        "GaussianNoise": lambda g, p: put_layer(g, "keras.layers", "GaussianNoise", {"stddev": 1e30}),
        "Bidirectional": lambda g, p: put_layer(g, "keras.layers", "Bidirectional", {"layer": lambda_code(p.marker)}),
        "StackedRNNCells": lambda g, p: put_layer(g, "keras.layers", "StackedRNNCells", {"cells": [lambda_code(p.marker)]}),
        "Embedding": lambda g, p: put_layer(g, "keras.layers", "Embedding", {"input_dim": 10**9, "output_dim": 10**3}),
        "Dense of 10**9": lambda g, p: put_layer(g, "keras.layers", "Dense", {"units": 10**9}),
        "Dense of 10**400": lambda g, p: put_layer(g, "keras.layers", "Dense", {"units": 10**400}),
        "UpSampling2D": lambda g, p: put_layer(g, "keras.layers", "UpSampling2D", {"size": [10_000, 10_000]}),
        "UpSampling2D, smaller": lambda g, p: put_layer(g, "keras.layers", "UpSampling2D", {"size": [100, 100]}),
        "ZeroPadding2D": lambda g, p: put_layer(g, "keras.layers", "ZeroPadding2D", {"padding": 100_000}),
        "ZeroPadding2D, negative": lambda g, p: put_layer(g, "keras.layers", "ZeroPadding2D", {"padding": -100}),
        "Cropping2D": lambda g, p: put_layer(g, "keras.layers", "Cropping2D", {"cropping": 100_000}),
        "Resizing": lambda g, p: put_layer(g, "keras.layers", "Resizing", {"height": 100_000, "width": 100_000}),
        "CenterCrop": lambda g, p: put_layer(g, "keras.layers", "CenterCrop", {"height": 100_000, "width": 100_000}),
        "Reshape": lambda g, p: put_layer(g, "keras.layers", "Reshape", {"target_shape": [10**9, 10**9]}),
        "Reshape, negative": lambda g, p: put_layer(g, "keras.layers", "Reshape", {"target_shape": [-1, -1]}),
        "RepeatVector": lambda g, p: put_layer(g, "keras.layers", "RepeatVector", {"n": 10**9}),
        "Flatten": lambda g, p: put_layer(g, "keras.layers", "Flatten", {}),
        "GlobalAveragePooling2D": lambda g, p: put_layer(g, "keras.layers", "GlobalAveragePooling2D", {}),
        "Conv2DTranspose": lambda g, p: put_layer(g, "keras.layers", "Conv2DTranspose", {
            "filters": 8, "kernel_size": 3, "strides": 1000}),
        "Conv3D": lambda g, p: put_layer(g, "keras.layers", "Conv3D", {"filters": 8, "kernel_size": 3}),
        "MaxPooling2D of 0": lambda g, p: put_layer(g, "keras.layers", "MaxPooling2D", {"pool_size": 0}),
        "MaxPooling2D of 10**9": lambda g, p: put_layer(g, "keras.layers", "MaxPooling2D", {"pool_size": 10**9}),
        "Rescaling NaN": lambda g, p: put_layer(g, "keras.layers", "Rescaling", {"scale": float("nan")}),
        "Rescaling 1e308": lambda g, p: put_layer(g, "keras.layers", "Rescaling", {"scale": 1e308, "offset": 1e308}),
        "Softmax of axis 99": lambda g, p: put_layer(g, "keras.layers", "Softmax", {"axis": 99}),
        "Normalization": lambda g, p: put_layer(g, "keras.layers", "Normalization", {"mean": [1.0] * 10**5, "variance": 0}),
        "Permute": lambda g, p: put_layer(g, "keras.layers", "Permute", {"dims": [9, 9, 9]}),
        "an array as an entry": lambda g, p: changed(g, "Conv2D", filters={
            "class_name": "__tensor__", "config": {"value": [8] * 100_000, "dtype": "float32"}}),
        "a NumPy array as an entry": lambda g, p: changed(g, "Conv2D", filters={
            "class_name": "__numpy__", "config": {"value": [8], "dtype": "object"}}),
        "a type as an entry": lambda g, p: changed(g, "Conv2D", filters={
            "class_name": "__class_type__", "config": {"name": "system", "module": "os"}}),
        "a function as an entry": lambda g, p: changed(g, "Conv2D", filters=function("os", "getcwd")),
        "a file as an entry": lambda g, p: changed(g, "Conv2D", filters=call("keras.utils", "get_file", {
            "origin": f"file://{p.victim}/letter.txt", "fname": str(p.marker)})),
        "save_model as an entry": lambda g, p: changed(g, "Conv2D", kernel_initializer=function("keras.saving", "save_model")),
        "load_model as an entry": lambda g, p: changed(g, "Conv2D", kernel_initializer=call("keras.saving", "load_model", {
            "filepath": str(p.victim / "letter.txt")})),
        "unsafe mode on": lambda g, p: changed(g, "Conv2D", kernel_initializer=function(
            "keras.config", "enable_unsafe_deserialization")),
        "unsafe mode on, then code": lambda g, p: put_layer(changed(g, "Conv2D", bias_initializer=call(
            "keras.config", "enable_unsafe_deserialization", {})), "keras.layers", "Lambda", {"function": lambda_code(p.marker)}),
        "a saved model inside": lambda g, p: put_layer(g, "keras.src.saving.saving_lib", "load_model", {"filepath": "/dev/zero"}),
        "os.mkdir": lambda g, p: put_layer(g, "os", "mkdir", str(p.marker)),
        "os.system": lambda g, p: put_layer(g, "os", "system", shell(p)),
        "os.system, as keywords": lambda g, p: put_layer(g, "os", "system", {"command": shell(p)}),
        "exec": lambda g, p: put_layer(g, "builtins", "exec", touch(p)),
        "eval": lambda g, p: put_layer(g, "builtins", "eval", touch(p)),
        "open": lambda g, p: put_layer(g, "builtins", "open", {"file": str(p.marker), "mode": "w"}),
        "numpy.save": lambda g, p: put_layer(g, "numpy", "save", {"file": str(p.marker), "arr": 1}),
        "shutil.rmtree": lambda g, p: put_layer(g, "shutil", "rmtree", {"path": str(p.victim / "folder")}),
        "pickle.loads": lambda g, p: put_layer(g, "pickle", "loads", {"class_name": "__bytes__", "config": {"value": "x"}}),
        "operator": lambda g, p: put_layer(g, "operator", "methodcaller", {"name": "x"}),
        "two inputs": lambda g, p: g["config"].update(input_layers=[g["config"]["input_layers"]] * 2) or g,
        "two outputs": lambda g, p: g["config"].update(output_layers=[g["config"]["output_layers"]] * 2) or g,
        "no inputs": lambda g, p: g["config"].update(input_layers=[]) or g,
        "no outputs": lambda g, p: g["config"].update(output_layers=[]) or g,
        "an unknown output": lambda g, p: g["config"].update(output_layers=["evil", 0, 0]) or g,
        "an output of another number": lambda g, p: g["config"].update(output_layers=[g["config"]["output_layers"][0], 9, 9]) or g,
        "an input as its output": lambda g, p: g["config"].update(output_layers=g["config"]["input_layers"]) or g,
        "no layers": lambda g, p: g["config"].update(layers=[]) or g,
        "layers of text": lambda g, p: g["config"].update(layers=["x"]) or g,
        "no configuration": lambda g, p: g | {"config": None}, "an empty configuration": lambda g, p: g | {"config": {}},
        "layers twice": lambda g, p: g["config"].update(layers=g["config"]["layers"] * 2) or g,
        "layers turned round": lambda g, p: g["config"].update(layers=g["config"]["layers"][::-1]) or g,
        "a circle": lambda g, p: circle(g), "a layer of itself": lambda g, p: circle(g, own=True),
        "a long name": lambda g, p: changed(g, "Conv2D", name="a" * 1_000_000),
        "a path as a name": lambda g, p: renamed(g, "../../evil"), "a name of control characters": lambda g, p: renamed(g, "\x1b[2J\a\n"),
        "an empty name": lambda g, p: renamed(g, ""), "a name with zero bytes": lambda g, p: renamed(g, "a\0b"),
        "5,000 levels": lambda g, p: levels(g, 5000), "200 levels": lambda g, p: levels(g, 200),
        "50,000 layers": lambda g, p: chain(g, 50_000), "300 layers": lambda g, p: chain(g, 300),
        "deep": lambda g, p: '{"a":' * 100_000 + "1" + "}" * 100_000, "70 MB": lambda g, p: "[" * 70_000_000,
        "deep entry": lambda g, p: json.dumps(changed(g, "Conv2D", filters="@@")).replace('"@@"', "[" * 50_000 + "]" * 50_000),
        "spaces": lambda g, p: " " * 70_000_000, "no JSON": lambda g, p: "}{", "a list": lambda g, p: [g], "null": lambda g, p: "null",
        "NaN": lambda g, p: "NaN", "a number of many digits": lambda g, p: "1" * 100_000, "half a character": lambda g, p: '"\\ud800"',
        "a Sequential": lambda g, p: sequential(g), "a Model": lambda g, p: g | {"module": "keras", "class_name": "Model"},
        "a layer instead": lambda g, p: call("keras.layers", "ReLU", {}), "a list of a million": lambda g, p: [0] * 1_000_000,
        "entries of a million": lambda g, p: g | {f"k{number}": 0 for number in range(500_000)},
        "a policy of float16": lambda g, p: changed(g, "Conv2D", dtype=call("keras", "DTypePolicy", {"name": "float16"})),
        "a policy of float64": lambda g, p: changed(g, "Conv2D", dtype="float64"),
        "a policy that is unknown": lambda g, p: changed(g, "Conv2D", dtype=call("keras", "DTypePolicy", {"name": "evil"})),
        "a policy of int8": lambda g, p: changed(g, "Conv2D", dtype=call("keras", "QuantizedDTypePolicy", {
            "mode": "int8", "source_name": "float32"})),
        "a map of policies": lambda g, p: changed(g, "Conv2D", dtype=call("keras", "DTypePolicyMap", {
            "default_policy": None, "policy_map": {".*": "float16"}})),
        "LoRA": lambda g, p: changed(g, "Conv2D", lora_rank=10**6),
    }  # fmt: skip
    for entry, values in {
        "filters": (10**9, 10**400, 0, -1, "8", 8.5, None, True, [8], 2**31), "kernel_size": ([10**6] * 2, 0, -1, [3], [3] * 9, "3", None),
        "strides": (0, -1, 10**9, [1, 2, 3], None), "dilation_rate": (0, 10**9, -1), "groups": (0, 10**9, -1, 3),
        "padding": ("evil", None, 3), "data_format": ("evil", "channels_first", None), "activation": ("evil", 3, [], {}, "softmax"),
        "use_bias": ("x", None), "trainable": ("x",), "kernel_regularizer": ({"class_name": "L2", "config": {"l2": 1e400}}, "evil"),
        "evil": (1,),
    }.items():  # fmt: skip
        for value in values:
            found[f"{entry} {str(value)[:20]}"] = lambda g, p, entry=entry, value=value: changed(g, "Conv2D", **{entry: value})
    for shape in (
        [None, 100_000, 100_000, 3], [None, 16, 16, 3], [None, 1000, 1000, 3], [None, 32, 32, 1], [None, 32, 32, 4], [None, 0, 0, 3],
        [None, -1, -1, 3], [None], [None, 3], [None, 32, 3], [None, 2, 32, 32, 3], [None, None, None, None], [5, 32, 32, 3],
        [0, 32, 32, 3], [10**9, 32, 32, 3], "x", None, [None, "32", 32, 3], [None, 32.5, 32, 3], [None, 32, 64, 3], [[None, 32, 32, 3]],
        [None, 10**30, 1, 3], [None, 33, 33, 3],
    ):  # fmt: skip
        found[f"input of {shape}"] = lambda g, p, shape=shape: changed(g, "InputLayer", batch_shape=shape)
    for dtype in ("uint8", "int32", "float64", "float16", "string", "bool", "object", "evil", "complex64", None, 3):
        found[f"input {dtype}"] = lambda g, p, dtype=dtype: changed(g, "InputLayer", dtype=dtype)
    for entry in ("sparse", "ragged", "optional"):
        found[f"input {entry}"] = lambda g, p, entry=entry: changed(g, "InputLayer", **{entry: True})
    for entry, value in (
        ("axis", 9),
        ("axis", [1, 2, 3]),
        ("momentum", float("nan")),
        ("epsilon", -1),
        ("epsilon", 0),
        ("center", "x"),
        ("axis", 1),
    ):
        found[f"batch norm {entry} {value}"] = lambda g, p, entry=entry, value=value: changed(
            g, "BatchNormalization", **{entry: value}
        )
    return found


def renamed(graph: dict[str, Any], name: str) -> dict[str, Any]:
    """Give the first convolution another name, wherever the graph speaks of it."""
    old = first(graph, "Conv2D")["name"]
    return json.loads(json.dumps(graph).replace(f'"{old}"', json.dumps(name)))


def circle(graph: dict[str, Any], *, own: bool = False) -> dict[str, Any]:
    """Let a layer take the output of a later layer, or of itself."""
    some = [layer for layer in layers(graph) if layer["class_name"] in ("Activation", "Conv2D")]
    early, late = some[0], some[0] if own else some[-1]
    tensor = early["inbound_nodes"][0]["args"][0]
    tensor["config"]["keras_history"] = [late["name"], 0, 0]
    return graph


def levels(graph: dict[str, Any], number: int) -> str:
    """Put networks into networks."""
    text, mark = json.dumps(put_layer(graph, "keras", "Sequential", {"layers": ["@@"]})), '"@@"'
    opened = '{"module": "keras", "class_name": "Sequential", "registered_name": null, "config": {"layers": ['
    return text.replace(mark, opened * number + "]}}" * number)


def chain(graph: dict[str, Any], number: int) -> dict[str, Any]:
    """Put a long chain of layers into a network."""
    relu = call("keras.layers", "ReLU", {})
    return put_layer(graph, "keras", "Sequential", {"layers": [relu] * number})


def sequential(graph: dict[str, Any]) -> dict[str, Any]:
    inner = next(one for one in walk(graph) if one.get("class_name") == "Functional")
    parts = [{key: value for key, value in layer.items() if key != "inbound_nodes"} for layer in inner["config"]["layers"]]
    return call("keras", "Sequential", {"name": "s", "layers": parts})


def walk(graph: Any) -> Iterator[dict[str, Any]]:
    if isinstance(graph, dict):
        yield graph
    for value in graph.values() if isinstance(graph, dict) else graph if isinstance(graph, list) else ():
        yield from walk(value)


# Weights


def hdf5(honest: bytes) -> dict[str, Callable[[Place], bytes]]:
    """Return hostile files of weights by name."""

    def edited(edit: Callable[[h5py.File, str, Place], Any]) -> Callable[[Place], bytes]:
        def make(place: Place) -> bytes:
            stream = io.BytesIO(honest)
            with h5py.File(stream, "a") as file:
                names: list[str] = []
                file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
                edit(file, max(names, key=lambda name: file[name].size), place)
            return stream.getvalue()

        return make

    def replaced(**options: Any) -> Callable[[Place], bytes]:
        def edit(file: h5py.File, name: str, place: Place) -> None:
            del file[name]
            file.create_dataset(name, **options)

        return edited(edit)

    def swapped(change: Callable[[np.ndarray], Any]) -> Callable[[Place], bytes]:
        def edit(file: h5py.File, name: str, place: Place) -> None:
            array = file[name][()]
            del file[name]
            file[name] = change(array)

        return edited(edit)

    def linked(link: Callable[[Place, str], Any]) -> Callable[[Place], bytes]:
        def edit(file: h5py.File, name: str, place: Place) -> None:
            del file[name]
            file[name] = link(place, name)

        return edited(edit)

    def virtual(file: h5py.File, name: str, place: Place) -> None:
        layout = h5py.VirtualLayout((8, 8), "f4")
        layout[:] = h5py.VirtualSource(str(place.victim / "letter.txt"), "x", (8, 8))
        del file[name]
        file.create_virtual_dataset(name, layout)

    def group_elsewhere(file: h5py.File, name: str, place: Place) -> None:
        del file["layers"]
        file["layers"] = h5py.ExternalLink(str(place.victim / "letter.txt"), "/")

    def many(file: h5py.File, name: str, place: Place) -> None:
        for number in range(20_000):
            file.create_group(f"layers/x{number}")

    def deep(file: h5py.File, name: str, place: Place) -> None:
        file.create_group("layers/" + "a/" * 3000)

    huge = {"shape": (10**6, 10**6), "dtype": "f4", "chunks": (1000, 1000)}
    flips = {
        f"flipped {number}": (lambda place, number=number: flipped(honest, number)) for number in range(6)
    }  # fmt: skip
    return flips | {
        "a link to a file elsewhere": linked(lambda place, name: h5py.ExternalLink(str(place.victim / "letter.txt"), "/x")),
        "a link to /dev/zero": linked(lambda place, name: h5py.ExternalLink("/dev/zero", "/x")),
        "a link to nothing": linked(lambda place, name: h5py.SoftLink("/nowhere")),
        "a link to itself": linked(lambda place, name: h5py.SoftLink("/" + name)),
        "a link to a group": linked(lambda place, name: h5py.SoftLink("/layers")),
        "all a link elsewhere": edited(group_elsewhere), "a virtual array": edited(virtual),
        "bytes of another file": replaced(shape=(8, 8), dtype="f4", external=[("/etc/passwd", 0, 256)]),
        "bytes of /dev/zero": replaced(shape=(8, 8), dtype="f4", external=[("/dev/zero", 0, 256)]),
        "4 TB that are not there": replaced(**huge), "40 GB that are not there": replaced(shape=(10**5, 10**5), dtype="f4", chunks=(1000, 1000)),
        "4 GB, compressed": replaced(shape=(10**9,), dtype="f4", chunks=(10**6,), compression="gzip", fillvalue=1),
        "a chunk of 1 GB": replaced(shape=(1, 250_000_000), dtype="f4", chunks=(1, 250_000_000), compression="gzip"),
        "growing": replaced(shape=(8, 8), maxshape=(None, None), dtype="f4"), "objects": replaced(shape=(8,), dtype=h5py.string_dtype()),
        "references": replaced(shape=(8,), dtype=h5py.ref_dtype), "records": replaced(shape=(8,), dtype=np.dtype("f4,i8")),
        "text": replaced(data=b"evil"), "no values": replaced(data=h5py.Empty("f4")), "a number": replaced(data=1.0),
        "NaN": swapped(lambda array: np.full_like(array, np.nan)), "infinite": swapped(lambda array: np.full_like(array, np.inf)),
        "3e38": swapped(lambda array: np.full_like(array, 3e38)), "zeros": swapped(np.zeros_like), "flat": swapped(np.ravel),
        "an axis more": swapped(lambda array: array[None]), "a row less": swapped(lambda array: array[..., :-1]),
        "float64": swapped(lambda array: array.astype("f8")), "complex": swapped(lambda array: array.astype("c8")),
        "uint8": swapped(lambda array: array.astype("u1")), "bool": swapped(lambda array: array.astype("?")),
        "one missing": edited(lambda file, name, place: file.__delitem__(name)),
        "all missing": edited(lambda file, name, place: file.__delitem__("layers")),
        "an array instead of layers": edited(lambda file, name, place: [file.__delitem__("layers"), file.__setitem__("layers", 1)]),
        "20,000 groups": edited(many), "3,000 levels": edited(deep), "more arrays": edited(lambda file, name, place: file.__setitem__("layers/evil/vars/0", 1)),
        "empty": lambda place: b"", "cut": lambda place: honest[: len(honest) // 2], "zeros only": lambda place: bytes(len(honest)),
        "a pickle": lambda place: payloads(place.marker)["exec"], "a head alone": lambda place: honest[:8] + bytes(1000),
        "addresses outside": lambda place: honest[:24] + b"\xf0" * 8 + honest[32:], "an npz": lambda place: npz(place),
    }  # fmt: skip


def npz(place: Place) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, np.zeros(3))
    return stream.getvalue()


# Archives


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of members; more pairs may have the same name, see `pairs`."""
    return pairs(list(members.items()), compression)


def pairs(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    import warnings

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in members:
            file.writestr(name, content)
    return stream.getvalue()


def bomb(name: str, megabytes: int, filling: bytes, before: bytes = b"") -> bytes:
    """Return a zip of one member that is long and compresses well; its stream repeats a compressed megabyte."""
    once = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = once.compress(before) + once.flush(zlib.Z_FULL_FLUSH)
    block = once.compress(filling * ((1 << 20) // len(filling))) + once.flush(zlib.Z_FULL_FLUSH)
    stream = start + block * megabytes + b"\x03\x00"
    size, crc = len(before) + megabytes * ((1 << 20) // len(filling)) * len(filling), 0
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(stream), size, len(name), 0)
    local = b"PK\x03\x04" + common + name.encode() + stream
    central = b"PK\x01\x02\x14\0" + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    return local + central + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


def joined(bombs: bytes, members: dict[str, bytes], without: str) -> bytes:
    """Return a zip with a bomb and the other members behind it."""
    stream = io.BytesIO(bombs)
    with zipfile.ZipFile(stream, "a") as file:
        for name, content in members.items():
            if name != without:
                file.writestr(name, content)
    return stream.getvalue()


def archives(members: dict[str, bytes]) -> dict[str, Callable[[Place], bytes | None]]:
    """Return hostile `.keras` files by name. Some make what is no file at all, and return nothing."""
    whole = archive(members)

    def special(make: Callable[[Path], Any]) -> Callable[[Place], None]:
        def made(place: Place) -> None:
            for name in ("backbone.keras", "model.keras"):  # in the folder of a case, or of a run
                path = place.folder / name
                if path.exists() or name == "backbone.keras":
                    path.unlink(missing_ok=True)
                    make(path)

        return made

    def info(change: Callable[[zipfile.ZipInfo], Any]) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            for name, content in members.items():
                one = zipfile.ZipInfo(name)
                change(one)
                file.writestr(one, content)
        return stream.getvalue()

    def link(one: zipfile.ZipInfo) -> None:
        one.external_attr = 0o120777 << 16

    made: dict[str, bytes] = {
        "empty": b"", "rubbish": b"x" * 5000, "cut": whole[: len(whole) // 2], "end alone": whole[-22:], "rubbish before": b"x" * 999 + whole,
        "rubbish behind": whole + b"x" * 999, "compressed": archive(members, zipfile.ZIP_DEFLATED), "lzma": archive(members, zipfile.ZIP_LZMA),
        "bzip2": archive(members, zipfile.ZIP_BZIP2), "no members": archive({}), "of nothing we know": archive({"x": b""}),
        "names above": archive({f"../../{name}": content for name, content in members.items()} | members),
        "absolute names": archive({"/tmp/evil": b"x"} | members), "a name of zero bytes": whole.replace(b"config.json", b"config\0json"),
        "names that are no UTF-8": whole.replace(b"config.json", b"config\xffjson"), "all links": info(link),
        "encrypted": whole.replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\x01").replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\x01"),
        "an unknown method": whole.replace(b"PK\x01\x02\x14\x03\x14\0\0\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0c\0"),
        "50,000 members": pairs([(f"x{number}", b"") for number in range(50_000)] + list(members.items())),
        "a comment of 60 KB": whole[:-2] + struct.pack("<H", 60_000) + b"x" * 60_000, "a wrong count": whole[:-14] + b"\xff\xff\xff\xff" + whole[-10:],
        "a wrong offset": whole[:-6] + b"\xff\xff\xff\x7f" + whole[-2:], "a huge offset": whole[:-6] + b"\xff\xff\xff\xff" + whole[-2:],
        "an HDF5 file": members[WEIGHTS], "a configuration": members[CONFIG],
        "2 GB of configuration": joined(bomb(CONFIG, 2048, b" ", members[CONFIG]), members, CONFIG),
        "2 GB of brackets": joined(bomb(CONFIG, 2048, b"["), members, CONFIG),
        "4 GB of weights": joined(bomb(WEIGHTS, 4095, b"\0", members[WEIGHTS]), members, WEIGHTS),
        "1 GB of metadata": joined(bomb(METADATA, 1024, b" ", b"{}"), members, METADATA),
        "4 GB of something else": joined(bomb("assets/x", 4095, b"\0"), members, "assets/x"),
        "files beside": archive(members | {"assets/evil.py": b"x", "evil/../../evil": b"x"}),
    }  # fmt: skip
    for name, content in members.items():
        others = {other: value for other, value in members.items() if other != name}
        made |= {
            f"{name} missing": archive(others), f"{name} empty": archive(others | {name: b""}),
            f"{name} twice": pairs([*members.items(), (name, b"x")]), f"{name} twice, first wrong": pairs([(name, b"x"), *members.items()]),
            f"{name} a folder": archive(others | {f"{name}/": b""}), f"{name} zeros": archive(others | {name: bytes(len(content))}),
            f"{name} with a wrong sum": whole.replace(content, flipped(content, 5)),
        }  # fmt: skip
    for name, content in (("version 99", '{"keras_version": "99.0"}'), ("no version", "{}"), ("a version of numbers", '{"keras_version": 3}'),
                          ("deep", "[" * 100_000), ("no JSON", "}"), ("a list", "[]")):  # fmt: skip
        made[f"metadata, {name}"] = archive(members | {METADATA: content.encode()})
    made["configuration in UTF-16"] = archive(members | {CONFIG: members[CONFIG].decode().encode("utf-16")})
    made["configuration with a mark"] = archive(members | {CONFIG: b"\xef\xbb\xbf" + members[CONFIG]})
    found: dict[str, Callable[[Place], bytes | None]] = {
        name: (lambda place, content=content: content) for name, content in made.items()
    }
    return found | {
        "a pickle": lambda place: payloads(place.marker)["exec"], "a pipe": special(os.mkfifo), "a folder": special(os.mkdir),
        "/dev/zero": special(lambda path: path.symlink_to("/dev/zero")), "a link to itself": special(lambda path: path.symlink_to(path.name)),
        "10 GB of nothing": special(lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 10 << 30)),
        "nothing": special(lambda path: None),
    }  # fmt: skip


# What is honest, and unusual

UNUSUAL = """
import keras
from pathlib import Path
layers, folder = keras.layers, Path(FOLDER)
folder.mkdir(exist_ok=True)

def save(name, shape, make, **options):
    inputs = keras.Input(shape, **options)
    keras.Model(inputs, make(inputs)).save(folder / f"{name}.keras")

conv = lambda x, **options: layers.Conv2D(8, 3, padding="same", **options)(x)
save("16 px", (16, 16, 3), conv)
save("32 px", (32, 32, 3), conv)
save("33 px", (33, 33, 3), conv)
save("32 x 64 px", (32, 64, 3), conv)
save("uint8", (None, None, 3), lambda x: conv(layers.Rescaling(1 / 255)(x)), dtype="uint8")
save("one channel", (None, None, 1), conv)
save("four channels", (None, None, 4), conv)
save("any channels", (None, None, None), lambda x: layers.AveragePooling2D(2)(x))
save("pooled", (None, None, 3), lambda x: layers.GlobalAveragePooling2D()(conv(x)))
save("flat", (3072,), lambda x: layers.Dense(8)(x))
save("a vector", (32, 32, 3), lambda x: layers.Flatten()(x))
save("video", (4, 32, 32, 3), lambda x: layers.Conv3D(8, 3)(x))
save("float16", (None, None, 3), lambda x: conv(x, dtype="float16"))
save("mixed_bfloat16", (None, None, 3), lambda x: conv(x, dtype="mixed_bfloat16"))
save("float64", (None, None, 3), lambda x: conv(x, dtype="float64"))
save("channels first", (3, 32, 32), lambda x: layers.MaxPooling2D(data_format="channels_first")(x))
save("no weights", (None, None, 3), lambda x: layers.AveragePooling2D(4)(x))
save("one position", (32, 32, 3), lambda x: layers.MaxPooling2D(32)(conv(x)))
save("shrinking to nothing", (None, None, 3), lambda x: layers.Conv2D(8, 31)(layers.MaxPooling2D(8)(x)))
save("softmax", (None, None, 3), lambda x: layers.Softmax()(conv(x)))
save("attention", (32, 32, 3), lambda x: layers.Reshape((32, 32, 8))(layers.MultiHeadAttention(2, 4)(*[layers.Reshape((1024, 8))(conv(x))] * 2)))
save("operations", (None, None, 3), lambda x: keras.ops.relu(conv(x) * 2 + 1))
save("mean of an operation", (None, None, 3), lambda x: conv(x) - keras.ops.mean(conv(x), axis=(1, 2), keepdims=True))
save("Lambda", (None, None, 3), lambda x: layers.Lambda(lambda y: y * 2)(conv(x)))
save("a network in a network", (None, None, 3), lambda x: keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()])(x))
save("a layer twice", (None, None, 3), lambda x: (lambda one: one(one(x)))(layers.Conv2D(3, 3, padding="same")))
save("augmentation", (None, None, 3), lambda x: conv(layers.RandomFlip()(x)))
save("normalisation", (None, None, 3), lambda x: conv(layers.Normalization(mean=[1, 2, 3], variance=[1, 2, 3])(x)))
save("unnamed classes", (None, None, 3), lambda x: layers.SeparableConv2D(8, 3)(layers.DepthwiseConv2D(3)(x)))
keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(8, 3), layers.BatchNormalization()]).save(folder / "Sequential.keras")
one, two = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
keras.Model([one, two], conv(one + two)).save(folder / "two inputs.keras")
keras.Model(one, [conv(one), conv(one)]).save(folder / "two outputs.keras")
keras.Model({"x": one}, {"y": conv(one)}).save(folder / "names.keras")
quantized = keras.Model(one, conv(layers.Dense(8)(one)))
quantized.quantize("int8")
quantized.save(folder / "quantized.keras")
compiled = keras.Model(one, conv(one))
compiled.compile("adam", "mse")
compiled.save(folder / "compiled.keras")
nan = keras.Model(one, conv(one))
nan.set_weights([weight * float("nan") for weight in nan.get_weights()])
nan.save(folder / "NaN.keras")
"""


def save_unusual(honest: Honest, worker: Worker) -> None:
    """Save networks that an honest user might have, though they are no backbones, or unusual ones."""
    folder = honest.root / "unusual"
    if folder.exists():
        return
    answer = worker.carry_out(["python", UNUSUAL.replace("FOLDER", repr(str(folder)))], honest.root, honest.cache, seconds=120)
    if answer["status"] != 0:
        raise RuntimeError(f"unusual networks cannot be made: {answer['failure'] or answer['stderr']}")
