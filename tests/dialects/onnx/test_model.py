"""What a folded model keeps: ends, metadata, other graphs and functions; and what may be read of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

import refold
from tests.dialects.onnx.models import batch_norm, graph_of, kinds, model_of, random, rep_block, run, run_reference


def written(model: Any, **options: Any) -> ModelProto:
    proto = ir.to_proto(refold.fold(model, **options).model)
    assert isinstance(proto, ModelProto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def test_the_input_is_not_touched() -> None:
    model = model_of(*rep_block())
    before = model.SerializeToString(deterministic=True)
    refold.fold(model)
    assert model.SerializeToString(deterministic=True) == before
    inner = ir.from_proto(model)
    assert isinstance(inner, ir.Model)
    before = ir.to_proto(inner).SerializeToString(deterministic=True)
    refold.fold(inner)
    assert ir.to_proto(inner).SerializeToString(deterministic=True) == before


def test_everything_that_is_not_folded_stays_as_it_was() -> None:
    model = model_of(*rep_block(), x=("N", 4, "H", "W"))
    model.doc_string, model.producer_name, model.model_version = "a model", "hand", 3
    model.graph.doc_string = "a graph"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.metadata_props.add(key="who", value="me")
    model.graph.node.append(helper.make_node("Spectacles", ["y"], ["seen"], domain="com.example", doc_string="a node", strength=2))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["N", 4, "H", "W"]))
    new = written(model, verify=False)
    assert kinds(new) == ["Conv", "Relu", "Spectacles"]
    assert new.graph.node[-1] == model.graph.node[-1]
    for part in ("doc_string", "producer_name", "model_version", "ir_version", "opset_import", "metadata_props"):
        assert getattr(new, part) == getattr(model, part)
    assert (new.graph.input, new.graph.output, new.graph.name) == (model.graph.input, model.graph.output, model.graph.name)
    assert new.graph.doc_string == "a graph"


def test_a_model_with_nothing_to_fold_is_saved_byte_for_byte(tmp_path: Any) -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": random(64, 4, 5, 5)})
    path = refold.fold(model).save(tmp_path / "m.onnx")
    saved = onnx.load(path)
    (certificate,) = saved.metadata_props
    assert certificate.key == "refold.certificate"
    del saved.metadata_props[:]
    assert saved.SerializeToString() == model.SerializeToString()


def test_unused_initializers_go_and_unused_nodes_stay() -> None:
    nodes, constants = rep_block()
    constants["idle"] = random(3)
    nodes.append(helper.make_node("Exp", ["x"], ["nobody reads this"]))
    new = written(model_of(nodes, constants))
    assert "idle" not in {tensor.name for tensor in new.graph.initializer}
    assert kinds(new) == ["Conv", "Relu", "Exp"]


def test_an_output_in_the_middle_of_a_region_stays() -> None:
    nodes, constants = rep_block()
    model = model_of(nodes, constants, outputs=("y", "n3"))
    new = written(model)
    assert [output.name for output in new.graph.output] == ["y", "n3"]
    feeds = {"x": random(1, 4, 9, 9)}
    for mine, theirs in zip(run_reference(model, feeds), run_reference(new, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_shared_weights_stay_shared() -> None:
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3)}
    nodes = []
    bn: dict[str, Any] = {}
    first = batch_norm("c0", "n0", 4, bn)
    for number, x in enumerate(("x", "r0")):
        nodes.append(helper.make_node("Conv", [x, "w"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{number}", *first.input[1:]], [f"n{number}"]))
        nodes.append(helper.make_node("Relu", [f"n{number}"], ["r0" if number == 0 else "y"]))
    new = written(model_of(nodes, constants | bn))
    assert kinds(new) == ["Conv", "Relu", "Conv", "Relu"]
    assert len(new.graph.initializer) == 2


def test_constant_nodes_serve_as_weights() -> None:
    nodes, constants = rep_block()
    held = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)) for name, value in constants.items()]
    new = written(model_of([*held, *nodes], {}))
    assert [node.op_type for node in new.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_that_are_inputs_too(ir_version: int) -> None:
    """Before IR version 4 they had to be, and are constants; since then a caller may replace them, and they are not."""
    nodes, constants = rep_block()
    model = model_of(nodes, constants, opset=8, ir_version=ir_version)
    for name in ("three.weight",) if ir_version > 3 else constants:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, constants[name].shape))
    result = refold.fold(model)
    new = ir.to_proto(result.model)
    assert isinstance(new, ModelProto)
    onnx.checker.check_model(new, full_check=True)
    if ir_version == 3:
        assert kinds(new) == ["Conv", "Relu"]
        assert {tensor.name for tensor in new.graph.initializer} == {value.name for value in new.graph.input} - {"x"}
        return
    assert [value.name for value in new.graph.input] == ["x", "three.weight"]
    assert any("a caller may replace it" in refusal.fact for refusal in result.report.refusals)
    feeds = {"x": random(1, 4, 9, 9), "three.weight": random(4, 4, 3, 3, seed=9)}
    for mine, theirs in zip(run(model, feeds), run(new, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def branch(prefix: str) -> onnx.GraphProto:
    """A graph within a node that reads `x` from around it."""
    nodes, inner = rep_block(x="x", y=f"{prefix}y", prefix=prefix)
    names = {name: f"{prefix}{name}" for name in inner if not name.startswith(prefix)}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
    inner = {names.get(name, name): value for name, value in inner.items()}
    graph = graph_of(nodes, inner, outputs=(f"{prefix}y",))
    del graph.input[:]
    graph.output[0].CopyFrom(helper.make_tensor_value_info(f"{prefix}y", TensorProto.FLOAT, [1, 4, 9, 9]))
    return graph


def test_what_lies_within_an_if_is_folded_and_what_it_reads_stays() -> None:
    constants: dict[str, Any] = {"w": random(4, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["raw", "w"], ["c"]),
        batch_norm("c", "x", 4, constants),
        helper.make_node("ReduceSum", ["raw"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["chosen"], to=TensorProto.BOOL),
        helper.make_node("If", ["chosen"], ["y"], then_branch=branch("then_"), else_branch=branch("else_")),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 9, 9]) for name in ("raw", "y")]
    graph = helper.make_graph(nodes, "outer", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    new = written(model)
    assert kinds(new) == ["Conv", "ReduceSum", "Cast", "If"]
    for attribute in new.graph.node[-1].attribute:
        assert kinds(attribute.g) == ["Conv", "Relu"]
    for feeds in ({"raw": random(1, 4, 9, 9)}, {"raw": np.zeros((1, 4, 9, 9), np.float32)}):
        for mine, theirs in zip(run(model, feeds), run(new, feeds), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_loop_keeps_what_it_does() -> None:
    nodes, constants = rep_block(x="state", y="next")
    body = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["go"], ["still"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, 4, 9, 9])],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 4, 9, 9])],
        [],
    )  # fmt: skip
    outer = {**constants, "times": np.int64(3), "yes": np.bool_(True)}
    model = model_of([helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)], outer)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 9, 9]))
    new = written(model)
    assert kinds(new.graph.node[0].attribute[0].g) == ["Conv", "Relu", "Identity"]
    feeds = {"x": random(1, 4, 9, 9)}
    for mine, theirs in zip(run(model, feeds), run(new, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_functions_stay() -> None:
    nodes, constants = rep_block(y="r")
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = model_of(nodes, constants, outputs=("r",))
    model.graph.node.append(helper.make_node("Twice", ["r"], ["y"], domain="local"))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    model.graph.output[0].name = "y"
    new = written(shape_inference.infer_shapes(model))
    assert kinds(new) == ["Conv", "Relu", "Twice"]
    assert list(new.functions) == [function]


def test_out_of_date_shapes_in_the_file_are_not_believed() -> None:
    """Tools that free the sizes of inputs leave the shapes within behind."""
    model = shape_inference.infer_shapes(model_of(*rep_block(), x=(1, 4, 9, 9)))
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    result = refold.fold(model)
    assert result.report.after.convolutions == 1
    assert result.report.certificate is not None
    assert len(result.report.certificate.outputs) == 2


def test_inputs_can_be_given(tmp_path: Any) -> None:
    model = model_of(*rep_block())
    x = random(1, 4, 9, 9)
    np.savez(tmp_path / "inputs.npz", x=x)
    for inputs in ({"x": x}, (x,), x, tmp_path / "inputs.npz"):
        certificate = refold.fold(model, inputs).report.certificate
        assert certificate is not None
        assert [output.name for output in certificate.outputs] == ["y"]
    with pytest.raises(refold.FoldError, match="no input is called 'z'; the model takes x"):
        refold.fold(model, {"z": x})
    with pytest.raises(refold.FoldError, match=r"the model does not run on x 1x3x9x9 float32: .*; give inputs that it takes"):
        refold.fold(model, {"x": random(1, 3, 9, 9)})
    with pytest.raises(refold.FoldError, match="2 inputs were given, the model takes 1: x"):
        refold.fold(model, (x, x))
    with pytest.raises(refold.FoldError, match="cannot read inputs from"):
        refold.fold(model, tmp_path / "none.npz")


def test_verify_compares_two_files(tmp_path: Any) -> None:
    model = model_of(*rep_block())
    onnx.save(model, tmp_path / "a.onnx")
    refold.fold(tmp_path / "a.onnx").save(tmp_path / "b.onnx")
    assert refold.verify(tmp_path / "a.onnx", tmp_path / "b.onnx").passed
    other, constants = rep_block()
    constants["one.weight"] = constants["one.weight"] + np.float32(1e-3)
    onnx.save(model_of(other, constants), tmp_path / "c.onnx")
    assert not refold.verify(str(tmp_path / "a.onnx"), str(tmp_path / "c.onnx")).passed


def test_random_numbers_are_not_compared() -> None:
    nodes, constants = rep_block(y="r")
    nodes += [helper.make_node("RandomNormalLike", ["r"], ["noise"]), helper.make_node("Add", ["r", "noise"], ["y"])]
    report = refold.fold(model_of(nodes, constants)).report
    assert report.after.convolutions == 1
    assert "the model draws random numbers, so its outputs were not compared" in report.notes


def test_very_long_stretches_end_in_an_answer() -> None:
    """Maps of hundreds of operators would be nested as deep; they fold as far as that goes."""
    constants: dict[str, Any] = {"w": random(4, 4, 1, 1) / np.float32(40)}
    nodes, x = [], "x"
    for number in range(250):
        nodes.append(helper.make_node("Conv", ["x", "w"], [f"c{number}"]))
        nodes.append(helper.make_node("Add", [x, f"c{number}"], [f"v{number}"]))
        x = f"v{number}"
    result = refold.fold(model_of([*nodes, helper.make_node("Relu", [x], ["y"])], constants))
    assert result.report.after.operators < result.report.before.operators
    assert any("operations within one another" in refusal.fact for refusal in result.report.refusals)
