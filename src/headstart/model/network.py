"""The graph from raw pixels to logits, of plain Keras layers only."""

from collections.abc import Iterable

import keras
import numpy as np
from keras import layers

from headstart.config import ALL, LAST_STAGE, Config
from headstart.model.fast.folding import copy_weights, enlarge_first_kernels, fold_batch_norm, for_training
from headstart.model.fast.strides import every, input_step
from headstart.model.head import head, head_model

# ImageNet's channel means and deviations (R, G, B) on [0, 1]; caffe's means are B, G, R on 0..255.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)
CAFFE_SCALE = 64.0  # near caffe's deviation, and a power of two: dividing by it rounds nothing


def build_model(
    backbone: keras.Model, preprocess: str, image_shape: tuple[int, int, int], classes: int, config: Config, precision: str
) -> keras.Model:
    """Build the whole network: rescale, augment, enlarge, normalise, backbone, pool, head.

    Args:
        backbone: network without top; its weights are used.
        preprocess: what the backbone wants, see `normalisation`.
        image_shape: height, width and channels of the data's images.
        precision: `float32` or `bfloat16`, for the backbone alone; everything else is float32.

    Returns:
        A model from uint8 (B, H, W, 3), RGB, 0..255, to float32 logits (B, classes). Its layer
        `features` gives the pooled features, float32 (B, channels); layers after it are the head.
    """
    height, width, _ = image_shape
    images = keras.Input(image_shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="to_unit_range")(images)
    if augmenters := augmentation(config):
        # At the data's own size: 4 to 20 times cheaper than after enlarging.
        x = keras.Sequential(augmenters, name="augmentation")(x)
    if (height, width) != (config.image_size, config.image_size):
        x = layers.Resizing(config.image_size, config.image_size, name="enlarge")(x)
    for layer in normalisation(preprocess):
        x = layer(x)
    prepared = prepare_backbone(backbone, config, precision)
    if preprocess == "caffe" and not config.learns_batch_norm and enlarge_first_kernels(prepared, CAFFE_SCALE):
        # A folded kernel for 0..255 is a hundredth of others', and Adam's steps are as large: they would destroy it.
        x = layers.Rescaling(1 / CAFFE_SCALE, name="to_unit_scale")(x)
    x = prepared(x)
    x = layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
    for layer in head(classes, config):
        x = layer(x)
    return keras.Model(images, x, name="classifier")


def augmentation(config: Config) -> list[layers.Layer]:
    """Return the augmentation layers, for images in [0, 1]; they act in training only."""
    asked = [
        (config.flip, lambda: layers.RandomFlip("horizontal")),
        (config.rotation, lambda: layers.RandomRotation(config.rotation, fill_mode="reflect")),
        (config.zoom, lambda: layers.RandomZoom(config.zoom, fill_mode="reflect")),
        # By whole pixels: parts of one would blur a small image, and what is classified later is sharp.
        (config.translation, lambda: layers.RandomTranslation(
            config.translation, config.translation, fill_mode="reflect", interpolation="nearest")),
        (config.rand_augment, lambda: layers.RandAugment(value_range=(0, 1), num_ops=2, factor=0.3)),
    ]  # fmt: skip
    return [make() for wanted, make in asked if wanted]


def normalisation(preprocess: str) -> list[layers.Layer]:
    """Return the layers that turn RGB in [0, 1] into what a backbone was trained with.

    They equal `keras.applications.imagenet_utils.preprocess_input` of the same mode; `none` gives
    0..255, for networks that normalise inside, and `unit` leaves [0, 1].
    """
    if preprocess == "caffe":
        # No plain layer reverses channels, but a frozen 1 x 1 convolution with a permutation does, exactly.
        reverse = layers.Conv2D(3, 1, use_bias=False, trainable=False, name="rgb_to_bgr", dtype="float32")
        reverse.build((None, None, None, 3))
        reverse.set_weights([np.eye(3)[[2, 1, 0]].reshape(1, 1, 3, 3)])
        return [reverse, layers.Rescaling(255.0, [-mean for mean in CAFFE_MEAN], name="normalise")]
    if preprocess == "torch":
        offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        return [layers.Rescaling([1 / std for std in IMAGENET_STD], offset, name="normalise")]
    if preprocess == "tf":
        return [layers.Rescaling(2.0, -1.0, name="normalise")]
    return [layers.Rescaling(255.0, name="to_byte_range")] if preprocess == "none" else []


def prepare_backbone(backbone: keras.Model, config: Config, precision: str) -> keras.Model:
    """Return the backbone as one layer named `backbone`, in the wanted precision, frozen unless from scratch."""
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    prepared = fold_batch_norm(backbone, policy, fold=not config.learns_batch_norm)
    prepared.trainable = config.from_scratch
    return prepared


def without_augmentation(model: keras.Model) -> keras.Model:
    """Return the network as it is used: it shares every weight with `model`, and nothing in it is random.

    Keras' augmentation layers act by default when a model is called directly, as `model(images)`.
    """
    inputs = x = model.input
    for layer in model.layers[1:]:
        x = x if layer.name == "augmentation" else layer(x)
    return keras.Model(inputs, x, name=model.name)


def feature_model(model: keras.Model, cut: str = "") -> keras.Model:
    """Return the part of `model` from raw pixels to pooled features, without augmentation.

    Args:
        cut: a layer inside the backbone, of `frozen_cut`.

    Returns:
        A model from uint8 (B, H, W, 3) to [pooled features, float32 (B, channels)], and with `cut` to
        [pooled features, feature map (B, h, w, c)], the rows and columns of it that are read. It shares its weights with
        `model`.
    """
    x, maps = model.input, []
    for layer in model.layers[1 : 1 + model.layers.index(model.get_layer("features"))]:
        if layer.name == "backbone" and cut:
            read = every(layer.get_layer(cut).output, input_step(backbone_end(model, cut)), "read_maps")
            x, *maps = keras.Model(layer.input, [layer.output, read], name="backbone")(x)
        elif layer.name != "augmentation":
            x = layer(x)
    return keras.Model(model.input, [x, *maps], name="feature_extractor")


def tuning_model(model: keras.Model, cut: str = "") -> keras.Model:
    """Return what fine-tuning trains, in its fastest form; `copy_back` puts what it has learned into `model`.

    Without `cut` it is the whole network. With it, it is the backbone from `cut` on and the head, and takes the
    feature maps (B, h, w, c) of `feature_model`. All but the backbone is shared with `model`.
    """
    end = backbone_end(model, cut)
    if cut:
        inputs = x = keras.Input(feature_model(model, cut).outputs[1].shape[1:], name="maps")
    else:
        inputs = x = keras.Input(model.input_shape[1:], dtype="uint8", name="images")
        for layer in model.layers[1 : model.layers.index(end)]:
            x = layer(x)
    x = model.get_layer("features")(for_training(end, input_step(end) if cut else 1)(x))
    return keras.Model(inputs, head_model(model)(x), name="tuned")


def copy_back(learner: keras.Model, model: keras.Model, cut: str = "") -> None:
    """Put what a `tuning_model` has learned into `model`; they share the head."""
    end = backbone_end(model, cut)
    copy_weights(learner.get_layer(end.name), end)


def backbone_end(model: keras.Model, cut: str) -> keras.Model:
    """Return the backbone from the layer `cut` on, without `cut` the whole; it shares its weights with `model`."""
    backbone = model.get_layer("backbone")
    if not cut:
        return backbone
    return keras.Model(backbone.get_layer(cut).output, backbone.output, name="backbone_end")


def frozen_cut(model: keras.Model, config: Config) -> str:
    """Return the layer after which the backbone's frozen beginning can be cut off and its output kept.

    It is the last one, before the layers that are to be unfrozen, from whose output alone everything
    after it can be computed; "" if there is none.
    """
    backbone = model.get_layer("backbone")
    names = [layer.name for layer in backbone.layers]
    if config.fine_tune_from == ALL:
        return ""
    if config.fine_tune_from == LAST_STAGE:
        shape = (1, config.image_size, config.image_size, 3)
        outputs = keras.Model(backbone.input, [layer.output for layer in backbone.layers]).compute_output_shape(shape)
        larger = [index for index, output in enumerate(outputs) if len(output) == 4 and output[1] > outputs[-1][1]]
        end = max(larger, default=0) + 1
    else:
        end = next((index for index, name in enumerate(names) if name.startswith(config.fine_tune_from)), 0)
    for layer in reversed(backbone.layers[1:end]):
        try:
            keras.Model(layer.output, backbone.output)
        except ValueError:  # something after it reads an earlier map as well
            continue
        return layer.name
    return ""


def first_unfrozen(model: keras.Model, config: Config) -> str:
    """Return how the name of the first layer that `config.fine_tune_from` unfreezes begins; "" is the very first."""
    if config.fine_tune_from == ALL:
        return ""
    if config.fine_tune_from != LAST_STAGE:
        return config.fine_tune_from
    names = [layer.name for layer in model.get_layer("backbone").layers]
    cut = frozen_cut(model, config)  # the last stage begins with all that reads the last larger map
    return names[names.index(cut) + 1] if cut else ""


def unfreeze(model: keras.Model, config: Config) -> None:
    """Make the backbone trainable, from the layer that the configuration names on.

    Batch norm stays in inference mode by `trainable = False` on each such layer: calling the
    backbone with `training=False` does not hold it there in Keras 3. The change takes effect at
    the next `compile`.
    """
    backbone = model.get_layer("backbone")
    backbone.trainable = True
    start, reached = first_unfrozen(model, config), False
    for outer in backbone.layers:
        for layer in innermost(outer):
            reached = reached or outer.name.startswith(start) or layer.name.startswith(start)
            held = isinstance(layer, layers.BatchNormalization) and not config.learns_batch_norm
            layer.trainable = reached and not held


def adapt_batch_norm(model: keras.Model, batches: Iterable[np.ndarray], config: Config) -> None:
    """Give the batch norms that will learn the statistics of the images that they will learn from.

    In training mode a batch norm goes by its batch, and not by the statistics it was pretrained with: without this, all that
    the frozen stage learned on features of the latter is lost in fine-tuning's first step (digits: from 99 to 36 %). Each gets
    the mean over all batches (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm"), as Li et al. 2016 did for new domains.

    Args:
        model: of `build_model`; its backbone is frozen afterwards, as it was before.
        batches: training images, uint8 (B, H, W, 3). Nothing is drawn at random here, so that runs of several seeds
            have the same features.
    """
    unfreeze(model, config)
    norms = [layer for layer in all_layers(model.get_layer("backbone"))
             if isinstance(layer, layers.BatchNormalization) and layer.trainable]  # fmt: skip
    momentums = [layer.momentum for layer in norms]
    extractor = feature_model(model)
    for number, batch in enumerate(batches):
        for layer in norms:
            layer.momentum = number / (number + 1)  # so that the moving average is the mean
        extractor(batch, training=True)
    for layer, momentum in zip(norms, momentums, strict=True):
        layer.momentum = momentum
    model.get_layer("backbone").trainable = False


def all_layers(model: keras.Model) -> list[layers.Layer]:
    """Return the layers of a model in order, and those of models nested in it instead of these."""
    return [inner for layer in model.layers for inner in innermost(layer)]


def innermost(layer: layers.Layer) -> list[layers.Layer]:
    """Return a layer alone, or all those of a nested model."""
    return all_layers(layer) if isinstance(layer, keras.Model) else [layer]
