"""Shapes that are asked of what folds away: they are known, or another value tells them; and the census of what was written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

import refold
from refold.dialects.onnx import OnnxModel
from refold.folding import FoldResult
from tests.dialects.onnx.models import batch_norm, kinds, model_of, random, rep_block, run


def written(result: FoldResult) -> ModelProto:
    proto = ir.to_proto(result.model)
    assert isinstance(proto, ModelProto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def same(model: ModelProto, new: ModelProto, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        x = {"x": random(*shape, seed=5)}
        for mine, theirs in zip(run(model, x), run(new, x), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def multiply_adds(model: ModelProto, feeds: Mapping[str, Any]) -> int:
    """Those of the convolutions of a file, counted from what they really read and give in a run."""
    shown = ModelProto()
    shown.CopyFrom(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in convolutions)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    results = run(shown, feeds)
    return sum(result.size * math.prod(weights[node.input[1]][1:]) for node, result in zip(convolutions, results, strict=True))


def token_block(x: tuple[int | str, ...], channels: int = 4) -> tuple[list[NodeProto], dict[str, Any]]:
    """softmax of relu(x) → conv → batch norm, flattened to (batch, channels, items) by the sizes of the batch norm's input."""
    constants: dict[str, Any] = {
        "w": random(channels, 4, 3, 3),
        "zero": np.array([0]),
        "two": np.array([2]),
        "rest": np.array([-1]),
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["c"], ["s"]),
        batch_norm("c", "n", channels, constants),
        helper.make_node("Slice", ["s", "zero", "two", "zero"], ["front"]),
        helper.make_node("Concat", ["front", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["n", "sizes"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"]),
    ]
    return nodes, constants


def test_a_shape_that_is_known_reads_nothing() -> None:
    """It used to keep the old convolution beside the new one, uncounted."""
    model = model_of(*token_block((2, 4, 6, 5)), x=(2, 4, 6, 5))
    result = refold.fold(model)
    new = written(result)
    assert [kind for kind in kinds(new) if kind not in ("Slice", "Concat")] == ["Relu", "Conv", "Reshape", "Softmax"]
    same(model, new, (2, 4, 6, 5))


def test_a_known_shape_of_what_is_gone_is_written_as_a_constant() -> None:
    """Here something else than a rearrangement reads it, so that it has to be there."""
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Shape", ["c"], ["s"]),
        batch_norm("c", "n", 4, constants),
        helper.make_node("ConstantOfShape", ["s"], ["z"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("Pow", ["n", "z"], ["y"]),
        helper.make_node("Cast", ["s"], ["told"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, constants, x=(2, 4, 6, 5), outputs=("y", "told"))
    result = refold.fold(model)
    new = written(result)
    assert [node.op_type for node in new.graph.node if node.op_type in ("Conv", "BatchNormalization", "Shape")] == ["Conv"]
    assert "Constant" in [node.op_type for node in new.graph.node]
    same(model, new, (2, 4, 6, 5))


@pytest.mark.parametrize("channels", [4, 6])
def test_a_free_shape_asks_another_value(channels: int) -> None:
    """The sizes that are known need not be the same there: of 6 channels none of the others tells."""
    nodes, constants = token_block(("N", 4, "H", "W"), channels)
    constants |= {"first": np.array(0), "second": np.array(1), "axis": np.array([0])}
    nodes[4:6] = [
        helper.make_node("Gather", ["s", "first"], ["batch"]),
        helper.make_node("Gather", ["s", "second"], ["wide"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["batches"]),
        helper.make_node("Unsqueeze", ["wide", "axis"], ["channels"]),
        helper.make_node("Concat", ["batches", "channels", "rest"], ["sizes"], axis=0),
    ]
    constants["extra"] = np.array([1], np.int64)
    nodes.append(helper.make_node("Expand", ["y", "sizes_too"], ["wider"]))
    nodes.insert(-1, helper.make_node("Concat", ["batches", "channels", "extra"], ["sizes_too"], axis=0))
    model = model_of(nodes, constants, x=("N", 4, "H", "W"), outputs=("wider",))
    result = refold.fold(model)
    new = written(result)
    assert result.report.refusals == ()
    assert kinds(new).count("Conv") == 1
    assert "BatchNormalization" not in kinds(new)
    (shape,) = [node for node in new.graph.node if node.op_type == "Shape"]
    assert shape.input[0] == "r"
    same(model, new, (2, 4, 6, 5), (3, 4, 2, 7))


def test_a_shape_that_nobody_else_tells_keeps_its_value() -> None:
    """A convolution with stride halves the sizes: in front of the Shape nothing else has them."""
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Shape", ["c"], ["s"]),
        batch_norm("c", "n", 4, constants),
        helper.make_node("ConstantOfShape", ["s"], ["z"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("Pow", ["n", "z"], ["y"]),
    ]
    model = model_of(nodes, constants, x=("N", 4, "H", "W"))
    result = refold.fold(model)
    new = written(result)
    assert kinds(new) == kinds(model)
    assert any("Shape" in refusal.fact for refusal in result.report.refusals)
    same(model, new, (2, 4, 9, 8))


def test_a_size_of_another_input_that_is_only_called_the_same_is_not_asked() -> None:
    """Runtimes do not hold two inputs to a name that they share."""
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3), "first": np.array([0]), "ones": np.array([1, 1, 1])}
    nodes = [
        helper.make_node("Relu", ["z"], ["other"]),
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Shape", ["c"], ["s"]),
        batch_norm("c", "n", 4, constants),
        helper.make_node("Gather", ["s", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "ones"], ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["sizes"], ["t"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("Pow", ["n", "t"], ["y"]),
        helper.make_node("Max", ["other", "other"], ["also"]),
    ]
    model = model_of(nodes, constants, x=("N", 4, "H", "W"))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4, "h", "w"]))
    feeds = {"x": random(2, 4, 6, 5), "z": random(3, 4, 3, 3)}
    new = written(refold.fold(model, feeds))
    assert [node.input[0] for node in new.graph.node if node.op_type == "Shape"] == ["x"]
    assert "BatchNormalization" not in kinds(new)
    np.testing.assert_allclose(run(new, feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-4)


def test_channels_alone_are_known_where_the_other_sizes_are_free() -> None:
    constants: dict[str, Any] = {"w": random(6, 4, 3, 3), "second": np.array([1]), "one": np.array([1]), "places": np.array([1, 1])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Shape", ["c"], ["s"]),
        batch_norm("c", "n", 6, constants),
        helper.make_node("Gather", ["s", "second"], ["channels"]),
        helper.make_node("Concat", ["one", "channels", "places"], ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["sizes"], ["z"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("Pow", ["n", "z"], ["y"]),
    ]
    model = model_of(nodes, constants, x=("N", 4, "H", "W"))
    new = written(refold.fold(model))
    assert [kind for kind in kinds(new) if kind in ("Conv", "BatchNormalization", "Shape")] == ["Conv"]
    same(model, new, (2, 4, 9, 8))


def test_a_type_that_is_asked_of_what_folds_away_is_known() -> None:
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3), "whole": np.array([2, 3, 4, 5]).reshape(4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("CastLike", ["whole", "c"], ["power"]),
        batch_norm("c", "n", 4, constants),
        helper.make_node("Pow", ["n", "power"], ["y"]),
    ]
    model = model_of(nodes, constants, x=(2, 4, 6, 5))
    new = written(refold.fold(model))
    assert kinds(new) == ["Conv", "Pow"]
    same(model, new, (2, 4, 6, 5))


def test_a_shape_in_a_branch_is_left_to_what_it_reads() -> None:
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3), "yes": np.array(True)}
    branch = helper.make_graph(
        [helper.make_node("Shape", ["c"], ["inner"])], "b", [], [helper.make_tensor_value_info("inner", TensorProto.INT64, [4])]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        batch_norm("c", "n", 4, constants),
        helper.make_node("If", ["yes"], ["s"], then_branch=branch, else_branch=branch),
        helper.make_node("Expand", ["n", "s"], ["y"]),
    ]
    model = model_of(nodes, constants, x=("N", 4, "H", "W"))
    new = written(refold.fold(model, {"x": random(2, 4, 6, 5)}))
    same(model, new, (2, 4, 6, 5))


@pytest.mark.parametrize("x", [(2, 4, 6, 5), ("N", 4, "H", "W")])
@pytest.mark.parametrize("make", [lambda x: rep_block(), token_block], ids=["branches", "tokens"])
def test_the_census_counts_what_the_written_model_runs(make: Any, x: tuple[int | str, ...]) -> None:
    """Not what the plan says of it: each convolution of the file, by what it gives when it runs."""
    nodes, constants = make(x)
    model = model_of(nodes, constants, x=x)
    result = refold.fold(model)
    sizes = (2, 4, 6, 5) if x[0] == 2 else (1, 4, 64, 64)
    feeds = {"x": random(*sizes)}
    for proto, census in ((model, result.report.before), (written(result), result.report.after)):
        pointwise = census.multiply_adds - multiply_adds(proto, feeds)
        items = math.prod(sizes)
        assert pointwise == items * sum(kind == "BatchNormalization" for kind in kinds(proto))
    assert result.report.after.multiply_adds < result.report.before.multiply_adds


def test_a_node_that_stays_is_counted() -> None:
    """A fold whose numbers leave float16 is not written: what it would have replaced runs, and counts."""
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3, dtype=np.float16), "large": np.full((4, 1, 1), 6e4, np.float16)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "large"], ["y"]),
    ]
    model = model_of(nodes, constants, x=(2, 4, 6, 5), elem_type=TensorProto.FLOAT16)
    report = refold.fold(model).report
    assert [refusal.law for refusal in report.refusals] == ["rounding"]
    assert report.after.multiply_adds == report.before.multiply_adds


def test_the_sizes_of_the_example_are_those_of_the_inputs_that_are_given() -> None:
    """None of the sizes that would be tried fits the stored matrix, and what is averaged over is as large as the rest makes it."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "m"], ["p"]), node("Conv", ["x", "w"], ["c"], strides=[3, 3]), node("GlobalAveragePool", ["c"], ["a"]),
        node("Mul", ["a", "s"], ["y"]),
    ]  # fmt: skip
    constants = {"m": random(12, 2), "w": random(6, 4, 5, 5), "s": np.float32(3)}
    model = model_of(nodes, constants, ("N", 4, 6, "W"), outputs=("y", "p"))
    given = {"x": random(2, 4, 6, 12)}
    assert OnnxModel(model, given).graph.values["c"].example == (2, 6, 1, 3)
    certificate = refold.fold(model, given).report.certificate
    assert certificate is not None
    assert certificate.passed


def test_sizes_that_operators_around_a_value_fix_are_fixed_for_the_proof() -> None:
    """Inference leaves the last axis free; the padding follows from its size all the same."""
    nodes = [
        helper.make_node("Max", ["x", "other"], ["m"]), helper.make_node("Conv", ["m", "w"], ["c"], auto_pad="SAME_LOWER", strides=[3, 3]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]  # fmt: skip
    constants = {"other": random(2, 4, 6, 6), "w": random(6, 4, 5, 5), "s": np.float32(3)}
    model = model_of(nodes, constants, (2, 4, 6, "W"), opset=7, ir_version=4)
    assert OnnxModel(model).graph.values["m"].shape == (2, 4, 6, 6)
    certificate = refold.fold(model, {"x": random(2, 4, 6, 6)}).report.certificate
    assert certificate is not None
    assert certificate.passed
