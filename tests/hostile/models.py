"""Networks that are none, that are code, or that would take all memory: as a backbone, and as the model of a run."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from case import Case, Place, chosen, copied, payloads, put
from driver import Worker
from graphs import Graph, graphs
from honest import Honest
from sealing import reseal
from tamper import flipped
from weights import hdf5
from zips import CONFIG, WEIGHTS, archive, archives, read_members

BACKBONES, MODELS = "backbone files", "models of runs"


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
rows = lambda x: layers.Reshape((1024, 8))(conv(x))
save("attention", (32, 32, 3), lambda x: layers.Reshape((32, 32, 8))(layers.MultiHeadAttention(2, 4)(rows(x), rows(x))))
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
