"""What is taken for proof: of networks that blow their rounding up, of an evaluator that is wrong, of files that do not run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper
from onnx.reference.op_run import OpRun

import refold
from refold.dialects.onnx import OnnxModel, _annotate, _constants, _reference, _run
from refold.plan import make_plan
from refold.verification import certify, demand, judge_region
from tests.dialects.onnx.models import batch_norm, model_of, random, rep_block

X = {"x": random(1, 4, 9, 9, seed=5)}


def blown_up(factor: float = 1.0, bias: float = 0.0) -> ModelProto:
    """relu(batch norm of conv x), added to a number so large that little but rounding is left of it when that is taken off again."""
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3) * np.float32(factor), "large": np.full((1,), 2e8, np.float32)}
    constants["bias"] = np.full((4,), bias, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "bias"], ["c"]),
        batch_norm("c", "n", 4, constants),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Add", ["r", "large"], ["up"]),
        helper.make_node("Relu", ["up"], ["held"]),
        helper.make_node("Sub", ["held", "large"], ["y"]),
    ]
    return model_of(nodes, constants)


def wrong_by_a_thousandth() -> tuple[ModelProto, ModelProto]:
    """A network, and the same with one weight of one kernel off."""
    nodes, constants = rep_block()
    other = {name: np.array(array) for name, array in constants.items()}
    other["three.weight"][0, 0, 1, 1] *= np.float32(1.001)
    return model_of(nodes, constants), model_of(nodes, other)


def test_a_region_that_is_wrong_by_a_thousandth_in_one_number_is_caught() -> None:
    """Whatever the network around it makes of its own rounding."""
    network = OnnxModel(blown_up())
    plan = make_plan(network.graph, network.target)
    assert all(judge_region(evidence).passed for evidence in network.write(plan).region_evidence(0))
    deployed = network.write(plan)
    kernel = next(tensor for tensor in deployed.written.skeleton.graph.initializer if len(tensor.dims) == 4)
    wrong = np.array(deployed.written.tensors.array(kernel))
    wrong[0, 0, 0, 0] *= np.float32(1.001)
    kernel.raw_data = wrong.tobytes()
    assert [judge_region(evidence).passed for evidence in deployed.region_evidence(0)] == [False]


def test_regions_are_proven_with_the_weights_that_lie_in_the_file() -> None:
    """One that changes between the engine and the disk is caught."""
    network = OnnxModel(model_of(*rep_block()))
    deployed = network.write(make_plan(network.graph, network.target))
    kernel = next(tensor for tensor in deployed.written.skeleton.graph.initializer if len(tensor.dims) == 4)
    numbers = np.array(deployed.written.tensors.array(kernel))
    wrong = numbers.copy()
    wrong[0, 0, 1, 1] *= np.float32(1.001)
    file = deployed._draft().path
    assert file.read_bytes().count(numbers.tobytes()) == 1
    file.write_bytes(file.read_bytes().replace(numbers.tobytes(), wrong.tobytes()))
    assert [judge_region(evidence).passed for evidence in deployed.region_evidence(0)] == [False]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_file_that_was_proven_is_the_one_that_is_saved(elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is moved, or copied where it lies on another file system; saving again writes it anew."""

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(18, "Invalid cross-device link")

    network = OnnxModel(model_of(*rep_block()))
    deployed = network.write(make_plan(network.graph, network.target))
    demand(certify(deployed.region_evidence(0), deployed.output_evidence(), deployed.size_evidence()))
    draft = deployed._draft().path
    proven = draft.read_bytes()
    if elsewhere:
        monkeypatch.setattr(Path, "rename", refuse)
    deployed.save(tmp_path / "one.onnx", "onnx")
    assert (tmp_path / "one.onnx").read_bytes() == proven
    assert not draft.exists()
    deployed.save(tmp_path / "two.onnx", "onnx")
    assert (tmp_path / "two.onnx").read_bytes() == proven
    demand(certify(deployed.region_evidence(0), deployed.output_evidence(), deployed.size_evidence()))


@pytest.mark.parametrize("affordable", [True, False])
def test_verify_catches_one_weight_that_is_wrong_by_a_thousandth(affordable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the truth at hand, and where it is too much work and the original is compared with itself as the runtime fuses it."""
    if not affordable:
        monkeypatch.setattr(_run, "AFFORDABLE", 0)
    first, second = wrong_by_a_thousandth()
    assert refold.verify(first, first, X).passed
    certificate = refold.verify(first, second, X)
    assert not certificate.passed
    assert all((output.folded_error is not None) == affordable for output in certificate.outputs)


def test_verify_does_not_pass_what_it_could_not_tell_apart() -> None:
    """With what the original's own rounding allows, zeros would pass: that is no proof of anything."""
    with pytest.raises(
        refold.FoldError, match=r"rounding alone may move output y of the original by \S+ although it is no larger than 16, so .*; give"
    ):
        refold.verify(blown_up(), blown_up(factor=0.5), X)


def test_verify_tells_what_differs_beyond_all_rounding() -> None:
    assert not refold.verify(blown_up(), blown_up(bias=1e4), X).passed


def test_folding_such_a_network_rests_on_its_regions_and_says_so() -> None:
    report = refold.fold(blown_up(), X).report
    assert report.certificate is not None
    assert report.certificate.passed
    assert len(report.certificate.regions) == 1
    assert any("rounding alone may move output y" in note and "shows nothing" in note for note in report.notes)


def test_a_truth_that_the_runtime_does_not_share_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator that is far from the original would leave the other model as much room."""

    class Relu(OpRun):
        op_domain = ""

        def _run(self, x: Any, **_: Any) -> Any:
            return (3 * np.maximum(x, 0),)

    stock = _reference.own_operators
    monkeypatch.setattr(_constants, "own_operators", lambda opset: [*stock(opset), Relu])
    first, second = wrong_by_a_thousandth()
    certificate = refold.verify(first, first, X)
    assert certificate.passed
    assert [output.folded_error for output in certificate.outputs] == [None]
    assert not refold.verify(first, second, X).passed


def test_a_model_that_no_runtime_loads_is_not_called_the_same() -> None:
    """Its operator is unknown, so only the region could be compared; where there is none, nothing was."""
    nodes, constants = rep_block(y="r")
    model = model_of(nodes, constants, outputs=("r",))
    model.graph.node.append(helper.make_node("Odd", ["r"], ["y"], domain="com.example"))
    model.graph.output[0].name = "y"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    report = refold.fold(model).report
    assert str(report.certificate).endswith("same function in each region; the outputs were not compared")
    assert any("outputs were not compared: ONNX Runtime does not load the model" in note for note in report.notes)
    del model.graph.node[:-1]
    model.graph.node[0].input[0] = "x"
    assert str(refold.fold(model).report.certificate) == "nothing was compared"


def test_inputs_that_are_made_up_are_of_a_size_that_a_machine_holds() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, ("N", 3, "D", "H", "W"))
    sizes = [feeds["x"].size for feeds in _run.generated_feeds(model, 0)]
    assert len(sizes) > 2
    assert max(sizes) <= _run.GENEROUS


def test_sizes_that_a_model_states_are_kept_however_large() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, (1, 2, 1024, 1024))
    assert [feeds["x"].shape for feeds in _run.generated_feeds(model, 0)] == [(1, 2, 1024, 1024)]


def with_types(model: ModelProto, *elem_types: int) -> ModelProto:
    """The model with its outputs of these types."""
    for output, elem_type in zip(model.graph.output, elem_types, strict=True):
        output.type.tensor_type.elem_type = elem_type
    return model


def widened_after(factor: float = 1.0) -> ModelProto:
    """An output in float64 of a block in float32."""
    nodes, constants = rep_block(y="r")
    constants["three.weight"] = constants["three.weight"] * np.float32(factor)
    nodes += [helper.make_node("Sigmoid", ["r"], ["s"]), helper.make_node("Cast", ["s"], ["y"], to=TensorProto.DOUBLE)]
    return with_types(model_of(nodes, constants), TensorProto.DOUBLE)


def test_an_output_that_was_cast_to_float64_is_as_coarse_as_what_was_cast() -> None:
    """Also where moving the inputs by a rounding happens not to move it, as it may one number."""
    for seed in range(24):
        nodes, constants = rep_block(y="r")
        nodes += [helper.make_node("ReduceMax", ["r"], ["m"], keepdims=0), helper.make_node("Cast", ["m"], ["y"], to=TensorProto.DOUBLE)]
        model = with_types(model_of(nodes, constants, (1, 4, 1, 1)), TensorProto.DOUBLE)
        certificate = refold.fold(model, {"x": random(1, 4, 1, 1, seed=seed)}).report.certificate
        assert certificate is not None
        assert certificate.passed
    assert not refold.verify(widened_after(), widened_after(1.0001), X).passed


def test_rounding_begins_where_numbers_are_worked_out_and_passes_no_whole_numbers() -> None:
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), node("Cast", ["t"], ["wide"], to=TensorProto.DOUBLE),
        node("Mul", ["wide", "two"], ["exact"]), node("Tanh", ["x"], ["tanh"]), node("Cast", ["tanh"], ["half"], to=TensorProto.FLOAT16),
        node("ArgMax", ["tanh"], ["places"], axis=1), node("Cast", ["places"], ["counted"], to=TensorProto.DOUBLE),
        node("Cast", ["half"], ["again"], to=TensorProto.DOUBLE), node("Cast", ["wide"], ["narrow"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    outputs = ("exact", "half", "places", "counted", "again", "narrow")
    kinds = (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.DOUBLE, TensorProto.FLOAT)
    model = with_types(model_of(nodes, {"two": np.float64(2.0)}, outputs=outputs), *kinds)
    found = OnnxModel(model).roundings
    assert found == {
        "exact": 2.0**-53, "half": 2.0**-11, "places": 0.0, "counted": 2.0**-53, "again": 2.0**-11, "narrow": 2.0**-24,
    }  # fmt: skip


def looped(turns: int, factor: float = 1.0, *, is_stored: bool = True) -> ModelProto:
    """A block, scaled in a loop by a number that the graph in it holds, and by another in a branch within that."""
    nodes, constants = rep_block(y="r")
    constants["three.weight"] = constants["three.weight"] * np.float32(factor)
    node, info = helper.make_node, helper.make_tensor_value_info
    third = helper.make_tensor("third", TensorProto.FLOAT, [], [1 / 3])

    def branch(name: str) -> GraphProto:
        made = [node("Constant", [], [f"{name}.c"], value=third), node("Mul", ["state", f"{name}.c"], [f"{name}.y"])]
        return helper.make_graph(made, name, [], [info(f"{name}.y", TensorProto.FLOAT, None)])

    inside = [
        node("Identity", ["go"], ["on"]), node("If", ["go"], ["both"], then_branch=branch("then"), else_branch=branch("otherwise")),
        node("Mul", ["both", "tenth"], ["next"]),
    ]  # fmt: skip
    body = helper.make_graph(
        inside, "body",
        [info("turn", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("state", TensorProto.FLOAT, None)],
        [info("on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
        [helper.make_tensor("tenth", TensorProto.FLOAT, [], [0.1])],
    )  # fmt: skip
    constants |= {"times": np.array(turns), "yes": np.array(True), "no": np.array(0)}
    nodes += [
        node("Add", ["times", "no"], ["worked.out"]),
        node("Loop", ["times" if is_stored else "worked.out", "yes", "r"], ["y"], body=body),
    ]
    return model_of(nodes, constants)


def test_the_truth_goes_into_graphs_within_the_graph() -> None:
    """With the numbers that these hold in float64 as well: what is left between it and the model is the model's own rounding."""
    (output,) = refold.verify(looped(2), looped(2), X).outputs
    assert output.passed
    assert output.original_error is not None
    assert 0 < output.original_error < 2.0**-21 * output.scale
    assert not refold.verify(looped(2), looped(2, 1.001), X).passed


@pytest.mark.parametrize(("turns", "is_stored"), [(_run.TURNS + 1, True), (2, False)])
def test_a_loop_of_many_turns_or_of_nobody_knows_how_many_has_no_truth(turns: int, is_stored: bool) -> None:
    (output,) = refold.verify(looped(turns, is_stored=is_stored), looped(turns, is_stored=is_stored), X).outputs
    assert output.original_error is None


def test_the_digest_that_laying_a_certificate_inside_gives_is_that_of_the_file(tmp_path: Path) -> None:
    result = refold.fold(model_of(*rep_block()))
    place = result.save(tmp_path / "deploy.onnx")
    known = _annotate.annotate(place, lambda tensors: f"{sum(1 for _ in tensors)} tensors")
    assert known == hashlib.sha256(place.read_bytes()).hexdigest()
