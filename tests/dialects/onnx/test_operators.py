"""Each operator: folded with what stands beside it, and compared with the original in the reference evaluator and in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

import refold
from refold.dialects.onnx import OnnxModel, _constants, _read
from refold.graph import Linear, Opaque
from tests.dialects.onnx.folding import Shape, folded, written, x_of
from tests.dialects.onnx.models import batch_norm, kinds, model_of, random, rep_block


def test_three_branches_become_one_convolution() -> None:
    folded(model_of(*rep_block(), x=("N", 4, "H", "W")), ["Conv", "Relu"], x_of(2, 4, 7, 5))


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21, 23, onnx.defs.onnx_opset_version()])
def test_every_opset(opset: int) -> None:
    model = model_of(*rep_block(), opset=opset, ir_version=min(onnx.IR_VERSION, 10))
    result = refold.fold(model) if opset < 24 else refold.fold(model, verify=False)
    assert kinds(written(result)) == ["Conv", "Relu"]
    assert written(result).opset_import[0].version == opset


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [2, 3])
def test_convolution_pads_itself(auto_pad: str, stride: int, taps: int) -> None:
    constants = {"w": random(6, 4, taps, taps)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], auto_pad=auto_pad, strides=[stride] * 2),
        batch_norm("c", "y", 6, constants),
    ]
    folded(model_of(nodes, constants), ["Conv"], x_of(1, 4, 9, 9))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("taps", [2, 3, 4])
def test_auto_pad_of_a_free_size_is_the_same_for_all_where_nothing_is_skipped(auto_pad: str, taps: int) -> None:
    constants = {"w": random(6, 4, taps, taps)}
    conv = helper.make_node("Conv", ["x", "w"], ["c"], auto_pad=auto_pad)
    model = model_of([conv, batch_norm("c", "y", 6, constants)], constants, (1, 4, "H", "W"))
    folded(model, ["Conv"], x_of(1, 4, 9, 8))
    folded(model, ["Conv"], x_of(1, 4, 2, 5))


def test_auto_pad_of_a_free_size_is_refused() -> None:
    constants = {"w": random(6, 4, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        batch_norm("c", "y", 6, constants),
    ]
    result = refold.fold(model_of(nodes, constants, (1, 4, "H", "W")))
    assert result.report.folds == ()
    assert any("fix the input size" in refusal.remedy for refusal in result.report.refusals)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_of_every_rank_and_their_groups(rank: int) -> None:
    constants = {"w": random(4, 2, *[3] * rank), "b": random(4)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], group=2, dilations=[2] * rank, pads=[2] * 2 * rank),
        batch_norm("c", "y", 4, constants),
    ]
    folded(model_of(nodes, constants, (1, 4, *[7] * rank)), ["Conv"], x_of(1, 4, *[7] * rank))


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({}, 5),
        ({"strides": [2, 2]}, 5),
        ({"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 1]}, 5),
        ({"strides": [3, 2], "dilations": [2, 1], "pads": [2, 1, 1, 0]}, 4),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 5),
        ({"strides": [2, 2], "auto_pad": "VALID"}, 5),
        ({"strides": [1, 1]}, 5),
    ],
)
def test_transposed_convolution_takes_what_follows(attributes: dict[str, Any], size: int) -> None:
    constants = {"w": random(4, 3, 3, 3), "b": random(3), "s": random(3, 1, 1)}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["c"], **attributes),
        batch_norm("c", "n", 3, constants),
        helper.make_node("Mul", ["n", "s"], ["y"]),
    ]
    kind = "Conv" if attributes.get("strides") in (None, [1, 1]) else "ConvTranspose"
    new = refold.fold(model_of(nodes, constants, (1, 4, size, size)), x_of(1, 4, size, size))
    assert kinds(written(new)) == [kind]


@pytest.mark.parametrize("operation", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (6, 1, 1), (1, 6, 1, 1)])
def test_arithmetic_with_a_constant_behind_a_convolution(operation: str, shape: tuple[int, ...]) -> None:
    constants = {"w": random(6, 4, 3, 3), "c": np.abs(random(*shape)) + np.float32(0.5)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["v"]), helper.make_node(operation, ["v", "c"], ["y"])]
    folded(model_of(nodes, constants), ["Conv"], x_of(1, 4, 9, 9))


def test_a_constant_minus_a_convolution() -> None:
    constants = {"w": random(6, 4, 3, 3), "c": random(6, 1, 1)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["v"]), helper.make_node("Sub", ["c", "v"], ["y"])]
    folded(model_of(nodes, constants), ["Conv"], x_of(1, 4, 9, 9))


def test_a_constant_over_a_convolution_is_left() -> None:
    constants = {"w": random(6, 4, 3, 3), "c": random(6, 1, 1)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["v"]), helper.make_node("Div", ["c", "v"], ["y"])]
    folded(model_of(nodes, constants), ["Conv", "Div"], None)


def test_neg_sum_sub_identity_and_dropout_between_branches() -> None:
    constants = {"a": random(4, 4, 3, 3), "b": random(4, 4, 1, 1), "c": random(4, 4, 1, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["va"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "b"], ["vb"]),
        helper.make_node("Conv", ["x", "c"], ["vc"], pads=[0, 1, 0, 1]),
        helper.make_node("Neg", ["vb"], ["nb"]),
        helper.make_node("Identity", ["vc"], ["ic"]),
        helper.make_node("Dropout", ["ic"], ["dc"]),
        helper.make_node("Sum", ["va", "nb", "dc"], ["s"]),
        helper.make_node("Sub", ["s", "x"], ["y"]),
    ]
    folded(model_of(nodes, constants, ("N", 4, "H", "W")), ["Conv"], x_of(2, 4, 6, 5))


@pytest.mark.parametrize(("attributes", "left"), [
    ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, ["Conv"]),
    ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, ["AveragePool", "Conv", "Add"]),
    ({"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1}, ["Conv"]),
    ({"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"}, ["AveragePool", "Conv", "Add"]),
    ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1, "ceil_mode": 1}, ["Conv"]),
])  # fmt: skip
def test_average_pooling_as_a_branch(attributes: dict[str, Any], left: list[str]) -> None:
    constants = {"w": random(4, 4, 3, 3)}
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], **attributes),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["p", "c"], ["y"]),
    ]
    folded(model_of(nodes, constants), left, x_of(1, 4, 9, 9))


def test_ceil_mode_that_hangs_over_is_refused() -> None:
    constants = {"w": random(4, 4, 2, 2)}
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("Conv", ["p", "w"], ["y"]),
    ]
    result = refold.fold(model_of(nodes, constants))
    assert any("ceil_mode" in refusal.fact for refusal in result.report.refusals)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("opset", [9, 10, 11, 13, 19])
def test_padding_in_front_of_a_convolution(mode: str, opset: int) -> None:
    if mode == "wrap" and opset < 19:
        pytest.skip("this opset does not know it")
    pads = [0, 0, 1, 2, 0, 0, 3, 1]
    constants: dict[str, Any] = {"w": random(6, 4, 3, 3)}
    if opset < 11:
        pad = helper.make_node("Pad", ["x"], ["p"], pads=pads, mode=mode)
    else:
        constants["pads"] = np.asarray(pads)
        pad = helper.make_node("Pad", ["x", "pads"], ["p"], mode=mode)
    nodes = [pad, helper.make_node("Conv", ["p", "w"], ["c"]), batch_norm("c", "y", 6, constants)]
    expected = ["Conv"] if mode == "constant" else ["Pad", "Conv"]
    result = refold.fold(model_of(nodes, constants, opset=opset))
    assert kinds(written(result)) == expected
    assert result.report.certificate is not None
    assert result.report.certificate.passed


@pytest.mark.parametrize("level", [-np.inf, np.nan, None])
def test_a_padding_with_no_number_or_one_made_at_run_time_is_left(level: float | None) -> None:
    pads = {"pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1])}
    constants = pads if level is None else pads | {"level": np.float32(level)}
    most = [helper.make_node("ReduceMax", ["x"], ["level"], keepdims=0)] if level is None else []
    nodes = [*most, helper.make_node("Pad", ["x", "pads", "level"], ["y"])]
    assert isinstance(OnnxModel(model_of(nodes, constants)).graph.nodes["y"], Opaque)


@pytest.mark.parametrize(
    ("x", "axis", "listed"), [((4, 4, 3), 0, [1, 0]), ((1, "C", 3), 1, [0]), ((1, 4, "W"), 2, [1]), ((1, 4, 3), 1, [])]
)
def test_parts_that_are_no_channels_are_left(x: Shape, axis: int, listed: list[int]) -> None:
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)]
    model = model_of(nodes, {"i": np.asarray(listed, np.int64)}, x)
    assert isinstance(OnnxModel(model).graph.nodes["y"], Opaque)


@pytest.mark.parametrize(("outputs", "kept"), [(["y"], True), (["y", ""], True), (["y", "mask"], False)])
def test_a_dropout_that_also_gives_its_mask_is_left(outputs: list[str], kept: bool) -> None:
    graph = OnnxModel(model_of([helper.make_node("Dropout", ["x"], outputs)], {})).graph
    assert isinstance(graph.nodes["y"], Linear) == kept


def test_a_dropout_of_a_constant_is_left() -> None:
    constants = {"w": random(4, 4, 1, 1), "c": random(1, 4, 1, 1)}
    nodes = [
        helper.make_node("Dropout", ["c"], ["d"]),
        helper.make_node("Conv", ["x", "w"], ["v"]),
        helper.make_node("Add", ["v", "d"], ["y"]),
    ]
    assert all(set(node.terms) <= {"x", "v"} for node in OnnxModel(model_of(nodes, constants)).graph.linear())
    folded(model_of(nodes, constants), ["Dropout", "Conv", "Add"], x_of(1, 4, 9, 9))


@pytest.mark.parametrize(("training", "kept"), [("", True), ("no", True), ("yes", False), ("given", False)])
def test_a_dropout_is_passed_where_it_is_known_to_do_nothing(training: str, kept: bool) -> None:
    constants = {"ratio": np.float32(0.5), "no": np.asarray(False), "yes": np.asarray(True)}
    given = [helper.make_node("IsNaN", ["one"], ["given"]), helper.make_node("ReduceMax", ["x"], ["one"], keepdims=0)][::-1]
    nodes = [*(given if training == "given" else []), helper.make_node("Dropout", ["x", "ratio", training], ["y"])]
    graph = OnnxModel(model_of(nodes, {name: value for name, value in constants.items() if name in ("ratio", training)})).graph
    assert isinstance(graph.nodes["y"], Linear) == kept


def test_a_reading_that_does_not_give_the_inferred_shape_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": random(4, 4, 1, 1)})
    assert isinstance(OnnxModel(model).graph.nodes["y"], Linear)
    monkeypatch.setattr(_read, "_agrees", lambda call, reading: False)
    assert isinstance(OnnxModel(model).graph.nodes["y"], Opaque)


def test_constants_of_many_numbers_or_of_a_shape_that_is_not_known_are_not_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = {"w": random(2, 2, 2, 2)}
    sum_of = [helper.make_node("ReduceMax", ["c"], ["m"]), helper.make_node("Add", ["x", "m"], ["y"])]
    product = [helper.make_node("Mul", ["w", "w"], ["c"]), *sum_of]
    places = [helper.make_node("NonZero", ["w"], ["n"]), helper.make_node("Cast", ["n"], ["c"], to=TensorProto.FLOAT), *sum_of]
    assert list(OnnxModel(model_of(product, constants)).graph.nodes) == ["y"]
    assert "n" in OnnxModel(model_of(places, constants)).graph.nodes
    monkeypatch.setattr(_constants, "LARGEST", 15)
    assert "c" in OnnxModel(model_of(product, constants)).graph.nodes


OF_CONSTANTS: dict[str, NodeProto] = {
    one.op_type: one
    for one in (
        helper.make_node("Neg", ["c"], ["n"]),
        helper.make_node("Identity", ["c"], ["n"]),
        helper.make_node("Transpose", ["c"], ["n"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["c", "shape"], ["n"]),
        helper.make_node("Flatten", ["c"], ["n"]),
        helper.make_node("ReduceMean", ["c"], ["n"], axes=[2]),
        helper.make_node("GlobalAveragePool", ["c"], ["n"]),
        helper.make_node("AveragePool", ["c"], ["n"], kernel_shape=[2]),
        helper.make_node("Add", ["c", "c"], ["n"]),
        helper.make_node("Sub", ["c", "s"], ["n"]),
        helper.make_node("Mul", ["c", "s"], ["n"]),
        helper.make_node("Div", ["c", "s"], ["n"]),
        helper.make_node("Conv", ["c", "w"], ["n"]),
        helper.make_node("ConvTranspose", ["c", "w"], ["n"]),
        helper.make_node("MatMul", ["c", "m"], ["n"]),
        helper.make_node("Gemm", ["m", "m"], ["n"]),
        helper.make_node("Einsum", ["c", "m"], ["n"], equation="bct,to->bco"),
        helper.make_node("Pad", ["c", "pads"], ["n"]),
        helper.make_node("Slice", ["c", "zero", "one", "one"], ["n"]),
        helper.make_node("Gather", ["c", "zero"], ["n"], axis=1),
        helper.make_node("Split", ["c"], ["n", "rest"], axis=1),
        helper.make_node("Concat", ["c", "d"], ["n"], axis=1),
        helper.make_node("BatchNormalization", ["c", "v", "v", "v", "v"], ["n"]),
        helper.make_node("Dropout", ["c"], ["n"]),
    )
}


@pytest.mark.parametrize("operation", OF_CONSTANTS)
def test_what_is_made_of_constants_alone_is_no_map(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are too many to work out they stay as they are made: a map is one of values that hang on an input."""
    monkeypatch.setattr(_constants, "LARGEST", 0)
    one = OF_CONSTANTS[operation]
    stored = {
        "c": random(1, 4, 6),
        "d": random(1, 2, 6),
        "s": np.float32(2),
        "w": random(4, 4, 1),
        "m": random(6, 6),
        "v": np.ones(4, np.float32),
    }
    stored |= {"shape": np.asarray([4, 6]), "pads": np.asarray([0, 0, 1, 0, 0, 1]), "zero": np.asarray([0]), "one": np.asarray([1])}
    nodes = [one, helper.make_node("ReduceMax", ["n"], ["most"], keepdims=0), helper.make_node("Mul", ["x", "most"], ["y"])]
    model = model_of(nodes, {name: value for name, value in stored.items() if name in one.input}, opset=13)
    assert isinstance(OnnxModel(model).graph.nodes["n"], Opaque)
