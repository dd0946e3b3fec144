"""Which map becomes which nodes: as many as the plan was told, and together the map."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from refold import algebra
from refold.algebra import AffineConv, Formula, Leaf
from refold.dialects.onnx._layers import Layers, OnnxTarget, _base
from refold.dialects.onnx._tensors import Tensors
from refold.geometry import Window
from refold.maps import Scalar
from tests.algebra.oracle import apply, numbers, probe

LIKE = np.zeros(0)
HALVES = np.full(4, 0.5)


def convolved(rank: int, **options: Any) -> AffineConv:
    return algebra.convolution(numbers(1, 6, 4, *(3,) * rank), numbers(2, 6), **options)


def upward(rank: int, **options: Any) -> AffineConv:
    return algebra.transposed_convolution(numbers(1, 4, 6, *(3,) * rank), numbers(2, 6), stride=2, **options)


def windowed(rank: int, before: int, after: int, **options: Any) -> AffineConv:
    """A window of one tap in front of a convolution, the first axis alone, where there are several."""
    windows = [Window(1, before=before, after=after), *[Window(1)] * (rank - 1)]
    return algebra.compose(convolved(rank), algebra.window(4, windows, LIKE, **options))


def moved(rank: int, before: int, after: int, **options: Any) -> AffineConv:
    return algebra.window(4, [Window(1, before=before, after=after), *[Window(1)] * (rank - 1)], LIKE, **options)


def scaled(rank: int, *, scale: bool, shift: bool) -> AffineConv:
    ones, none = np.ones(4), np.zeros(4)
    return algebra.scale_and_shift(numbers(1, 4) + 9 if scale else ones, numbers(2, 4) + 9 if shift else none, rank)


def stuffed(rank: int) -> AffineConv:
    """Items apart, with zeros between them, and no number changed."""
    return algebra.transposed_convolution(np.ones((4, 1, *(1,) * rank)), stride=2, groups=4)


def cases(rank: int) -> dict[str, tuple[AffineConv, list[str]]]:
    return {
        "plain": (convolved(rank, padding=1, stride=2, dilation=2), ["Conv"]),
        "sided": (convolved(rank, padding=[(1, 0)] * rank), ["Conv"]),
        "reflect": (windowed(rank, 1, 1, mode="reflect"), ["Pad", "Conv"]),
        "replicate, sided": (windowed(rank, 2, 0, mode="replicate"), ["Pad", "Conv"]),
        "a number around": (windowed(rank, 1, 2, fill=HALVES), ["Pad", "Conv"]),
        "cropped": (windowed(rank, -1, -2), ["Slice", "Conv"]),
        "cropped by one, after": (windowed(rank, 0, -1), ["Slice", "Conv"]),
        "cropped and padded": (windowed(rank, -2, 1), ["Slice", "Conv"]),
        "cropped and padded with a number": (windowed(rank, 1, -1, fill=HALVES), ["Slice", "Pad", "Conv"]),
        "a crop": (moved(rank, -1, 0), ["Slice"]),
        "a crop after": (moved(rank, 0, -1), ["Slice"]),
        "a padding": (moved(rank, 1, 2), ["Pad"]),
        "a padding with a number": (moved(rank, 0, 1, fill=HALVES), ["Pad"]),
        "a crop and a padding": (moved(rank, -1, 1), ["Slice", "Pad"]),
        "a stride": (algebra.window(4, [Window(1, 2)] * rank, LIKE), ["Conv"]),
        "items apart": (stuffed(rank), ["ConvTranspose"]),
        "scale": (scaled(rank, scale=True, shift=False), ["Mul"]),
        "shift": (scaled(rank, scale=False, shift=True), ["Add"]),
        "scale and shift": (scaled(rank, scale=True, shift=True), ["Mul", "Add"]),
        "nothing": (scaled(rank, scale=False, shift=False), ["Add"]),
        "transposed": (upward(rank), ["ConvTranspose"]),
        "transposed, padded": (upward(rank, padding=[(1, 0)] * rank, output_padding=1, dilation=2), ["ConvTranspose"]),
    }


def emitted(mapped: Scalar | Leaf, dimensions: int, opset: int) -> tuple[list[str], Any]:
    """The operators of a map, and what computes it."""
    names = (f"name{number}" for number in itertools.count())
    layers = Layers(Tensors(), opset, lambda wish: next(names))
    nodes = layers.emit(mapped, "x", dimensions, TensorProto.DOUBLE, "y")
    for tensor in layers.initializers:
        array = layers.tensors.array(tensor)
        tensor.raw_data = np.ascontiguousarray(array).tobytes()
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None] * dimensions) for name in ("x", nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], layers.initializers)
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))

    def run(x: Any) -> Any:
        (result,) = evaluator.run(None, {"x": x})
        return result

    return [node.op_type for node in nodes], run


@pytest.mark.parametrize("opset", [9, 10, 13, 17])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("name", cases(1))
def test_nodes_compute_their_map(name: str, rank: int, opset: int) -> None:
    value, kinds = cases(rank)[name]
    assert OnnxTarget().operators(Leaf(value), rank + 2) == len(kinds)
    found, run = emitted(Leaf(value), rank + 2, opset)
    assert found == kinds
    x = probe(3, 4, (7,) * rank)
    np.testing.assert_array_equal(run(x.numpy()), apply(value, x).numpy())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("bias", [None, numbers(2, 6)])
def test_matrices(dimensions: int, bias: Any) -> None:
    value = algebra.linear(numbers(1, 6, 4), bias)
    kinds = ["Gemm"] if dimensions == 2 else ["MatMul"] if bias is None else ["MatMul", "Add"]
    for opset in (9, 13):
        found, run = emitted(Leaf(value), dimensions, opset)
        assert found == kinds
        x = numbers(3, *(2, 5, 4)[-dimensions:])
        np.testing.assert_array_equal(run(x), x @ value.kernel.T + value.bias)
    assert OnnxTarget().operators(Leaf(value), dimensions) == len(kinds)


def test_a_number_times_a_value_is_one_node() -> None:
    found, run = emitted(Scalar(3.0), 3, 17)
    assert found == ["Mul"]
    assert run(np.ones((1, 2, 2))).tolist() == [[[3.0, 3.0], [3.0, 3.0]]]


@pytest.mark.parametrize(
    ("value", "dimensions"),
    [
        (convolved(2), 2),
        (algebra.linear(numbers(1, 6, 4)), 1),
        (windowed(2, 1, 1, fill=np.arange(4.0)), 4),
        (algebra.compose(algebra.convolution(numbers(1, 5, 6, 1, 1), stride=2), algebra.transposed_convolution(
            numbers(1, 4, 6, 3, 3), stride=2)), 4),
        (windowed(2, -1, 1, mode="replicate"), 4),
    ],
    ids=["of a matrix", "of a vector", "a fill a channel", "strided after it went up", "cropped and continued"],
)  # fmt: skip
def test_what_no_operator_says(value: AffineConv, dimensions: int) -> None:
    assert OnnxTarget().operators(Leaf(value), dimensions) is None


@pytest.mark.parametrize(
    ("names", "base"),
    [
        (("",), "y"),
        (("conv.weight",), "conv.folded"),
        (("stage.a.weight", "stage.b.weight"), "stage.folded"),
        (("stage.1.a.weight", "stage.1.b.c.weight", "stage.1.a.weight"), "stage.1.folded"),
        (("stage.1.conv.weight", "stage.2.conv.weight"), "stage.folded"),
        (("one.weight", "two.weight"), "y.folded"),
    ],
)
def test_what_is_folded_is_named_after_what_its_kernels_share(names: tuple[str, ...], base: str) -> None:
    norm = Leaf(scaled(1, scale=True, shift=True), ("norm.scale",))
    total: Formula | None = None
    for name in names:
        layer = Leaf(convolved(1), (name,) if name else ())
        joined = layer if total is None else algebra.add_formulas(total, layer, (None,))
        assert isinstance(joined, Formula)
        total = joined
    assert total is not None
    assert _base(total, "y") == base
    assert _base(norm, "y") == "norm.folded"
    behind = algebra.compose_formulas(total, norm, (None,)) if names[0] else total
    assert isinstance(behind, Formula)
    assert _base(behind, "y") == base
