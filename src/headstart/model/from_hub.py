"""Backbones of KerasHub as networks of plain Keras layers.

KerasHub's own layers hold a whole transformer each: it could not be cut, nor saved as a graph that cannot run code, nor
exported to Keras. So a transformer is built anew (`headstart.model.transformer`), and a convolutional network is taken apart
into the plain layers that it consists of. Both are compared with KerasHub's network before anything learns.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import HUB, Config
from headstart.errors import HeadstartError
from headstart.model import hub
from headstart.model.fast.copies import copied
from headstart.model.preprocessing import mode_of
from headstart.model.saved import load_weights_file, nodes, refuse_code
from headstart.model.transformer import Attention, Block, Dense, Norm, Pooling, Transformer, build, interpolated
from headstart.system.backend import keras
from headstart.system.keras_internals import inlined, with_named_operations
from headstart.system.text import first_line

logger = logging.getLogger("headstart")

# The largest allowed relative difference (L2 norm) from KerasHub's own outputs: rounding adds up over the layers.
TOLERANCE = 1e-3
# Options that say how a network was made, and not what it is.
LEFT_OUT = ("name", "trainable", "dtype", "dropout_rate", "drop_path_rate", "attention_dropout", "drop_path")


def load_hub_backbone(config: Config) -> tuple[keras.Model, str]:
    """Load a backbone of KerasHub, from images, float (B, h, w, 3), to the feature map, and its preprocessing.

    Raises:
        HeadstartError: its files cannot be downloaded, are damaged or do not fit; or the network cannot become plain layers.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise HeadstartError(f"KerasHub cannot be loaded ({first_line(error)}): {hub.INSTALL}") from None
    family, options = hub.described(config.backbone)
    hub.refuse_size(config, options)
    preprocess = mode_of(hub.converter(config.backbone)) if config.preprocess == "auto" else config.preprocess
    path = hub.preset_file(config.backbone, hub.CONFIG)
    original = kerashub_network(keras_hub, family, options, config.image_size, path)
    if not config.from_scratch:
        load_all_weights(original, hub.preset_file(config.backbone, hub.WEIGHTS))
    if family in TRANSFORMERS:
        transformer, expected = TRANSFORMERS[family](original, family)
        compare(build(transformer), expected, config)
        side = config.image_size // transformer.patch
        prefix = len(transformer.table) - (transformer.size // transformer.patch) ** 2
        table = np.concatenate([transformer.table[:prefix], interpolated(transformer.table[prefix:], side)])
        network = build(replace(transformer, size=config.image_size, table=table))
    else:
        network = flattened(original, family)
        compare(network, lambda images: last(original(images)), config)
    network = with_named_operations(network)
    refuse_code(keras.saving.serialize_keras_object(network), Path(config.backbone.removeprefix(HUB)))
    return network, preprocess


def kerashub_network(keras_hub: Any, family: str, options: dict[str, Any], size: int, path: Path) -> keras.Model:
    """Build KerasHub's network of a family with random weights. Only numbers are taken from a preset's options."""

    def plain(options: dict[str, Any]) -> dict[str, Any]:
        options = {name: value for name, value in options.items() if name not in LEFT_OUT}
        if any("class_name" in node or "module" in node for node in nodes(options, path)):
            raise HeadstartError(f"{path} names classes, which a preset of this family does not have")
        return options

    shape = {"dinov2": (size, size, 3), "dinov3": (size, size, 3), "vit": None, "deit": None, "siglip": None}
    image_shape = shape.get(family, (None, None, 3))
    try:
        models, encoders = keras_hub.models, {}
        if family == "siglip":
            kinds = {"vision_encoder": models.SigLIPVisionEncoder, "text_encoder": models.SigLIPTextEncoder}
            encoders = {name: kind(**plain(options[name]["config"])) for name, kind in kinds.items()}
            options = {}
        chosen = {"image_shape": image_shape} if image_shape else {}
        return getattr(models, hub.FAMILIES[family].kind)(**plain(options) | encoders | chosen)
    except HeadstartError:
        raise
    except Exception as error:  # whatever does not fit together
        raise HeadstartError(f"{path} cannot be built by KerasHub {keras_hub.__version__}: {first_line(error)}") from None


def load_all_weights(network: keras.Model, file: Path) -> None:
    """Load a preset's weights, and refuse a file that lacks some. Keras only warns then, and leaves them random."""
    for weight in network.weights:
        if "float" in weight.dtype:
            weight.assign(np.full(weight.shape, np.nan, np.float32))  # what is left of these is refused as not finite
    load_weights_file(network, file)


def compare(network: keras.Model, expected: Callable[[Any], Any], config: Config) -> None:
    """Refuse a network of plain layers whose feature map of one random image is not KerasHub's."""
    side = network.input_shape[1] or config.image_size
    images = np.random.default_rng(0).normal(size=(1, side, side, 3)).astype(np.float32)
    ours, theirs = (np.asarray(keras.ops.convert_to_numpy(one(images))) for one in (network, expected))
    fits = ours.shape == theirs.shape
    difference = float(np.linalg.norm(ours - theirs)) / max(float(np.linalg.norm(theirs)), 1e-30) if fits else float("inf")
    if not difference <= TOLERANCE:
        raise HeadstartError(
            f"{config.backbone}: the network of plain layers gives another feature map than KerasHub's (relative difference "
            f"{difference:.1g}): it is not used. Please report that, with the preset"
        )
    logger.info("%s: plain layers give KerasHub's feature map (relative difference %.1g)", config.backbone, difference)


def last(outputs: Any) -> Any:
    """Return the feature map of a network's last stage; HGNetV2 gives one for each, by name, in an order of the backend's."""
    return outputs[max(name for name in outputs if name != "stem")] if isinstance(outputs, dict) else outputs


def flattened(original: keras.Model, family: str) -> keras.Model:
    """Return a convolutional network as a flat graph of the plain layers that its own layers consist of."""
    images = keras.Input((None, None, 3), name="images")

    def composite(layer: Any) -> bool:
        return type(layer).__module__.startswith("keras_hub.")

    try:
        network = copied(keras.Model(images, last(inlined(original, images, composite)), name=family), {})
        whole = network.count_params() == original.count_params()
    except Exception:  # what a layer does with its own weights works for arrays alone, and each backend says so in its own way
        whole = False
    if not whole:
        raise HeadstartError(f"this {family} has layers with weights of their own, which are none of Keras' layers: take another")
    return network


def dense(layer: Any) -> Dense:
    """Return the weights of a dense layer, or of one of an attention, whose kernels and biases have an axis for the heads."""
    kernel, *bias = layer.get_weights()
    inputs = kernel.shape[0] if kernel.ndim == 2 or layer.name != "attention_output" else kernel.shape[0] * kernel.shape[1]
    return [kernel.reshape(inputs, -1), *(one.reshape(-1) for one in bias)]


def norm(layer: Any) -> Norm:
    return Norm(layer.epsilon, layer.get_weights())


def attention(layer: Any) -> Attention:
    """Return the weights of Keras' `MultiHeadAttention`."""
    return Attention(*map(dense, (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense)))


def mlp(*layers: Any) -> list[Dense]:
    return [dense(layer) for layer in layers]


def scales(block: Any) -> list[np.ndarray]:
    return [array(scale.lambda1) for scale in (block.layer_scale1, block.layer_scale2)]


def patches(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel of a convolution that embeds patches, (pixels of a patch, D), and its bias, (D,)."""
    kernel, *bias = layer.get_weights()
    return kernel.reshape(-1, kernel.shape[-1]), bias[0] if bias else np.zeros(kernel.shape[-1], np.float32)


def array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))


def with_class(tokens: np.ndarray, classes: int, prefix: int) -> np.ndarray:
    """Return the feature map of tokens, (B, T, D): the mean of the class tokens at each position, then the patches' own."""
    count = tokens.shape[1] - prefix
    side = round(count**0.5)
    image = tokens[:, :classes].mean(axis=1, keepdims=True).repeat(count, axis=1)
    return np.concatenate([image, tokens[:, prefix:]], axis=-1).reshape(len(tokens), side, side, -1)


Expected = Callable[[np.ndarray], np.ndarray]


def of_vit(original: Any, family: str) -> tuple[Transformer, Expected]:
    embedding = original.get_layer("vit_patching_and_embedding")
    encoder = original.get_layer("vit_encoder")
    classes = int(embedding.use_class_token)
    kernel, bias = patches(embedding.patch_embedding)
    table = array(embedding.position_embedding.embeddings).copy()
    table[classes:] += bias
    if classes:
        table[0] += array(embedding.class_token)[0, 0]
    blocks = [
        Block(norm(one.layer_norm_1), attention(one.mha), norm(one.layer_norm_2), mlp(one.mlp.dense_1, one.mlp.dense_2))
        for one in encoder.encoder_layers
    ]
    whole = Transformer(
        family, original.image_shape[0], original.patch_size[0], kernel, table, classes, original.num_heads, "gelu", blocks,
        norm(encoder.layer_norm),
    )  # fmt: skip
    return whole, lambda images: with_class(array(original(images)), classes, classes)


def of_deit(original: Any, family: str) -> tuple[Transformer, Expected]:
    embedding, encoder = original.get_layer("deit_patching_and_embedding"), original.get_layer("deit_encoder")
    kernel, bias = patches(embedding.patch_embedding)
    table = array(embedding.position_embedding)[0].copy()
    table[2:] += bias
    table[0] += array(embedding.class_token)[0, 0]
    table[1] += array(embedding.distillation_token)[0, 0]
    blocks = [
        Block(norm(one.layer_norm_1), attention(one.mha), norm(one.layer_norm_2), mlp(one.mlp.dense, one.output_layer.dense))
        for one in encoder.encoder_layers
    ]
    whole = Transformer(
        family, original.image_shape[0], original.patch_size[0], kernel, table, 2, original.num_heads, "gelu", blocks,
        norm(encoder.layer_norm),
    )  # fmt: skip
    return whole, lambda images: with_class(array(original(images)), 2, 2)


def of_dino(original: Any, family: str) -> tuple[Transformer, Expected]:
    """DINOv2, with positions in the table, and DINOv3, which turns queries and keys."""
    embedding, registers = original.embeddings, original.num_register_tokens
    kernel, bias = patches(embedding.patch_embeddings.projection)
    side = original.image_shape[0] // original.patch_size
    table = np.zeros((1 + registers + side * side, original.hidden_dim), np.float32)
    table[0] = array(embedding.cls_token)[0, 0]
    if registers:
        table[1 : 1 + registers] = array(embedding.register_tokens)[0]
    table[1 + registers :] = bias
    rotary = None
    if family == "dinov2":
        positions = array(embedding.interpolated_position_embeddings)[0]
        table[0] += positions[0]
        table[1 + registers :] += positions[1:]
    else:
        cosine, sine = original.rope_embedding(np.zeros((1, *original.image_shape), np.float32))
        rotary = array(cosine), array(sine)
    blocks = [
        Block(norm(one.norm1), dino_attention(one.attention), norm(one.norm2), dino_mlp(one.mlp), scales(one))
        for one in original.encoder.layers
    ]
    activation = "gelu" if family == "dinov2" else original.hidden_activation
    if family == "dinov2" and original.use_swiglu_ffn:
        activation = "silu"
    whole = Transformer(
        family, original.image_shape[0], original.patch_size, kernel, table, 1, original.num_heads, activation, blocks,
        norm(original.layernorm), rotary,
    )  # fmt: skip
    return whole, lambda images: with_class(array(original({next(iter(original.input)): images})), 1, 1 + registers)


def dino_attention(layer: Any) -> Attention:
    if hasattr(layer, "attention"):
        return attention(layer.attention)
    return Attention(*map(dense, (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense)))


def dino_mlp(layer: Any) -> list[Dense]:
    if hasattr(layer, "weights_in"):  # gate and up in one layer
        kernel, bias = layer.weights_in.get_weights()
        half = kernel.shape[1] // 2
        return [[kernel[:, :half], bias[:half]], [kernel[:, half:], bias[half:]], dense(layer.weights_out)]
    names = ("gate_proj", "up_proj", "down_proj", "fc1", "fc2")
    return mlp(*(getattr(layer, name) for name in names if hasattr(layer, name)))


def of_siglip(original: Any, family: str) -> tuple[Transformer, Expected]:
    vision = original.vision_encoder
    kernel, bias = patches(vision.embedding.patch_embedding)
    table = array(vision.embedding.position_embedding.embeddings) + bias
    blocks = [
        Block(norm(one.layer_norm1), attention(one.self_attn), norm(one.layer_norm2), mlp(one.mlp.fc1, one.mlp.fc2))
        for one in vision.encoder_layers
    ]
    head = vision.head
    probe = array(head.probe)[0, 0]
    pooling = Pooling(probe, attention(head.attention), norm(head.layer_norm), mlp(head.mlp.fc1, head.mlp.fc2))
    whole = Transformer(
        family, vision.image_shape[0], vision.patch_size, kernel, table, 0, vision.num_heads, vision.intermediate_activation,
        blocks, norm(vision.post_layer_norm), pooling=pooling,
    )  # fmt: skip
    both = keras.Model(vision.inputs, [vision.outputs[0], vision.post_layer_norm.output])

    def expected(images: np.ndarray) -> np.ndarray:
        image, tokens = map(array, both([images]))
        return with_class(np.concatenate([image[:, None], tokens], axis=1), 1, 1)

    return whole, expected


TRANSFORMERS: dict[str, Callable[[Any, str], tuple[Transformer, Expected]]] = {
    "vit": of_vit, "deit": of_deit, "dinov2": of_dino, "dinov3": of_dino, "siglip": of_siglip,
}  # fmt: skip
