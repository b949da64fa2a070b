"""Plain Keras, as its guide "Transfer learning & fine-tuning" does it (keras.io/guides/transfer_learning).

Kept from the guide: tf.data with a resizing and an augmenting map, the graph and its head, `training=False` for the
backbone, the two optimizers, `fit` as it comes. Ours: the data set, a head for its classes, and the batches are not
kept in memory (`cache()`) where they take more than `MOST_CACHE_BYTES`.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

try:
    from tensorflow import data as tf_data
except ImportError:  # Keras does without TensorFlow on JAX and PyTorch
    tf_data = None

from benchmarks.common import accuracy, load, machine, timed
from headstart.config import Config
from headstart.data.dataset import Dataset
from headstart.metrics.classification import measure
from headstart.model.backbones import load_backbone
from headstart.model.fast.copies import recast
from headstart.system.files import write_json

FROZEN_RATE, FINE_TUNING_RATE = 1e-3, 1e-5  # Adam's default, and the guide's for fine-tuning
MOST_CACHE_BYTES, MOST_SHUFFLED = 2e9, 10_000


def build(config: Config, classes: int) -> tuple[keras.Model, keras.Model]:
    """Return the guide's model, from float (B, size, size, 3) in 0..255 to logits, and its frozen backbone within."""
    base_model, mode = load_backbone(config)
    if (policy := keras.config.dtype_policy().name) != "float32":
        base_model = recast(base_model, policy)  # as keras.applications builds it then; a file keeps the policy of its making
    base_model.trainable = False
    inputs = keras.Input((config.image_size, config.image_size, 3))
    x = base_model(preprocessed(inputs, mode), training=False)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(classes, dtype="float32")(x)), base_model


def preprocessed(images: Any, mode: str) -> Any:
    """Return images in 0..255 as the backbone wants them; `mode` is that of `headstart.model.preprocessing.normalisation`."""
    if mode in ("none", "unit"):
        return images if mode == "none" else images / 255
    return keras.applications.imagenet_utils.preprocess_input(images, mode=mode)


def compile_frozen(model: keras.Model) -> None:
    compile_for(model, FROZEN_RATE)


def compile_fine_tuning(model: keras.Model, base_model: keras.Model, held: bool, rate: float = FINE_TUNING_RATE) -> None:
    """Unfreeze the whole backbone, as the guide does.

    Args:
        held: freeze the batch norms too, as Keras' guide to fine-tuning EfficientNet does; `training=False` alone does
            not hold them in inference mode in Keras 3 (keras #20285).
    """
    base_model.trainable = True
    if held:
        for layer in base_model.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    compile_for(model, rate)


def compile_for(model: keras.Model, rate: float) -> None:
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])


def pipeline(images: np.ndarray, labels: np.ndarray, config: Config, training: bool) -> "tf_data.Dataset":
    """Return batches of images, resized and, for training, mirrored and turned, as in the guide."""
    size = config.image_size
    resize = keras.layers.Resizing(size, size)
    images = tf_data.Dataset.from_tensor_slices((images, labels))
    if training:  # a folder's images come class by class
        images = images.shuffle(min(len(labels), MOST_SHUFFLED), seed=0)
    images = images.map(lambda x, y: (resize(x), y))
    if training:
        augmenters = [keras.layers.RandomFlip("horizontal")] * config.flip + [keras.layers.RandomRotation(0.1)]
        for layer in augmenters:
            images = images.map(lambda x, y, layer=layer: (layer(x), y))
    batches = images.batch(config.batch_size).prefetch(tf_data.AUTOTUNE)
    return batches.cache() if 12 * size * size * len(labels) < MOST_CACHE_BYTES else batches


def record(config: Config, name: str, held: bool, rate: float, policy: str, minutes: float, images: int, file: Path) -> None:
    """Train as the guide does until the time is over, and write seconds and test accuracy after each epoch to a file.

    The seconds are those of loading the backbone and of training with validation; those of the test do not count.

    Args:
        config: `head_epochs` is the number of epochs with a frozen backbone; all others fine-tune.
        name: what tells this line from others.
        held, rate: see `compile_fine_tuning`.
        policy: the dtype policy of all of it.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    data = load(config, images)
    training, validation, test = pipelines(data, config)
    content: dict[str, Any] = {
        "name": f"Keras, {name}", "headstart": False, "side": config.image_size, "environment": machine(), "points": [],
    }  # fmt: skip
    begin = time.perf_counter()
    model, base_model = build(config, len(data.class_names))
    compile_frozen(model)
    while time.perf_counter() - begin < 60 * minutes:
        if len(content["points"]) == config.head_epochs:
            compile_fine_tuning(model, base_model, held, rate)
        model.fit(training, validation_data=validation, verbose=0)
        spent = time.perf_counter() - begin
        stage = "fine_tuned" if len(content["points"]) >= config.head_epochs else "frozen"
        content["points"].append({"seconds": spent, "stage": stage, "test": measured(model, test, data)})
        write_json(file, content)
        begin = time.perf_counter() - spent


def prepare_fine_tuning(config: Config, images: np.ndarray, labels: np.ndarray, held: bool) -> Callable[[], dict[str, Any]]:
    """Return what measures one epoch of fine-tuning; see `benchmarks.steps`."""
    keras.utils.set_random_seed(0)
    model, base_model = build(config, int(labels.max()) + 1)
    features = pooled_features(model, images[: config.batch_size], config)
    compile_fine_tuning(model, base_model, held)
    batches = pipeline(images, labels, config, training=True)
    model.fit(batches, verbose=0)

    def epoch() -> dict[str, Any]:
        begin = time.perf_counter()
        model.fit(batches, verbose=0)
        return {"seconds": time.perf_counter() - begin, "features": features}

    return epoch


def rates(config: Config, images: np.ndarray, labels: np.ndarray, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure epochs of fine-tuning with mixed precision, then `predict`; see `benchmarks.gpu`.

    Without TensorFlow there is no tf.data: `fit` takes the arrays, and nothing is augmented.

    Args:
        images: uint8, of the network's size.

    Yields:
        What `benchmarks.common.timed` yields.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, base_model = build(config, int(labels.max()) + 1)
    compile_fine_tuning(model, base_model, held=False)
    arrays = {"x": images, "y": labels, "batch_size": config.batch_size}
    fed = {"x": pipeline(images, labels, config, training=True)} if tf_data else arrays
    if not tf_data:
        yield {"note": "without augmentation, since TensorFlow's tf.data is not installed"}
    yield from timed("training", lambda: model.fit(**fed, verbose=0), len(images), repeats)
    yield from timed("forward", lambda: model.predict(images, config.batch_size, verbose=0), len(images), repeats)


def prepare_predict(config: Config, images: np.ndarray) -> Callable[[], dict[str, Any]]:
    """Return what measures `predict` of the pooled features; see `benchmarks.extraction`."""
    model, _ = build(config, 2)
    raw = keras.Input(images.shape[1:], dtype="uint8")
    extractor = keras.Model(
        raw, keras.Model(model.input, model.get_layer("pool").output)(keras.layers.Resizing(*model.input_shape[1:3])(raw))
    )
    extractor.predict(images[: config.batch_size], config.batch_size, verbose=0)

    def predict() -> dict[str, Any]:
        begin = time.perf_counter()
        features = extractor.predict(images, config.batch_size, verbose=0)
        return {"seconds": time.perf_counter() - begin, "features": features}

    return predict


def run_frozen(config: Config, images: int) -> dict[str, Any]:
    """Train the head through the frozen backbone for the configured epochs; see `benchmarks.frozen`.

    Returns:
        `test`, its accuracy, and `epochs`, the seconds of each.
    """
    keras.utils.set_random_seed(0)
    data = load(config, images)
    model, _ = build(config, len(data.class_names))
    compile_frozen(model)
    training, validation, test = pipelines(data, config)
    ticks = [time.perf_counter()]
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ticks.append(time.perf_counter()))
    model.fit(training, epochs=config.head_epochs, validation_data=validation, callbacks=[clock], verbose=0)
    return {"test": measured(model, test, data), "epochs": np.diff(ticks).tolist()}


def pipelines(data: Dataset, config: Config) -> "list[tf_data.Dataset]":
    """Return batches of the training, validation and test splits."""
    parts = (data.train, data.validation, data.test)
    return [pipeline(data.images(part), data.labels(part), config, part is data.train) for part in parts]


def measured(model: keras.Model, test: "tf_data.Dataset", data: Dataset) -> dict[str, Any]:
    """Return test accuracy and interval."""
    return accuracy(measure(model.predict(test, verbose=0), data.labels(data.test), data.class_names))


def pooled_features(model: keras.Model, images: np.ndarray, config: Config) -> np.ndarray:
    """Return the pooled features, float32 (N, channels), of uint8 images."""
    resized = keras.layers.Resizing(config.image_size, config.image_size)(np.float32(images))
    return keras.Model(model.input, model.get_layer("pool").output).predict(resized, config.batch_size, verbose=0)


def exported(config: Config) -> dict[str, Any]:
    """Return a backbone as arrays: `layers`, (weights, stride) by name, and its `preprocess` mode."""
    model, mode = load_backbone(config)
    layers = {layer.name: (layer.get_weights(), getattr(layer, "strides", (1, 1))[0]) for layer in model.layers if layer.weights}
    return {"layers": layers, "preprocess": mode}
