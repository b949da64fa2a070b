"""Which layers of a backbone are trained, and where its frozen part can be cut off."""

import math
import re

from headstart.config import ALL, LAST_STAGE, Config, suggestion
from headstart.errors import HeadstartError
from headstart.model.network import all_layers, innermost
from headstart.model.transformer import LAST_OF_BLOCK, ROTARY
from headstart.system.backend import keras
from headstart.system.keras_internals import maker


def unfreeze(backbone: keras.Model, config: Config) -> None:
    """Make a backbone trainable from the layer on that `config.fine_tune_from` names.

    Batch norm stays in inference mode unless `config.learns_batch_norm`: each such layer gets `trainable = False`, which in
    Keras 3 calling the backbone with `training=False` does not replace. The change takes effect at the next `compile`.
    """
    backbone.trainable = True
    start, reached = first_unfrozen(backbone, config), False
    for outer in backbone.layers:
        for layer in innermost(outer):
            reached = reached or outer.name.startswith(start) or layer.name.startswith(start)
            fixed = isinstance(layer, keras.layers.BatchNormalization) and not config.learns_batch_norm
            layer.trainable = reached and not fixed and not layer.name.startswith(ROTARY)


def begin_of_stages(backbone: keras.Model, image_size: int, stages: int) -> str:
    """Return the name of the first layer of a backbone's last stages; "" if it has no more.

    Args:
        stages: how many, from the last one on. A stage ends where the feature map shrinks.
    """
    end = end_of_stage(backbone, image_size, stages)
    last = next((layer for layer in reversed(backbone.layers[1:end]) if can_cut(backbone, layer)), None)
    if not last or not end_of_stage(backbone, image_size, stages + 1):
        return ""
    return backbone.layers[backbone.layers.index(before_widening(backbone, last)) + 1].name


def end_of_stage(backbone: keras.Model, image_size: int, stages: int) -> int:
    """Return where in a backbone's layers the last stages begin, so many of them; 0 if it has no more."""
    shape = (1, image_size, image_size, 3)
    outputs = keras.Model(backbone.input, [layer.output for layer in backbone.layers]).compute_output_shape(shape)
    sides = [output[1] if len(output) == 4 else 0 for output in outputs]
    larger = sorted({side for side in sides if side > sides[-1]})
    if len(larger) < stages:
        return 0
    return max(place for place, side in enumerate(sides) if side >= larger[stages - 1]) + 1


def first_unfrozen(backbone: keras.Model, config: Config) -> str:
    """Return the beginning of the name of the first layer that `config.fine_tune_from` unfreezes; "" for all layers."""
    if config.fine_tune_from == ALL:
        return ""
    if config.fine_tune_from != LAST_STAGE:
        return config.fine_tune_from
    names = [layer.name for layer in backbone.layers]
    cut = frozen_cut(backbone, config)  # the last stage begins after the last map that is larger than the final one
    return names[names.index(cut) + 1] if cut else ""


def frozen_cut(backbone: keras.Model, config: Config) -> str:
    """Return the name of the layer after which a backbone can be cut: its frozen part before, the rest after.

    It is the last layer before the unfrozen ones from whose output alone the rest can be computed; "" if there is none. A
    transformer's maps are all of one size: its last stage is the last third of its blocks.
    """
    names = [layer.name for layer in backbone.layers]
    if config.fine_tune_from == ALL:
        return ""
    blocks = [index for index, name in enumerate(names) if re.fullmatch(LAST_OF_BLOCK, name)]
    if config.fine_tune_from == LAST_STAGE and blocks:
        end = blocks[-1 - math.ceil(len(blocks) / 3)] + 1 if len(blocks) > 1 else 0
    elif config.fine_tune_from == LAST_STAGE:
        end = end_of_stage(backbone, config.image_size, 1)
    else:
        end = next((index for index, name in enumerate(names) if name.startswith(config.fine_tune_from)), 0)
    last = next((layer for layer in reversed(backbone.layers[1:end]) if can_cut(backbone, layer)), None)
    if last and config.fine_tune_from == LAST_STAGE:
        last = before_widening(backbone, last)
    return last.name if last else ""


def before_widening(backbone: keras.Model, last: keras.layers.Layer) -> keras.layers.Layer:
    """Return the layer before the convolution that widened the channels of a layer's output, or the layer itself.

    EfficientNets and MobileNets widen the channels sixfold before the convolution that halves the sides. Maps after that are
    six times larger on the disk.
    """
    layer = last
    while not isinstance(layer.input, list):
        before = maker(layer.input)
        if type(layer) is keras.layers.Conv2D:
            narrower = before in backbone.layers[1:] and before.output.shape[-1] < last.output.shape[-1]
            return before if narrower and can_cut(backbone, before) else last
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization):
            return last
        layer = before
    return last


def can_cut(backbone: keras.Model, layer: keras.layers.Layer) -> bool:
    """Whether the rest of a backbone can be computed from one layer's output alone."""
    try:
        keras.Model(layer.output, backbone.output)
    except ValueError:  # a later layer also reads an earlier output
        return False
    return True


def refuse_unknown_layer(backbone: keras.Model, config: Config) -> None:
    """Refuse a `config.fine_tune_from` with which no layer's name begins."""
    start = config.fine_tune_from
    layers = [*backbone.layers, *all_layers(backbone)]
    if start not in (ALL, LAST_STAGE) and not any(layer.name.startswith(start) for layer in layers):
        weighted = [layer.name for layer in layers if layer.weights]
        raise HeadstartError(
            f"--fine-tune-from: no layer of {config.backbone} begins with {start!r}{suggestion(start, weighted)}"
        )
