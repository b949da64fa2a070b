"""Vision transformers in plain Keras layers: a flat graph that is cut, trained, saved and exported as any other backbone.

Tokens are held as (B, 1, T, D): one row of a feature map, so that whatever handles feature maps handles them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from headstart.system.backend import keras
from headstart.system.keras_internals import layer_scale

# What the names of layers begin with that turn queries and keys by their position. They are constants, and never learn.
ROTARY = "rotary"
# The name of the last layer of a block.
LAST_OF_BLOCK = r"block\d+_out"
# GELU by the tangent, which Keras does not know by a name.
APPROXIMATE_GELU = "gelu_approximate"

# The kernel, (inputs, outputs), and if there is one the bias, (outputs,), of a dense layer.
Dense = list[np.ndarray]


class Norm(NamedTuple):
    """A layer normalisation: its epsilon, and its scale and shift, (D,)."""

    epsilon: float
    weights: list[np.ndarray]


class Attention(NamedTuple):
    """The four dense layers of an attention."""

    query: Dense
    key: Dense
    value: Dense
    output: Dense


class Block(NamedTuple):
    """A block: x + scale1 * attention(norm1(x)), then x + scale2 * mlp(norm2(x)).

    Attributes:
        mlp: two dense layers, or three: gate, up and down, for down(activation(gate(x)) * up(x)).
        scales: two arrays (D,), or none.
    """

    norm1: Norm
    attention: Attention
    norm2: Norm
    mlp: list[Dense]
    scales: Sequence[np.ndarray] = ()


class Pooling(NamedTuple):
    """What makes one vector of all tokens: a learned query looks at them, and an MLP follows (Zhai et al. 2022).

    Attributes:
        probe: (D,), the query.
    """

    probe: np.ndarray
    attention: Attention
    norm: Norm
    mlp: list[Dense]


@dataclass(frozen=True, eq=False)
class Transformer:
    """The weights of a vision transformer.

    Attributes:
        name: of the network.
        size: side of its images, a multiple of `patch`.
        patch: side of a patch.
        kernel: (patch * patch * 3, D), from a patch's pixels to its token.
        table: (T, D), what is added at each position: class tokens, registers, then the patches' positions and the bias.
        classes: how many of the first tokens stand for the image.
        heads: of each attention.
        activation: of the MLPs, a name of Keras or `APPROXIMATE_GELU`.
        norm: after the last block.
        rotary: cosine and sine for each patch, (patches, D / heads), by which queries and keys are turned; or None.
        pooling: another vector for the image, where there is no class token.
    """

    name: str
    size: int
    patch: int
    kernel: np.ndarray
    table: np.ndarray
    classes: int
    heads: int
    activation: str
    blocks: list[Block]
    norm: Norm
    rotary: tuple[np.ndarray, np.ndarray] | None = None
    pooling: Pooling | None = None


def build(one: Transformer) -> keras.Model:
    """Return the network from images, float (B, size, size, 3), to a feature map (B, size / patch, size / patch, channels).

    The channels are those of each patch's token, after those of the class token, the mean of several, or what `pooling`
    makes, which are the same at each position. So global average pooling gives the image's vector and the patches' mean.
    Layers are named by block, for `--fine-tune-from block09`.
    """
    layers, side, patch = keras.layers, one.size // one.patch, one.patch
    tokens, width = one.table.shape
    prefix = tokens - side * side
    images = keras.Input((one.size, one.size, 3), name="images")
    x = layers.Reshape((side, patch, side, patch * 3), name="patch_rows")(images)
    x = layers.Permute((1, 3, 2, 4), name="patch_order")(x)
    x = layers.Reshape((1, side * side, patch * patch * 3), name="patches")(x)
    # Empty patches stand for the tokens that are no patches: the table has their values.
    x = layers.ZeroPadding2D(((0, 0), (prefix, 0)), data_format="channels_last", name="with_tokens")(x)
    x = put(layers.EinsumDense("brtp,pd->brtd", (1, tokens, width), bias_axes="td", name="tokens"), x, [one.kernel, one.table])
    for number, block in enumerate(one.blocks, start=1):
        name = f"block{number:02d}"
        normal = norm(x, block.norm1, f"{name}_norm1")
        attended = attention(normal, normal, block.attention, one.heads, one.rotary, f"{name}_attention")
        x = layers.Add(name=f"{name}_add")([x, scaled(attended, block.scales[:1], f"{name}_scale1")])
        mixed = mlp(norm(x, block.norm2, f"{name}_norm2"), block.mlp, one.activation, f"{name}_mlp")
        x = layers.Add(name=f"{name}_out")([x, scaled(mixed, block.scales[1:], f"{name}_scale2")])
    x = norm(x, one.norm, "norm")
    patches = crop(x, prefix, 0, "patch_tokens")
    feature_map = layers.Reshape((side, side, width), name="patch_map")(patches)
    image = pooled(x, one) if one.pooling else class_token(x, one.classes, tokens)
    if image is not None:
        image = layers.UpSampling2D((side, side), data_format="channels_last", name="class_map")(image)
        feature_map = layers.Concatenate(name="map")([image, feature_map])
    return keras.Model(images, feature_map, name=one.name)


def put(layer: keras.layers.Layer, inputs: Any, weights: list[np.ndarray]) -> Any:
    """Call a layer and give it its weights."""
    outputs = layer(inputs)
    layer.set_weights(weights)
    return outputs


def norm(x: Any, one: Norm, name: str) -> Any:
    return put(keras.layers.LayerNormalization(epsilon=one.epsilon, name=name), x, one.weights)


def dense(x: Any, one: Dense, name: str, activation: str | None = None) -> Any:
    outputs, bias = one[0].shape[1], len(one) > 1
    if activation == APPROXIMATE_GELU:
        return keras.ops.gelu(dense(x, one, name), approximate=True)
    return put(keras.layers.Dense(outputs, activation, use_bias=bias, name=name), x, one)


def scaled(x: Any, scale: Sequence[np.ndarray], name: str) -> Any:
    return put(layer_scale(x.shape[-1], name), x, list(scale)) if scale else x


def crop(x: Any, first: int, last: int, name: str) -> Any:
    """Drop the first and the last tokens."""
    return keras.layers.Cropping2D(((0, 0), (first, last)), data_format="channels_last", name=name)(x) if first or last else x


def class_token(x: Any, classes: int, tokens: int) -> Any:
    """Return the mean of the class tokens, (B, 1, 1, D), or None if there is none."""
    if not classes:
        return None
    image = crop(x, 0, tokens - classes, "class_token")
    if classes == 1:
        return image
    return keras.layers.AveragePooling2D((1, classes), data_format="channels_last", name="class_tokens")(image)


def pooled(x: Any, one: Transformer) -> Any:
    """Return the vector of `Pooling`, (B, 1, 1, D)."""
    assert one.pooling is not None
    layers, width = keras.layers, x.shape[-1]
    # A bias alone, on nothing: a plain layer that gives the same learned vector for each image.
    nothing = layers.Reshape((1, width, 1), name="probe_tokens")(crop(x, 0, x.shape[2] - 1, "probe_token"))
    nothing = layers.Rescaling(0.0, name="probe_nothing")(crop(nothing, 0, width - 1, "probe_channel"))
    probe = dense(nothing, [np.zeros((1, width), np.float32), one.pooling.probe], "probe")
    x = attention(probe, x, one.pooling.attention, one.heads, None, "pooling_attention")
    mixed = mlp(norm(x, one.pooling.norm, "pooling_norm"), one.pooling.mlp, one.activation, "pooling_mlp")
    return layers.Add(name="pooling_out")([x, mixed])


def mlp(x: Any, one: list[Dense], activation: str, name: str) -> Any:
    first = dense(x, one[0], f"{name}_1", activation)
    if len(one) == 3:
        first = keras.layers.Multiply(name=f"{name}_gated")([first, dense(x, one[1], f"{name}_2")])
    return dense(first, one[-1], f"{name}_{len(one)}")


def attention(
    x: Any, memory: Any, one: Attention, heads: int, rotary: tuple[np.ndarray, np.ndarray] | None, name: str
) -> Any:  # fmt: skip
    """Return what the tokens of `x` take from those of `memory`, float (B, 1, T, D)."""
    width = one.query[0].shape[1]

    def by_head(tokens: Any, weights: Dense, kind: str) -> Any:
        tokens = dense(tokens, weights, f"{name}_{kind}")
        shape = (tokens.shape[2], heads, width // heads)
        return keras.layers.Reshape(shape, name=f"{name}_{kind}_heads")(tokens)

    query, key = by_head(x, one.query, "query"), by_head(memory, one.key, "key")
    if rotary:
        query, key = (turned(tokens, *rotary, f"{ROTARY}_{name}_{kind}") for tokens, kind in ((query, "query"), (key, "key")))
    x = keras.ops.dot_product_attention(query, key, by_head(memory, one.value, "value"))
    x = keras.layers.Reshape((1, query.shape[1], width), name=f"{name}_joined")(x)
    return dense(x, one.output, f"{name}_output")


def turned(tokens: Any, cosine: np.ndarray, sine: np.ndarray, name: str) -> Any:
    """Turn each pair of channels, one from either half, by the position's angle (Su et al. 2021); (B, T, heads, channels).

    Tokens that are no patches, which come first, are left as they are.
    """
    layers, (_, count, heads, width) = keras.layers, tokens.shape
    prefix = count - len(cosine)
    cosine, sine = np.pad(cosine, ((prefix, 0), (0, 0)), constant_values=1), np.pad(sine, ((prefix, 0), (0, 0)))
    halves = np.zeros((width, width), np.float32)  # from (a, b) to (-b, a)
    half = width // 2
    halves[np.arange(half), np.arange(half) + half], halves[np.arange(half) + half, np.arange(half)] = 1, -1
    other = put(layers.Dense(width, use_bias=False, trainable=False, name=f"{name}_halves"), tokens, [halves])
    both = []
    for part, values, kind in ((tokens, cosine, "cosine"), (other, sine, "sine")):
        part = layers.Permute((2, 1, 3), name=f"{name}_{kind}_order")(part)
        part = layers.Reshape((heads, count * width), name=f"{name}_{kind}_flat")(part)
        both.append(put(layer_scale(count * width, f"{name}_{kind}"), part, [values.ravel()]))
    x = layers.Reshape((heads, count, width), name=f"{name}_tokens")(layers.Add(name=f"{name}_sum")(both))
    return layers.Permute((2, 1, 3), name=f"{name}_heads")(x)


def interpolated(positions: np.ndarray, side: int) -> np.ndarray:
    """Return the positions of patches, (patches, D), for `side` patches per side, by cubic interpolation."""
    before, width = math.isqrt(len(positions)), positions.shape[1]
    if before == side:
        return positions
    grid = keras.ops.image.resize(
        positions.reshape(1, before, before, width), (side, side), "bicubic", antialias=True, data_format="channels_last"
    )
    return np.asarray(keras.ops.convert_to_numpy(grid)).reshape(-1, width)
