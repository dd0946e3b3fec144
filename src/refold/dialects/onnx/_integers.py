"""Works out whole numbers that hang on constants alone before shapes are inferred: inference does not follow them far by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from refold.dialects.onnx._constants import SIZES, STANDARD, evaluate, read_numbers
from refold.dialects.onnx._tensors import Array

LARGEST = 1024
"""Numbers of the largest tensor that is worked out."""
TOKEN = 24
"""Bytes that stand in a tensor for numbers that lie elsewhere."""
WHOLE = "iub"


def state_integers(model: ModelProto, inferred: ModelProto | None = None) -> bool:
    """Put Constant nodes in the place of operators on sizes whose inputs are known, in place; tell whether there were any.

    Only the outermost graph is looked at. Where a node does not run, it stays. Shapes are those of the constants, and what was inferred.
    """
    shapes, known = _given(model)
    if inferred is not None:
        asked = {node.input[0] for node in model.graph.node if node.op_type == "Shape" and node.input}
        shapes.update(_known_shapes(inferred, asked))
    changed = False
    for node in model.graph.node:
        if node.domain not in STANDARD or len(node.output) != 1:
            continue
        if node.op_type == "Shape" and node.input and node.input[0] in shapes:
            feeds = {node.input[0]: np.broadcast_to(np.zeros(()), shapes[node.input[0]])}
        elif node.op_type == "Constant" or (node.op_type in SIZES and node.input and all(one in known for one in read_numbers(node))):
            feeds = {one: known[one] for one in node.input if one in known}
        else:
            continue
        result = _work_out(node, feeds, model)
        if result is None or result.size > LARGEST:
            continue
        if result.dtype.kind not in WHOLE:
            continue
        shapes[node.output[0]] = result.shape
        known[node.output[0]] = result
        if node.op_type != "Constant":
            _become_constant(node, result)
            changed = True
    return changed


def _known_shapes(model: ModelProto, asked: Set[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for value in (*model.graph.value_info, *model.graph.input) if asked else ():
        shape = value.type.tensor_type.shape
        if value.name in asked and value.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in shape.dim):
            yield value.name, tuple(dim.dim_value for dim in shape.dim)


def _given(model: ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, Array]]:
    """Shapes of the initializers that no caller can replace, and the numbers of those that are few and whole."""
    replaceable = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
    shapes: dict[str, tuple[int, ...]] = {}
    known: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        if tensor.name in replaceable or any(size < 0 for size in tensor.dims):
            continue
        shapes[tensor.name] = tuple(tensor.dims)
        array = _numbers(tensor)
        if array is not None:
            known[tensor.name] = array
    return shapes, known


def _numbers(tensor: TensorProto) -> Array | None:
    """The numbers of a tensor, where they are few and whole and it holds them itself."""
    if math.prod(tensor.dims) > LARGEST or len(tensor.raw_data) == TOKEN:
        return None
    try:
        array = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError):
        return None
    return array if array.dtype.kind in WHOLE else None


def _work_out(node: NodeProto, feeds: Mapping[str, Array], model: ModelProto) -> Array | None:
    if node.op_type == "Constant":
        held = next((one.t for one in node.attribute if one.name == "value"), None)
        if held is not None:
            return _numbers(held)
        if any(one.name not in ("value_int", "value_ints") for one in node.attribute):
            return None
    arrays = list(feeds.values())
    try:
        if node.op_type != "Shape" and not _is_small(node.op_type, arrays):
            return None
        (result,) = evaluate([node], feeds, list(node.output), model)
    except Exception:  # the evaluator's operators raise what they like
        return None
    return np.asarray(result)


def _is_small(operation: str, inputs: list[Array]) -> bool:
    """Whether the result of an operator that can give more than it takes is small."""
    match operation:
        case "ConstantOfShape":
            count = math.prod(inputs[0].tolist())
        case "Expand" | "Tile":
            count = math.prod(inputs[1].tolist()) * inputs[0].size
        case "Range":
            first, last, step = (int(one) for one in inputs)
            count = abs(last - first) // max(1, abs(step))
        case "Pad":
            count = sum(map(abs, inputs[1].tolist())) * inputs[0].size
        case _:
            count = 0
    return bool(0 <= count <= LARGEST)


def _become_constant(node: NodeProto, result: Array) -> None:
    node.op_type = "Constant"
    del node.input[:]
    del node.attribute[:]
    attribute = node.attribute.add(name="value", type=AttributeProto.TENSOR)
    attribute.t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(result).reshape(result.shape)))
