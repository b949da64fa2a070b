"""Descriptions of networks that are code, do not fit together, or mean too much: changes of an honest one."""

import base64
import json
import marshal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from case import Place, payloads, put

# A change of a network's configuration; it gets the place of the case too, and returns a configuration or JSON text.
Graph = Callable[[dict[str, Any], Place], Any]


def graphs() -> dict[str, Graph]:
    """Return changes of a network's configuration by name."""
    touch = lambda place: f"open({str(place.marker)!r}, 'w').close()"  # noqa: E731
    shell = lambda place: f"touch '{place.marker}'"  # noqa: E731
    found: dict[str, Graph] = {
        "Lambda": lambda g, p: put_layer(g, "keras.layers", "Lambda", {"function": lambda_code(p.marker), "arguments": {}}),
        "Lambda, old": lambda g, p: put_layer(
            g,
            "keras.layers",
            "Lambda",
            {"function": [lambda_code(p.marker)["config"]["code"], None, None], "function_type": "lambda"},
        ),
        "Lambda of os.system": lambda g, p: put_layer(
            g, "keras.layers", "Lambda", {"function": function("os", "system"), "arguments": {}}
        ),
        "Lambda of exec": lambda g, p: put_layer(
            g, "keras.layers", "Lambda", {"function": function("builtins", "exec"), "arguments": {}}
        ),
        "Lambda, registered as a layer": lambda g, p: put_layer(
            g, None, "Lambda", {"function": lambda_code(p.marker), "arguments": {}}, "Lambda"
        ),
        "Lambda in keras.src": lambda g, p: put_layer(
            g, "keras.src.layers.core.lambda_layer", "Lambda", {"function": lambda_code(p.marker), "arguments": {}}
        ),
        "Lambda in TimeDistributed": lambda g, p: put_layer(
            g, "keras.layers", "TimeDistributed", {"layer": call("keras.layers", "Lambda", {"function": lambda_code(p.marker)})}
        ),
        "Lambda in a Sequential": lambda g, p: put_layer(
            g, "keras", "Sequential", {"layers": [call("keras.layers", "Lambda", {"function": lambda_code(p.marker)})]}
        ),
        "an activation that is code": lambda g, p: changed(g, "Activation", activation=lambda_code(p.marker)),
        "an activation os.system": lambda g, p: changed(g, "Activation", activation=function("os", "system")),
        "an activation print": lambda g, p: changed(g, "Activation", activation=function("builtins", "print")),
        "an activation of a module": lambda g, p: changed(g, "Activation", activation="os.system"),
        "an initialiser that is code": lambda g, p: changed(g, "Conv2D", kernel_initializer=lambda_code(p.marker)),
        "an initialiser exec": lambda g, p: changed(g, "Conv2D", kernel_initializer=function("builtins", "exec")),
        "an initialiser Popen": lambda g, p: changed(
            g, "Conv2D", kernel_initializer=call("subprocess", "Popen", {"args": ["touch", str(p.marker)]})
        ),
        "a regulariser that is code": lambda g, p: changed(g, "Conv2D", kernel_regularizer=lambda_code(p.marker)),
        "a constraint that is code": lambda g, p: changed(g, "Conv2D", kernel_constraint=lambda_code(p.marker)),
        "a type that is code": lambda g, p: changed(
            g, "Conv2D", dtype=call("subprocess", "Popen", {"args": ["touch", str(p.marker)]})
        ),
        "a name that is code": lambda g, p: changed(g, "Conv2D", name=lambda_code(p.marker)),
        "filters that are code": lambda g, p: changed(g, "Conv2D", filters=lambda_code(p.marker)),
        "the network is code": lambda g, p: lambda_code(p.marker),
        "the network is Popen": lambda g, p: call("subprocess", "Popen", {"args": ["touch", str(p.marker)]}),
        "compiled with code": lambda g, p: (
            g | {"compile_config": {"optimizer": lambda_code(p.marker), "loss": lambda_code(p.marker)}}
        ),
        "built with code": lambda g, p: g | {"build_config": {"input_shape": lambda_code(p.marker)}},
        "a module of the folder": lambda g, p: [
            put(p.folder / "evil_module.py", touch(p)),
            put_layer(g, "evil_module", "Evil", {}),
        ][1],
        "a registered name alone": lambda g, p: put_layer(g, None, "Evil", {}, "Custom>Evil"),
        "Keras Hub": lambda g, p: put_layer(g, "keras_hub.src.models.backbone", "Backbone", {}, "keras_hub>Backbone"),
        "an unknown layer": lambda g, p: put_layer(g, "keras.layers", "Evil", {}),
        "a layer of keras.src": lambda g, p: put_layer(g, "keras.src.layers.activations.relu", "ReLU", {}),
        "a private layer": lambda g, p: put_layer(g, "keras.src.layers.layer", "Layer", {}),
        "no module": lambda g, p: put_layer(g, "", "", {}),
        "a module of numbers": lambda g, p: put_layer(g, 3, 4, {}),
        "a dotted class": lambda g, p: put_layer(g, "keras", "layers.ReLU", {}),
        "a class of a class": lambda g, p: put_layer(g, "keras.layers", "ReLU.__init__", {}),
        "TorchModuleWrapper": lambda g, p: put_layer(
            g, "keras.layers", "TorchModuleWrapper", {"module": base64.b64encode(payloads(p.marker)["exec"]).decode()}
        ),
        "TorchModuleWrapper, as bytes": lambda g, p: put_layer(
            g,
            "keras.layers",
            "TorchModuleWrapper",
            {"module": {"class_name": "__bytes__", "config": {"value": payloads(p.marker)["exec"].decode("latin-1")}}},
        ),
        "TFSMLayer": lambda g, p: put_layer(
            g, "keras.layers", "TFSMLayer", {"filepath": str(p.victim), "call_endpoint": "serve"}
        ),
        "JaxLayer": lambda g, p: put_layer(g, "keras.layers", "JaxLayer", {"call_fn": lambda_code(p.marker), "init_fn": None}),
        "FlaxLayer": lambda g, p: put_layer(g, "keras.layers", "FlaxLayer", {"module": function("os", "system")}),
        "StringLookup of a file": lambda g, p: put_layer(g, "keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
        "IntegerLookup of a file": lambda g, p: put_layer(g, "keras.layers", "IntegerLookup", {"vocabulary": "/etc/passwd"}),
        "TextVectorization of a file": lambda g, p: put_layer(
            g, "keras.layers", "TextVectorization", {"vocabulary": "/etc/passwd"}
        ),
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
        "Conv2DTranspose": lambda g, p: put_layer(
            g, "keras.layers", "Conv2DTranspose", {"filters": 8, "kernel_size": 3, "strides": 1000}
        ),
        "Conv3D": lambda g, p: put_layer(g, "keras.layers", "Conv3D", {"filters": 8, "kernel_size": 3}),
        "MaxPooling2D of 0": lambda g, p: put_layer(g, "keras.layers", "MaxPooling2D", {"pool_size": 0}),
        "MaxPooling2D of 10**9": lambda g, p: put_layer(g, "keras.layers", "MaxPooling2D", {"pool_size": 10**9}),
        "Rescaling NaN": lambda g, p: put_layer(g, "keras.layers", "Rescaling", {"scale": float("nan")}),
        "Rescaling 1e308": lambda g, p: put_layer(g, "keras.layers", "Rescaling", {"scale": 1e308, "offset": 1e308}),
        "Softmax of axis 99": lambda g, p: put_layer(g, "keras.layers", "Softmax", {"axis": 99}),
        "Normalization": lambda g, p: put_layer(g, "keras.layers", "Normalization", {"mean": [1.0] * 10**5, "variance": 0}),
        "Permute": lambda g, p: put_layer(g, "keras.layers", "Permute", {"dims": [9, 9, 9]}),
        "an array as an entry": lambda g, p: changed(
            g, "Conv2D", filters={"class_name": "__tensor__", "config": {"value": [8] * 100_000, "dtype": "float32"}}
        ),
        "a NumPy array as an entry": lambda g, p: changed(
            g, "Conv2D", filters={"class_name": "__numpy__", "config": {"value": [8], "dtype": "object"}}
        ),
        "a type as an entry": lambda g, p: changed(
            g, "Conv2D", filters={"class_name": "__class_type__", "config": {"name": "system", "module": "os"}}
        ),
        "a function as an entry": lambda g, p: changed(g, "Conv2D", filters=function("os", "getcwd")),
        "a file as an entry": lambda g, p: changed(
            g,
            "Conv2D",
            filters=call("keras.utils", "get_file", {"origin": f"file://{p.victim}/letter.txt", "fname": str(p.marker)}),
        ),
        "save_model as an entry": lambda g, p: changed(g, "Conv2D", kernel_initializer=function("keras.saving", "save_model")),
        "load_model as an entry": lambda g, p: changed(
            g, "Conv2D", kernel_initializer=call("keras.saving", "load_model", {"filepath": str(p.victim / "letter.txt")})
        ),
        "unsafe mode on": lambda g, p: changed(
            g, "Conv2D", kernel_initializer=function("keras.config", "enable_unsafe_deserialization")
        ),
        "unsafe mode on, then code": lambda g, p: put_layer(
            changed(g, "Conv2D", bias_initializer=call("keras.config", "enable_unsafe_deserialization", {})),
            "keras.layers",
            "Lambda",
            {"function": lambda_code(p.marker)},
        ),
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
        "an output of another number": lambda g, p: (
            g["config"].update(output_layers=[g["config"]["output_layers"][0], 9, 9]) or g
        ),
        "an input as its output": lambda g, p: g["config"].update(output_layers=g["config"]["input_layers"]) or g,
        "no layers": lambda g, p: g["config"].update(layers=[]) or g,
        "layers of text": lambda g, p: g["config"].update(layers=["x"]) or g,
        "no configuration": lambda g, p: g | {"config": None},
        "an empty configuration": lambda g, p: g | {"config": {}},
        "layers twice": lambda g, p: g["config"].update(layers=g["config"]["layers"] * 2) or g,
        "layers turned round": lambda g, p: g["config"].update(layers=g["config"]["layers"][::-1]) or g,
        "a circle": lambda g, p: circle(g),
        "a layer of itself": lambda g, p: circle(g, own=True),
        "a long name": lambda g, p: changed(g, "Conv2D", name="a" * 1_000_000),
        "a path as a name": lambda g, p: renamed(g, "../../evil"),
        "a name of control characters": lambda g, p: renamed(g, "\x1b[2J\a\n"),
        "an empty name": lambda g, p: renamed(g, ""),
        "a name with zero bytes": lambda g, p: renamed(g, "a\0b"),
        "5,000 levels": lambda g, p: levels(g, 5000),
        "200 levels": lambda g, p: levels(g, 200),
        "50,000 layers": lambda g, p: chain(g, 50_000),
        "300 layers": lambda g, p: chain(g, 300),
        "deep": lambda g, p: '{"a":' * 100_000 + "1" + "}" * 100_000,
        "70 MB": lambda g, p: "[" * 70_000_000,
        "deep entry": lambda g, p: json.dumps(changed(g, "Conv2D", filters="@@")).replace('"@@"', "[" * 50_000 + "]" * 50_000),
        "spaces": lambda g, p: " " * 70_000_000,
        "no JSON": lambda g, p: "}{",
        "a list": lambda g, p: [g],
        "null": lambda g, p: "null",
        "NaN": lambda g, p: "NaN",
        "a number of many digits": lambda g, p: "1" * 100_000,
        "half a character": lambda g, p: '"\\ud800"',
        "a Sequential": lambda g, p: sequential(g),
        "a Model": lambda g, p: g | {"module": "keras", "class_name": "Model"},
        "a layer instead": lambda g, p: call("keras.layers", "ReLU", {}),
        "a list of a million": lambda g, p: [0] * 1_000_000,
        "entries of a million": lambda g, p: g | {f"k{number}": 0 for number in range(500_000)},
        "a policy of float16": lambda g, p: changed(g, "Conv2D", dtype=call("keras", "DTypePolicy", {"name": "float16"})),
        "a policy of float64": lambda g, p: changed(g, "Conv2D", dtype="float64"),
        "a policy that is unknown": lambda g, p: changed(g, "Conv2D", dtype=call("keras", "DTypePolicy", {"name": "evil"})),
        "a policy of int8": lambda g, p: changed(
            g, "Conv2D", dtype=call("keras", "QuantizedDTypePolicy", {"mode": "int8", "source_name": "float32"})
        ),
        "a map of policies": lambda g, p: changed(
            g, "Conv2D", dtype=call("keras", "DTypePolicyMap", {"default_policy": None, "policy_map": {".*": "float16"}})
        ),
        "LoRA": lambda g, p: changed(g, "Conv2D", lora_rank=10**6),
    }
    for entry, values in {
        "filters": (10**9, 10**400, 0, -1, "8", 8.5, None, True, [8], 2**31),
        "kernel_size": ([10**6] * 2, 0, -1, [3], [3] * 9, "3", None),
        "strides": (0, -1, 10**9, [1, 2, 3], None),
        "dilation_rate": (0, 10**9, -1),
        "groups": (0, 10**9, -1, 3),
        "padding": ("evil", None, 3),
        "data_format": ("evil", "channels_first", None),
        "activation": ("evil", 3, [], {}, "softmax"),
        "use_bias": ("x", None),
        "trainable": ("x",),
        "kernel_regularizer": ({"class_name": "L2", "config": {"l2": 1e400}}, "evil"),
        "evil": (1,),
    }.items():
        for value in values:
            found[f"{entry} {str(value)[:20]}"] = lambda g, p, entry=entry, value=value: changed(g, "Conv2D", **{entry: value})
    for shape in (
        [None, 100_000, 100_000, 3],
        [None, 16, 16, 3],
        [None, 1000, 1000, 3],
        [None, 32, 32, 1],
        [None, 32, 32, 4],
        [None, 0, 0, 3],
        [None, -1, -1, 3],
        [None],
        [None, 3],
        [None, 32, 3],
        [None, 2, 32, 32, 3],
        [None, None, None, None],
        [5, 32, 32, 3],
        [0, 32, 32, 3],
        [10**9, 32, 32, 3],
        "x",
        None,
        [None, "32", 32, 3],
        [None, 32.5, 32, 3],
        [None, 32, 64, 3],
        [[None, 32, 32, 3]],
        [None, 10**30, 1, 3],
        [None, 33, 33, 3],
    ):
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
