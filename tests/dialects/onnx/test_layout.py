"""Border fill: chains of operators that move numbers are read as the padding that they come to, and as nothing where they come to none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import refold
from refold.algebra import Formula
from refold.dialects.onnx import OnnxModel
from refold.dialects.onnx._integers import state_integers
from refold.dialects.onnx._layout import _above
from refold.graph import Linear, Opaque
from refold.verification import FACTOR
from tests.dialects.onnx.folding import folded, written, x_of
from tests.dialects.onnx.models import batch_norm, graph_of, kinds, model_of, random, run

CHANNELS = 4
BIAS = random(CHANNELS, seed=3)


def overwritten(height: int, width: int, fill: Any, *, first: int = 0) -> tuple[list[NodeProto], dict[str, Any]]:
    """`c` padded by 1, then its four border lines overwritten with one number a channel, as torch's exporter writes it; 10 operators."""
    row = np.broadcast_to(fill.reshape(1, -1, 1, 1), (1, CHANNELS, 1, width + 2)).copy()
    column = np.broadcast_to(fill.reshape(1, -1, 1, 1), (1, CHANNELS, height + 2, 1)).copy().transpose(3, 1, 2, 0)
    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "row": row.transpose(2, 1, 0, 3),
        "column": column,
        "first": np.array([[first]]),
        "bottom": np.array([[height + 1]]),
        "right": np.array([[width + 1]]),
    }
    nodes = [
        helper.make_node("Pad", ["c", "pads"], ["padded"]),
        helper.make_node("Transpose", ["padded"], ["t0"], perm=[2, 1, 0, 3]),
        helper.make_node("ScatterND", ["t0", "first", "row"], ["s0"]),
        helper.make_node("Identity", ["s0"], ["i0"]),
        helper.make_node("ScatterND", ["i0", "bottom", "row"], ["s1"]),
        helper.make_node("Transpose", ["s1"], ["t1"], perm=[3, 1, 0, 2]),
        helper.make_node("ScatterND", ["t1", "first", "column"], ["s2"]),
        helper.make_node("Identity", ["s2"], ["i1"]),
        helper.make_node("ScatterND", ["i1", "right", "column"], ["s3"]),
        helper.make_node("Transpose", ["s3"], ["filled"], perm=[3, 1, 2, 0]),
    ]
    return nodes, constants


def bordered(fill: Any, *, first: int = 0, more: Sequence[NodeProto] = (), outputs: Sequence[str] = ("y",)) -> ModelProto:
    """Conv 1x1, its border filled, Conv 3x3."""
    nodes, constants = overwritten(6, 5, fill, first=first)
    constants |= {
        "one.weight": random(CHANNELS, CHANNELS, 1, 1),
        "one.bias": BIAS,
        "three.weight": random(CHANNELS, CHANNELS, 3, 3),
        "three.bias": random(CHANNELS),
    }
    before = helper.make_node("Conv", ["x", "one.weight", "one.bias"], ["c"])
    after = helper.make_node("Conv", ["filled", "three.weight", "three.bias"], ["y"])
    return model_of([before, *nodes, after, *more], constants, x=(1, CHANNELS, 6, 5), outputs=outputs)


def is_read_as_padding(model: ModelProto) -> bool:
    """Whether the chain is one node of what it overwrites."""
    node = OnnxModel(model).graph.nodes["filled"]
    return isinstance(node, Linear) and "c" in node.terms


def test_a_border_filled_with_the_bias_folds_into_one_convolution() -> None:
    folded(bordered(BIAS), ["Conv"], x_of(1, CHANNELS, 6, 5))


def test_the_chain_is_one_linear_node_of_its_root() -> None:
    graph = OnnxModel(bordered(BIAS)).graph
    assert list(graph.nodes) == ["c", "filled", "y"]
    node = graph.nodes["filled"]
    assert isinstance(node, Linear)
    assert (list(node.terms), node.operators) == (["c"], 10)
    mapped = node.terms["c"]
    assert isinstance(mapped, Formula)
    assert mapped.fill is not None
    assert [(window.before, window.after) for window in mapped.stencil.windows] == [(1, 1), (1, 1)]
    np.testing.assert_array_equal(mapped.fill, BIAS.astype(np.float64))


@pytest.mark.parametrize("fill", [BIAS + np.float32(0.25), BIAS * np.float32(1 + 2.0**-18)])
def test_another_fill_does_not_fold_and_keeps_the_chain(fill: Any) -> None:
    model = bordered(fill)
    assert kinds(written(refold.fold(model))) == kinds(model)


@pytest.mark.parametrize("steps", [-1, 1])
def test_a_fill_that_was_rounded_apart_from_the_bias_folds_and_is_said(steps: int) -> None:
    fill = BIAS + np.float32(steps * 2.0**-24 * np.abs(BIAS).max())
    assert not np.array_equal(fill, BIAS)
    result = refold.fold(bordered(fill))
    assert kinds(written(result)) == ["Conv"]
    (note,) = result.report.notes
    assert note.startswith("y: what is padded with and what the layer in front makes of zeros were rounded apart and are taken as one")
    assert refold.fold(bordered(BIAS)).report.notes == ()


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 12, 16])
def test_the_worst_rounding_of_a_network_of_constants_is_refused_or_proved(steps: int) -> None:
    """Gaps with the signs of a kernel that makes next to nothing of a constant, behind a layer that hardly looks at its input."""
    kinds_seen = set()
    for trial in range(8):
        bias = np.float32(0.5) + random(CHANNELS, seed=trial) ** 2
        kernel = random(CHANNELS, CHANNELS, 3, 3, seed=trial + 1)
        kernel -= kernel.mean((2, 3), keepdims=True) * np.float32(trial / 8)
        fill = bias + np.sign(kernel[0].sum((1, 2))) * np.float32(steps * 2.0**-24 * bias.max())
        nodes, constants = overwritten(6, 5, fill)
        constants |= {"one": random(CHANNELS, CHANNELS, 1, 1) * np.float32(1e-3), "bias": bias, "three": kernel}
        before, after = helper.make_node("Conv", ["x", "one", "bias"], ["c"]), helper.make_node("Conv", ["filled", "three"], ["y"])
        result = refold.fold(model_of([before, *nodes, after], constants, x=(1, CHANNELS, 6, 5)))
        kinds_seen.add(len(kinds(written(result))))
        assert result.report.certificate is not None
        (output,) = result.report.certificate.outputs
        assert output.original_error is not None
        assert output.folded_error is not None
        assert output.folded_error <= FACTOR * (output.original_error + 2.0**-24 * output.scale)
    assert kinds_seen == ({1, 12} if steps == 1 else {12} if steps == 16 else kinds_seen)


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_types_have_no_roundings_of_float32(elem_type: int) -> None:
    """Off by one rounding of float32 in double, and by one of its own in half precision."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    for fill, expected in ((BIAS, 1), (BIAS.astype(dtype) * dtype.type(1 + max(2.0**-24, float(np.finfo(dtype).eps))), 12)):
        model = bordered(fill.astype(dtype))
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = elem_type
        assert len(kinds(written(refold.fold(model, verify=False)))) == expected


@pytest.mark.parametrize("fill", [BIAS * 0, np.full(CHANNELS, 0.5, np.float32)])
def test_a_fill_alike_in_all_channels_leaves_a_pad(fill: Any) -> None:
    model = bordered(fill)
    expected = ["Conv", "Conv"] if not fill.any() else ["Conv", "Pad", "Conv"]
    new = written(refold.fold(model))
    assert kinds(new) == expected
    feeds = x_of(1, CHANNELS, 6, 5)
    np.testing.assert_allclose(run(model, feeds)[0], run(new, feeds)[0], rtol=1e-5, atol=1e-5)


def test_what_overwrites_the_middle_is_no_padding() -> None:
    model = bordered(BIAS, first=2)
    assert not is_read_as_padding(model)
    assert kinds(written(refold.fold(model))) == kinds(model)


def test_a_value_of_the_chain_that_something_else_reads_stays() -> None:
    model = bordered(0 * BIAS, more=[helper.make_node("Relu", ["t1"], ["z"])], outputs=("y", "z"))
    new = written(refold.fold(model))
    assert kinds(new) == ["Conv", "Pad", "Transpose", "ScatterND", "Identity", "ScatterND", "Transpose", "Conv", "Relu"]
    feeds = x_of(1, CHANNELS, 6, 5)
    for mine, theirs in zip(run(model, feeds), run(new, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_scatter_that_adds_is_not_read() -> None:
    model = bordered(BIAS)
    for node in model.graph.node:
        if node.op_type == "ScatterND":
            node.attribute.append(helper.make_attribute("reduction", "add"))
    assert not is_read_as_padding(model)


def framed(rows: Any, shape: Sequence[int | str]) -> ModelProto:
    """Rows of constants concatenated above and below a value whose width is asked for by Shape."""
    constants = {"top": rows, "start": np.array([3]), "end": np.array([4]), "lead": np.array([1, CHANNELS, 1])}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "start", "end"], ["width"]),
        helper.make_node("Concat", ["lead", "width"], ["wanted"], axis=0),
        helper.make_node("Expand", ["top", "wanted"], ["row"]),
        helper.make_node("Concat", ["row", "r", "row"], ["f"], axis=2),
        helper.make_node("MaxPool", ["f"], ["y"], kernel_shape=[2, 2]),
    ]
    return model_of(nodes, constants, x=shape)


@pytest.mark.parametrize("shape", [(1, CHANNELS, 6, 5), (1, CHANNELS, "H", "W")])
def test_rows_set_around_a_value_of_any_size_are_a_padding(shape: Sequence[int | str]) -> None:
    model = framed(np.full((1, CHANNELS, 1, 1), 2, np.float32), shape)
    node = OnnxModel(model).graph.nodes["f"]
    assert isinstance(node, Linear)
    assert list(node.terms) == ["r"]
    new = written(refold.fold(model))
    assert kinds(new) == ["Relu", "Pad", "MaxPool"]
    for size in (x_of(1, CHANNELS, 6, 5), *([x_of(1, CHANNELS, 9, 3)] if "H" in shape else [])):
        np.testing.assert_array_equal(run(model, size)[0], run(new, size)[0])


def test_a_frame_of_two_constants_is_no_padding() -> None:
    rows = np.arange(2, dtype=np.float32).reshape(1, 1, 2, 1).repeat(CHANNELS, 1)
    model = framed(rows, (1, CHANNELS, "H", "W"))
    assert isinstance(OnnxModel(model).graph.nodes["f"], Opaque)


def test_a_size_that_was_fixed_by_the_tracer_is_not_taken_for_every_size() -> None:
    """A row index that fits one height only."""
    nodes, constants = overwritten(6, 5, BIAS)
    model = model_of([helper.make_node("Relu", ["x"], ["c"]), *nodes, helper.make_node("Relu", ["filled"], ["y"])], constants,
                     x=(1, CHANNELS, "H", 5))  # fmt: skip
    assert not is_read_as_padding(model)


def test_labels_are_not_confused_with_a_constant_that_looks_like_them() -> None:
    """A border that holds what a label could be."""
    fill = np.arange(1 << 24, (1 << 24) + CHANNELS).astype(np.float32)
    node = OnnxModel(bordered(fill)).graph.nodes["filled"]
    assert isinstance(node, Linear)
    mapped = node.terms["c"]
    assert isinstance(mapped, Formula)
    np.testing.assert_array_equal(mapped.fill, fill.astype(np.float64))


# ---------------------------------------------------------------------------------------------------------- sizes computed from constants


def test_pads_that_are_computed_from_constants_are_constants() -> None:
    """As torch's first exporter writes them: filled up with zeros, turned round, and cast."""
    constants = {
        "given": np.array([0, 1, 0, 1]), "zero": np.array([0]), "four": np.array(8), "pairs": np.array([-1, 2]), "last": np.array([-1]),
        "least": np.array([-(2**63) + 1]), "flat": np.array([-1]), "w": random(CHANNELS, CHANNELS, 3, 3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["given"], ["count"]),
        helper.make_node("Sub", ["four", "count"], ["missing"]),
        helper.make_node("ConstantOfShape", ["missing"], ["rest"], value=numpy_helper.from_array(np.array([0]))),
        helper.make_node("Concat", ["given", "rest"], ["all"], axis=0),
        helper.make_node("Reshape", ["all", "pairs"], ["two"]),
        helper.make_node("Slice", ["two", "last", "least", "zero", "last"], ["turned"]),
        helper.make_node("Transpose", ["turned"], ["across"], perm=[1, 0]),
        helper.make_node("Reshape", ["across", "flat"], ["line"]),
        helper.make_node("Cast", ["line"], ["pads"], to=TensorProto.INT64),
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["c"], strides=[2, 2]),
        batch_norm("c", "y", CHANNELS, constants),
    ]
    folded(model_of(nodes, constants, x=(1, CHANNELS, "H", "W")), ["Conv"], x_of(1, CHANNELS, 9, 8))


def test_the_shape_of_a_weight_and_the_type_of_the_input_are_constants() -> None:
    """The bias of zeros that an exporter makes up for a convolution without one."""
    constants: dict[str, Any] = {"w": random(CHANNELS, CHANNELS, 1, 1), "zero": np.array(0.0, np.float32), "scale": np.float32(2)}
    nodes = [
        helper.make_node("Mul", ["w", "scale"], ["wide"]),
        helper.make_node("Shape", ["wide"], ["count"], start=0, end=1),
        helper.make_node("CastLike", ["zero", "x"], ["like"]),
        helper.make_node("Expand", ["like", "count"], ["bias"]),
        helper.make_node("Conv", ["x", "wide", "bias"], ["c"]),
        batch_norm("c", "y", CHANNELS, constants),
    ]
    folded(model_of(nodes, constants, x=(1, CHANNELS, "H", "W")), ["Conv"], x_of(1, CHANNELS, 5, 4))


def test_a_size_of_the_input_that_is_free_is_no_constant() -> None:
    constants = {"w": random(CHANNELS, CHANNELS, 1, 1), "zero": np.array([[[[0.0]]]], np.float32)}
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Expand", ["zero", "sizes"], ["zeros"]),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Add", ["c", "zeros"], ["y"]),
    ]
    model = model_of(nodes, constants, x=(1, CHANNELS, "H", "W"))
    assert kinds(written(refold.fold(model))) == kinds(model)


def test_a_constant_that_is_large_is_not_stated() -> None:
    constants = {"many": np.array([2000]), "few": np.array([3])}
    zeros = numpy_helper.from_array(np.array([7]))
    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["large"], value=zeros),
        helper.make_node("ConstantOfShape", ["few"], ["small"], value=zeros),
        helper.make_node("Div", ["few", "none"], ["lost"]),
    ]
    model = helper.make_model(graph_of(nodes, constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert state_integers(model)
    assert [node.op_type for node in model.graph.node] == ["ConstantOfShape", "Constant", "Div"]
    assert numpy_helper.to_array(model.graph.node[1].attribute[0].t).tolist() == [7, 7, 7]
    assert not state_integers(model)


def test_what_a_caller_may_replace_is_not_stated() -> None:
    graph = graph_of([helper.make_node("Neg", ["given"], ["other"])], {"given": np.array([3])})
    graph.input.append(helper.make_tensor_value_info("given", TensorProto.INT64, [1]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert not state_integers(model)
    model.ir_version = 3
    assert state_integers(model)


# ---------------------------------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("opset", [9, 17])
def test_a_cropped_convolution_is_written_with_a_slice_and_proved(opset: int) -> None:
    constants: dict[str, Any] = {"w": random(CHANNELS, CHANNELS, 3, 3), "scale": random(CHANNELS, 1, 1)}
    bounds: dict[str, Any] = {"starts": [1, 2], "ends": [2**31 - 1, -1], "axes": [2, 3]}
    if opset < 10:
        cut = helper.make_node("Slice", ["x"], ["s"], **bounds)
    else:
        constants |= {name: np.array(given) for name, given in bounds.items()}
        cut = helper.make_node("Slice", ["x", *bounds], ["s"])
    nodes = [cut, helper.make_node("Conv", ["s", "w"], ["c"], pads=[0, 1, 1, 0]), helper.make_node("Mul", ["c", "scale"], ["y"])]
    folded(model_of(nodes, constants, x=(1, CHANNELS, "H", "W"), opset=opset), ["Slice", "Conv"], x_of(1, CHANNELS, 8, 9))


@pytest.mark.parametrize("level", [-np.inf, np.nan])
def test_a_border_of_what_is_no_number_is_no_padding(level: float) -> None:
    fill = np.where(np.arange(CHANNELS) == 1, np.float32(level), BIAS)
    node = OnnxModel(bordered(fill)).graph.nodes["filled"]
    assert isinstance(node, Linear)
    assert "c" not in node.terms


def test_labels_are_whole_numbers_above_all_constants_or_there_are_none() -> None:
    """Float64 holds every whole number up to 2**53."""
    start = _above([np.asarray([0.5, -1e12])], [])
    assert start is not None
    assert start > 1e12
    assert _above([np.asarray([2.0**52])], []) is None
    assert _above([np.asarray([np.inf, 3.0])], []) == _above([], [])
