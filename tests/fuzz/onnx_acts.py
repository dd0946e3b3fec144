"""Operators without weights that random ONNX graphs are made of, subgraphs and sizes that are computed in the graph among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper

from tests.fuzz.onnx_emit import TYPES, Emitter, OnnxDraft, OnnxProposal, onnx_operator
from tests.fuzz.onnx_layers import Given

UNARY = ("Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "Softplus", "Elu", "HardSigmoid", "Dropout", "Erf",
         "HardSwish", "Gelu", "Softmax", "Cast", "Clip", "Celu", "Mish", "Twice", "Square")  # fmt: skip
SINCE = {"Erf": 9, "HardSwish": 14, "Gelu": 20, "Celu": 12, "Mish": 18}


def _propose_unary(draft: OnnxDraft) -> OnnxProposal | None:
    at = draft.pick(lambda x: x.ndim >= 1)
    if at is None:
        return None
    function = draft.draw.one(*UNARY)
    if SINCE.get(function, 0) > draft.opset:
        return None
    return (at,), {"function": function, "dtype": str(draft.values[at].dtype)}


def _emit_unary(e: Emitter, given: Given, x: list[str]) -> str:
    dtype = "float64" if e.wide else given["dtype"]
    match given["function"]:
        case "Dropout":
            return e.node("Dropout", x, **({"ratio": 0.4} if e.opset < 12 else {}))
        case "Cast":
            return e.node("Cast", x, to=TYPES[dtype])
        case "Clip" if e.opset < 11:
            return e.node("Clip", x, min=-1.0, max=1.5)
        case "Clip":
            return e.node("Clip", [*x, e.constant(np.asarray(-1.0), dtype), e.constant(np.asarray(1.5), dtype)])
        case "Twice":
            return e.node("Add", [x[0], x[0]])
        case "Square":
            return e.node("Mul", [x[0], x[0]])
        case "Softmax":
            return e.node("Softmax", x, axis=-1 if e.opset >= 13 else 1)
        case function:
            return e.node(function, x)


def _propose_pool(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: 3 <= x.ndim <= 5)
    if at is None:
        return None
    rank = draft.values[at].ndim - 2
    taps = [draw.one(2, 2, 3) for _ in range(rank)]
    given: dict[str, Any] = {
        "kind": draw.one("AveragePool", "AveragePool", "MaxPool", "GlobalAveragePool", "LpPool"),
        "kernel_shape": taps,
        "strides": draw.one(None, [1] * rank, [2] * rank),
        "count_include_pad": draw.one(None, 0, 1, 1),
        "ceil_mode": draw.one(None, None, 0, 1),
    }
    match draw.one("none", "pads", "auto"):
        case "pads":
            given["pads"] = [draw.one(0, 1) for _ in range(2 * rank)]
        case "auto":
            given["auto_pad"] = draw.one("SAME_UPPER", "SAME_LOWER", "VALID")
            given["ceil_mode"] = None
    return (at,), given


def _emit_pool(e: Emitter, given: Given, x: list[str]) -> str:
    kind = given["kind"]
    if kind == "GlobalAveragePool":
        return e.node(kind, x)
    names = ["kernel_shape", "strides", "pads", "auto_pad"]
    if kind == "AveragePool":
        names.append("count_include_pad")
    if kind != "LpPool" and e.opset >= 10:
        names.append("ceil_mode")
    return e.node(kind, x, **{name: given.get(name) for name in names})


def _propose_reduce(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    ndim = draft.values[at].ndim
    axes = draw.one([ndim - 1], list(range(2, ndim)) or [1], [1], [-1], sorted(draw.sample(range(ndim), min(2, ndim))))
    return (at,), {"kind": draw.one("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax"), "axes": axes, "keepdims": draw.one(None, 0, 1)}


def _emit_reduce(e: Emitter, given: Given, x: list[str]) -> str:
    kind = given["kind"]
    if e.opset >= (13 if kind == "ReduceSum" else 18):
        return e.node(kind, [*x, e.integers(*given["axes"])], keepdims=given["keepdims"])
    return e.node(kind, x, axes=list(given["axes"]), keepdims=given["keepdims"])


def _propose_pad(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 3)
    if at is None:
        return None
    x = draft.values[at]
    mode = draw.one("constant", "constant", "constant", "reflect", "edge")
    amounts = [draw.one(0, 1, 1, 2, -1 if mode == "constant" else 0) for _ in range(x.ndim - 2)]
    after = [draw.one(0, 1, 2) for _ in range(x.ndim - 2)]
    given = {"pads": [0, 0, *amounts, 0, 0, *after], "mode": mode, "value": draw.one(None, 0.0, 1.0, -0.5), "dtype": str(x.dtype)}
    return (at,), {**given, "axes": draft.opset >= 18 and draw.chance(0.3)}


def _emit_pad(e: Emitter, given: Given, x: list[str]) -> str:
    pads, value = given["pads"], given["value"] if given["mode"] == "constant" else None
    mode = given["mode"] if given["mode"] != "constant" else None
    if e.opset < 11:
        return e.node("Pad", x, pads=pads, mode=mode, value=value)
    half = len(pads) // 2
    axes = given["axes"] and e.opset >= 18
    inputs = [*x, e.integers(*(pads[2:half] + pads[half + 2 :] if axes else pads))]
    if value is not None:
        inputs.append(e.constant(np.asarray(value), given["dtype"]))
    if axes:
        inputs += [""] * (3 - len(inputs)) + [e.integers(*range(2, half))]
    return e.node("Pad", inputs, mode=mode)


def _propose_slice(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    x = draft.values[at]
    axis = draw.one(1, draw.randrange(x.ndim))
    size = x.shape[axis]
    how = draw.one("Slice", "Slice", "Slice", "Split", "Gather", "GatherOne")
    bounds = [draw.one(0, 1, -2, size // 2), draw.one(2**31 - 1, -1, size, size - 1), draw.one(1, 1, 1, 2)]
    return (at,), {"how": how, "axis": axis, "bounds": bounds, "size": size, "part": draw.one(0, 1)}


def _emit_slice(e: Emitter, given: Given, x: list[str]) -> str:
    axis, (start, end, step) = given["axis"], given["bounds"]
    match given["how"]:
        case "Slice" if e.opset < 10:
            return e.node("Slice", x, axes=[axis], starts=[start], ends=[end])
        case "Slice":
            return e.node("Slice", [*x, e.integers(start), e.integers(end), e.integers(axis), *([e.integers(step)] if step > 1 else [])])
        case "Split":
            sizes = [given["size"] // 2, given["size"] - given["size"] // 2]
            if e.opset < 13:
                e.node("Split", x, 2, axis=axis, split=sizes)
            else:
                e.node("Split", [*x, e.integers(*sizes)], 2, axis=axis)
            return _distinct_outputs(e.nodes[-1])[given["part"]]
        case "Gather":
            return e.node("Gather", [*x, e.integers(1, 0)], axis=axis)
        case _:
            return e.node("Gather", [*x, e.constant(np.asarray(0, np.int64))], axis=axis)


def _distinct_outputs(node: NodeProto) -> list[str]:
    """Outputs with names of their own."""
    names = [f"{node.output[0]}_{number}" for number in range(len(node.output))]
    node.output[:] = names
    return names


def _propose_move(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    x = draft.values[at]
    how = draw.one(
        "Transpose",
        "Transpose",
        "Flatten",
        "Reshape",
        "Reshape",
        "ShapeReshape",
        "ShapeReshape",
        "Unsqueeze",
        "Squeeze",
        "Expand",
        "Tile",
        "DepthToSpace",
        "Shuffle",
        "Resize",
    )
    by = draw.divisor(x.shape[1])
    given = {"how": how, "perm": draw.sample(range(x.ndim), x.ndim), "axis": draw.randrange(x.ndim), "by": by, "shape": list(x.shape)}
    return (at,), {**given, "form": draw.randrange(4)}


def _emit_move(e: Emitter, given: Given, x: list[str]) -> str:
    axis, by, shape, form = given["axis"], given["by"], given["shape"], given["form"]
    match given["how"]:
        case "Transpose":
            return e.node("Transpose", x, perm=given["perm"])
        case "Flatten":
            return e.node("Flatten", x, axis=_flat_axis(form))
        case "Reshape":
            wanted = [[0, 0, -1], [0, -1], [-1, *shape[1:]], [0, by, -1, *shape[2:]]][form]
            return e.node("Reshape", [*x, e.integers(*wanted)])
        case "Shuffle":
            y = e.node("Reshape", [*x, e.integers(0, by, shape[1] // by, *[-1] * (len(shape) > 2), *shape[3:])])
            y = e.node("Transpose", [y], perm=[0, 2, 1, *range(3, len(shape) + 1)])
            return e.node("Reshape", [y, e.integers(0, shape[1], *[-1] * (len(shape) > 2), *shape[3:])])
        case "ShapeReshape":
            return _reshape_by_shape(e, x, form, by, len(shape))
        case "Unsqueeze":
            return e.node("Unsqueeze", x, axes=[axis]) if e.opset < 13 else e.node("Unsqueeze", [*x, e.integers(axis)])
        case "Squeeze":
            ones = [place for place, size in enumerate(shape) if size == 1 and place] or [len(shape) - 1]
            return e.node("Squeeze", x, axes=ones[-1:]) if e.opset < 13 else e.node("Squeeze", [*x, e.integers(ones[-1])])
        case "Expand" if e.opset >= 8:
            return e.node("Expand", [*x, e.integers(2, *[1] * len(shape))])
        case "Tile":
            return e.node("Tile", [*x, e.integers(*[2 if place == axis else 1 for place in range(len(shape))])])
        case "DepthToSpace":
            return e.node("DepthToSpace", x, blocksize=2)
        case "Resize":
            return _resize(e, x, len(shape), form)
        case _:
            return e.node("Identity", x)


def _flat_axis(form: int) -> int:
    """An axis that every value has."""
    return (1, 1, 2, 0)[form]


def _dim(e: Emitter, shape: str, axis: int) -> str:
    """One size, as a list of one."""
    return e.node("Gather", [shape, e.integers(axis)], axis=0)


def _reshape_by_shape(e: Emitter, x: list[str], form: int, by: int, ndim: int) -> str:
    """Sizes that are read from the value and put together again, as exporters write it."""
    shape = e.node("Shape", x)
    match form:
        case 0:
            parts = [_dim(e, shape, 0), e.integers(-1)]
        case 1:
            parts = [_dim(e, shape, 0), _dim(e, shape, 1), e.integers(-1)]
        case 2:
            half = e.node("Div", [_dim(e, shape, 1), e.integers(by)])
            parts = [_dim(e, shape, 0), e.integers(by), half, *[_dim(e, shape, axis) for axis in range(2, ndim)]]
        case _:
            product = e.node("Mul", [_dim(e, shape, 0), _dim(e, shape, 1)])
            parts = [product, *[_dim(e, shape, axis) for axis in range(2, ndim)]]
    return e.node("Reshape", [*x, e.node("Concat", parts, axis=0)])


def _resize(e: Emitter, x: list[str], ndim: int, form: int) -> str:
    scales = [1.0, 1.0, *[2.0] * (ndim - 2)]
    mode = "nearest" if form % 2 else "linear"
    if e.opset < 9:
        return e.node("Upsample", x, mode=mode, scales=scales)
    constant = e.constant(np.asarray(scales, np.float32))
    if e.opset < 11:
        return e.node("Upsample" if e.opset < 10 else "Resize", [*x, constant], mode=mode)
    return e.node("Resize", [*x, "" if e.opset >= 13 else e.constant(np.zeros(0, np.float32)), constant], mode=mode)


def _propose_concat(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    first = draft.pick(lambda x: x.ndim >= 2)
    if first is None:
        return None
    x = draft.values[first]
    axis = 1 if draw.chance(0.8) else draw.randrange(x.ndim)
    fitting = [
        n
        for n, y in enumerate(draft.values)
        if y.dtype == x.dtype
        and y.ndim == x.ndim
        and all(a == b for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if i != axis)
    ]
    return (first, *[draw.one(*fitting) for _ in range(draw.one(1, 1, 2))]), {"axis": axis - x.ndim if draw.chance(0.3) else axis}


def _propose_subgraph(draft: OnnxDraft) -> OnnxProposal | None:
    draw = draft.draw
    at = draft.pick(lambda x: x.ndim >= 2)
    if at is None:
        return None
    x = draft.values[at]
    given = {"channels": x.shape[1], "rank": x.ndim, "dtype": str(x.dtype), "key": draw.randrange(2**31), "axis": draw.randrange(x.ndim)}
    return (at,), {
        **given,
        "size": x.shape[given["axis"]] - draw.one(0, 1),
        "turns": draw.one(0, 1, 3),
        "body": draw.one("scale", "conv", "relu"),
    }


def _body(e: Emitter, given: Given, x: str, name: str) -> str:
    """A few nodes that keep the shape."""
    scale = e.weights(f"{given['key']} {name}", [given["channels"], *[1] * (given["rank"] - 2)], given["dtype"])
    match given["body"]:
        case "conv" if given["rank"] >= 3:
            weight = e.weights(f"{given['key']} {name} w", [given["channels"]] * 2 + [1] * (given["rank"] - 2), given["dtype"], "kernel")
            return e.node("Mul", [e.node("Conv", [x, weight]), scale])
        case "relu":
            return e.node("Relu", [e.node("Mul", [x, scale])])
        case _:
            return e.node("Tanh", [e.node("Add", [e.node("Mul", [x, scale]), scale])])


def _graph(e: Emitter, given: Given, x: str, name: str, inputs: list[ValueInfoProto], before: list[str]) -> Any:
    inner = Emitter(e.recipe, e.opset, e.wide, inside=f"_{len(e.nodes)}{name}")
    output = _body(inner, given, x, name)
    kind = TYPES["float64" if e.wide else given["dtype"]]
    outputs = []
    for one in before:
        inner.nodes.append(helper.make_node("Identity", [one], [f"{one}_out"]))
        outputs.append(helper.make_tensor_value_info(f"{one}_out", TYPES["bool"], []))
    outputs.append(helper.make_tensor_value_info(output, kind, None))
    return helper.make_graph(inner.nodes, name, inputs, outputs, initializer=inner.stored)


def _emit_if(e: Emitter, given: Given, x: list[str]) -> str:
    size = e.node("Gather", [e.node("Shape", x), e.constant(np.asarray(given["axis"], np.int64))], axis=0)
    condition = (
        e.node("Less", [e.constant(np.asarray(given["size"], np.int64)), size])
        if e.opset >= 9
        else e.node("Equal", [e.constant(np.asarray(given["size"], np.int64)), size])
    )
    parts = [_graph(e, given, x[0], name, [], []) for name in ("then", "else")]
    return e.node("If", [condition], then_branch=parts[0], else_branch=parts[1])


def _emit_loop(e: Emitter, given: Given, x: list[str]) -> str:
    kind = TYPES["float64" if e.wide else given["dtype"]]
    mark = f"{len(e.nodes)}"
    turn, go, state = f"turn{mark}", f"go{mark}", f"state{mark}"
    inputs = [
        helper.make_tensor_value_info(turn, TYPES["int64"], []),
        helper.make_tensor_value_info(go, TYPES["bool"], []),
        helper.make_tensor_value_info(state, kind, None),
    ]
    body = _graph(e, given, state, "body", inputs, [go])
    turns, start = e.constant(np.asarray(given["turns"], np.int64)), e.constant(np.asarray(True))
    return e.node("Loop", [turns, start, *x], body=body)


def _propose_mask(draft: OnnxDraft) -> OnnxProposal | None:
    at = draft.pick(lambda x: x.dtype == np.float32)
    return None if at is None else ((at,), {"dtype": "float32"})


def _emit_mask(e: Emitter, given: Given, x: list[str]) -> str:
    zero = e.constant(np.asarray(0.0), given["dtype"])
    return e.node("Where", [e.node("Greater", [*x, zero]), *x, e.node("Mul", [*x, e.constant(np.asarray(0.5), given["dtype"])])])


def _propose_gather(draft: OnnxDraft) -> OnnxProposal | None:
    at = draft.pick(lambda x: x.dtype == np.int64, floats=False)
    return None if at is None else ((at,), {"shape": [16, draft.draw.one(2, 3, 4)], "dtype": "float32", "key": draft.draw.randrange(2**31)})


def _emit_gather(e: Emitter, given: Given, x: list[str]) -> str:
    return e.node("Gather", [e.weights(str(given["key"]), given["shape"], given["dtype"]), *x], axis=0)


onnx_operator("Unary", _propose_unary, _emit_unary, weight=7)
onnx_operator("Pool", _propose_pool, _emit_pool, weight=2.5)
onnx_operator("Reduce", _propose_reduce, _emit_reduce, weight=1.2)
onnx_operator("Pad", _propose_pad, _emit_pad, weight=2)
onnx_operator("Slice", _propose_slice, _emit_slice, weight=2)
onnx_operator("Move", _propose_move, _emit_move, weight=4)
onnx_operator("Concat", _propose_concat, lambda e, given, x: e.node("Concat", x, axis=given["axis"]), weight=1.5)
onnx_operator("If", _propose_subgraph, _emit_if, weight=0.4)
onnx_operator("Loop", _propose_subgraph, _emit_loop, weight=0.4)
onnx_operator("Mask", _propose_mask, _emit_mask, weight=0.5, since=9)
onnx_operator("Gather", _propose_gather, _emit_gather, weight=2)
