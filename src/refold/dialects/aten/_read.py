"""From a functional ATen graph to the neutral graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.export import ExportedProgram

from refold.algebra import Obstruction
from refold.dialects.aten import _operators, _products, _rearranging  # noqa: F401  (register the readers)
from refold.dialects.aten._constants import Constants
from refold.dialects.aten._functional import has_effect
from refold.dialects.aten._memory import read_by_memory, set_for_outputs
from refold.dialects.aten._reading import Reading, read
from refold.dialects.aten._sizes import Symbols, example, shape_of
from refold.errors import AlgebraError, GeometryError
from refold.graph import Graph, Linear, Opaque, Refusal, shared_folder
from refold.maps import Moved, Scalar, Value

REMEDY = "read by position, as slices and `unfold` do, or put `contiguous()` in front of what reads strides"


def read_graph(program: ExportedProgram, constants: Constants, symbols: Symbols) -> Graph:
    """The program in neutral terms. Its node names are the value names; what no output hangs on, as it was read, is left out."""
    nodes = list(program.graph.nodes)
    pinned, orders = read_by_memory(nodes, constants), set_for_outputs(nodes)
    readings = {node.name: _reading(node, constants) for node in nodes if node not in constants}
    live = _live(nodes, readings, constants)
    graph = Graph()
    for node in nodes:
        if node.op == "output":
            graph.outputs = {one.name for one in node.all_input_nodes}
            continue
        if node.name not in live:
            continue
        value = _value(node, symbols)
        if value is not None:
            graph.values[node.name] = value
        if node.op == "placeholder":
            continue
        reading = readings[node.name]
        if isinstance(reading, Obstruction):
            graph.refusals.append(Refusal(node.name, operation(_source(node)), reading.law, reading.fact, reading.remedy))
        graph.nodes[node.name] = made = _node(node, reading, constants)
        if isinstance(made, Linear) and isinstance(reading, Reading) and (node in pinned or node in orders):
            graph.kept.add(node.name)
            if node in pinned and not reading.free:
                fact = f"`{pinned[node]}` reads how its output lies in memory, which a merged layer may change"
                graph.refusals.append(Refusal(shared_folder(made.sources) or made.output, made.operation, "memory", fact, REMEDY))
    return graph


def operation(node: torch.fx.Node) -> str:
    """The bare name of an operator: `conv2d` for `aten.conv2d.default`."""
    if isinstance(node.target, torch._ops.OpOverload):
        name = str(node.target._schema.name.split("::")[-1])
        return "batch_norm" if "batch_norm" in name else name
    return getattr(node.target, "__name__", str(node.target))


def _live(nodes: list[torch.fx.Node], readings: dict[str, Reading | Obstruction | None], constants: Constants) -> set[str]:
    """What the outputs and the operators with effects hang on: of a linear node, what its terms read, not how it was written."""
    live: set[str] = set()
    stack = [node for node in nodes if node.op == "output" or has_effect(node)]
    while stack:
        node = stack.pop()
        if node.name not in live and node not in constants:
            live.add(node.name)
            reading = readings[node.name]
            if isinstance(reading, Reading):
                stack.extend(reading.terms)
            if not isinstance(reading, Reading) or any(isinstance(mapped, Moved) for mapped in reading.terms.values()):
                stack.extend(node.all_input_nodes)
    return live | {node.name for node in nodes if node.op == "placeholder" and node not in constants}


def _source(node: torch.fx.Node) -> torch.fx.Node:
    """The operator that makes a value: the node itself, or the one of several outputs whose first it is."""
    if node.target is operator.getitem and node.args[1] == 0 and isinstance(node.args[0], torch.fx.Node):
        return node if isinstance(node.args[0].meta.get("val"), list) else node.args[0]
    return node


def _reading(node: torch.fx.Node, constants: Constants) -> Reading | Obstruction | None:
    """What a node makes of its inputs, or None where it is opaque."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    try:
        reading = read(_source(node), constants)
        is_sound = not isinstance(reading, Reading) or (bool(reading.terms) and _agrees(node, reading))
    except (AlgebraError, GeometryError):  # shapes that the algebra has no word for: no channels at all, a weight that is a vector
        return None
    return reading if is_sound else None


def _node(node: torch.fx.Node, reading: Reading | Obstruction | None, constants: Constants) -> Linear | Opaque:
    source = _source(node)
    if not isinstance(reading, Reading):
        return Opaque(node.name, operation(node), tuple(one.name for one in node.all_input_nodes if one not in constants))
    computed = sum(constants.operators(one) for one in source.all_input_nodes)
    return Linear(
        node.name,
        operation(source),
        {root.name: mapped for root, mapped in reading.terms.items()},
        weights=reading.weights,
        operators=(0 if reading.free else reading.operators) + computed,
        sources=tuple(name for one in source.all_input_nodes for name in constants.sources(one)),
    )


def _agrees(node: torch.fx.Node, reading: Reading) -> bool:
    """Whether the maps give the shape that was traced; what does not is left alone."""
    result = shape_of(node.meta["val"])
    for root, mapped in reading.terms.items():
        traced = shape_of(root.meta["val"])
        if isinstance(mapped, (Scalar, Moved)):
            continue
        stencil = mapped.stencil
        channel = len(traced) - 1 - stencil.rank
        sizes = traced[channel + 1 :]
        expected = (stencil.out_channels, *stencil.output_sizes(sizes))
        if channel < 0 or traced[channel] not in (None, stencil.in_channels) or len(result) != len(traced):
            return False
        if any(n is not None and size is not None and size != n for n, size in zip(expected, result[channel:], strict=True)):
            return False
    return True


def _value(node: torch.fx.Node, symbols: Symbols) -> Value | None:
    traced: Any = node.meta.get("val")
    if not isinstance(traced, torch.Tensor):
        return None
    return Value(node.name, shape_of(traced), tuple(example(size, symbols) for size in traced.shape))
