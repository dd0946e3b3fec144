"""Operators that the ONNX reference evaluator runs wrongly, not at all or item by item, as the standard has them, in NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx.defs import get_schema
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_batch_normalization import BatchNormalization_14
from onnx.reference.ops.op_conv import Conv as StandardConv

from refold.dialects.onnx._blocks import magnitude_product, widened_product
from refold.dialects.onnx._tensors import Array
from refold.geometry import same_padding

LARGE = 1 << 17
"""Numbers beyond which a kernel is multiplied block by block."""


class BatchNormalization(BatchNormalization_14):
    """Batch norm in inference, as the reference evaluator has it from opset 14 on.

    Its versions for older opsets work out batch statistics although the node has one output, which there means inference.
    """

    op_domain = ""

    def _run(self, *inputs: Any, epsilon: float = 1e-5, **_: Any) -> Any:
        x, scale, bias, mean, variance = inputs
        return super()._run(x, scale, bias, mean, variance, epsilon, None, 0)  # type: ignore[no-untyped-call]


class Pad(OpRun):
    """Padding; a negative amount crops, before anything is continued."""

    op_domain = ""

    def _run(
        self, x: Any, pads: Any = None, level: Any = None, axes: Any = None, *, mode: str = "constant", value: float = 0.0, **_: Any
    ) -> Any:
        amounts = [int(amount) for amount in pads]
        half = len(amounts) // 2
        pairs = [(0, 0)] * x.ndim
        for axis, before, after in zip(range(half) if axes is None else axes, amounts[:half], amounts[half:], strict=True):
            pairs[int(axis)] = (before, after)
        x = _cropped(x, [(max(0, -before), max(0, -after)) for before, after in pairs])
        width = [(max(0, before), max(0, after)) for before, after in pairs]
        if mode != "constant":
            return (np.pad(x, width, mode=mode),)  # type: ignore[call-overload]
        fill = value if level is None or np.size(level) == 0 else np.reshape(level, -1)[0]
        return (np.pad(x, width, constant_values=fill).astype(x.dtype),)


class Unsqueeze(OpRun):
    """New axes of one item, whatever the order they are listed in."""

    op_domain = ""

    def _run(self, x: Any, given: Any = None, *, axes: Any = None, **_: Any) -> Any:
        places = axes if given is None else np.reshape(given, -1)
        return (np.expand_dims(x, tuple(int(axis) for axis in places)),)


class ConvTranspose(OpRun):
    """Transposed convolution: each item of x lays the kernel, times itself, on the output."""

    op_domain = ""

    def _run(self, x: Any, kernel: Any, bias: Any = None, *, group: int = 1, **given: Any) -> Any:
        rank, taps = x.ndim - 2, kernel.shape[2:]
        strides, dilations = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
        extra = given.get("output_padding") or [0] * rank
        spans = [dilation * (k - 1) + 1 for k, dilation in zip(taps, dilations, strict=True)]
        laid = [stride * (n - 1) + span for n, stride, span in zip(x.shape[2:], strides, spans, strict=True)]
        sizes = [size + more for size, more in zip(laid, extra, strict=True)]
        channels = kernel.shape[1]
        parts = x.reshape(x.shape[0], group, -1, *x.shape[2:])
        kernels = kernel.reshape(group, -1, *kernel.shape[1:])
        whole = np.zeros((x.shape[0], group, channels, *sizes), x.dtype)
        for tap in itertools.product(*map(range, taps)):
            whole[_places(tap, dilations, strides, x.shape[2:])] += np.einsum("bgi...,gio->bgo...", parts, kernels[(..., *tap)])
        pads = self._padding(x.shape[2:], sizes, strides, rank, given)
        y = _cropped(whole.reshape(x.shape[0], -1, *sizes), [(0, 0), (0, 0), *pads])
        return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)

    def _padding(
        self, items: Sequence[int], sizes: Sequence[int], strides: Sequence[int], rank: int, given: dict[str, Any]
    ) -> list[tuple[int, int]]:
        """What is taken off on both sides of each axis."""
        convention, wanted = given.get("auto_pad") or "NOTSET", given.get("output_shape")
        if convention.startswith("SAME") and wanted is None:
            wanted = [n * stride for n, stride in zip(items, strides, strict=True)]
        if wanted is None:
            pads = given.get("pads") or [0] * 2 * rank
            return list(zip(pads[:rank], pads[rank:], strict=True)) if convention == "NOTSET" else [(0, 0)] * rank
        totals = [size - other for size, other in zip(sizes, list(wanted)[-rank:], strict=True)]
        halves = [(total // 2, total - total // 2) for total in totals]
        return halves if convention == "SAME_UPPER" else [(after, before) for before, after in halves]


class Conv(StandardConv):
    """Convolution as the reference evaluator has it; a kernel of a narrower type than x is widened block by block.

    So a large kernel is read once and takes no room: in float64 it would be written, and read again, far from the processor.
    """

    op_domain = ""

    def _run(self, x: Any, kernel: Any, bias: Any = None, **given: Any) -> Any:  # type: ignore[override]
        if not _goes_by_block(x, kernel, given):
            return super()._run(x, kernel.astype(x.dtype, copy=False), bias, **given)  # type: ignore[no-untyped-call]
        return (_convolved(x, kernel, bias, given, widened_product),)


class ConvOfMagnitudes(Conv):
    """Convolution of an x that is not negative with the sizes of a kernel, as its rounding is measured by them.

    What lies below the smallest normal number of a type is rounded as that number is.
    """

    op_schema = get_schema("Conv")

    def _run(self, x: Any, kernel: Any, bias: Any = None, **given: Any) -> Any:  # type: ignore[override]
        floor = float(ml_dtypes.finfo(kernel.dtype).smallest_normal)  # type: ignore[no-untyped-call]
        if not _goes_by_block(x, kernel, given):
            return super()._run(x, np.abs(kernel.astype(x.dtype)) + floor, bias, **given)
        return (_convolved(x, kernel, bias, given, lambda rows, columns: magnitude_product(rows, columns, floor)),)


class AveragePool(OpRun):
    """The mean of each window: of what lies in the input, or in its padding as well; never of what lies beyond."""

    op_domain = ""

    def _run(self, x: Any, *, kernel_shape: Sequence[int] = (), ceil_mode: int = 0, count_include_pad: int = 0, **given: Any) -> Any:
        rank, items = len(kernel_shape), x.shape[2:]
        strides, dilations = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
        spans = [dilation * (k - 1) + 1 for k, dilation in zip(kernel_shape, dilations, strict=True)]
        pads = given.get("pads") or [0] * 2 * rank
        pairs = list(zip(pads[:rank], pads[rank:], strict=True))
        match given.get("auto_pad") or "NOTSET":
            case "VALID":
                pairs = [(0, 0)] * rank
            case "SAME_UPPER" | "SAME_LOWER" as convention:
                way = "upper" if convention == "SAME_UPPER" else "lower"
                pairs = list(same_padding(items, tuple(kernel_shape), tuple(strides), tuple(dilations), convention=way))  # type: ignore[arg-type]
        counts = []
        for n, stride, span, (before, after) in zip(items, strides, spans, pairs, strict=True):
            room = n + before + after - span
            count = (-(-room // stride) if ceil_mode else room // stride) + 1
            counts.append(count - (ceil_mode and (count - 1) * stride >= n + before))
        reach = [
            max(0, stride * (count - 1) + span - n - before - after)
            for n, stride, count, span, (before, after) in zip(items, strides, counts, spans, pairs, strict=True)
        ]
        inside = np.pad(np.ones(items), pairs, constant_values=1.0 if count_include_pad else 0.0)
        beyond = [(0, more) for more in reach]
        padded = np.pad(np.pad(x, [(0, 0), (0, 0), *pairs]), [(0, 0), (0, 0), *beyond])
        inside = np.pad(inside, beyond)
        total: Any = 0.0
        weight: Any = 0.0
        for tap in itertools.product(*map(range, kernel_shape)):
            places = _places(tap, dilations, strides, counts)
            total, weight = total + padded[places], weight + inside[places]
        return ((total / weight).astype(x.dtype),)


OWN = (Pad, Unsqueeze, Conv, ConvTranspose, AveragePool)


def own_operators(opset: int) -> list[type[OpRun]]:
    """Those to use in a model of an opset."""
    own: list[type[OpRun]] = [*OWN, ConvOfMagnitudes]
    return [*own, BatchNormalization] if opset < 14 else own


def _goes_by_block(x: Array, kernel: Array, given: Mapping[str, Any]) -> bool:
    """Whether a kernel is narrow, large and dense."""
    is_plain = (given.get("group") or 1) == 1 and given.get("auto_pad") in (None, "NOTSET")
    return kernel.dtype != x.dtype and kernel.size > LARGE and is_plain


def _convolved(x: Array, kernel: Array, bias: Array | None, given: Mapping[str, Any], product: Callable[[Array, Array], Array]) -> Array:
    """The convolution as one product: rows of the kernel and, for each position, a column of what its window reads."""
    rank = x.ndim - 2
    pads, strides = given.get("pads") or [0] * 2 * rank, given.get("strides") or [1] * rank
    dilations = given.get("dilations") or [1] * rank
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [dilation * (taps - 1) + 1 for dilation, taps in zip(dilations, kernel.shape[2:], strict=True)]
    windows: Any = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, x.ndim)))
    windows = windows[(..., *(slice(None, None, step) for step in (*strides, *dilations)))]
    places = windows.shape[2 : 2 + rank]
    columns = np.moveaxis(windows, (1, *range(2 + rank, 2 + 2 * rank)), range(1 + rank)).reshape(kernel[0].size, -1)
    result = product(kernel.reshape(len(kernel), -1), columns)
    y = np.moveaxis(result.reshape(len(kernel), len(x), *places), 0, 1)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _places(tap: Sequence[int], dilations: Sequence[int], strides: Sequence[int], counts: Sequence[int]) -> Any:
    """Where one tap of so many windows lies."""
    begins = [t * dilation for t, dilation in zip(tap, dilations, strict=True)]
    bounds = zip(begins, strides, counts, strict=True)
    return (..., *(slice(begin, begin + stride * (count - 1) + 1, stride) for begin, stride, count in bounds))


def _cropped(x: Array, amounts: Sequence[tuple[int, int]]) -> Array:
    """x without so many items at both ends of each axis; with so many zeros more, where negative."""
    cut = x[tuple(slice(max(0, before), max(0, n - max(0, after))) for n, (before, after) in zip(x.shape, amounts, strict=True))]
    more = [(max(0, -before), max(0, -after)) for before, after in amounts]
    return np.pad(cut, more) if any(map(any, more)) else cut
