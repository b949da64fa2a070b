"""The network in parts, from raw pixels to logits, and the one place that joins them."""

import math
from collections.abc import Iterable
from typing import Any

from headstart.config import Config
from headstart.model.augmentation import augmentation
from headstart.model.fast.copies import copy_weights, for_training
from headstart.model.fast.folding import enlarge_first_kernels, fold_batch_norm
from headstart.model.fast.strides import input_stride, strided
from headstart.model.head import build_head
from headstart.model.preprocessing import preprocessing
from headstart.system.backend import keras

CAFFE_SCALE = 64.0  # near caffe's deviation, and a power of two: dividing by it rounds nothing


class Network:
    """A classifier in parts: prepare -> augment -> backbone -> pool -> head. All models made of it share their weights.

    Attributes:
        image_shape: height, width and channels of the images that it takes, uint8, RGB, 0..255.
        prepare: layers from these to what the backbone takes, float; the first gives [0, 1].
        augment: random layers for images in [0, 1], used in training alone; None where nothing is augmented.
        backbone: one model without top, to the feature map (B, h, w, channels).
        pool: from the feature map to pooled features, float32 (B, channels).
        head: from pooled features to logits, float32 (B, classes).
        cut: the backbone's layer after which it is trained, and before which it stays frozen; "" where all of it is trained.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], prepare: list[keras.layers.Layer], augment: keras.layers.Layer | None,
        backbone: keras.Model, pool: keras.layers.Layer, head: keras.Model, cut: str = "",
    ) -> None:  # fmt: skip
        self.image_shape, self.prepare, self.augment = image_shape, prepare, augment
        self.backbone, self.pool, self.head, self.cut = backbone, pool, head, cut

    def __repr__(self) -> str:
        said = [f"{name}: {part.count_params():,} weights, {learning_weights(part):,} of them learn"
                for name, part in (("backbone", self.backbone), ("head", self.head))]  # fmt: skip
        return f"Network({'; '.join(said)})"

    @classmethod
    def of_saved(cls, model: keras.Model) -> "Network":
        """Return the parts of a classifier that a run has saved, by the names that `classifier` gives its layers."""
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
        """Return the backbone from `cut` on, which fine-tuning trains; without a cut the whole."""
        if not self.cut:
            return self.backbone
        return keras.Model(self.backbone.get_layer(self.cut).output, self.backbone.output, name="backbone_end")

    def classifier(self, for_speed: bool = False) -> keras.Model:
        """Return the network as it is used and saved: images to logits, of plain Keras layers, with nothing random in it.

        Args:
            for_speed: with a copy of the backbone whose layers are the fastest on this machine, and not all plain.
        """
        backbone = for_training(self.backbone) if for_speed else self.backbone
        return compose(self.images, [*self.prepare, backbone, self.pool, *self.head.layers[1:]], "classifier")

    def feature_extractor(self) -> keras.Model:
        """Return the network from images to pooled features and, with a cut, to the feature map there.

        Of that map, (B, h, w, c), it gives the rows and columns that the backbone's end reads.
        """
        images, backbone = self.images, self.backbone
        if not self.cut:
            return compose(images, [*self.prepare, backbone, self.pool], "feature_extractor")
        read = strided(backbone.get_layer(self.cut).output, input_stride(self.backbone_end()), "read_maps")
        both = keras.Model(backbone.input, [backbone.output, read], name="backbone")
        last_map, cut_map = chain(images, [*self.prepare, both])
        return keras.Model(images, [self.pool(last_map), cut_map], name="feature_extractor")

    def feature_map(self) -> keras.Model:
        """Return the network from images to the feature map that is pooled, (B, h, w, channels)."""
        return compose(self.images, [*self.prepare, self.backbone], "feature_map")

    @property
    def map_shape(self) -> tuple[int, int]:
        """Height and width of the feature map that is pooled."""
        _, height, width, _ = self.feature_map().output_shape
        return height, width

    def augmented(self) -> keras.Model:
        """Return the network whose head is trained on images, augmented in training; its backbone is frozen."""
        return compose(self.images, [*self.augmented_images(), self.backbone, self.pool, *self.head.layers[1:]], "classifier")

    def learner(self) -> keras.Model:
        """Return what fine-tuning trains, in its fastest form; `take` puts what it has learned into this network.

        Without a cut it takes images, and augments them in training. With one it takes the feature maps of
        `feature_extractor`. Pool and head are shared with this network, and the backbone's trained end is a copy.
        """
        end = self.backbone_end()
        if self.cut:
            inputs = keras.Input(self.feature_extractor().outputs[1].shape[1:], name="maps")
            return compose(inputs, [for_training(end, input_stride(end)), self.pool, self.head], "tuned")
        return compose(self.images, [*self.augmented_images(), for_training(end), self.pool, self.head], "tuned")

    def take(self, learner: keras.Model) -> None:
        """Put what a `learner` has learned into this network; a head that was trained alone is shared already."""
        end = self.backbone_end()
        for layer in learner.layers:
            if layer.name == end.name and layer is not end:
                copy_weights(layer, end)

    def augmented_images(self) -> list[keras.layers.Layer]:
        """Return the layers from images to what the backbone takes, with augmentation at the data's own size."""
        to_unit_range, *others = self.prepare
        return [to_unit_range, *([self.augment] if self.augment else []), *others]


def without_augmentation(model: keras.Model) -> keras.Model:
    """Return what a learner computes when it is used, sharing every weight with it.

    Keras' augmentation layers act by default when a model is called directly, as `model(images)`, or exported.
    """
    return compose(model.input, [layer for layer in model.layers[1:] if layer.name != "augmentation"], model.name)


def compose(inputs: Any, layers: Iterable[keras.layers.Layer], name: str) -> keras.Model:
    """Return the model that calls layers one after the other."""
    return keras.Model(inputs, chain(inputs, layers), name=name)


def chain(inputs: Any, layers: Iterable[keras.layers.Layer]) -> Any:
    """Return what layers called one after the other give."""
    for layer in layers:
        inputs = layer(inputs)
    return inputs


def build_network(
    backbone: keras.Model, preprocess: str, image_shape: tuple[int, int, int], classes: int, config: Config, precision: str
) -> Network:
    """Build a network whose backbone is frozen, unless it learns from scratch.

    Args:
        backbone: network without top; its weights are copied.
        preprocess: what the backbone wants, see `headstart.model.preprocessing.normalisation`.
        image_shape: height, width and channels of the data's images.
        precision: `float32` or `bfloat16`, for the backbone alone; everything else is float32.
    """
    # In this order, since each layer draws from the seed when it is made.
    augmenters = augmentation(config)
    prepare = [keras.layers.Rescaling(1 / 255, name="to_unit_range"), *preprocessing(preprocess, image_shape, config.image_size)]
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    prepared = fold_batch_norm(backbone, policy, fold=not config.learns_batch_norm)
    prepared.trainable = config.from_scratch
    if preprocess == "caffe" and not config.learns_batch_norm and enlarge_first_kernels(prepared, CAFFE_SCALE):
        # A folded kernel for 0..255 is a hundredth of others', and Adam's steps are as large: they would destroy it.
        prepare.append(keras.layers.Rescaling(1 / CAFFE_SCALE, name="to_unit_scale"))
    return Network(
        image_shape,
        prepare,
        keras.Sequential(augmenters, name="augmentation") if augmenters else None,
        prepared,
        keras.layers.GlobalAveragePooling2D(name="features", dtype="float32"),
        build_head(prepared.output_shape[-1], classes, config),
    )


def learning_weights(model: keras.Model) -> int:
    """Return how many numbers a model's training would change."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model in order, and those of models nested in it instead of these."""
    return [inner for layer in model.layers for inner in innermost(layer)]


def innermost(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer alone, or all those of a nested model."""
    return all_layers(layer) if isinstance(layer, keras.Model) else [layer]
