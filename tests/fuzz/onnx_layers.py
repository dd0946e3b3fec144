"""Operators with weights, and arithmetic, that random ONNX graphs are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.fuzz.onnx_emit import Emitter, OnnxDraft, OnnxProposal, onnx_operator

WIDTHS = (1, 2, 3, 4, 6, 8)
Given = Mapping[str, Any]


def _spatial(x: Any) -> bool:
    return 3 <= int(x.ndim) <= 5


def _key(draft: OnnxDraft) -> dict[str, Any]:
    return {"key": draft.draw.randrange(2**31)}


def _propose_conv(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(_spatial)
    if at is None:
        return None
    x = draft.values[at]
    rank, channels = x.ndim - 2, x.shape[1]
    depthwise = draw.chance(0.15)
    wanted = channels * draw.one(1, 1, 2) if depthwise else draw.one(*WIDTHS, channels)
    groups = channels if depthwise else draw.divisor(channels, wanted) if draw.chance(0.2) else 1
    taps = [draw.one(1, 1, 2, 3, 3, 3, 4, 5)] * rank if draw.chance(0.7) else [draw.one(1, 2, 3, 4) for _ in range(rank)]
    dilations = [draw.one(1, 1, 1, 1, 2)] * rank
    given: dict[str, Any] = {
        "shape": [wanted, channels // groups, *taps],
        "bias": draw.chance(0.5),
        "group": groups if groups > 1 or draw.chance(0.5) else None,
        "strides": [draw.one(1, 1, 1, 2, 3)] * rank if draw.chance(0.7) else None,
        "dilations": dilations if draw.chance(0.7) else None,
        "kernel_shape": taps if draw.chance(0.8) else None,
        "dtype": str(x.dtype),
        **_key(draft),
    }
    match draw.one("pads", "pads", "pads", "none", "auto"):
        case "pads":
            ahead = [
                draw.one(0, d * (k - 1) // 2, d * (k - 1) // 2, 1) for k, d in zip(taps, given["dilations"] or [1] * rank, strict=True)
            ]
            given["pads"] = ahead + (ahead if draw.chance(0.7) else [draw.one(0, 1, 2) for _ in ahead])
        case "auto":
            given["auto_pad"] = draw.one("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    return (at,), given


def _propose_branch(draft: OnnxDraft) -> OnnxProposal | None:
    """A convolution beside one that is there, of the same geometry at its output."""
    draw = draft.draw
    step = draw.of([step for step in draft.steps if step.operator == "Conv"])
    if step is None:
        return None
    given = {**step.attributes, **_key(draft)}
    if "pads" in given:
        rank = len(given["shape"]) - 2
        dilations, taps, pads = given["dilations"] or [1] * rank, [*given["shape"][2:]], [*given["pads"]]
        for axis in range(rank):
            more = draw.one(-2, 0, 2)
            moved = more // 2 * dilations[axis]
            if taps[axis] + more >= 1 and pads[axis] + moved >= 0 and pads[axis + rank] + moved >= 0:
                taps[axis] += more
                pads[axis] += moved
                pads[axis + rank] += moved
        given |= {"shape": [*given["shape"][:2], *taps], "pads": pads, "kernel_shape": taps if given["kernel_shape"] else None}
    return step.reads, given


def _emit_conv(e: Emitter, given: Given, x: list[str]) -> str:
    inputs = [*x, e.weights(f"{given['key']} w", given["shape"], given["dtype"], "kernel")]
    if given["bias"]:
        inputs.append(e.weights(f"{given['key']} b", given["shape"][:1], given["dtype"]))
    names = ("group", "strides", "dilations", "kernel_shape", "pads", "auto_pad")
    return e.node("Conv", inputs, **{name: given.get(name) for name in names})


def _propose_transposed(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(_spatial)
    if at is None:
        return None
    x = draft.values[at]
    rank, channels, wanted = x.ndim - 2, x.shape[1], draw.one(*WIDTHS)
    groups = draw.divisor(channels, wanted) if draw.chance(0.2) else 1
    taps, stride = draw.one(1, 2, 3, 4), draw.one(1, 2, 2, 3)
    given: dict[str, Any] = {
        "shape": [channels, wanted // groups, *[taps] * rank],
        "wanted": wanted,
        "bias": draw.chance(0.5),
        "group": groups,
        "strides": [stride] * rank,
        "dilations": [draw.one(1, 1, 1, 2)] * rank,
        "dtype": str(x.dtype),
        **_key(draft),
    }
    match draw.one("pads", "pads", "none", "auto", "output"):
        case "pads":
            given["pads"] = [draw.one(0, min(1, taps - 1)) for _ in range(2 * rank)]
            given["output_padding"] = [draw.one(0, 0, min(1, stride - 1))] * rank
        case "auto":
            given["auto_pad"] = draw.one("SAME_UPPER", "SAME_LOWER", "VALID")
    return (at,), given


def _emit_transposed(e: Emitter, given: Given, x: list[str]) -> str:
    inputs = [*x, e.weights(f"{given['key']} w", given["shape"], given["dtype"], "kernel")]
    if given["bias"]:
        inputs.append(e.weights(f"{given['key']} b", [given["wanted"]], given["dtype"]))
    names = ("group", "strides", "dilations", "pads", "auto_pad", "output_padding")
    return e.node("ConvTranspose", inputs, **{name: given.get(name) for name in names})


def _propose_norm(draft: OnnxDraft) -> OnnxProposal | None:
    at = draft.pick(lambda x: 2 <= x.ndim <= 5)
    if at is None:
        return None
    x = draft.values[at]
    return (at,), {"channels": x.shape[1], "epsilon": draft.draw.one(None, 1e-5, 1e-3), "dtype": str(x.dtype), **_key(draft)}


def _emit_norm(e: Emitter, given: Given, x: list[str]) -> str:
    key, size, dtype = given["key"], [given["channels"]], given["dtype"]
    parts = [
        e.weights(f"{key} {name}", size, dtype, "positive" if name == "variance" else "any")
        for name in ("gamma", "beta", "mean", "variance")
    ]
    return e.node("BatchNormalization", [*x, *parts], epsilon=given["epsilon"])


def _propose_arithmetic(draft: OnnxDraft) -> OnnxProposal | None:
    """A constant of a number, a channel, an axis or the whole of the example, on either side."""
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 1)
    if at is None:
        return None
    x = draft.values[at]
    axis = draw.randrange(x.ndim)
    shape: tuple[int, ...] = (x.shape[axis], *[1] * (x.ndim - 1 - axis))
    match draw.one("number", "number", "channel", "channel", "channel", "axis", "whole", "outer"):
        case "number":
            shape = draw.one((), (1,))
        case "channel" if x.ndim >= 2:
            shape = (*draw.one((), (1,)), x.shape[1], *[1] * (x.ndim - 2))
        case "whole":
            shape = tuple(x.shape[draw.one(0, 1) :])
        case "outer":
            shape = (1, *x.shape)
    act = draw.one("Add", "Add", "Sub", "Mul", "Mul", "Div", "Pow", "Max")
    left = act in ("Add", "Sub", "Mul") and draw.chance(0.4)
    how = "positive" if act == "Div" else draw.one("any", "any", "any", "sparse", "zero")
    return (at,), {"act": act, "shape": list(shape), "left": left, "how": how, "dtype": str(x.dtype), **_key(draft)}


def _emit_arithmetic(e: Emitter, given: Given, x: list[str]) -> str:
    if given["act"] == "Pow":
        return e.node("Pow", [e.node("Abs", x), e.constant(np.asarray(2.0), given["dtype"])])
    other = e.weights(f"{given['key']}", given["shape"], given["dtype"], given["how"])
    return e.node(given["act"], [other, *x] if given["left"] else [*x, other])


def _propose_binary(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    right = draft.pick()
    if right is None:
        return None
    x = draft.values[right]
    same = [n for n, y in enumerate(draft.values) if y.shape == x.shape and y.dtype == x.dtype and n != right]
    near = [n for n, y in enumerate(draft.values) if y.dtype == x.dtype and n != right and _broadcasts(x, y)]
    left = draw.of(same) if same and draw.chance(0.9) else draw.of(near)
    if left is None:
        return None
    return (left, right), {"act": draw.one("Add", "Add", "Add", "Add", "Sum", "Sub", "Mul", "Min", "Mean")}


def _broadcasts(x: Any, y: Any) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(x.shape), reversed(y.shape), strict=False))


def _emit_binary(e: Emitter, given: Given, x: list[str]) -> str:
    if given["act"] in ("Sum", "Mean", "Min"):
        return e.node(given["act"], [*x, x[0]] if given["act"] == "Sum" else x)
    return e.node(given["act"], x)


def _propose_matmul(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: 2 <= x.ndim <= 4)
    if at is None:
        return None
    x = draft.values[at]
    form = (
        draw.one("right", "right", "left", "gemm")
        if x.ndim == 2
        else draw.one("right", "right", "left", "einsum" if x.ndim == 3 else "right")
    )
    shape = [draw.one(*WIDTHS), x.shape[-2]] if form == "left" else [x.shape[-1], draw.one(*WIDTHS)]
    if form == "einsum":
        shape = [draw.one(*WIDTHS), x.shape[1]]
    given = {"form": form, "shape": shape, "dtype": str(x.dtype), "transB": draw.one(None, 0, 1), "alpha": draw.one(None, 1.0, 0.5)}
    given |= {"beta": draw.one(None, 1.0, 2.0), "bias": draw.one("none", "row", "whole", "number"), **_key(draft)}
    return (at,), given


def _emit_matmul(e: Emitter, given: Given, x: list[str]) -> str:
    shape = [*given["shape"]]
    turned = given["form"] == "gemm" and given["transB"]
    weight = e.weights(f"{given['key']} w", shape[::-1] if turned else shape, given["dtype"], "kernel")
    match given["form"]:
        case "gemm":
            inputs = [*x, weight]
            size = {"row": [shape[1]], "whole": [1, shape[1]], "number": [1]}.get(given["bias"])
            if size is None and e.opset < 11:
                size = [shape[1]]
            if size is not None:
                inputs.append(e.weights(f"{given['key']} b", size, given["dtype"]))
            return e.node("Gemm", inputs, transB=given["transB"], alpha=given["alpha"], beta=given["beta"])
        case "left":
            return e.node("MatMul", [weight, *x])
        case "einsum" if e.opset >= 12:
            return e.node("Einsum", [weight, *x], equation="oc,ncl->nol")
        case "einsum":
            return e.node("MatMul", [weight, *x])
        case _:
            return e.node("MatMul", [*x, weight])


def _propose_prelu(draft: OnnxDraft) -> OnnxProposal | None:
    at = draft.pick(lambda x: x.ndim >= 3)
    if at is None:
        return None
    x = draft.values[at]
    return (at,), {"shape": [draft.draw.one(1, x.shape[1]), *[1] * (x.ndim - 2)], "dtype": str(x.dtype), **_key(draft)}


def _emit_prelu(e: Emitter, given: Given, x: list[str]) -> str:
    return e.node("PRelu", [*x, e.weights(str(given["key"]), given["shape"], given["dtype"])])


def _propose_instance(draft: OnnxDraft) -> OnnxProposal | None:
    at = draft.pick(lambda x: 3 <= x.ndim <= 5 and np.prod(x.shape[2:]) > 4)
    return None if at is None else ((at,), {"channels": draft.values[at].shape[1], "dtype": str(draft.values[at].dtype), **_key(draft)})


def _emit_instance(e: Emitter, given: Given, x: list[str]) -> str:
    parts = [e.weights(f"{given['key']} {name}", [given["channels"]], given["dtype"]) for name in ("scale", "shift")]
    return e.node("InstanceNormalization", [*x, *parts], epsilon=1e-2)


onnx_operator("Conv", _propose_conv, _emit_conv, weight=9)
onnx_operator("Branch", _propose_branch, _emit_conv, weight=4)
onnx_operator("ConvTranspose", _propose_transposed, _emit_transposed, weight=1.2)
onnx_operator("BatchNormalization", _propose_norm, _emit_norm, weight=5)
onnx_operator("Arithmetic", _propose_arithmetic, _emit_arithmetic, weight=5)
onnx_operator("Binary", _propose_binary, _emit_binary, weight=7)
onnx_operator("MatMul", _propose_matmul, _emit_matmul, weight=3)
onnx_operator("PRelu", _propose_prelu, _emit_prelu, weight=0.5)
onnx_operator("InstanceNormalization", _propose_instance, _emit_instance, weight=0.5)
