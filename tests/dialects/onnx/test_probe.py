"""Whole models at sizes that the file leaves free: each axis alone, axes of one name together, an empty batch; wrong folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import refold
from refold.dialects.onnx import OnnxDeployed, OnnxModel
from refold.dialects.onnx._probe import Probe, groups_of
from refold.dialects.onnx._tensors import tensor_of
from refold.errors import FoldError
from refold.plan import make_plan
from refold.verification import OutputEvidence, certify, demand
from tests.dialects.onnx.models import batch_norm, model_of, random


class Run:
    """A model that is a function of its inputs."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        return [self.function(**feeds)]


def judge(feeds: Any, outputs: Any, folded: Any) -> tuple[OutputEvidence, ...]:
    return tuple(OutputEvidence("y", mine, theirs, None, 2.0**-24, 1) for mine, theirs in zip(outputs, folded, strict=True))


def probed(original: Any, folded: Any, shape: tuple[int, ...] = (2, 3, 12)) -> Any:
    groups = [(("x", 0),), (("x", 2),)]
    found = Probe(Run(original), Run(folded), {"x": random(*shape)}, groups).evidence(judge)
    return certify((), (), found).sizes


def even(x: Any) -> Any:
    if x.shape[2] % 2:
        raise FoldError("odd")
    return x * 2


def test_sizes_that_the_original_takes_are_shown() -> None:
    sizes = [one.shapes["x"] for one in probed(even, lambda x: x * 2)]
    assert {shape[0] for shape in sizes} == {0, 1, 2, 3}
    assert {shape[2] % 2 for shape in sizes} == {0}
    assert (2, 3, 2) in sizes
    assert (2, 3, 16) in sizes
    assert all(shape[1] == 3 for shape in sizes)
    assert all(one.passed for one in probed(even, lambda x: x * 2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: np.concatenate([x * 2, 0 * x], 2)[:, :, : max(12, x.shape[2])][:, :, :12],
        lambda x: x * 2 if x.shape[2] > 2 else x * 2.001,
        lambda x: x * 2 if x.shape[2] < 13 else x * 2.001,
        lambda x: x * 2 if x.shape[0] != 1 else x * 2.001,
    ],
)
def test_a_model_that_is_wrong_at_other_sizes_is_found(wrong: Any) -> None:
    assert not all(one.passed for one in probed(even, wrong))


def test_a_model_that_does_not_run_there_says_so() -> None:
    def fixed(x: Any) -> Any:
        if x.shape[2] != 12:
            raise FoldError(f"takes 12, not {x.shape[2]}")
        return x * 2

    sizes = probed(even, fixed)
    assert all(one.passed for one in sizes)
    assert {one.refusal for one in sizes if one.shapes["x"][2] != 12} >= {"takes 12, not 2", "takes 12, not 10"}


def test_inputs_stay_small() -> None:
    sizes = probed(lambda x: x, lambda x: x, (1, 3, 2))
    assert sizes
    assert max(np.prod(one.shapes["x"]) for one in sizes) <= 4 * 6


def stack(x: Any = ("N", 4, "H", "W")) -> Any:
    constants: dict[str, Any] = {"w": random(5, 4, 3, 3)}
    return model_of(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), batch_norm("c", "y", 5, constants)], constants, x
    )


def test_axes_of_one_name_are_one() -> None:
    assert groups_of(stack(("N", 4, "S", "S"))) == [(("x", 0),), (("x", 2), ("x", 3))]
    assert groups_of(stack((None, 4, 8, 8))) == [(("x", 0),)]
    assert groups_of(stack((1, 4, 8, 8))) == []


def test_a_folded_model_is_run_at_other_sizes() -> None:
    certificate = refold.fold(stack()).report.certificate
    assert certificate is not None
    shapes = [one.shapes["x"] for one in certificate.sizes]
    assert {0, 1, 2, 3} <= {shape[0] for shape in shapes}
    for axis in (2, 3):
        assert {1, 2, 3, 9, 10, 11} <= {shape[axis] for shape in shapes}
    assert all(one.passed and one.refusal is None for one in certificate.sizes)


def test_a_folded_model_with_a_size_baked_in_is_found() -> None:
    """It is right on the example's 64 x 64 and cuts what is larger."""
    network = OnnxModel(stack())
    deployed = network.write(make_plan(network.graph, network.target))
    assert isinstance(deployed, OnnxDeployed)
    demand(certify((), deployed.output_evidence(), deployed.size_evidence()))
    graph = deployed.written.skeleton.graph
    for node in graph.node:
        node.output[:] = ["whole" if name == "y" else name for name in node.output]
    bounds = {"starts": [0], "ends": [32], "axes": [2]}
    graph.initializer.extend(tensor_of(name, np.array(value, np.int64), TensorProto.INT64) for name, value in bounds.items())
    graph.node.append(helper.make_node("Slice", ["whole", *bounds], ["y"]))
    deployed._drafts.clear()  # what was compared is another model now
    deployed._sessions.clear()
    with pytest.raises(refold.VerificationError, match=r"at other sizes than the example's \(x .*\) the folded model differs"):
        demand(certify((), (), deployed.size_evidence()))
