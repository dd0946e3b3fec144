"""Crops, parts of channels, products and concatenations: folded with what stands beside them, and compared with the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

import refold
from refold.dialects.onnx import OnnxModel
from refold.graph import Linear, Opaque
from refold.maps import IDENTITY, Scalar
from tests.dialects.onnx.folding import Shape, folded, written, x_of
from tests.dialects.onnx.models import batch_norm, kinds, model_of, random, rep_block, run


def test_padding_with_a_value_and_on_some_axes() -> None:
    constants = {"w": random(6, 4, 3, 3), "pads": np.asarray([1, 1]), "level": np.float32(0.5), "axes": np.asarray([-1])}
    nodes = [
        helper.make_node("Pad", ["x", "pads", "level", "axes"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["c"]),
        batch_norm("c", "y", 6, constants),
    ]
    folded(model_of(nodes, constants, opset=18), ["Pad", "Conv"], None)


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("x", [(1, 4, 9, 9), (1, 4, "H", "W")])
def test_cropping_by_slices_behind_a_convolution(opset: int, x: Shape) -> None:
    constants: dict[str, Any] = {"w": random(6, 4, 3, 3)}
    if opset < 10:
        cut = helper.make_node("Slice", ["c"], ["y"], starts=[1, 1], ends=[-1, -1], axes=[2, 3])
    else:
        constants |= {"starts": np.asarray([1, 1]), "ends": np.asarray([-1, -1]), "axes": np.asarray([2, 3])}
        cut = helper.make_node("Slice", ["c", "starts", "ends", "axes"], ["y"])
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), cut]
    folded(model_of(nodes, constants, x, opset=opset), ["Conv"], x_of(1, 4, 9, 9))


@pytest.mark.parametrize(
    ("start", "end", "kept"), [(0, 9, True), (0, 0, False), (4, 4, False), (-1, 0, False), (3, 4, True), (-9, -8, True)]
)
def test_a_slice_of_nothing_is_left(start: int, end: int, kept: bool) -> None:
    constants = {"s": np.asarray([start]), "e": np.asarray([end]), "a": np.asarray([2])}
    graph = OnnxModel(model_of([helper.make_node("Slice", ["x", "s", "e", "a"], ["y"])], constants)).graph
    assert isinstance(graph.nodes["y"], Linear) == kept


def test_what_moves_items_apart_is_no_crop() -> None:
    """A scale that a transposed convolution of one tap undoes leaves zeros between the items, and those alone."""
    constants = {"s": np.full((4, 1, 1), 2, np.float32), "w": np.full((4, 1, 1, 1), 0.5, np.float32)}
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["m"]),
        helper.make_node("ConvTranspose", ["m", "w"], ["y"], strides=[2, 2], group=4),
    ]
    folded(model_of(nodes, constants, (1, 4, "H", "W")), ["ConvTranspose"], x_of(1, 4, 3, 5))


def test_parts_that_are_put_together_as_they_were_change_nothing() -> None:
    constants = {"zero": np.asarray([0]), "one": np.asarray([1]), "end": np.asarray([2**62]), "axis": np.asarray([2])}
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "axis"], ["top"]),
        helper.make_node("Slice", ["x", "one", "end", "axis"], ["rest"]),
        helper.make_node("Concat", ["top", "rest"], ["y"], axis=2),
    ]
    node = OnnxModel(model_of(nodes, constants)).graph.nodes["y"]
    assert isinstance(node, Linear)
    assert dict(node.terms) == {"x": IDENTITY}


@pytest.mark.parametrize("chosen", [[3, 0], [-1, 0], [-1, -4, 2]])
def test_channels_are_taken_from_either_end(chosen: list[int]) -> None:
    constants = {"w": random(4, 4, 3, 3), "i": np.asarray(chosen)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Gather", ["c", "i"], ["y"], axis=1)]
    folded(model_of(nodes, constants), ["Conv"], x_of(1, 4, 9, 9))


def test_a_split_along_a_free_axis_is_left() -> None:
    constants = {"w": random(4, 4, 1, 1)}
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2),
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("Sub", ["c", "b"], ["y"]),
    ]
    model = model_of(nodes, constants, (1, 4, "H", "W"), opset=18)
    folded(model, ["Split", "Conv", "Sub"], x_of(1, 4, 6, 5))


@pytest.mark.parametrize("equation", ["oc,bchw->bohw", "bchw,oc->bohw"])
def test_an_einsum_with_a_matrix_joins_a_convolution(equation: str) -> None:
    constants = {"w": random(4, 4, 3, 3), "m": random(4, 4)}
    operands = ["m", "v"] if equation.startswith("oc") else ["v", "m"]
    nodes = [helper.make_node("Conv", ["x", "w"], ["v"]), helper.make_node("Einsum", operands, ["y"], equation=equation)]
    folded(model_of(nodes, constants), ["Conv"], x_of(1, 4, 9, 9))


@pytest.mark.parametrize(
    ("operation", "scale"), [("Mul", Scalar(2.0)), ("Div", Scalar(0.5)), ("Add", Scalar(1.0, 2.0)), ("Sub", Scalar(1.0, -2.0))]
)
def test_one_number_for_all_channels_is_one_weight(operation: str, scale: Scalar) -> None:
    graph = OnnxModel(model_of([helper.make_node(operation, ["x", "s"], ["y"])], {"s": np.float32(2)})).graph
    node = graph.nodes["y"]
    assert isinstance(node, Linear)
    assert (node.weights, dict(node.terms)) == (1, {"x": scale})


@pytest.mark.parametrize("number", [-1.0, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(), (4, 1, 1)])
def test_a_value_over_a_constant_is_linear_but_over_zero(number: float, shape: tuple[int, ...]) -> None:
    constants = {"c": np.full(shape, 2, np.float32)}
    constants["c"][(0,) * len(shape)] = number
    graph = OnnxModel(model_of([helper.make_node("Div", ["x", "c"], ["y"])], constants)).graph
    assert isinstance(graph.nodes["y"], Linear) == (number != 0)


@pytest.mark.parametrize("shape", [[20, 19], [19, 20], [20, 20]])
def test_an_output_shape_that_asks_for_negative_padding_is_refused(shape: list[int]) -> None:
    """An output that is larger on some axis than what the kernel reaches, 19 items."""
    constants = {"w": random(4, 3, 3, 3)}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2], output_shape=shape),
        batch_norm("c", "y", 3, constants),
    ]
    result = refold.fold(model_of(nodes, constants))
    assert result.report.folds == ()
    assert any("its output shape asks for the negative padding" in refusal.fact for refusal in result.report.refusals)


def test_a_strided_slice() -> None:
    constants = {"w": random(6, 4, 3, 3), "s": np.asarray([0]), "e": np.asarray([2**62]), "a": np.asarray([2]), "t": np.asarray([2])}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Slice", ["c", "s", "e", "a", "t"], ["y"])]
    new = folded(model_of(nodes, constants, (1, 4, "H", "W")), ["Conv"], x_of(1, 4, 9, 9))
    assert [list(one.ints) for one in new.graph.node[0].attribute if one.name == "strides"] == [[2, 1]]


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (1,)])
def test_gemm_with_what_follows(trans_b: int, bias: tuple[int, ...] | None) -> None:
    constants = {"w": random(5, 4) if trans_b else random(4, 5), "s": random(5)}
    inputs = ["x", "w"]
    if bias is not None:
        constants["b"] = random(*bias)
        inputs.append("b")
    nodes = [
        helper.make_node("Gemm", inputs, ["g"], alpha=0.5, beta=2.0, transB=trans_b),
        helper.make_node("Mul", ["g", "s"], ["y"]),
    ]
    folded(model_of(nodes, constants, ("N", 4)), ["Gemm"], x_of(3, 4))


@pytest.mark.parametrize(("addend", "kept"), [("r", True), ("x", False), ("wide", False)])
def test_gemm_may_add_another_value(addend: str, kept: bool) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceMax", ["x"], ["wide"], axes=[0]),
        helper.make_node("Gemm", ["x", "w", addend], ["y"], beta=2.0),
    ]
    model = model_of(nodes, {"w": random(4, 4)}, (3, 4))
    node = OnnxModel(model).graph.nodes["y"]
    assert isinstance(node, Linear) == kept
    if isinstance(node, Linear):
        assert set(node.terms) == {"x", "r"}
        assert node.terms["r"] == Scalar(2.0)


def test_low_rank_adaptation() -> None:
    constants = {"w": random(16, 16), "a": random(16, 2), "b": random(2, 16), "s": np.float32(0.5), "bias": random(16)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wx"]),
        helper.make_node("MatMul", ["x", "a"], ["ax"]),
        helper.make_node("MatMul", ["ax", "b"], ["bax"]),
        helper.make_node("Mul", ["bax", "s"], ["scaled"]),
        helper.make_node("Add", ["wx", "scaled"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["y"]),
    ]
    folded(model_of(nodes, constants, ("N", "T", 16)), ["MatMul", "Add"], x_of(2, 5, 16))


def test_branches_side_by_side() -> None:
    constants = {"a": random(6, 4, 3, 3), "b": random(6, 4, 1, 1), "c": random(6, 12, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["va"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "b"], ["vb"]),
        helper.make_node("Concat", ["va", "vb"], ["v"], axis=1),
        helper.make_node("Conv", ["v", "c"], ["y"]),
    ]
    folded(model_of(nodes, constants, ("N", 4, "H", "W")), ["Conv"], x_of(2, 4, 6, 5))


def test_a_lone_scale_and_shift() -> None:
    constants = {name: random(4, 1, 1, seed=seed) for seed, name in enumerate("abcd")}
    chain = [helper.make_node("Mul" if name in "ac" else "Add", [before, name], [after])
             for before, name, after in zip(["x", "1", "2", "3"], "abcd", ["1", "2", "3", "y"], strict=True)]  # fmt: skip
    folded(model_of(chain, constants, (1, 4, "H", "W")), ["Mul", "Add"], x_of(1, 4, 3, 3))


@pytest.mark.parametrize(("parts", "axis"), [(["x", "x"], 1), (["x", "c"], 1), (["x", "r"], 0), (["x", "r"], 1)])
def test_a_concatenation_is_read_where_each_part_is_a_value_of_its_own(parts: list[str], axis: int) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Concat", parts, ["y"], axis=axis)]
    graph = OnnxModel(model_of(nodes, {"c": random(1, 4, 9, 9)} if "c" in parts else {}, outputs=("y", "r"))).graph
    assert isinstance(graph.nodes["y"], Linear) == (parts == ["x", "r"] and axis == 1)


@pytest.mark.parametrize("more", [0, 1])
def test_a_concatenation_of_very_many_parts_is_left(more: int) -> None:
    names = [f"r{number}" for number in range(64 + more)]
    nodes = [*(helper.make_node("Relu", ["x"], [name]) for name in names), helper.make_node("Concat", names, ["y"], axis=1)]
    assert isinstance(OnnxModel(model_of(nodes, {}, (1, 1, 2, 2))).graph.nodes["y"], Opaque) == bool(more)


def test_branches_of_unlike_padding_become_one_convolution() -> None:
    constants = {"a": random(4, 4, 2, 2), "b": random(4, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["va"], pads=[0, 0, 1, 1]),
        helper.make_node("Conv", ["x", "b"], ["vb"]),
        helper.make_node("Add", ["va", "vb"], ["y"]),
    ]
    folded(model_of(nodes, constants, (1, 4, "H", "W")), ["Conv"], x_of(1, 4, 5, 6))


@pytest.mark.parametrize(
    ("nodes", "extra"),
    [
        ([helper.make_node("Transpose", ["raw"], ["w"], perm=[1, 0, 2, 3])], {}),
        ([helper.make_node("Reshape", ["flat", "shape"], ["w"])], {"shape": np.asarray([6, 4, 3, 3])}),
        ([helper.make_node("Unsqueeze", ["cube", "axis"], ["wide"]), helper.make_node("Squeeze", ["wide", "axis"], ["w"])],
         {"axis": np.asarray([0])}),
        ([helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT)], {}),
        ([helper.make_node("Constant", [], ["two"], value_float=2.0), helper.make_node("Mul", ["cube", "two"], ["w"])], {}),
        ([helper.make_node("Add", ["cube", "cube"], ["w"])], {}),
    ],
)  # fmt: skip
def test_weights_made_of_other_constants(nodes: list[NodeProto], extra: dict[str, Any]) -> None:
    sources = {
        "raw": random(4, 6, 3, 3),
        "flat": random(6 * 36),
        "cube": random(6, 4, 3, 3),
        "half": random(6, 4, 3, 3, dtype=np.float16),
    }
    used = {name for node in nodes for name in node.input}
    constants = {name: value for name, value in sources.items() if name in used} | extra
    nodes = [*nodes, helper.make_node("Conv", ["x", "w"], ["c"])]
    bn: dict[str, Any] = {}
    nodes.append(batch_norm("c", "y", 6, bn))
    folded(model_of(nodes, constants | bn), ["Conv"], x_of(1, 4, 9, 9))


def test_a_weight_computed_at_run_time_is_refused() -> None:
    constants = {"w": random(4, 4, 3, 3)}
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Mul", ["w", "m"], ["wm"]),
        helper.make_node("Conv", ["x", "wm"], ["c"]),
        batch_norm("c", "y", 4, constants),
    ]
    result = refold.fold(model_of(nodes, constants))
    assert result.report.folds == ()
    assert [refusal.fact for refusal in result.report.refusals if refusal.operation == "Conv"] == [
        "its weight `wm` is computed at run time"
    ]


def test_quantized_stretches_are_refused_and_left() -> None:
    constants = {"w": np.ones((4, 4, 3, 3), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("Conv", ["d", "wd"], ["c"]),
        batch_norm("c", "y", 4, constants),
    ]
    result = refold.fold(model_of(nodes, constants))
    assert kinds(written(result)) == [node.op_type for node in nodes]
    facts = " ".join(refusal.fact for refusal in result.report.refusals)
    assert "is quantized (DequantizeLinear)" in facts
    assert "QuantizeLinear rounds to integers" in facts


def test_batch_norm_in_training_mode_is_refused() -> None:
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3)}
    bn = batch_norm("c", "y", 4, constants)
    bn.attribute.append(helper.make_attribute("training_mode", 1))
    bn.output.extend(["running_mean", "running_var"])
    result = refold.fold(model_of([helper.make_node("Conv", ["x", "w"], ["c"]), bn], constants))
    assert any("training mode" in refusal.fact for refusal in result.report.refusals)


@pytest.mark.parametrize(
    ("elem_type", "dtype"), [(TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16"), (TensorProto.DOUBLE, "float64")]
)
def test_other_floating_point_types(elem_type: int, dtype: str) -> None:
    nodes, constants = rep_block()
    constants = {name: value.astype(helper.tensor_dtype_to_np_dtype(elem_type)) for name, value in constants.items()}
    result = refold.fold(model_of(nodes, constants, elem_type=elem_type, opset=22, ir_version=10))
    new = written(result)
    assert kinds(new) == ["Conv", "Relu"]
    assert {tensor.data_type for tensor in new.graph.initializer} == {elem_type}
    assert result.report.certificate is not None
    assert len(result.report.certificate.regions) == 1


def test_folded_weights_that_leave_their_range_are_refused() -> None:
    constants = {"w": np.full((4, 4, 1, 1), 300, np.float16), "v": np.full((4, 4, 1, 1), 300, np.float16)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Conv", ["c", "v"], ["y"])]
    result = refold.fold(model_of(nodes, constants, elem_type=TensorProto.FLOAT16), verify=False)
    assert result.report.folds == ()
    assert any("leave the range of float16" in refusal.fact for refusal in result.report.refusals)


def test_not_a_number_names_its_initializer() -> None:
    nodes, constants = rep_block()
    constants["one.weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(refold.FoldError, match=r"conv1 \(one.weight\) hold NaN or infinite numbers; mend the checkpoint"):
        refold.fold(model_of(nodes, constants))


def test_broadcasting_branches_are_not_summed_as_one() -> None:
    constants = {"w": random(4, 4, 1, 1), "v": random(4, 4, 3, 3)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["g"]),
        helper.make_node("Add", ["x", "g"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["c"], pads=[1, 1, 1, 1]),
        batch_norm("c", "y", 4, constants),
    ]
    folded(model_of(nodes, constants, ("N", 4, "H", "W")), ["GlobalAveragePool", "Add", "Conv"], x_of(1, 4, 6, 6))


def test_a_fold_that_were_wrong_would_be_found() -> None:
    """The proof can fail: it is shown weights that were changed after folding."""
    from refold.dialects.onnx import OnnxModel
    from refold.errors import VerificationError
    from refold.plan import make_plan
    from refold.verification import SEED, certify, demand

    network = OnnxModel(model_of(*rep_block()))
    deployed = network.write(make_plan(network.graph, network.target))
    for tensor in deployed.written.skeleton.graph.initializer:
        if tensor.name.endswith(".bias"):
            tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + np.float32(1e-4)).tobytes()
    with pytest.raises(VerificationError, match="changed its function"):
        demand(certify(deployed.region_evidence(SEED), ()))
    with pytest.raises(VerificationError, match="output y"):
        demand(certify((), deployed.output_evidence()))


def test_both_runtimes_agree_with_the_result() -> None:
    model = model_of(*rep_block())
    feeds = x_of(1, 4, 9, 9)
    new = written(refold.fold(model))
    for mine, theirs in zip(run(model, feeds), run(new, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
