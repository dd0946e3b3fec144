"""What each ATen operator makes of its inputs, one small reader an operator. Reading names no block and no model.

A reader gets the call with its arguments by name, and gives the terms of a linear node, an `Obstruction` where the operator could have
been linear but is not here, or None where it is not linear at all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from refold import algebra
from refold.algebra import AffineConv, Leaf, Obstruction, Selection
from refold.dialects.aten._layout import ENTRIES, find_padding
from refold.dialects.aten._parts import select
from refold.dialects.aten._reading import Call, Reading, Terms, finite, reads
from refold.dialects.aten._sizes import fixed, is_same, shape_of
from refold.geometry import Window
from refold.maps import IDENTITY, Scalar


def _is_static(numbers: object) -> bool:
    return all(isinstance(number, int) for number in (numbers if isinstance(numbers, (list, tuple)) else [numbers]))


# ---------------------------------------------------------------------------------------------------------------- convolution and linear


@reads("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def _convolution(call: Call) -> Reading | Obstruction | None:
    """y = W * x + b."""
    return _weighted(
        call,
        lambda kernel, bias: algebra.convolution(
            kernel, bias, stride=call["stride"], padding=call["padding"], dilation=call["dilation"], groups=call["groups"]
        ),
    )


@reads("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def _convolution_padded_by_name(call: Call) -> Reading | Obstruction | None:
    """padding "same": `dilation * (kernel - 1)` in all, the odd one behind, for which torch pads a copy of the input first."""

    def make(kernel: torch.Tensor, bias: torch.Tensor | None) -> AffineConv:
        taps = kernel.shape[2:]
        dilations = call["dilation"] * len(taps) if len(call["dilation"]) == 1 else call["dilation"]
        totals = [d * (k - 1) if call["padding"] == "same" else 0 for k, d in zip(taps, dilations, strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
        return algebra.convolution(kernel, bias, stride=call["stride"], padding=pads, dilation=dilations, groups=call["groups"])

    reading = _weighted(call, make)
    if not isinstance(reading, Reading):
        return reading
    (mapped,) = reading.terms.values()
    assert isinstance(mapped, Leaf)
    is_copied = any(window.before != window.after for window in mapped.stencil.windows)
    return replace(reading, operators=2 if is_copied else 1)


@reads("aten.convolution.default")
def _any_convolution(call: Call) -> Reading | Obstruction | None:
    """Either of the two, by the flag `transposed`."""
    if call["transposed"]:
        return _weighted(
            call,
            lambda kernel, bias: algebra.transposed_convolution(
                kernel,
                bias,
                stride=call["stride"],
                padding=call["padding"],
                output_padding=call["output_padding"],
                dilation=call["dilation"],
                groups=call["groups"],
            ),
        )
    return _convolution(call)


@reads("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def _transposed_convolution(call: Call) -> Reading | Obstruction | None:
    """y = W^T x + b."""
    return _weighted(
        call,
        lambda kernel, bias: algebra.transposed_convolution(
            kernel,
            bias,
            stride=call["stride"],
            padding=call["padding"],
            output_padding=call["output_padding"],
            dilation=call["dilation"],
            groups=call["groups"],
        ),
    )


@reads("aten.linear.default")
def _linear(call: Call) -> Reading | Obstruction | None:
    """y = W x + b, over the last axis."""
    return _weighted(call, algebra.linear)


def _weighted(call: Call, make: Callable[[torch.Tensor, torch.Tensor | None], AffineConv]) -> Reading | Obstruction | None:
    x = call["input"]
    weight, bias = call["weight"], call["bias"]
    if not call.is_activation(x):
        return None
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor not in call.constants:
            return Obstruction("reading", f"its {name} is computed from the input at run time", "nothing: the map changes with the input")
    kernel = call.constants.value(weight)
    offset = None if bias is None else call.constants.value(bias)
    value = make(kernel, offset)
    settings = [(name, one) for name, one in call.arguments.items() if not isinstance(one, Node)]
    return Reading({x: call.leaf(value, (weight, bias), settings)}, kernel.numel())


# ------------------------------------------------------------------------------------------------------------------------- normalization


@reads("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default", "aten.native_batch_norm.default")
def _batch_norm(call: Call) -> Reading | Obstruction | None:
    """y = gamma (x - mean) / sqrt(variance + eps) + beta."""
    if call.arguments.get("training") or call["running_mean"] is None:
        return _batch_statistics(call)
    tensors = (call["weight"], call["bias"], call["running_mean"], call["running_var"])
    x = call["input"]
    if not call.is_activation(x) or any(tensor is not None and tensor not in call.constants for tensor in tensors):
        return None
    weight, bias, mean, variance = (None if tensor is None else call.constants.value(tensor) for tensor in tensors)
    assert mean is not None
    assert variance is not None
    value = algebra.batch_norm(mean, variance, weight, bias, eps=call["eps"], rank=call.output.ndim - 2)
    return Reading({x: call.leaf(value, tensors, call["eps"], call.output.ndim)}, mean.numel())


@reads("aten._native_batch_norm_legit.default", "aten._native_batch_norm_legit.no_stats")
def _batch_statistics(call: Call) -> Reading | Obstruction | None:
    """Not linear: the scale hangs on the batch."""
    return Obstruction(
        "reading",
        "this batch norm has no running statistics, so its scale and shift change with the batch",
        "train it with track_running_stats=True",
    )


# ---------------------------------------------------------------------------------------------------------------- elementwise arithmetic


@reads("aten.add.Tensor", "aten.add.Scalar")
def _add(call: Call) -> Reading | Obstruction | None:
    """y = a + alpha b."""
    return _sum(call, call["self"], call["other"], 1.0, call["alpha"])


@reads("aten.sub.Tensor", "aten.sub.Scalar")
def _subtract(call: Call) -> Reading | Obstruction | None:
    """y = a - alpha b."""
    return None if isinstance(call["alpha"], Node) else _sum(call, call["self"], call["other"], 1.0, -call["alpha"])


@reads("aten.rsub.Tensor", "aten.rsub.Scalar")
def _subtract_reversed(call: Call) -> Reading | Obstruction | None:
    """y = b - alpha a."""
    return None if isinstance(call["alpha"], Node) else _sum(call, call["self"], call["other"], -call["alpha"], 1.0)


@reads("aten.neg.default")
def _negate(call: Call) -> Reading | Obstruction | None:
    """y = -x."""
    return Reading({call["self"]: Scalar(-1.0)}) if call.is_activation(call["self"]) else None


@reads("aten.mul.Tensor", "aten.mul.Scalar")
def _multiply(call: Call) -> Reading | Obstruction | None:
    """y = c x."""
    x, factor = call["self"], call["other"]
    if not call.is_activation(x):
        x, factor = factor, x
    return _scaled(call, x, factor, lambda number: number)


@reads("aten.div.Tensor", "aten.div.Scalar")
def _divide(call: Call) -> Reading | Obstruction | None:
    """y = x / c."""
    return _scaled(call, call["self"], call["other"], lambda number: math.inf if isinstance(number, float) and number == 0 else 1 / number)


@reads("aten.addcmul.default")
def _add_product(call: Call) -> Reading | Obstruction | None:
    """y = a + value b c, the form that a scale and shift is written in."""
    base, x, factor, weight = call["self"], call["tensor1"], call["tensor2"], call["value"]
    if isinstance(weight, Node):
        return None
    if not call.is_activation(x):
        x, factor = factor, x
    product = _scaled(call, x, factor, lambda number: weight * number)
    if product is None:
        return None
    (root,) = product.terms
    if call.is_activation(base):
        return Reading({base: IDENTITY, **product.terms}, product.weights) if base is not root and _same_shape(base, call) else None
    scale, shift = _per_channel(call, factor), _per_channel(call, base)
    if scale is None or shift is None:
        return None
    if isinstance(scale, float) and isinstance(shift, float):
        return Reading({root: Scalar(finite(call, weight * scale), finite(call, shift))}, 2)
    ranks = {one[1] for one in (scale, shift) if not isinstance(one, float)}
    if len(ranks) != 1:
        return None
    (rank,) = ranks
    like = next(one[0] for one in (scale, shift) if not isinstance(one, float))
    scales, shifts = (torch.full_like(like, one) if isinstance(one, float) else one[0] for one in (scale, shift))
    value = algebra.scale_and_shift(weight * scales, shifts, rank)
    return Reading({root: call.leaf(value, (factor, base), weight, rank)}, 2 * like.numel())


def _sum(call: Call, left: object, right: object, left_factor: Any, right_factor: Any) -> Reading | None:
    if not (isinstance(left_factor, (int, float)) and isinstance(right_factor, (int, float))):
        return None
    operands = ((left, left_factor), (right, right_factor))
    active = [(one, float(factor)) for one, factor in operands if call.is_activation(one)]
    if not active or any(not _same_shape(one, call) for one, _ in active):
        return None
    if len(active) == 2:
        terms: Terms = {}
        for one, factor in active:
            terms[one] = Scalar(factor + (known.scale if isinstance(known := terms.get(one), Scalar) else 0.0))
        return Reading(terms)
    x, factor = active[0]
    other, other_factor = operands[1] if x is left else operands[0]
    found = _per_channel(call, other)
    if found is None or _is_mask(found):
        return None
    if isinstance(found, float):
        return Reading({x: Scalar(factor, finite(call, other_factor * found))}, 1)
    levels, rank = found
    value = algebra.scale_and_shift(torch.full_like(levels, factor), other_factor * levels, rank)
    return Reading({x: call.leaf(value, (other,), factor, other_factor, rank)}, levels.numel())


def _scaled(call: Call, x: object, factor: object, change: Callable[[Any], Any]) -> Reading | None:
    if not isinstance(x, Node) or not call.is_activation(x) or not _same_shape(x, call):
        return None
    found = _per_channel(call, factor)
    if found is None:
        return None
    if isinstance(found, float):
        return Reading({x: Scalar(finite(call, change(found)))}, 1)
    levels, rank = found
    value = algebra.scale_and_shift(change(levels), torch.zeros_like(levels), rank)
    return Reading({x: call.leaf(value, (factor,), rank)}, levels.numel())


def _per_channel(call: Call, constant: object) -> float | tuple[torch.Tensor, int] | None:
    """A constant operand as one number, or as one number a channel with the rank of the axes behind the channels."""
    if isinstance(constant, (int, float)) and not isinstance(constant, bool):
        return float(constant)
    if not isinstance(constant, Node) or constant not in call.constants:
        return None
    traced = constant.meta["val"]
    if not isinstance(traced, torch.Tensor) or traced.is_complex():
        return None
    if traced.numel() == 1:
        return float(call.constants.value(constant))
    wide = [axis - traced.ndim for axis, size in enumerate(traced.shape) if size != 1]
    if len(wide) != 1 or shape_of(call.output)[wide[0]] != shape_of(traced)[wide[0]]:
        return None
    return call.constants.value(constant).double().reshape(-1), -wide[0] - 1


def _is_mask(addend: float | tuple[torch.Tensor, int]) -> bool:
    """Whether something added rules classes out, by minus infinity: that is not linear, and no fault of the weights."""
    return addend == -math.inf if isinstance(addend, float) else bool((addend[0] == -math.inf).any())


def _same_shape(value: Node, call: Call) -> bool:
    mine, result = value.meta["val"].shape, call.output.shape
    return len(mine) == len(result) and all(map(is_same, mine, result))


# ----------------------------------------------------------------------------------------------------------- pooling, padding, slicing


@reads("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default")
def _average_pool(call: Call) -> Reading | Obstruction | None:
    """y = mean of the window, its zero padding counted."""
    x = call["self"]
    if not call.is_activation(x):
        return None
    rank = len(call["kernel_size"]) if len(call["kernel_size"]) > 1 else int(str(call.node.target).split("avg_pool")[1][0])
    taps = list(call["kernel_size"]) * (rank if len(call["kernel_size"]) == 1 else 1)
    pads = list(call["padding"]) * (rank if len(call["padding"]) == 1 else 1)
    if any(pads) and not call["count_include_pad"]:
        return Obstruction(
            "reading",
            f"average pooling with padding {pads} leaves its padding out of the mean, so border and middle differ",
            "use count_include_pad=True",
        )
    channels = fixed(x.meta["val"].shape[-rank - 1])
    if channels is None:
        return None
    value = algebra.average_pool(
        channels, taps, _somewhere(call), stride=call["stride"] or taps, padding=pads, divisor=call.arguments.get("divisor_override")
    )
    if call["ceil_mode"]:
        sizes = shape_of(x.meta["val"])[-rank:]
        is_free = any(size is None and window.stride > 1 for size, window in zip(sizes, value.windows, strict=True))
        if is_free or value.stencil.output_sizes(sizes) != shape_of(call.output)[-rank:]:
            return Obstruction(
                "reading",
                "average pooling with ceil_mode has windows that hang over the border, or would at another size",
                "use ceil_mode=False",
            )
    return Reading({x: call.leaf(value, (), channels, taps, call["stride"], pads, call.arguments.get("divisor_override"))})


@reads("aten.pad.default")
def _pad(call: Call) -> Reading | Obstruction | None:
    """y = x, continued."""
    return _padded(call, call["pad"], call["mode"], call["value"])


@reads("aten.constant_pad_nd.default")
def _constant_pad(call: Call) -> Reading | Obstruction | None:
    """y = x, continued by a constant."""
    return _padded(call, call["pad"], "constant", call["value"])


@reads("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default")
def _reflection_pad(call: Call) -> Reading | Obstruction | None:
    """y = x, mirrored at its border."""
    return _padded(call, call["padding"], "reflect", None)


@reads("aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default")
def _replication_pad(call: Call) -> Reading | Obstruction | None:
    """y = x, its border repeated."""
    return _padded(call, call["padding"], "replicate", None)


def _padded(call: Call, pads: Sequence[Any], mode: str, value: float | None) -> Reading | None:
    x = call["self"]
    if not call.is_activation(x) or not _is_static(pads) or x.meta["val"].ndim < 3:
        return None
    rank = x.meta["val"].ndim - 2
    pairs = [(int(pads[i]), int(pads[i + 1])) for i in range(0, len(pads), 2)][::-1]
    outer, pairs = pairs[: len(pairs) - rank], pairs[max(0, len(pairs) - rank) :]
    channels = fixed(x.meta["val"].shape[1])
    if any(pair != (0, 0) for pair in outer) or channels is None:
        return None
    pairs = [(0, 0)] * (rank - len(pairs)) + pairs
    like = _somewhere(call)
    level = float(value or 0.0)
    fill = torch.full((channels,), level, dtype=torch.float64, device=like.device) if mode == "constant" and level else None
    windows = [Window(1, before=before, after=after) for before, after in pairs]
    padded = algebra.window(channels, windows, like, mode=mode, fill=fill)  # type: ignore[arg-type]
    return Reading({x: call.leaf(padded, (), channels, pairs, mode, level)})


@reads(*ENTRIES)
def _assembled(call: Call) -> Reading | Obstruction | None:
    """y = x, set into a border of constants by assignments; or parts side by side, along the channels."""
    return _assigned(call) or (_concatenated(call) if "tensors" in call.arguments else None)


def _concatenated(call: Call) -> Reading | None:
    parts = call["tensors"]
    if not all(call.is_activation(part) for part in parts) or len(parts) > 64:
        return None
    axis = call["dim"] % call.output.ndim
    rank = call.output.ndim - 1 - axis
    widths = [shape_of(part.meta["val"])[axis] for part in parts]
    known = [width for width in widths if width is not None]
    if axis == 0 or len(known) < len(parts) or len(set(parts)) < len(parts):
        return None
    return Reading(dict(zip(parts, Selection.side_by_side(known, rank, _somewhere(call)), strict=True)))


def _assigned(call: Call) -> Reading | None:
    found = find_padding(call.node, call.constants)
    if found is None or not call.is_activation(found.root) or found.root is call.node:
        return None
    channels = fixed(found.root.meta["val"].shape[1])
    if channels is None:
        return None
    windows = [Window(1, before=before, after=after) for before, after in found.pads]
    fill = found.fill if bool((found.fill != 0).any()) else None
    value = algebra.window(channels, windows, _somewhere(call), fill=fill)
    leaf = call.leaf(value, found.constants, call.node.name)
    return Reading({found.root: leaf}, operators=found.operators)


@reads("aten.slice.Tensor")
def _slice(call: Call) -> Reading | Obstruction | None:
    """y = x[..., start:end:step, ...]."""
    x = call["self"]
    if not call.is_activation(x):
        return None
    if _same_shape(x, call):
        return Reading({x: IDENTITY}, free=True)
    ndim = x.meta["val"].ndim
    axis = call["dim"] % ndim
    channels, size = fixed(x.meta["val"].shape[1]), fixed(x.meta["val"].shape[axis])
    start, end, step = call["start"] or 0, call["end"], call["step"]
    if axis == 1 and isinstance(end, int) and size is not None and _is_static([start, step]):
        return select(call, axis, list(range(size))[start:end:step])
    if axis < 2 or channels is None or not _is_static([start, step]):
        return None
    end = math.inf if end is None else end
    if not isinstance(end, (int, float)):
        return None
    if size is not None:
        start, end, size_known = (start + size if start < 0 else start), (end + size if end < 0 else min(end, size)), size
        after = int(end) - size_known
    elif start < 0 or (0 <= end < sys.maxsize):
        return None
    else:
        after = int(end) if end < 0 else 0
    windows = [Window(1)] * (ndim - 2)
    windows[axis - 2] = Window(1, stride=step, before=-start, after=after)
    return Reading({x: call.leaf(algebra.window(channels, windows, _somewhere(call)), (), channels, windows)})


def _somewhere(call: Call) -> torch.Tensor:
    """An array on the device of the output, for maps that hold no weights of the model."""
    return torch.empty(0, dtype=torch.float64, device=call.output.device)


# ------------------------------------------------------------------------------------------------------------------- nothing but a name


@reads(
    "aten.clone.default",
    "aten.detach.default",
    "aten.alias.default",
    "aten.lift_fresh_copy.default",
    "aten.contiguous.default",
    "aten.positive.default",
    "aten.expand.default",
)
def _unchanged(call: Call) -> Reading | Obstruction | None:
    """y = x."""
    x = call["self"]
    return Reading({x: IDENTITY}, free=True) if call.is_activation(x) and _same_shape(x, call) else None


@reads("aten._to_copy.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.type_as.default")
def _converted(call: Call) -> Reading | Obstruction | None:
    """y = x, where dtype and device stay."""
    x = call["self"]
    same = call.is_activation(x) and x.meta["val"].device == call.output.device
    return Reading({x: IDENTITY}, free=True) if same else None


@reads("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default", "aten.native_dropout.default")
def _dropout(call: Call) -> Reading | Obstruction | None:
    """y = x, in eval."""
    if call["train"] or not call.is_activation(call["input"]):
        return None
    return Reading({call["input"]: IDENTITY}, free=True)
