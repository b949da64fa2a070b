"""Operations of TensorFlow and PyTorch that Keras does not offer and that make training faster. JAX does without them."""

from collections.abc import Iterator
from typing import Any

from headstart.system.backend import keras
from headstart.system.memory import keep_freed_memory

ON_TENSORFLOW, ON_TORCH = keras.backend.backend() == "tensorflow", keras.backend.backend() == "torch"
if ON_TENSORFLOW:  # JAX and PyTorch work where it is not installed
    import tensorflow
elif ON_TORCH:
    import torch


def without_autotuning(batches: Any) -> Any:
    """Wrap a `keras.utils.PyDataset` for `fit`: on TensorFlow it becomes a tf.data pipeline without autotuning.

    On other backends it is returned unchanged. Autotuning has nothing to gain, since batches are made one after the other,
    but its thread sleeps for up to a minute, and `fit` returns only when it wakes up.
    """
    if not ON_TENSORFLOW:
        return batches

    def generate() -> Iterator[tuple[Any, ...]]:
        keep_freed_memory()  # again: TensorFlow's generators reset it when they start
        for step in range(batches.num_batches):  # in the order that they have when an epoch begins
            yield batches[step]

    signature = tuple(tensorflow.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    dataset = tensorflow.data.Dataset.from_generator(generate, output_signature=signature)
    counted = dataset.apply(tensorflow.data.experimental.assert_cardinality(batches.num_batches))
    return counted.prefetch(2).with_options(options)  # the next batch is made while this one trains


def adam_in_one_pass(
    variable: Any,
    momentum: Any,
    velocity: Any,
    gradient: Any,
    rate: Any,
    iterations: Any,
    betas: tuple[float, float],
    epsilon: float,
) -> bool:
    """Update one variable by Adam in a single pass over its memory, if the backend has an operation for that.

    Keras writes the step as a dozen operations, and TensorFlow passes over all weights in each of them. That took 90 ms of a
    600 ms step of a ResNet-50 at 64 px.

    Args:
        variable, momentum, velocity: a weight and its two moments, all of one shape.
        gradient: of the same shape.
        rate: the learning rate.
        iterations: the number of steps before this one.
        betas: Adam's decay rates of both moments.

    Returns:
        Whether the update was done. If not, the caller must do it.
    """
    if not ON_TENSORFLOW:
        return False

    weight, first, second = (
        array.value if isinstance(array, keras.Variable) else array for array in (variable, momentum, velocity)
    )
    step = tensorflow.cast(tensorflow.convert_to_tensor(iterations) + 1, weight.dtype)
    powers = [tensorflow.pow(tensorflow.cast(beta, weight.dtype), step) for beta in betas]
    tensorflow.raw_ops.ResourceApplyAdam(
        var=weight.handle, m=first.handle, v=second.handle, beta1_power=powers[0], beta2_power=powers[1],
        lr=tensorflow.cast(rate, weight.dtype), beta1=betas[0], beta2=betas[1], epsilon=epsilon, grad=gradient,
    )  # fmt: skip
    return True


def batch_norm_in_one_pass(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any] | None:
    """Normalise a batch by its own mean and variance in a single operation, if the backend has one.

    Forward and backward together, it took 8 ms for a batch of 128 with 32 x 32 x 32 values in bfloat16; Keras' batch norm
    took 37 ms.

    Args:
        inputs: float (B, h, w, C).
        gamma, beta: Keras variables, float32 (C,).

    Returns:
        The outputs, of the inputs' shape and dtype, and the batch's mean and variance, float32 (C,). None if the backend has
        no such operation.
    """
    if not ON_TENSORFLOW:
        return None

    outputs, mean, variance, *_ = tensorflow.raw_ops.FusedBatchNormV3(
        x=inputs, scale=gamma.value, offset=beta.value, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tensorflow.cast(tensorflow.size(inputs) / tensorflow.shape(inputs)[-1], variance.dtype)
    # The operation returns the unbiased estimate of the variance, and Keras keeps the batch's own variance.
    return outputs, mean, variance * (count - 1) / count


def affine_in_one_pass(images: Any, matrices: Any, offsets: Any) -> Any:
    """Map images as `headstart.model.augmentation.affine` does, if the backend has an operation for that; else return None.

    For images of 224 px it took two thirds of the time that the operations of Keras took on TensorFlow, and a quarter on PyTorch.
    """
    if ON_TENSORFLOW or ON_TORCH:
        images = keras.ops.cast(images, "float32")
    if ON_TENSORFLOW:
        height, width = images.shape[1:3]
        across, down = (width - 1) / 2, (height - 1) / 2  # the operation counts from the corner, and columns first
        (yy, yx), (xy, xx) = [tensorflow.unstack(row, axis=1) for row in tensorflow.unstack(matrices, axis=1)]
        y, x = tensorflow.unstack(offsets, axis=1)
        ends = [xx, xy, x + across - xy * down - xx * across, yx, yy, y + down - yy * down - yx * across, 0 * y, 0 * y]
        return tensorflow.raw_ops.ImageProjectiveTransformV3(
            images=images, transforms=tensorflow.stack(ends, axis=1), output_shape=(height, width), fill_value=0.0,
            interpolation="BILINEAR", fill_mode="REFLECT",
        )  # fmt: skip
    if ON_TORCH:
        sides = matrices.new_tensor(images.shape[1:3])
        # The operation counts columns first, and in units of half a side.
        scaled = torch.cat([matrices * sides / sides[:, None], (2 * offsets / sides)[..., None]], 2)
        theta = torch.stack([scaled[:, 1, [1, 0, 2]], scaled[:, 0, [1, 0, 2]]], 1)
        pictures = images.permute(0, 3, 1, 2)
        grid = torch.nn.functional.affine_grid(theta, list(pictures.shape), align_corners=False)
        mapped = torch.nn.functional.grid_sample(pictures, grid, "bilinear", "reflection", align_corners=False)
        return mapped.permute(0, 2, 3, 1)
    return None


def depthwise_in_blocks(inputs: Any, kernel: Any, stride: int, padding: str) -> Any:
    """Apply a depthwise convolution whose gradients are fast in bfloat16, if the backend has slow ones; else return None.

    On CPUs, TensorFlow computes two gradients of depthwise convolutions in bfloat16 without oneDNN: that of a kernel larger than
    3 x 3, and that of the input with a stride. On two Zen 4 cores, with a kernel of 5 x 5 and a batch of 64 with 16 x 16 x 240
    values, the kernel's gradient took 64 ms, and here 13 ms; with a stride of 2 and 32 x 32 x 144 values, the input's took
    140 ms. Here the kernel's gradient is computed in blocks of 3 x 3 taps, and the input's as a convolution without a stride.

    Args:
        inputs: bfloat16 (B, h, w, C).
        kernel: bfloat16 (k, k, C, m), with odd k of 3 or more.
        stride: of rows and columns.
        padding: `same` or `valid`.

    Returns:
        bfloat16 (B, h', w', C * m), or None.
    """
    if not ON_TENSORFLOW or inputs.dtype != "bfloat16":
        return None
    taps, strides = kernel.shape[0], [1, stride, stride, 1]

    @tensorflow.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> Any:
        outputs = tensorflow.nn.depthwise_conv2d(inputs, kernel, strides, padding.upper())
        # What "same" pads at the beginning, and what the whole padding is.
        sides = list(zip(inputs.shape[1:3], outputs.shape[1:3], strict=True))
        pads = [max(0, (after - 1) * stride + taps - before) if padding == "same" else 0 for before, after in sides]

        def gradient(upstream: Any) -> Any:
            around = [[0, 0], *([pad // 2, pad - pad // 2] for pad in pads), [0, 0]]
            padded = tensorflow.pad(inputs, around)
            seen = [(after - 1) * stride + 3 for _, after in sides]
            starts = range(0, taps - 2, 2)

            def block(row: int, column: int) -> Any:
                by_tap = tensorflow.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                    input=padded[:, row : row + seen[0], column : column + seen[1]], out_backprop=upstream,
                    filter_sizes=[3, 3, *kernel.shape[2:]], strides=strides, padding="VALID",
                )  # fmt: skip
                return by_tap[1 if row else 0 :, 1 if column else 0 :]  # neighbouring blocks share a row or column of taps

            rows = [tensorflow.concat([block(row, column) for column in starts], 1) for row in starts]
            return input_gradient(upstream, around), tensorflow.concat(rows, 0)

        def input_gradient(upstream: Any, around: list[list[int]]) -> Any:
            if stride == 1:
                return tensorflow.raw_ops.DepthwiseConv2dNativeBackpropInput(
                    input_sizes=tensorflow.shape(inputs), filter=kernel, out_backprop=upstream, strides=strides,
                    padding=padding.upper(),
                )  # fmt: skip
            # Zeros between the rows and columns, as many as the stride passes over.
            between = [[0, 0], [0, 0], [0, stride - 1], [0, 0], [0, stride - 1], [0, 0]]
            upstream = tensorflow.pad(upstream[:, :, None, :, None], between)
            upstream = tensorflow.reshape(upstream, (-1, *(after * stride for _, after in sides), upstream.shape[-1]))
            edges = [(taps - 1 - first, before - after * stride + first)
                     for (before, after), (first, _) in zip(sides, around[1:3], strict=True)]  # fmt: skip
            (down, last_row), (across, last_column) = edges
            cut = upstream[:, : min(0, last_row) or None, : min(0, last_column) or None]
            upstream = tensorflow.pad(cut, [[0, 0], [down, max(0, last_row)], [across, max(0, last_column)], [0, 0]])
            flipped = tensorflow.reverse(kernel, [0, 1])
            return tensorflow.nn.depthwise_conv2d(upstream, flipped, [1, 1, 1, 1], "VALID")

        return outputs, gradient

    return convolve(inputs, keras.ops.cast(kernel, inputs.dtype))
