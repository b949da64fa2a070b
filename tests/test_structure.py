"""What the architecture promises: imports point downwards, and each kind of knowledge lies in one place."""

import ast
from functools import cache
from pathlib import Path

import pytest

import headstart

ROOT = Path(headstart.__file__).parent
# From top to bottom: a module imports what lies on its own line or below.
ORDER = (
    ("cli", "__main__", "__init__"),
    ("serve",),
    ("trainer", "tuner", "following", "auditor", "groups", "results", "run", "ray", "report", "export"),
    ("plan", "audit"),
    ("training",),
    ("inference",),
    ("record",),
    ("model",),
    ("data", "metrics"),
    ("config", "recipes"),
    ("system",),
    ("errors",),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}

# Modules that may be imported inside functions: of packages that a user need not have, and where a start would be slow.
OPTIONAL = {
    "openvino": "Keras computes where it is missing",
    "pillow_heif": "only HEIC files need it",
    "ray": "only --ray and headstart.ray need it",
    "faiss": "only the search for near-duplicates among more than 200,000 images needs it",
    "pandas": "only Predictions.to_frame needs it",
    "pyarrow": "only .parquet files need it",
    "fsspec": "only addresses such as s3:// need it",
    "aiohttp": "only addresses of the web need it",
    "tensorboardX": "only --tensorboard needs it",
    "mlflow": "only --mlflow needs it",
    "onnx": "only files for ONNX need it",
    "onnxruntime": "only the proof of a file for ONNX needs it",
    "ai_edge_litert": "only the proof of a file for LiteRT needs it",
    "nncf": "only OpenVINO's int8 needs it",
    "keras_hub": "only --backbone hub:NAME needs it",
    "kagglehub": "only a download of KerasHub's weights needs it",
    "keras": "it takes seconds, and prints while it starts: system.backend starts it where it is wanted",
    "tensorflow": "one of three backends",
    "torch": "one of three backends",
    "jax": "one of three backends",
}
# The command line answers --help, --version and wrong options without loading what the command itself needs.
STARTS_LATE = ("cli",)


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module by its name without the package's, `model.fast.strides`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent.name == "templates":  # no module: it is copied beside an exported file
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(nodes) -> list[str]:
    """Return the full names of what some nodes import: modules, and names within these."""
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_loader.load":
            names.append(ast.literal_eval(node.args[0]))
    return names


def ours(names: list[str]) -> set[str]:
    """Return which of our own modules some full names are, or lie in."""
    found = set()
    for name in names:
        if name.startswith("headstart."):
            name = name.removeprefix("headstart.")
            while name not in modules() and "." in name:
                name = name.rpartition(".")[0]
            if name in modules():
                found.add(name)
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Return what each module imports of our own, inside functions too."""
    return {name: ours(imported(ast.walk(tree))) - {name} for name, tree in modules().items()}


def within_functions(tree: ast.AST):
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ast.walk(function)


def places(what) -> dict[str, list[int]]:
    """Return the modules, with lines, where a node answers a question with yes."""
    found = {name: [node.lineno for node in ast.walk(tree) if what(node)] for name, tree in modules().items()}
    return {name: lines for name, lines in found.items() if lines}


def test_every_module_has_a_place_in_the_order():
    assert {name.partition(".")[0] for name in modules()} == LEVEL.keys()


def test_nothing_imports_upwards():
    upwards = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in sorted(others)
        if LEVEL[other.partition(".")[0]] < LEVEL[name.partition(".")[0]]
    ]
    assert upwards == []


def test_no_imports_go_round_in_a_circle():
    """Take away, again and again, what imports nothing that is left: what stays goes round."""
    left = {name: set(others) for name, others in imports().items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert left == {}


def test_layers_are_looked_up_by_name_in_the_model_alone():
    found = places(lambda node: isinstance(node, ast.Attribute) and node.attr == "get_layer")
    assert [name for name in found if not name.startswith("model.")] == []


def test_private_names_of_others_lie_in_one_module():
    """An underscore that is not of `self`, `cls` or `super()` is somebody else's: here, Keras'."""

    def private(node: ast.AST) -> bool:
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            return False
        if ast.unparse(node) == "os._exit":  # its documented name
            return False
        owner = ast.unparse(node.value)
        return owner not in ("self", "cls", "super()")

    assert places(private).keys() == {"system.keras_internals"}


def test_private_modules_of_keras_are_not_imported():
    found = {name: [one for one in imported(ast.walk(tree)) if one.startswith("keras.src")] for name, tree in modules().items()}
    assert [name for name, names in found.items() if names] == []


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith(STARTS_LATE)])
def test_imports_inside_functions_are_of_optional_packages(name):
    inside = set(imported(node for node in within_functions(modules()[name])))
    assert {one for one in inside if one.partition(".")[0] not in OPTIONAL} == set()


def test_each_reason_for_a_late_import_is_needed():
    late = {one.partition(".")[0] for tree in modules().values() for one in imported(within_functions(tree))}
    assert OPTIONAL.keys() <= late
