"""What each ONNX operator makes of its inputs, one small reader an operator. Reading names no block and no model.

A reader gets the node with its attributes and inputs by name, and gives the terms of a linear node, an `Obstruction` where the operator
could have been linear but is not here, or None where it is not linear at all. Operators are read as opsets 7 and later define them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from refold import algebra
from refold.algebra import AffineConv, Mode, Obstruction, Selection
from refold.dialects.onnx import _products, _rearranging  # noqa: F401  (register their readers)
from refold.dialects.onnx._call import READERS, Call, Reading, reads
from refold.dialects.onnx._constants import QUANTIZED
from refold.dialects.onnx._layout import Padding as PaddingFound
from refold.dialects.onnx._layout import Readers, find_padding
from refold.dialects.onnx._parts import select
from refold.dialects.onnx._scopes import Size
from refold.dialects.onnx._tensors import FLOATS, Array
from refold.geometry import Window, same_padding
from refold.maps import IDENTITY, Scalar

Padding: TypeAlias = "list[tuple[int, int]]"

MODES: Mapping[str, Mode] = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
LIKE = np.zeros(0)
MANY = 64
"""Parts of a concatenation beyond which it is not looked into."""
EPSILON = float(np.float32(1e-5))
"""What an `epsilon` that is left out is: the schema holds it in float32."""


def read(call: Call, readers: Readers) -> Reading | Obstruction | None:
    """What one node makes of its inputs, or the chain that ends in it of its root."""
    found = find_padding(call, readers)
    if found is not None:
        return found if isinstance(found, Obstruction) else _chain(call, found)
    operation = call.node.op_type
    if operation in QUANTIZED:
        return Obstruction(
            "reading", f"{operation} rounds to integers, so it is not linear", "fold the float model and quantize it afterwards"
        )
    typed = call.scope.typed(call.node.output[0])
    if operation not in READERS or typed is None or typed.elem_type not in FLOATS:
        return None
    reading = READERS[operation](call)
    given = next(call.given(), None) if isinstance(reading, Reading) else None
    return reading if given is None else call.made_at_run_time(given, "shape or place")


# ---------------------------------------------------------------------------------------------------------------- convolution and linear


@reads("Conv")
def _convolution(call: Call) -> Reading | Obstruction | None:
    """y = W * x + b."""
    x, weight, bias = call.x, call.input(1), call.input(2)
    prepared = _weights(call, x, weight, bias)
    if prepared is None or isinstance(prepared, Obstruction):
        return prepared
    kernel, offset = prepared
    rank = kernel.ndim - 2
    if rank < 1 or tuple(call.get("kernel_shape", kernel.shape[2:])) != kernel.shape[2:]:
        return None
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    padding = _padding(call, kernel.shape[2:], strides, dilations)
    if isinstance(padding, Obstruction):
        return padding
    value = algebra.convolution(kernel, offset, stride=strides, padding=padding, dilation=dilations, groups=call.get("group", 1))
    return Reading({x: call.leaf(value, (weight, bias), padding, strides, dilations, value.groups)}, kernel.size)


@reads("ConvTranspose")
def _transposed_convolution(call: Call) -> Reading | Obstruction | None:
    """y = W^T x + b."""
    x, weight, bias = call.x, call.input(1), call.input(2)
    prepared = _weights(call, x, weight, bias)
    if prepared is None or isinstance(prepared, Obstruction):
        return prepared
    kernel, offset = prepared
    rank = kernel.ndim - 2
    if rank < 1 or tuple(call.get("kernel_shape", kernel.shape[2:])) != kernel.shape[2:]:
        return None
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    extra = call.get("output_padding", [0] * rank)
    padding = _transposed_padding(call, kernel.shape[2:], strides, dilations, extra)
    if isinstance(padding, Obstruction):
        return padding
    if any(before < 0 or after < 0 for before, after in padding):
        return Obstruction(
            "reading", f"its output shape asks for the negative padding {padding}", "state `pads` and `output_padding` instead"
        )
    value = algebra.transposed_convolution(
        kernel, offset, stride=strides, padding=padding, output_padding=extra, dilation=dilations, groups=call.get("group", 1)
    )
    return Reading({x: call.leaf(value, (weight, bias), padding, strides, dilations, extra, value.groups)}, kernel.size)


def _weights(call: Call, x: str, weight: str, bias: str) -> tuple[Array, Array | None] | Obstruction | None:
    """Kernel and bias of a convolution of x, where they are constants."""
    typed = call.typed(x)
    if not call.is_activation(x) or typed is None:
        return None
    for name, role in ((weight, "weight"), (bias, "bias")):
        if name and not call.is_constant(name):
            return call.made_at_run_time(name, role)
    kernel = call.value(weight)
    return None if kernel.ndim != len(typed.shape) else (kernel, call.value(bias) if bias else None)


def _padding(call: Call, taps: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Padding | Obstruction:
    """Padding before and after each axis, from `pads` or `auto_pad`."""
    rank = len(taps)
    match call.get("auto_pad", "NOTSET"):
        case "NOTSET" | "":
            return _pairs(call.get("pads", [0] * 2 * rank))
        case "VALID":
            return [(0, 0)] * rank
        case convention:
            pairs: Padding = []
            for axis, size in enumerate(call.spatial(call.x, rank)):
                if not isinstance(size, int) and strides[axis] > 1:
                    return Obstruction(
                        "reading",
                        f"auto_pad {convention} with stride {strides[axis]} pads by what the size of axis {axis} asks for, which is free",
                        "fix the input size, or state `pads`",
                    )
                # With stride 1 the padding is the same for every size.
                items = size if isinstance(size, int) else taps[axis]
                way = "upper" if convention == "SAME_UPPER" else "lower"
                pairs += same_padding((items,), (taps[axis],), (strides[axis],), (dilations[axis],), convention=way)  # type: ignore[arg-type]
            return pairs


def _transposed_padding(
    call: Call, taps: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extra: Sequence[int]
) -> Padding | Obstruction:
    """What a transposed convolution takes off its output, from `pads`, `output_shape` or `auto_pad`."""
    rank = len(taps)
    convention = call.get("auto_pad", "NOTSET") or "NOTSET"
    shape = call.get("output_shape", None)
    if shape is None and convention in ("NOTSET", "VALID"):
        return _pairs(call.get("pads", [0] * 2 * rank)) if convention == "NOTSET" else [(0, 0)] * rank
    spans = [d * (k - 1) + 1 for k, d in zip(taps, dilations, strict=True)]
    if shape is None:
        totals = [span + more - stride for span, more, stride in zip(spans, extra, strides, strict=True)]
    else:
        sizes = call.spatial(call.x, rank)
        if not all(isinstance(size, int) for size in sizes):
            return Obstruction("reading", "its `output_shape` is fixed where the size of its input is free", "state `pads` instead")
        totals = [
            stride * (size - 1) + more + span - wanted  # type: ignore[operator]
            for stride, size, more, span, wanted in zip(strides, sizes, extra, spans, shape[-rank:], strict=True)
        ]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if convention == "SAME_UPPER" else [(after, before) for before, after in halves]


def _pairs(pads: Sequence[int]) -> Padding:
    half = len(pads) // 2
    return [(int(before), int(after)) for before, after in zip(pads[:half], pads[half:], strict=True)]


# ------------------------------------------------------------------------------------------------------------------------- normalization


@reads("BatchNormalization")
def _batch_norm(call: Call) -> Reading | Obstruction | None:
    """y = gamma (x - mean) / sqrt(variance + eps) + beta."""
    x, *names = (call.input(position) for position in range(5))
    if not call.is_activation(x):
        return None
    if call.get("training_mode", 0) or any(call.node.output[1:]):
        return Obstruction(
            "reading", "this batch norm is in training mode, so its scale and shift change with the batch", "export the model in eval mode"
        )
    if not call.get("spatial", 1) or len(call.output.shape) < 2:
        return None
    for name, role in zip(names, ("scale", "bias", "mean", "variance"), strict=True):
        if not call.is_constant(name):
            return call.made_at_run_time(name, role)
    weight, bias, mean, variance = map(call.value, names)
    epsilon, rank = call.get("epsilon", EPSILON), len(call.output.shape) - 2
    if not all(bool(np.isfinite(array).all()) for array in (weight, bias, mean, variance)):
        raise call.not_finite([one for name in names for one in call.constants.sources(name, call.scope)])
    with np.errstate(all="ignore"):
        value = algebra.batch_norm(mean, variance, weight, bias, eps=epsilon, rank=rank)
    if not bool(np.isfinite(value.kernel).all()):
        return Obstruction("reading", "its variance and epsilon give no finite scale", "mend the running statistics")
    return Reading({x: call.leaf(value, names, epsilon, rank)}, mean.size)


# ---------------------------------------------------------------------------------------------------------------- elementwise arithmetic


@reads("Add", "Sum", "Sub")
def _sum(call: Call) -> Reading | Obstruction | None:
    """y = a + b + ..., y = a - b."""
    sign = -1.0 if call.node.op_type == "Sub" else 1.0
    signed = [(name, sign if position else 1.0) for position, name in enumerate(call.node.input)]
    active = [(name, factor) for name, factor in signed if call.is_activation(name)]
    constant = [(name, factor) for name, factor in signed if call.is_constant(name)]
    if len(active) + len(constant) != len(signed) or not active or any(not call.keeps_shape(name) for name, _ in active):
        return None
    if not constant:
        totals: dict[str, float] = {}
        for name, factor in active:
            totals[name] = totals.get(name, 0.0) + factor
        return Reading({name: Scalar(factor) for name, factor in totals.items()})
    if len(active) != 1 or len(constant) != 1:
        return None
    ((x, own), (other, factor)) = active[0], constant[0]
    found = _per_channel(call, other)
    if isinstance(found, float):
        return Reading({x: Scalar(own, call.finite(factor * found, other))}, 1)
    if found is None:
        return None
    levels, rank = found
    value = algebra.scale_and_shift(np.full_like(levels, own), factor * levels, rank)
    return Reading({x: call.leaf(value, (other,), own, factor, rank)}, levels.size)


@reads("Neg")
def _negate(call: Call) -> Reading | Obstruction | None:
    """y = -x."""
    x = call.x
    return Reading({x: Scalar(-1.0)}) if call.is_activation(x) else None


@reads("Mul")
def _multiply(call: Call) -> Reading | Obstruction | None:
    """y = c x."""
    x, factor = call.x, call.input(1)
    if not call.is_activation(x):
        x, factor = factor, x
    return _scaled(call, x, factor, invert=False)


@reads("Div")
def _divide(call: Call) -> Reading | Obstruction | None:
    """y = x / c."""
    return _scaled(call, call.x, call.input(1), invert=True)


def _scaled(call: Call, x: str, factor: str, *, invert: bool) -> Reading | None:
    if not call.is_activation(x) or not call.is_constant(factor) or not call.keeps_shape(x):
        return None
    found = _per_channel(call, factor)
    if found is None or (invert and bool(np.any(np.equal(found if isinstance(found, float) else found[0], 0)))):
        return None
    if isinstance(found, float):
        return Reading({x: Scalar(call.finite(1 / found if invert else found, factor))}, 1)
    levels, rank = found
    value = algebra.scale_and_shift(1 / levels if invert else levels, np.zeros_like(levels), rank)
    return Reading({x: call.leaf(value, (factor,), invert, rank)}, levels.size)


def _per_channel(call: Call, name: str) -> float | tuple[Array, int] | None:
    """A constant operand as one number, or as one number a channel with the rank of the axes behind the channels."""
    typed = call.typed(name)
    if typed is None or typed.elem_type not in FLOATS or not all(isinstance(size, int) for size in typed.shape):
        return None
    wide = [axis - len(typed.shape) for axis, size in enumerate(typed.shape) if size != 1]
    if len(wide) > 1 or len(typed.shape) > len(call.output.shape):
        return None
    levels = np.asarray(call.value(name), np.float64).reshape(-1)
    if not wide:
        return float(levels[0])
    if levels.size == 0 or call.output.shape[wide[0]] != levels.size:
        return None
    return levels, -wide[0] - 1


# ----------------------------------------------------------------------------------------------------------- pooling, padding, slicing


@reads("AveragePool")
def _average_pool(call: Call) -> Reading | Obstruction | None:
    """y = mean of the window, its zero padding counted."""
    x = call.x
    taps = call.get("kernel_shape", ())
    rank = len(taps)
    channels = call.channels(x)
    if not call.is_activation(x) or channels is None or len(call.output.shape) != rank + 2:
        return None
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    padding = _padding(call, taps, strides, dilations)
    if isinstance(padding, Obstruction):
        return padding
    if any(pair != (0, 0) for pair in padding) and not call.get("count_include_pad", 0):
        return Obstruction(
            "reading",
            f"average pooling with padding {padding} leaves its padding out of the mean, so border and middle differ",
            "export it with count_include_pad = 1",
        )
    value = algebra.average_pool(channels, taps, LIKE, stride=strides, padding=padding, dilation=dilations)
    if call.get("ceil_mode", 0) and not _floors_alike(value, call.spatial(x, rank)):
        return Obstruction(
            "reading", "average pooling with ceil_mode has windows that hang over the border", "use ceil_mode = 0 or a size that divides"
        )
    return Reading({x: call.leaf(value, (), channels, tuple(taps), strides, dilations, padding)})


def _floors_alike(value: AffineConv, sizes: Sequence[Size]) -> bool:
    """Whether rounding the number of positions up makes no difference."""
    for window, size in zip(value.windows, sizes, strict=True):
        if window.stride > 1 and (not isinstance(size, int) or (size + window.excess) % window.stride):
            return False
    return True


@reads("Pad")
def _pad(call: Call) -> Reading | Obstruction | None:
    """y = x, continued."""
    x = call.x
    rank = len(call.output.shape) - 2
    channels = call.channels(x)
    mode = MODES.get(call.get("mode", "constant"))
    if not call.is_activation(x) or channels is None or rank < 1 or mode is None:
        return None
    pads, level = _pad_amounts(call), _pad_level(call)
    if pads is None or level is None or not math.isfinite(level):
        return None
    if pads[:2] != [(0, 0), (0, 0)] or (mode != "constant" and any(min(pair) < 0 for pair in pads)):
        return None
    windows = [Window(1, before=before, after=after) for before, after in pads[2:]]
    fill = np.full((channels,), level) if mode == "constant" and level else None
    value = algebra.window(channels, windows, LIKE, mode=mode, fill=fill)
    return Reading({x: call.leaf(value, (), channels, pads, mode, level)})


def _pad_amounts(call: Call) -> Padding | None:
    """Padding before and after every axis, where it is constant."""
    ndim = len(call.output.shape)
    if call.opset < 11:
        return _pairs(call.get("pads", []))
    pads, axes = call.input(1), call.input(3)
    if not call.is_constant(pads) or (axes and not call.is_constant(axes)):
        return None
    given = _pairs([int(n) for n in call.value(pads).reshape(-1)])
    where = [int(n) % ndim for n in call.value(axes).reshape(-1)] if axes else range(ndim)
    result = [(0, 0)] * ndim
    for axis, pair in zip(where, given, strict=True):
        result[axis] = pair
    return result


def _pad_level(call: Call) -> float | None:
    if call.opset < 11:
        return float(call.get("value", 0.0))
    name = call.input(2)
    if not name:
        return 0.0
    return float(np.asarray(call.value(name), np.float64).reshape(-1)[0]) if call.is_constant(name) else None


def _chain(call: Call, found: PaddingFound) -> Reading | None:
    """y = x, continued by a constant a channel, however it was written."""
    channels = call.channels(found.root)
    assert channels is not None
    windows = [Window(1, before=before, after=after) for before, after in found.pads]
    fill = None if found.fill is None else tuple(found.fill.tolist())
    value = algebra.window(channels, windows, LIKE, fill=found.fill)
    mapped = IDENTITY if all(window.is_point for window in windows) else call.leaf(value, (), channels, found.pads, fill)
    return Reading({found.root: mapped}, operators=found.operators)


@reads("Concat")
def _concatenate(call: Call) -> Reading | Obstruction | None:
    """y = the channels of a, then those of b, ..."""
    parts = list(call.node.input)
    ndim = len(call.output.shape)
    axis = int(call.get("axis", 1)) % ndim
    if axis == 0 or len(set(parts)) < len(parts) or len(parts) > MANY or not all(map(call.is_activation, parts)):
        return None
    widths = [typed.shape[axis] for name in parts if (typed := call.typed(name)) is not None]
    known = [width for width in widths if isinstance(width, int)]
    if len(known) < len(parts):
        return None
    return Reading(dict(zip(parts, Selection.side_by_side(known, ndim - 1 - axis, LIKE), strict=True)))


@reads("Slice")
def _slice(call: Call) -> Reading | Obstruction | None:
    """y = x[..., start:end:step, ...]."""
    x = call.x
    channels = call.channels(x)
    bounds = _slice_bounds(call)
    if not call.is_activation(x) or bounds is None:
        return None
    shape = call.spatial(x, len(call.output.shape))
    windows = [Window(1)] * len(shape)
    for axis, start, end, step in bounds:
        size = shape[axis]
        if step < 1:
            return None
        if isinstance(size, int):
            start = max(0, start + size) if start < 0 else min(start, size)
            end = max(0, end + size) if end < 0 else min(end, size)
            if end <= start:
                return None
            after = end - size
        elif start < 0 or 0 <= end < 2**31 - 1:
            return None
        else:
            after = min(end, 0)
        windows[axis] = Window(1, stride=step, before=-start, after=after)
    if all(window.is_point for window in windows):
        return Reading({x: IDENTITY})
    if channels is not None and [axis for axis, window in enumerate(windows) if not window.is_point] == [1]:
        (window,) = windows[1:2]
        return select(call, x, 1, range(-window.before, channels + window.after, window.stride))
    if channels is None or len(shape) < 3 or not all(window.is_point for window in windows[:2]):
        return None
    return Reading({x: call.leaf(algebra.window(channels, windows[2:], LIKE), (), channels, windows)})


def _slice_bounds(call: Call) -> list[tuple[int, int, int, int]] | None:
    """Axis, start, end and step of each axis that is cut, where they are constant."""
    ndim = len(call.output.shape)
    if call.opset < 10:
        starts, ends = call.get("starts", []), call.get("ends", [])
        axes, steps = call.get("axes", range(len(starts))), [1] * len(starts)
    else:
        names = [call.input(position) for position in range(1, 5)]
        if any(name and not call.is_constant(name) for name in names) or not (names[0] and names[1]):
            return None
        starts, ends = ([int(n) for n in call.value(name).reshape(-1)] for name in names[:2])
        axes = [int(n) for n in call.value(names[2]).reshape(-1)] if names[2] else range(len(starts))
        steps = [int(n) for n in call.value(names[3]).reshape(-1)] if names[3] else [1] * len(starts)
    return [(int(axis) % ndim, int(start), int(end), int(step)) for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)]


# ------------------------------------------------------------------------------------------------------------------- nothing but a name


@reads("Identity", "Cast")
def _unchanged(call: Call) -> Reading | Obstruction | None:
    """y = x, where the type stays."""
    return Reading({call.x: IDENTITY}) if call.is_activation(call.x) else None


@reads("Dropout")
def _dropout(call: Call) -> Reading | Obstruction | None:
    """y = x, in inference."""
    x, training = call.x, call.input(2)
    if not call.is_activation(x) or any(call.node.output[1:]):
        return None
    if training and not (call.is_constant(training) and not call.value(training).item()):
        return None
    return Reading({x: IDENTITY})
