"""What a folded model is written as: nodes of several outputs, and what runtimes do not have."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

import refold
from tests.dialects.onnx.models import batch_norm, kinds, model_of, random, run
from tests.dialects.onnx.test_model import written

CONSTANTS = {"w": random(6, 4, 1, 1), "sizes": np.asarray([2, 4], np.int64), "m": random(9, 2)}
NORM = batch_norm("c", "n", 6, CONSTANTS)


def split(*behind: NodeProto) -> list[NodeProto]:
    """A convolution, its batch norm, and their channels in two parts, `a` and `b`."""
    return [helper.make_node("Conv", ["x", "w"], ["c"]), NORM, helper.make_node("Split", ["n", "sizes"], ["a", "b"], axis=1), *behind]


@pytest.mark.parametrize(
    ("nodes", "outputs", "left"),
    [
        (split(helper.make_node("MatMul", ["b", "m"], ["y"])), ("y",), 0),
        (split(helper.make_node("MatMul", ["a", "m"], ["y"])), ("y",), 0),
        (split(helper.make_node("MatMul", ["b", "m"], ["y"]), helper.make_node("Relu", ["a"], ["z"])), ("y", "z"), 1),
        (split(helper.make_node("MatMul", ["a", "m"], ["y"]), helper.make_node("Relu", ["b"], ["z"])), ("y", "z"), 1),
        (split(helper.make_node("MatMul", ["a", "m"], ["y"]), helper.make_node("MatMul", ["b", "m"], ["z"])), ("y", "z"), 1),
    ],
)
def test_parts_of_a_split_are_folded_each_for_itself(nodes: list[NodeProto], outputs: tuple[str, ...], left: int) -> None:
    model = model_of(nodes, CONSTANTS, ("N", 4, "H", 9), outputs=outputs)
    new = written(model)
    assert kinds(new).count("Split") <= left
    for n in (1, 3):
        x = {"x": random(n, 4, 5, 9)}
        for mine, theirs in zip(run(model, x), run(new, x), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_parts_that_a_caller_may_replace_are_no_known_parts() -> None:
    constants = {"w": random(6, 4, 1, 1), "s": random(1), "parts": np.asarray([2, 4], np.int64)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Split", ["c", "parts"], ["a", "b"], axis=1),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    model = model_of(nodes, constants, ("N", 4, "H", "W"))
    model.graph.input.append(helper.make_tensor_value_info("parts", TensorProto.INT64, [2]))
    new = written(model)
    for parts in ([2, 4], [3, 3]):
        feeds = {"x": random(2, 4, 5, 3), "parts": np.asarray(parts, np.int64)}
        np.testing.assert_allclose(run(model, feeds)[0], run(new, feeds)[0], atol=1e-5)


def test_a_shape_that_a_caller_may_replace_is_no_known_shape() -> None:
    constants = {"w": random(9, 8), "m": random(8, 5), "rest": np.asarray([-1], np.int64), "first": np.asarray([0], np.int64)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "m"], ["b"]),
        helper.make_node("Shape", ["b"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["b", "shape"], ["r"]),
        helper.make_node("Identity", ["r"], ["y"]),
    ]
    model = model_of(nodes, constants, ("N", 4, "H", 9))
    model.graph.input.append(helper.make_tensor_value_info("rest", TensorProto.INT64, [1]))
    result = refold.fold(model)
    assert any("an input, so that a caller may replace it" in refusal.fact for refusal in result.report.refusals)
    new = written(model)
    assert kinds(new).count("MatMul") == 1
    for rest in (-1, 100):
        feeds = {"x": random(3, 4, 5, 9), "rest": np.asarray([rest], np.int64)}
        np.testing.assert_allclose(run(model, feeds)[0], run(new, feeds)[0], atol=1e-5)


def test_a_model_in_float64_without_convolutions_gets_none() -> None:
    constants = {"pads": np.asarray([0, 0, 0, 1, 0, 0, 1, 0], np.int64)}
    norm = batch_norm("p", "n", 4, constants)
    nodes = [helper.make_node("Pad", ["x", "pads"], ["p"], mode="edge"), norm, helper.make_node("Add", ["n", "p"], ["y"])]
    constants = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in constants.items()}
    result = refold.fold(model_of(nodes, constants, elem_type=TensorProto.DOUBLE))
    (refusal,) = result.report.refusals
    assert "ONNX Runtime has no convolution in float64" in str(refusal)
    assert result.report.certificate is not None
    assert result.report.certificate.passed
