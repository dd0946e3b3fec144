"""Writes pools over a plane that is one item high, as `_pools` has them traced, as ONNX pools over one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AXIS = -2
"""Where the axis of one item stands."""
_HALVES: dict[str, Callable[[list[int]], list[int]]] = {
    "kernel_shape": lambda numbers: numbers[1:],
    "strides": lambda numbers: numbers[1:],
    "dilations": lambda numbers: numbers[1:],
    "pads": lambda numbers: numbers[1::2],
}
"""What is left of an attribute when the first of two axes goes."""


def restore_onnx_pools(model: Any) -> None:
    """Join each Unsqueeze, MaxPool and Squeeze of one axis to a MaxPool; `model` is one of `onnx_ir`."""
    for squeeze in list(model.graph):
        found = _before(squeeze)
        if found is not None:
            _join(model.graph, *found, squeeze)


def _before(squeeze: Any) -> tuple[Any, Any] | None:
    """The Unsqueeze and the MaxPool in front of a Squeeze, where the axis goes as it came and nothing else reads the pool."""
    pool = _maker(squeeze, "MaxPool") if _is(squeeze, "Squeeze") and _is_of_the_axis(squeeze) else None
    unsqueeze = None if pool is None else _maker(pool, "Unsqueeze")
    if pool is None or unsqueeze is None or not (_is_of_the_axis(unsqueeze) and _leaves_the_axis(pool)):
        return None
    (output, *indices), made = pool.outputs, unsqueeze.outputs[0]
    if indices or output.is_graph_output() or made.is_graph_output() or len(output.uses()) > 1:
        return None
    return unsqueeze, pool


def _join(graph: Any, unsqueeze: Any, pool: Any, squeeze: Any) -> None:
    for name, half in _HALVES.items():
        if name in pool.attributes:
            given = pool.attributes[name]
            pool.attributes[name] = type(given)(name, given.type, half(list(given.value)))
    pool.replace_input_with(0, unsqueeze.inputs[0])
    pool.outputs[0].shape, pool.outputs[0].type = squeeze.outputs[0].shape, squeeze.outputs[0].type
    _replace(graph, squeeze.outputs[0], pool.outputs[0])
    for node in (squeeze, unsqueeze):
        if not any(output.uses() for output in node.outputs):
            axes = node.inputs[1]
            graph.remove(node, safe=True)
            if axes.is_initializer() and not axes.uses():
                del graph.initializers[axes.name]


def _replace(graph: Any, value: Any, other: Any) -> None:
    """Have all that reads a value read another one, under the name of the first where a graph gives it."""
    for node, place in list(value.uses()):
        node.replace_input_with(place, other)
    for place, output in enumerate(graph.outputs):
        if output is value:
            value.name, other.name = other.name, value.name
            graph.outputs[place] = other


def _is(node: Any, operator: str) -> bool:
    return not node.domain and node.op_type == operator


def _maker(node: Any, operator: str) -> Any:
    """The node that makes what a node reads first, where it is of this operator."""
    maker = None if node.inputs[0] is None else node.inputs[0].producer()
    return maker if maker is not None and _is(maker, operator) else None


def _is_of_the_axis(node: Any) -> bool:
    """Whether a node puts in or takes out the axis of one item alone."""
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return axes is not None and axes.numpy().reshape(-1).tolist() == [AXIS]


def _leaves_the_axis(pool: Any) -> bool:
    """Whether window, stride, dilation and padding of a pool are those that do nothing along the axis of one item."""

    def given(name: str, usual: list[int]) -> list[int]:
        return list(pool.attributes[name].value) if name in pool.attributes else usual

    first = [given(name, [1, 1])[0] for name in ("kernel_shape", "strides", "dilations")]
    return first == [1, 1, 1] and given("pads", [0, 0, 0, 0])[0::2] == [0, 0]
