"""The parts of the network, from raw pixels to logits, and the one place that joins them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from headstart.config import Config
from headstart.model.augmentation import augmentation
from headstart.model.fast.copies import copy_weights, for_training
from headstart.model.fast.folding import enlarge_first_kernels, fold_batch_norm
from headstart.model.fast.resident import ResidentImages
from headstart.model.fast.strides import input_stride, strided
from headstart.model.head import build_head
from headstart.model.preprocessing import preprocessing
from headstart.system.backend import keras

CAFFE_SCALE = 64.0  # near the standard deviation of caffe's inputs; a power of two, so dividing by it rounds nothing


class Network:
    """A classifier in parts: augment -> prepare -> backbone -> pool -> head. Models made of it share its weights.

    The exceptions are fast copies: the backbone in `classifier(for_speed=True)` and in `learner`.

    Attributes:
        image_shape: height, width and channels of the images that it takes, uint8, RGB, 0..255.
        prepare: layers from images to the backbone's input, float; the first one gives [0, 1].
        augment: a random layer for images, used in training only; None if nothing is augmented.
        backbone: a model without top, to the feature map (B, h, w, channels).
        pool: from the feature map to pooled features, float32 (B, channels).
        head: from pooled features to logits, float32 (B, classes).
        cut: the name of the backbone's layer up to which it stays frozen, and whose feature map is kept; "" for no cut.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], prepare: list[keras.layers.Layer], augment: keras.layers.Layer | None,
        backbone: keras.Model, pool: keras.layers.Layer, head: keras.Model, cut: str = "",
    ) -> None:  # fmt: skip
        self.image_shape, self.prepare, self.augment = image_shape, prepare, augment
        self.backbone, self.pool, self.head, self.cut = backbone, pool, head, cut

    def __repr__(self) -> str:
        parts = [f"{name}: {part.count_params():,} weights, {learning_weights(part):,} of them learn"
                 for name, part in (("backbone", self.backbone), ("head", self.head))]  # fmt: skip
        return f"Network({'; '.join(parts)})"

    @classmethod
    def of_saved(cls, model: keras.Model) -> "Network":
        """Take a saved classifier apart, by the names that `classifier` gives its layers."""
        names = [layer.name for layer in model.layers]
        start, end = names.index("backbone"), names.index("features")
        prepare = [layer for layer in model.layers[1:start] if layer.name != "augmentation"]
        pool, after = model.layers[end], model.layers[end + 1 :]
        head = compose(keras.Input(pool.output.shape[1:], name="features_in"), after, "head")
        return cls(model.input_shape[1:], prepare, None, model.layers[start], pool, head)

    @property
    def images(self) -> Any:
        """A new input for images."""
        return keras.Input(self.image_shape, dtype="uint8", name="images")

    def backbone_end(self) -> keras.Model:
        """Return the part of the backbone after `cut`, which fine-tuning trains; without a cut, the whole backbone."""
        if not self.cut:
            return self.backbone
        return keras.Model(self.backbone.get_layer(self.cut).output, self.backbone.output, name="backbone_end")

    def classifier(self, for_speed: bool = False) -> keras.Model:
        """Return the model that is used and saved: from images to logits, of plain Keras layers, without augmentation.

        Args:
            for_speed: use a copy of the backbone that is faster on this machine; its layers are not all plain.
        """
        backbone = for_training(self.backbone) if for_speed else self.backbone
        return compose(self.images, [*self.prepare, backbone, self.pool, *self.head.layers[1:]], "classifier")

    def feature_extractor(self) -> keras.Model:
        """Return the model from images to pooled features and, with a cut, also to the feature map at the cut.

        Of that map, (B, h, w, c), only the rows and columns are kept that the rest of the backbone reads.
        """
        images, backbone = self.images, self.backbone
        if not self.cut:
            return compose(images, [*self.prepare, backbone, self.pool], "feature_extractor")
        read = strided(backbone.get_layer(self.cut).output, input_stride(self.backbone_end()), "read_maps")
        both = keras.Model(backbone.input, [backbone.output, read], name="backbone")
        last_map, cut_map = chain(images, [*self.prepare, both])
        return keras.Model(images, [self.pool(last_map), cut_map], name="feature_extractor")

    def feature_map(self) -> keras.Model:
        """Return the model from images to the last feature map, (B, h, w, channels), which is pooled."""
        return compose(self.images, [*self.prepare, self.backbone], "feature_map")

    @property
    def map_shape(self) -> tuple[int, int]:
        """Height and width of the last feature map."""
        _, height, width, _ = self.feature_map().output_shape
        return height, width

    def augmented(self) -> keras.Model:
        """Return the model that the frozen stage trains if no features are cached: from augmented images to logits."""
        return compose(self.images, [*self.augmented_images(), self.backbone, self.pool, *self.head.layers[1:]], "classifier")

    def learner(self, resident: np.ndarray | None = None) -> keras.Model:
        """Return the model that fine-tuning trains, in its fastest form. `take` copies the result into this network.

        Without a cut it takes images, and augments them in training. With a cut it takes the feature maps of
        `feature_extractor`. It shares pool and head with this network; its part of the backbone is a copy.

        Args:
            resident: uint8 (N, H, W, 3). They are moved to the device, and the model takes their numbers, int32 (B,). Not with
                a cut.
        """
        # The head's layers, and not the head, which the frozen stage has compiled: Keras would copy its optimizer too.
        end, after = self.backbone_end(), [self.pool, *self.head.layers[1:]]
        if self.cut:
            inputs = keras.Input(self.feature_extractor().outputs[1].shape[1:], name="maps")
            return compose(inputs, [for_training(end, input_stride(end)), *after], "tuned")
        layers = [*self.augmented_images(), for_training(end), *after]
        if resident is None:
            return compose(self.images, layers, "tuned")
        numbers = keras.Input((), dtype="int32", name="numbers")
        return compose(numbers, [ResidentImages(resident, name="resident_images"), *layers], "tuned")

    def take(self, learner: keras.Model) -> None:
        """Copy the backbone weights that a `learner` has learned into this network. The head is shared already."""
        end = self.backbone_end()
        for layer in learner.layers:
            if layer.name == end.name and layer is not end:
                copy_weights(layer, end)

    def augmented_images(self) -> list[keras.layers.Layer]:
        """Return the layers from images to the backbone's input, with augmentation at the images' own size."""
        return [*([self.augment] if self.augment else []), *self.prepare]


def without_augmentation(model: keras.Model) -> keras.Model:
    """Return a learner's model for inference. It shares every weight.

    A graph without the layer is smaller, and no exporter can trace it with `training=True`.
    """
    return compose(model.input, [layer for layer in model.layers[1:] if layer.name != "augmentation"], model.name)


def with_features(model: keras.Model) -> keras.Model:
    """Return a model that gives logits with pooled features, float32 (B, channels), as its second output. It shares every weight.

    Args:
        model: what a network, a learner or a head is called by: from images, feature maps or pooled features to logits.
    """
    layers = model.layers[1:]
    end = 1 + [layer.name for layer in layers].index("features") if any(one.name == "features" for one in layers) else 0
    # A head's features are its input, which no model may give back as it is.
    features = chain(model.input, layers[:end] or [keras.layers.Identity(name="same_features")])
    return keras.Model(model.input, [chain(features, layers[end:]), features], name=model.name)


def compose(inputs: Any, layers: Iterable[keras.layers.Layer], name: str) -> keras.Model:
    """Return the model that calls the layers one after the other."""
    return keras.Model(inputs, chain(inputs, layers), name=name)


def chain(inputs: Any, layers: Iterable[keras.layers.Layer]) -> Any:
    """Call the layers one after the other, and return the last one's output."""
    for layer in layers:
        inputs = layer(inputs)
    return inputs


def build_network(
    backbone: keras.Model, preprocess: str, image_shape: tuple[int, int, int], classes: int, config: Config, precision: str
) -> Network:
    """Build a network whose backbone is frozen, unless `config.from_scratch`.

    Args:
        backbone: a model without top; its weights are copied.
        preprocess: the backbone's preprocessing mode, see `headstart.model.preprocessing.normalisation`.
        image_shape: height, width and channels of the images.
        classes: the number of classes.
        precision: `float32` or `bfloat16`, of the backbone alone; everything else is float32.
    """
    # The order matters: each layer draws from the seed when it is made.
    augment = augmentation(config)
    prepare = [keras.layers.Rescaling(1 / 255, name="to_unit_range"), *preprocessing(preprocess, image_shape, config.image_size)]
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    prepared = fold_batch_norm(backbone, policy, fold=not config.learns_batch_norm)
    prepared.trainable = config.from_scratch
    if preprocess == "caffe" and not config.learns_batch_norm and enlarge_first_kernels(prepared, CAFFE_SCALE):
        # A folded kernel for inputs on 0..255 is a hundred times smaller than others, and Adam's steps would destroy it.
        prepare.append(keras.layers.Rescaling(1 / CAFFE_SCALE, name="to_unit_scale"))
    return Network(
        image_shape,
        prepare,
        augment,
        prepared,
        keras.layers.GlobalAveragePooling2D(name="features", dtype="float32"),
        build_head(prepared.output_shape[-1], classes, config),
    )


def learning_weights(model: keras.Model) -> int:
    """Return the number of trainable weights."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model in order. Nested models are replaced by their layers."""
    return [inner for layer in model.layers for inner in innermost(layer)]


def innermost(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layer itself or, for a nested model, all its layers."""
    return all_layers(layer) if isinstance(layer, keras.Model) else [layer]
