"""What makes a model invalid beyond what the checker of ONNX looks at: windows, types and sizes that nothing can run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper

from refold.dialects.onnx._load import Source
from refold.dialects.onnx._run import DoesNotLoad, Session
from refold.dialects.onnx._scopes import Scope, Typed
from refold.dialects.onnx._tensors import type_name
from refold.errors import FoldError

MOST = 1 << 36
"""Numbers of a tensor from which on no machine holds it."""
STANDARD = ("", "ai.onnx")
WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv")
WITH_AXIS = ("Concat", "Gather", "GatherElements", "Split", "Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "Flatten")
OF_ONE_TYPE = ("Add", "Sub", "Mul", "Div", "Sum", "MatMul", "Gemm", "Conv", "ConvTranspose", "Concat", "PRelu")
PADDED = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
PREFIX = "[ShapeInferenceError] Inference error(s): "


def demand_valid(source: Source, top: Scope, complaint: str | None) -> None:
    """Raise `FoldError` where the model is invalid.

    What shape inference complains of counts where ONNX Runtime refuses the model too: inference by itself has its own faults.
    """
    for fact in _faults(source, top):
        raise _invalid(source, fact)
    if complaint is None or complaint == "unknown":
        return
    try:
        Session(source.skeleton, source.tensors, source.files)
    except DoesNotLoad as error:
        raise _invalid(source, complaint.removeprefix(PREFIX)) from error
    except FoldError:  # the runtime lacks something, or dies: told when the model is run, if it is
        return


def _invalid(source: Source, fact: str) -> FoldError:
    return FoldError(f"{source.name} is not a valid ONNX model: {fact}; mend the model before folding it")


def _faults(source: Source, top: Scope) -> Iterator[str]:
    model = source.skeleton
    newest = onnx.defs.onnx_opset_version()
    if source.opset > newest:
        yield f"opset {source.opset} is newer than {newest}, the newest that onnx {onnx.__version__} knows"
    for domain, count in Counter("" if one.domain == "ai.onnx" else one.domain for one in model.opset_import).items():
        if count > 1:
            yield f"it states {count} opsets for the domain {domain or 'ai.onnx'!r}"
    if not model.graph.output:
        yield "its graph has no output"
    for value in model.graph.input:
        if value.type.HasField("tensor_type"):
            kind = value.type.tensor_type.elem_type
            if not _is_type(kind):
                yield f"input `{value.name}` has the element type {kind}, which is none"
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < 0 and not dim.dim_param and dim.dim_value != UNKNOWN:
                    yield f"input `{value.name}` has the size {dim.dim_value}; sizes cannot be negative"
    for scope in top.all():
        for node in scope.graph.node:
            if node.domain in STANDARD:
                yield from _faults_of(node, scope)
        for name, typed in scope.types.items():
            if any(isinstance(size, int) and size < 0 for size in typed.shape):
                yield f"value `{name}` would have the shape {' x '.join(map(str, typed.shape))}; sizes cannot be negative"
            known = [size for size in typed.shape if isinstance(size, int)]
            if len(known) == len(typed.shape) and math.prod(known) > MOST:
                yield f"value `{name}` of shape {' x '.join(map(str, known))} holds {math.prod(known):,} numbers, more than {MOST:,}"


UNKNOWN = -1
"""What some exporters state for a size that is free."""


def _is_type(kind: int) -> bool:
    return kind != TensorProto.UNDEFINED and kind in TensorProto.DataType.values()


def _named(kind: int) -> str:
    return type_name(kind) if _is_type(kind) else f"the unknown type {kind}"


def _faults_of(node: NodeProto, scope: Scope) -> Iterator[str]:
    told = f"{node.op_type} `{node.name or next(iter(node.output), '')}`"
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute if one.type != AttributeProto.UNDEFINED}
    if node.op_type == "Cast" and not _is_type(int(given.get("to", 0))):
        yield f"{told} casts to the element type {given.get('to', 0)}, which is none"
    if node.op_type == "Constant" and len(node.attribute) != 1:
        yield f"{told} has {len(node.attribute)} values where it takes one"
    x = scope.typed(node.input[0]) if node.input and node.input[0] else None
    if node.op_type in WITH_AXIS and x is not None and isinstance(axis := given.get("axis"), int):
        rank = len(x.shape)
        if not -rank <= axis < rank + (node.op_type == "Flatten"):
            yield f"{told} has the axis {axis} and reads a value of {rank} axes"
    if node.op_type in OF_ONE_TYPE:
        kinds = dict.fromkeys(typed.elem_type for name in node.input if name and (typed := scope.typed(name)) is not None)
        if len(kinds) > 1:
            yield f"{told} reads {' and '.join(map(_named, kinds))}, where all that it reads must be of one type"
    if node.op_type in WINDOWED:
        yield from (f"{told} {fact}" for fact in _window_faults(node, given, scope))


def _window_faults(node: NodeProto, given: dict[str, Any], scope: Scope) -> Iterator[str]:
    has_weight = not node.op_type.endswith("Pool")
    weight_at = 3 if node.op_type == "QLinearConv" else 1
    x = scope.typed(node.input[0]) if node.input else None
    weight = scope.typed(node.input[weight_at]) if has_weight and len(node.input) > weight_at else None
    rank = len(x.shape) - 2 if x is not None else (len(weight.shape) - 2 if weight is not None else None)
    if rank is not None and rank < 1:
        yield f"reads a value of {rank + 2} axes, where it takes a batch, channels and one axis at least"
        return
    automatic = given.get("auto_pad", b"NOTSET").decode("utf-8", "replace")
    if automatic not in PADDED:
        yield f"has auto_pad {automatic!r}, which is none of {', '.join(PADDED)}"
    for name, each, least in (("strides", 1, 1), ("dilations", 1, 1), ("kernel_shape", 1, 1), ("pads", 2, None), ("output_padding", 1, 0)):
        numbers = given.get(name)
        if numbers is None:
            continue
        if rank is not None and len(numbers) != each * rank:
            yield f"has {len(numbers)} {name} where its {rank} spatial axes take {each * rank}"
            return
        if least is not None and min(numbers, default=least) < least:
            yield f"has {name} {list(numbers)}, which must be at least {least}"
            return
    if weight is not None and x is not None:
        yield from _weight_faults(node, given, x, weight, scope)
    kernel = given.get("kernel_shape") or (list(weight.shape[2:]) if weight is not None else None)
    if node.op_type != "ConvTranspose" and x is not None and kernel is not None:
        yield from _fits(given, x.shape[2:], kernel, automatic, least=0 if weight is None else 1)


def _weight_faults(node: NodeProto, given: dict[str, Any], x: Typed, weight: Typed, scope: Scope) -> Iterator[str]:
    if len(weight.shape) != len(x.shape):
        yield f"has a weight of {len(weight.shape)} axes and reads a value of {len(x.shape)}"
        return
    group, transposed = int(given.get("group", 1)), node.op_type == "ConvTranspose"
    if group < 1:
        yield f"has group {group}, which must be at least 1"
        return
    ours, channels = weight.shape, x.shape[1]
    if transposed:
        if isinstance(ours[0], int) and isinstance(channels, int) and ours[0] != channels:
            yield f"has a weight for {ours[0]} channels and reads {channels}"
        if isinstance(ours[0], int) and ours[0] % group:
            yield f"has group {group}, which does not divide its {ours[0]} channels"
        out = ours[1] * group if isinstance(ours[1], int) else None
    else:
        if isinstance(ours[1], int) and isinstance(channels, int) and ours[1] * group != channels:
            yield f"has a weight for {ours[1]} channels in each of its groups (={group}) and reads {channels}"
        if isinstance(ours[0], int) and ours[0] % group:
            yield f"has group {group}, which does not divide its {ours[0]} output channels"
        out = ours[0] if isinstance(ours[0], int) else None
    stated = given.get("kernel_shape")
    if stated is not None and all(isinstance(size, int) for size in ours[2:]) and list(stated) != list(ours[2:]):
        yield f"states the kernel_shape {list(stated)} and has a weight of {list(ours[2:])}"
    bias = scope.typed(node.input[2]) if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 2 and node.input[2] else None
    if bias is not None and out is not None and all(isinstance(size, int) for size in bias.shape) and bias.shape != (out,):
        yield f"has a bias of shape {list(bias.shape)} for {out} output channels"


def _fits(given: dict[str, Any], sizes: Sequence[Any], kernel: Sequence[Any], automatic: str, *, least: int) -> Iterator[str]:
    """Axes on which fewer than `least` windows fit: pooling over none gives a value of no items, a convolution does not run."""
    if automatic.startswith("SAME"):
        return
    rank = len(sizes)
    pads = (given.get("pads") if automatic == "NOTSET" else None) or [0] * 2 * rank
    dilations = given.get("dilations") or [1] * rank
    for axis, (size, taps, dilation) in enumerate(zip(sizes, kernel, dilations, strict=True)):
        if not (isinstance(size, int) and isinstance(taps, int)):
            continue
        stride, room = (given.get("strides") or [1] * rank)[axis], size + pads[axis] + pads[axis + rank]
        span = dilation * (taps - 1) + 1
        places = -((span - room) // stride) if given.get("ceil_mode") else (room - span) // stride
        if places + 1 < least and room > -1 << 62 and size > 0:
            yield f"has windows of {span:,} items on an axis of {size:,} padded by {pads[axis]:,} and {pads[axis + rank]:,}"
