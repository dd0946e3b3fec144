"""Constructors: every linear layer of a network as an affine convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace, device

from refold.algebra import _kernels
from refold.algebra._affine import AffineConv, Array, Mode, Stencil
from refold.errors import AlgebraError
from refold.geometry import Window

Padding = Sequence[tuple[int, int]]


def convolution(
    kernel: Array,
    bias: Array | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    mode: Mode = "constant",
    fill: Array | None = None,
) -> AffineConv:
    """A convolution layer (cross-correlation, as every framework has it).

    Shapes: `kernel` (out, in / groups, *taps); `bias` (out,). `padding` is an int, one int an axis, or one (before, after) pair an axis.

    >>> import numpy as np
    >>> convolution(np.ones((8, 4, 3, 3)), stride=2, padding=1).stencil.output_sizes((224, None))
    (112, None)
    """
    taps = tuple(kernel.shape[2:])
    strides, dilations = _each(stride, len(taps)), _each(dilation, len(taps))
    windows = tuple(
        Window(k, s, d, before, after)
        for k, s, d, (before, after) in zip(taps, strides, dilations, _pairs(padding, len(taps)), strict=True)
    )
    return AffineConv(kernel, _bias(bias, kernel, kernel.shape[0]), windows, groups, mode, fill)


def transposed_convolution(
    kernel: Array,
    bias: Array | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Padding = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> AffineConv:
    """A transposed convolution: a convolution of the flipped kernel over an input with `stride - 1` zeros between its items.

    Shapes: `kernel` (in, out / groups, *taps), as PyTorch and ONNX store it; `padding` removes from the output, as theirs does.

    >>> import numpy as np
    >>> transposed_convolution(np.ones((4, 8, 2, 2)), stride=2).stencil.output_sizes((7, 7))
    (14, 14)
    """
    xp = array_namespace(kernel)
    inputs, fan, *taps = kernel.shape
    rank = len(taps)
    blocks = xp.reshape(kernel, (groups, inputs // groups, fan, *taps))
    swapped = xp.reshape(xp.permute_dims(blocks, (0, 2, 1, *range(3, 3 + rank))), (groups * fan, inputs // groups, *taps))
    flipped = xp.flip(swapped, axis=tuple(range(2, 2 + rank))) if rank else swapped
    windows = tuple(
        Window(k, 1, d, d * (k - 1) - before, d * (k - 1) - after + extra, upsample=s)
        for k, s, d, (before, after), extra in zip(
            taps, _each(stride, rank), _each(dilation, rank), _pairs(padding, rank), _each(output_padding, rank), strict=True
        )
    )
    return AffineConv(flipped, _bias(bias, kernel, groups * fan), windows, groups)


def transposed_kernel(value: AffineConv) -> Array:
    """The kernel of a map with upsampled input as PyTorch and ONNX store it: (in, out / groups, *taps).

    The inverse of what `transposed_convolution` does to its argument.
    """
    xp = array_namespace(value.kernel)
    out, fan, *taps = value.kernel.shape
    rank, groups = len(taps), value.groups
    flipped = xp.flip(value.kernel, axis=tuple(range(2, 2 + rank))) if rank else value.kernel
    blocks = xp.reshape(flipped, (groups, out // groups, fan, *taps))
    return xp.reshape(xp.permute_dims(blocks, (0, 2, 1, *range(3, 3 + rank))), (groups * fan, out // groups, *taps))


def transposed_geometry(stencil: Stencil, *, symmetric: bool = False) -> tuple[list[tuple[int, int]], list[int]] | None:
    """The `padding` and `output_padding` with which `transposed_convolution` gives a stencil, None where there are none.

    `symmetric` asks for as much padding before each axis as after it, as PyTorch wants it; ONNX takes two numbers.

    >>> import numpy as np
    >>> value = transposed_convolution(np.ones((4, 8, 3)), stride=2, padding=1, output_padding=1)
    >>> transposed_geometry(value.stencil), transposed_geometry(value.stencil, symmetric=True)
    (([(1, 0)], [0]), ([(1, 1)], [1]))
    """
    pads, extras = [], []
    for window in stencil.windows:
        before, after = window.span - 1 - window.before, window.span - 1 - window.after
        taken = before if symmetric else max(0, after)
        if window.stride > 1 or before < 0 or not 0 <= taken - after < max(window.upsample, window.dilation):
            return None
        pads.append((before, taken))
        extras.append(taken - after)
    return pads, extras


def linear(weight: Array, bias: Array | None = None) -> AffineConv:
    """A linear layer over the last axis: `weight` (out, in), `bias` (out,)."""
    return AffineConv(weight, _bias(bias, weight, weight.shape[0]))


def scale_and_shift(scale: Array, shift: Array, rank: int) -> AffineConv:
    """Each channel times its own number plus another: `scale` and `shift` (channels,).

    >>> import numpy as np
    >>> scale_and_shift(np.ones(6), np.zeros(6), rank=2).kernel.shape
    (6, 1, 1, 1)
    """
    xp = array_namespace(scale)
    return AffineConv(xp.reshape(scale, (-1, *([1] * (rank + 1)))), shift, (Window(1),) * rank, int(scale.shape[0]))


def batch_norm(
    mean: Array, variance: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, rank: int = 2
) -> AffineConv:
    """Batch norm in eval (Ioffe and Szegedy 2015): `weight * (x - mean) / sqrt(variance + eps) + bias`, each (channels,), in float64.

    >>> import numpy as np
    >>> batch_norm(np.array([1.0]), np.array([4.0]), eps=0.0).bias
    array([-0.5])
    """
    xp = array_namespace(mean)
    scale = 1 / xp.sqrt(_kernels.to_float64(variance) + eps)
    if weight is not None:
        scale = scale * _kernels.to_float64(weight)
    shift = -scale * _kernels.to_float64(mean)
    if bias is not None:
        shift = shift + _kernels.to_float64(bias)
    return scale_and_shift(scale, shift, rank)


def identity(channels: int, rank: int, like: Array) -> AffineConv:
    """The map that changes nothing, in float64 where `like` lives."""
    xp = array_namespace(like)
    ones = xp.ones((channels,), dtype=xp.float64, device=device(like))
    return scale_and_shift(ones, 0 * ones, rank)


def window(channels: int, windows: Sequence[Window], like: Array, *, mode: Mode = "constant", fill: Array | None = None) -> AffineConv:
    """Padding, cropping and strided slicing: each channel read through windows of one tap."""
    for axis, one in enumerate(windows):
        if one.kernel != 1:
            raise AlgebraError(f"a crop or a padding reads one tap, not {one.kernel} (axis {axis}); use `convolution` or `average_pool`")
    plain = identity(channels, len(windows), like)
    return AffineConv(plain.kernel, plain.bias, tuple(windows), channels, mode, fill)


def average_pool(
    channels: int,
    kernel_size: Sequence[int],
    like: Array,
    *,
    stride: Sequence[int] | None = None,
    padding: int | Sequence[int] | Padding = 0,
    dilation: int | Sequence[int] = 1,
    divisor: float | None = None,
) -> AffineConv:
    """Average pooling that counts its zero padding: each tap 1 / kernel area or 1 / `divisor`. The stride is the kernel size by default.

    >>> import numpy as np
    >>> average_pool(2, (2, 2), np.zeros(0)).kernel[:, 0].tolist()
    [[[0.25, 0.25], [0.25, 0.25]], [[0.25, 0.25], [0.25, 0.25]]]
    """
    xp = array_namespace(like)
    taps = tuple(kernel_size)
    kernel = xp.full((channels, 1, *taps), 1 / (divisor or math.prod(taps)), dtype=xp.float64, device=device(like))
    return convolution(kernel, stride=taps if stride is None else stride, padding=padding, dilation=dilation, groups=channels)


def _each(number: int | Sequence[int], rank: int) -> tuple[int, ...]:
    if isinstance(number, int):
        return (number,) * rank
    numbers = tuple(int(n) for n in number)
    if len(numbers) == 1:
        return numbers * rank
    if len(numbers) != rank:
        raise AlgebraError(f"{list(numbers)} must hold one number for each of the {rank} spatial axes")
    return numbers


def _pairs(padding: int | Sequence[int] | Padding, rank: int) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, int) or all(isinstance(one, int) for one in padding):
        return tuple((p, p) for p in _each(padding, rank))  # type: ignore[arg-type]
    pairs: Any = tuple(one if isinstance(one, int) else tuple(one) for one in padding)
    if len(pairs) != rank or any(isinstance(pair, int) or len(pair) != 2 for pair in pairs):
        raise AlgebraError(f"padding {list(pairs)} must hold one (before, after) pair for each of the {rank} spatial axes")
    return tuple((int(before), int(after)) for before, after in pairs)


def _bias(bias: Array | None, kernel: Array, channels: int) -> Array:
    if bias is not None:
        return bias
    xp = array_namespace(kernel)
    return xp.zeros((int(channels),), dtype=kernel.dtype, device=device(kernel))
