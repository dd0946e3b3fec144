"""Operators that rearrange and average, in the spellings of every opset: what is read of them, and that layers on both sides join."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from refold import algebra
from refold.algebra import Leaf
from refold.dialects.onnx import OnnxModel
from refold.dialects.onnx._call import Reading
from refold.dialects.onnx._read import _agrees
from refold.graph import Linear, Opaque
from refold.maps import Moved
from tests.dialects.onnx.folding import folded, x_of
from tests.dialects.onnx.models import batch_norm, model_of, random

node = helper.make_node
AXES = {"axes": np.asarray([2, 3]), "last": np.asarray([-1, -2]), "none": np.asarray([], np.int64)}
MEANS: dict[str, tuple[NodeProto, int, tuple[int, ...]]] = {
    "of all places": (node("GlobalAveragePool", ["x"], ["y"]), 17, (2, 4, 1, 1)),
    "by an attribute": (node("ReduceMean", ["x"], ["y"], axes=[2, 3]), 13, (2, 4, 1, 1)),
    "from the end": (node("ReduceMean", ["x"], ["y"], axes=[-1, -2], keepdims=0), 13, (2, 4)),
    "by an input": (node("ReduceMean", ["x", "axes"], ["y"]), 18, (2, 4, 1, 1)),
    "by an input, from the end": (node("ReduceMean", ["x", "last"], ["y"], keepdims=0), 18, (2, 4)),
}


def read(one: NodeProto, opset: int) -> Linear | Opaque:
    constants = {name: value for name, value in AXES.items() if name in one.input}
    return OnnxModel(model_of([one], constants, (2, 4, 3, 5), opset=opset)).graph.nodes["y"]


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_read_in_each_spelling(name: str) -> None:
    one, opset, shape = MEANS[name]
    found = read(one, opset)
    assert isinstance(found, Linear)
    mapped = found.terms["x"]
    assert isinstance(mapped, Moved)
    assert mapped.after is not None
    assert mapped.after.rearrangement.averages
    (step,) = mapped.steps
    assert (step.example, step.mean_of) == (shape, 15)


@pytest.mark.parametrize("one", [node("ReduceMean", ["x", "none"], ["y"], noop_with_empty_axes=1), node("ReduceMean", ["x"], ["y"])])
def test_a_mean_over_no_axes_or_all_is_left(one: NodeProto) -> None:
    assert isinstance(read(one, 18), Opaque)


@pytest.mark.parametrize("name", MEANS)
def test_maps_of_channels_on_both_sides_of_a_mean_join(name: str) -> None:
    one, opset, shape = MEANS[name]
    constants: dict[str, Any] = {key: value for key, value in AXES.items() if key in one.input}
    renamed = helper.make_node(one.op_type, ["c", *one.input[1:]], ["m"], **{
        attribute.name: helper.get_attribute_value(attribute) for attribute in one.attribute})  # fmt: skip
    constants |= {"w": random(4, 4, 1, 1), "s": random(4, *[1] * (len(shape) - 2))}
    nodes = [node("Conv", ["x", "w"], ["c"]), renamed, node("Mul", ["m", "s"], ["y"])]
    left = [renamed.op_type, "Conv" if len(shape) == 4 else "Gemm"]
    folded(model_of(nodes, constants, (2, 4, 3, 5), opset=opset), left, x_of(2, 4, 3, 5))


@pytest.mark.parametrize(("allowzero", "first"), [(0, -1), (0, 2), (0, 0), (1, -1), (1, 2)])
def test_a_reshape_between_two_layers_states_what_it_stated(allowzero: int, first: int) -> None:
    """Tokens of channels: a shape of numbers, of which one may be left open or taken over."""
    constants = {"w": random(4, 4, 1, 1), "shape": np.asarray([first, 4, 15]), "m": random(15, 15)}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Reshape", ["c", "shape"], ["r"], allowzero=allowzero),
        batch_norm("r", "n", 4, constants),
        node("Relu", ["n"], ["y"]),
    ]
    folded(model_of(nodes, {k: v for k, v in constants.items() if k != "m"}, (2, 4, 3, 5)), ["Conv", "Reshape", "Relu"], x_of(2, 4, 3, 5))


def test_a_map_of_more_axes_than_a_value_has_does_not_agree_with_it() -> None:
    typed = SimpleNamespace(shape=(4, 4))
    call: Any = SimpleNamespace(output=typed, typed=lambda name: typed)
    for rank, agrees in ((0, True), (1, True), (2, False), (3, False)):
        value = algebra.convolution(np.ones((4, 4, *(1,) * rank))) if rank else algebra.linear(np.ones((4, 4)))
        assert _agrees(call, Reading({"x": Leaf(value)})) == agrees


def test_a_free_size_that_ends_up_on_an_axis_that_was_not_there_is_asked_for() -> None:
    """Six items by n are 2 by 3 by n: the shape cannot be stated in numbers, since no axis of the input has that place."""
    constants = {"one": np.asarray([1]), "front": np.asarray([2, 3])}
    nodes = [
        node("Shape", ["x"], ["all"]),
        node("Gather", ["all", "one"], ["last"]),
        node("Concat", ["front", "last"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ]
    found = OnnxModel(model_of(nodes, constants, (6, "N"))).graph.nodes["y"]
    assert isinstance(found, Linear)
    mapped = found.terms["x"]
    assert isinstance(mapped, Moved)
    (step,) = mapped.steps
    assert (step.stated, step.reads) == (None, ("shape",))
