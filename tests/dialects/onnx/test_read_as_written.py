"""Operators as files really write them: what is left out, crops of one side alone, weights that are not there yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

import refold
from refold.dialects.onnx._walk import walk
from tests.dialects.onnx.folding import folded, written, x_of
from tests.dialects.onnx.models import batch_norm, kinds, model_of, random, run

node = helper.make_node


def test_a_gemm_that_states_nothing() -> None:
    constants = {"w": random(4, 5), "b": random(5), "s": random(5)}
    folded(model_of([node("Gemm", ["x", "w", "b"], ["g"]), node("Mul", ["g", "s"], ["y"])], constants, ("N", 4)), ["Gemm"], x_of(3, 4))


@pytest.mark.parametrize(("starts", "ends"), [([0, 0], [-1, 2**62]), ([1, 0], [2**62, -1]), ([0, 2], [2**62, 2**62]), ([2, 1], [-2, -1])])
def test_a_crop_on_one_side(starts: list[int], ends: list[int]) -> None:
    constants: dict[str, Any] = {"w": random(6, 4, 3, 3), "s": np.asarray(starts), "e": np.asarray(ends), "a": np.asarray([2, 3])}
    cut = node("Slice", ["c", "s", "e", "a"], ["y"])
    folded(model_of([node("Conv", ["x", "w"], ["c"], pads=[2] * 4), cut], constants, (1, 4, "H", "W")), ["Conv"], x_of(1, 4, 9, 8))


def test_a_mean_over_axes_that_are_an_input() -> None:
    """Since opset 18 the axes may come from elsewhere: constant ones are read, others are left."""
    constants: dict[str, Any] = {"w": random(6, 4, 1, 1), "axes": np.asarray([2, 3])}
    norm = batch_norm("c", "n", 6, constants)
    nodes = [node("Conv", ["x", "w"], ["c"]), norm, node("ReduceMean", ["n", "axes"], ["m"]), node("Relu", ["m"], ["y"])]
    folded(model_of(nodes, constants, (1, 4, 9, 9), opset=18), ["Conv", "ReduceMean", "Relu"], x_of(1, 4, 9, 9))
    del constants["axes"]
    asked = [node("Shape", ["x"], ["last"], start=2), node("Sub", ["last", "less"], ["axes"]), *nodes]
    model = model_of(asked, constants | {"less": np.asarray([7, 6])}, (1, 4, 9, 9), opset=18, outputs=("y",))
    assert "ReduceMean" in kinds(written(refold.fold(model)))


def test_a_depthwise_transposed_convolution_of_one_tap_is_no_crop() -> None:
    """It puts zeros between the items, which no slice or padding does, also where all its weights have become 1."""
    constants: dict[str, Any] = {"w": np.full((4, 1, 1, 1), 0.5, np.float32), "two": np.full((4, 1, 1), 2, np.float32)}
    nodes = [node("ConvTranspose", ["x", "w"], ["c"], group=4, strides=[2, 2]), node("Mul", ["c", "two"], ["y"])]
    model = model_of(nodes, constants)
    new = written(refold.fold(model))
    assert kinds(new) == ["ConvTranspose"]
    (wanted,), (given) = run(model, x_of(1, 4, 9, 9)), run(new, x_of(1, 4, 9, 9))
    assert np.array_equal(wanted, given[0])


def facts(model: ModelProto) -> str:
    return " ".join(refusal.fact for refusal in refold.fold(model).report.refusals)


def test_transposed_convolutions_that_are_left_say_why() -> None:
    constants = {"w": random(4, 3, 3, 3), "s": random(3, 1, 1)}
    behind = node("Mul", ["c", "s"], ["y"])
    free: Any = (1, 4, "H", "W")
    stated = node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2], output_shape=[11, 11])
    assert "`output_shape` is fixed where the size of its input is free" in facts(model_of([stated, behind], constants, free))
    made = [node("Mul", ["x", "half"], ["k"]), node("ConvTranspose", ["x", "k"], ["c"]), behind]
    computed = model_of(made, {"half": np.float32(0.5), "s": random(4, 1, 1)}, (4, 4, 3, 3))
    assert "run time" in facts(computed) or "computed" in facts(computed)


def test_channels_of_unknown_number_are_left() -> None:
    """A concatenation of parts whose widths are free in the file folds nothing and breaks nothing."""
    constants: dict[str, Any] = {"w": random(6, 8, 1, 1)}
    nodes = [node("Relu", ["x"], ["r"]), node("Concat", ["r", "x"], ["c"], axis=1), node("Conv", ["c", "w"], ["y"])]
    model = model_of(nodes, constants, (1, "C", 9, 9))
    new = written(refold.fold(model, x_of(1, 4, 9, 9)))
    assert np.array_equal(run(model, x_of(1, 4, 9, 9))[0], run(new, x_of(1, 4, 9, 9))[0])


KINDS: dict[str, tuple[list[NodeProto], str, dict[str, Any]]] = {
    "convolution": (
        [node("Conv", ["x", "w"], ["y"], strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 3])],
        "convolution",
        {"stride": (2, 1), "dilation": (1, 2), "padding": ((0, 2), (1, 3)), "groups": 1, "bias": False},
    ),
    "plain convolution": (
        [node("Conv", ["x", "w", "b"], ["y"])],
        "convolution",
        {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1, "bias": True},
    ),
    "convolution that pads itself": (
        [node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")],
        "convolution",
        {"stride": (2, 2), "dilation": (1, 1), "padding": ((0, 1), (0, 1)), "groups": 1, "bias": False},
    ),
    "transposed convolution": ([node("ConvTranspose", ["x", "w", "b"], ["y"])], "transposed_convolution", {"bias": True}),
    "matrix": ([node("MatMul", ["x", "m"], ["y"])], "linear", {"bias": False}),
    "sum": ([node("Relu", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])], "add", {}),
    "sum with itself": ([node("Sum", ["x", "x"], ["y"])], "add", {}),
    "difference": ([node("Relu", ["x"], ["r"]), node("Sub", ["r", "x"], ["y"])], "add", {}),
    "shift": ([node("Add", ["x", "one"], ["y"])], "shift", {"constant": "`one` (=0.5)", "kept": "x"}),
    "shift from the left": ([node("Sub", ["one", "x"], ["y"])], "shift", {"constant": "`one` (=0.5)", "kept": "x"}),
    "scale": ([node("Div", ["x", "each"], ["y"])], "scale", {"constant": "`each` (=4 x 1 x 1 numbers)", "kept": "x"}),
    "scale by a number that a node holds": (
        [node("Constant", [], ["c"], value_float=2.0), node("Mul", ["x", "c"], ["y"])],
        "scale",
        {"constant": "`c` (=2)", "kept": "x"},
    ),
    "product of two": ([node("Relu", ["x"], ["r"]), node("Mul", ["x", "r"], ["y"])], "mul", {}),
    "padding": ([node("Pad", ["x", "pads"], ["y"], mode="reflect")], "pad", {"mode": "reflect"}),
    "activation": ([node("Sigmoid", ["x"], ["y"])], "sigmoid", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_walk_names_each_operator_in_the_common_words(name: str) -> None:
    nodes, kind, options = KINDS[name]
    stored = {
        "w": random(4, 4, 3, 3),
        "b": random(4),
        "m": random(8, 8),
        "one": np.float32(0.5),
        "each": random(4, 1, 1),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    used = {one for each in nodes for one in each.input}
    model = model_of(nodes, {key: value for key, value in stored.items() if key in used}, (1, 4, 8, 8), opset=18)
    steps = walk(model, x_of(1, 4, 8, 8)).steps
    step = steps["y"]
    assert (step.kind, dict(step.options)) == (kind, options)
    assert step.reads == tuple(dict.fromkeys(one for one in nodes[-1].input if one in steps))
    assert np.allclose(step.value, run(model, x_of(1, 4, 8, 8))[0], rtol=1e-5, atol=1e-5)


def test_reads_keep_the_order_of_the_operator() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Neg", ["x"], ["n"]), node("Concat", ["n", "x", "r"], ["y"], axis=1)]
    steps = walk(model_of(nodes, {}, (1, 4, 8, 8)), x_of(1, 4, 8, 8)).steps
    assert steps["y"].reads == ("n", "x", "r")
    assert steps["x"].reads == ()
