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
        pool = _only_maker(squeeze, "Squeeze", "MaxPool")
        unsqueeze = None if pool is None else _only_maker(pool, "MaxPool", "Unsqueeze")
        if pool is None or unsqueeze is None or not (_moves(squeeze) and _moves(unsqueeze)) or _height(pool) != (1, 1, 1, [0, 0]):
            continue
        for name, half in _HALVES.items():
            if name in pool.attributes:
                given = pool.attributes[name]
                pool.attributes[name] = type(given)(name, given.type, half(list(given.value)))
        pool.replace_input_with(0, unsqueeze.inputs[0])
        pool.outputs[0].shape, pool.outputs[0].type = squeeze.outputs[0].shape, squeeze.outputs[0].type
        _replace(model.graph, squeeze.outputs[0], pool.outputs[0])
        for node in (squeeze, unsqueeze):
            if not any(output.uses() for output in node.outputs):
                axes = node.inputs[1]
                model.graph.remove(node, safe=True)
                if axes.is_initializer() and not axes.uses():
                    del model.graph.initializers[axes.name]


def _replace(graph: Any, value: Any, other: Any) -> None:
    """Have all that reads a value read another one, under the name of the first where a graph gives it."""
    for node, place in list(value.uses()):
        node.replace_input_with(place, other)
    for place, output in enumerate(graph.outputs):
        if output is value:
            value.name, other.name = other.name, value.name
            graph.outputs[place] = other


def _only_maker(node: Any, operator: str, made_by: str) -> Any:
    """What made what a node reads, where that is of this operator and nothing else reads it."""
    if node.domain or node.op_type != operator or node.inputs[0] is None:
        return None
    maker = node.inputs[0].producer()
    is_alone = maker is not None and (made_by == "Unsqueeze" or len(node.inputs[0].uses()) == 1) and not node.inputs[0].is_graph_output()
    return maker if is_alone and maker.op_type == made_by and not maker.domain and len(maker.outputs) == 1 else None


def _moves(node: Any) -> bool:
    """Whether a node puts in or takes out that axis alone."""
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return axes is not None and axes.numpy().reshape(-1).tolist() == [AXIS]


def _height(pool: Any) -> tuple[int, int, int, list[int]]:
    """Window, stride, dilation and padding along the axis of one item."""

    def given(name: str, usual: list[int]) -> list[int]:
        return list(pool.attributes[name].value) if name in pool.attributes else usual

    first = [given(name, [1, 1])[0] for name in ("kernel_shape", "strides", "dilations")]
    return first[0], first[1], first[2], given("pads", [0, 0, 0, 0])[0::2]
