"""The evaluator that proofs run in, held to ONNX Runtime operator by operator; and regions that the stock one could not run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper

import refold
from refold.dialects.onnx import _reference
from refold.dialects.onnx._constants import evaluate
from refold.dialects.onnx._reference import OWN
from tests.dialects.onnx.models import model_of, random, run

Case = tuple[str, list[Any], int, dict[str, Any]]
X = random(2, 4, 7, 6)


def pads() -> Iterator[Case]:
    amounts = ([0, 0, 1, 2, 0, 0, 2, 1], [0, 0, -1, -2, 0, 0, -1, 0], [0, 0, 1, -1, 0, 0, -1, 2], [0, -1, -1, 0, 0, 0, 2, 0], [0] * 8)
    for mode, given in itertools.product(("constant", "reflect", "edge"), amounts):
        yield "Pad", [X], 10, {"mode": mode, "pads": given, "value": 1.5}
        yield "Pad", [X, np.array(given)], 11, {"mode": mode}
        yield "Pad", [X, np.array(given), np.float32(1.5)], 17, {"mode": mode}
        yield "Pad", [X, np.array(given), np.array([1.5], np.float32)], 13, {"mode": mode}
        yield "Pad", [X, np.array([*given[2:4], *given[6:]]), np.float32(2), np.array([-2, 3])], 18, {"mode": mode}
    yield "Pad", [X, np.array(amounts[1])], 19, {"mode": "wrap"}


def unsqueezes() -> Iterator[Case]:
    for axes in ([0], [-1], [3, 0], [1, 2]):
        yield "Unsqueeze", [X], 12, {"axes": axes}
        yield "Unsqueeze", [X, np.array(axes)], 13, {}


def transposed_convolutions() -> Iterator[Case]:
    for group, stride, taps, dilation in itertools.product((1, 2, 4), (1, 2, 3), (1, 3), (1, 2)):
        inputs = [X, random(4, 4 // group, taps, taps), random(4)]
        options = {"group": group, "strides": [stride] * 2, "dilations": [dilation] * 2}
        yield "ConvTranspose", inputs, 17, options
        yield "ConvTranspose", inputs[:2], 7, {**options, "auto_pad": "VALID"}
        if taps > 1:
            yield "ConvTranspose", inputs, 17, {**options, "pads": [1, 0, 1, 2]}
        if taps >= stride:
            yield "ConvTranspose", inputs, 11, {**options, "auto_pad": "SAME_UPPER"}
            yield "ConvTranspose", inputs, 11, {**options, "auto_pad": "SAME_LOWER"}
            yield "ConvTranspose", inputs, 17, {**options, "output_shape": [7 * stride, 6 * stride]}
        if stride > 1:
            yield "ConvTranspose", inputs, 17, {**options, "output_padding": [1, 0]}
    yield "ConvTranspose", [random(2, 4, 7), random(4, 2, 3)], 17, {"group": 2, "strides": [2]}


def average_pools() -> Iterator[Case]:
    for taps, stride, counted in itertools.product((1, 2, 3), (1, 2, 3), (0, 1)):
        options = {"kernel_shape": [taps] * 2, "strides": [stride] * 2, "count_include_pad": counted}
        yield "AveragePool", [X], 7, options
        yield "AveragePool", [X], 11, {**options, "auto_pad": "VALID"}
        yield "AveragePool", [X], 17, {**options, "ceil_mode": 1}
        if taps > 1:
            yield "AveragePool", [X], 17, {**options, "pads": [1, 0, 1, 1], "ceil_mode": 1}
            yield "AveragePool", [X], 19, {**options, "pads": [1, 1, 0, 1], "dilations": [2, 1]}
        if taps >= stride:
            yield "AveragePool", [X], 11, {**options, "auto_pad": "SAME_UPPER"}
            yield "AveragePool", [X], 11, {**options, "auto_pad": "SAME_LOWER"}


def convolutions() -> Iterator[Case]:
    for stride, taps, dilation, (group, bias) in itertools.product((1, 2, 3), (1, 2, 3), (1, 2), ((1, True), (1, False), (2, True))):
        inputs = [X, random(6, 4 // group, taps, 3), random(6)]
        options = {"group": group, "strides": [stride, 1], "dilations": [dilation, 1]}
        yield "Conv", inputs[: 3 if bias else 2], 17, {**options, "pads": [1, 0, 2, 1]}
    yield "Conv", [X, random(6, 4, 3, 3)], 11, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}
    yield "Conv", [random(2, 4, 7), random(5, 4, 3), random(5)], 17, {"strides": [2], "pads": [1, 2]}
    yield "Conv", [random(2, 4, 5, 6, 7), random(5, 4, 3, 2, 1)], 17, {"pads": [1, 0, 0, 0, 1, 0]}


@pytest.mark.parametrize("large", [1, 100, 1 << 20])
def test_kernels_that_are_widened_as_they_go(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From whatever size on a kernel goes block by block, it is what the kernel widened beforehand gives."""
    monkeypatch.setattr(_reference, "LARGE", large)
    for operator, (x, kernel, *bias), opset, options in convolutions():
        model = helper.make_model(helper.make_graph([], "none", [], []), opset_imports=[helper.make_opsetid("", opset)])
        node = helper.make_node(operator, ["x", "kernel", "bias"][: 2 + len(bias)], ["y"], **options)
        feeds = {"x": x.astype(np.float64), "kernel": kernel} | ({"bias": bias[0].astype(np.float64)} if bias else {})
        (mine,) = evaluate([node], feeds, ["y"], model)
        (whole,) = evaluate([node], {**feeds, "kernel": kernel.astype(np.float64)}, ["y"], model)
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, whole, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("large", [1, 1 << 20])
def test_convolutions_of_magnitudes_are_bounds_from_below(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the convolution with the sizes of the kernel, what lies below the smallest normal number so: never more, hardly less."""
    monkeypatch.setattr(_reference, "LARGE", large)
    tiny = float(np.finfo(np.float32).smallest_normal)
    for _, (x, kernel, *bias), opset, options in convolutions():
        kernel = np.where(np.abs(kernel) < 0.3, np.float32(0), kernel)
        model = helper.make_model(helper.make_graph([], "none", [], []), opset_imports=[helper.make_opsetid("", opset)])
        names = ["x", "kernel", "bias"][: 2 + len(bias)]
        feeds = {"x": np.abs(x.astype(np.float64)), "kernel": kernel} | ({"bias": np.abs(bias[0].astype(np.float64))} if bias else {})
        (mine,) = evaluate([helper.make_node("ConvOfMagnitudes", names, ["y"], **options)], feeds, ["y"], model)
        sizes = np.abs(kernel.astype(np.float64)) + tiny
        (whole,) = evaluate([helper.make_node("Conv", names, ["y"], **options)], {**feeds, "kernel": sizes}, ["y"], model)
        assert mine.shape == whole.shape
        assert (mine <= whole * (1 + 1e-14)).all()
        assert (mine >= whole * (1 - 2.0**-13)).all()


@pytest.mark.parametrize("cases", [pads, unsqueezes, convolutions, transposed_convolutions, average_pools])
def test_own_operators_are_what_the_runtime_has(cases: Any) -> None:
    for operator, inputs, opset, options in cases():
        names = [f"i{number}" for number in range(len(inputs))]
        arrays = {name: np.asarray(array) for name, array in zip(names, inputs, strict=True)}
        node = helper.make_node(operator, names, ["y"], **options)
        ends = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for name, a in arrays.items()]
        graph = helper.make_graph([node], "one", ends, [helper.make_empty_tensor_value_info("y")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        (theirs,) = run(model, arrays)
        wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in arrays.items()}
        (mine,) = evaluate([node], wide, ["y"], model)
        assert mine.dtype == np.float64
        told = f"{operator} {options}"
        assert mine.shape == theirs.shape, told
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-5, err_msg=told)


def test_every_own_operator_is_held_to_it() -> None:
    held = {case[0] for cases in (pads, unsqueezes, convolutions, transposed_convolutions, average_pools) for case in cases()}
    assert held == {one.__name__ for one in OWN}


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize("amounts", [(-2, -2, -2, -2), (1, -1, -2, 1)])
def test_a_crop_by_negative_padding_is_proven(opset: int, amounts: Sequence[int]) -> None:
    constants: dict[str, Any] = {"w": random(4, 4, 3, 3), "v": random(4, 4, 1, 1)}
    pads = [0, 0, *amounts[:2], 0, 0, *amounts[2:]]
    if opset > 10:
        constants["pads"] = np.array(pads)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Pad", ["c", "pads"], ["p"]) if opset > 10 else helper.make_node("Pad", ["c"], ["p"], pads=pads),
        helper.make_node("Conv", ["p", "v"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    result = refold.fold(model_of(nodes, constants, x=("N", 4, "H", "W"), opset=opset))
    certificate = result.report.certificate
    assert certificate is not None
    assert certificate.passed
    if max(amounts) < 0:
        assert (result.report.after.convolutions, result.report.after.operators) == (1, 3)


def test_a_transposed_convolution_in_groups_is_proven_at_a_batch_that_is_fixed() -> None:
    """A rearrangement in the region asks for the sizes of the example."""
    constants: dict[str, Any] = {"w": random(4, 2, 3, 3), "scale": random(1, 4, 1, 1), "sizes": np.array([3, 4, 195])}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], group=2, strides=[2, 2]),
        helper.make_node("Mul", ["c", "scale"], ["m"]),
        helper.make_node("Reshape", ["m", "sizes"], ["y"]),
    ]
    result = refold.fold(model_of(nodes, constants, x=(3, 4, 7, 6)))
    assert result.report.after.operators == 2
    assert result.report.certificate is not None
    (region,) = result.report.certificate.regions
    assert region.passed
    (output,) = result.report.certificate.outputs
    assert output.folded_error is not None
