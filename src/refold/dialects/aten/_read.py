"""From a functional ATen graph to the neutral graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from refold.algebra import Obstruction
from refold.dialects.aten._constants import Constants
from refold.dialects.aten._operators import Reading, read
from refold.graph import Graph, Linear, Opaque, Refusal, Scalar, Value


def read_graph(program: ExportedProgram, constants: Constants) -> Graph:
    """The program in neutral terms. Its node names are the value names."""
    graph = Graph()
    inputs = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT}
    for node in program.graph.nodes:
        if node.op == "output":
            graph.outputs = {one.name for one in node.all_input_nodes}
            continue
        if node in constants or _is_read_through(node, constants):
            continue
        value = _value(node)
        if value is not None:
            graph.values[node.name] = value
        if node.op == "placeholder":
            if node.name not in inputs:
                graph.outputs.add(node.name)
            continue
        graph.nodes[node.name] = _node(node, constants, graph)
    return graph


def operation(node: torch.fx.Node) -> str:
    """The bare name of an operator: `conv2d` for `aten.conv2d.default`."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name.split("::")[-1])
    return getattr(node.target, "__name__", str(node.target))


def _node(node: torch.fx.Node, constants: Constants, graph: Graph) -> Linear | Opaque:
    source = node
    if node.target is operator.getitem and node.args[1] == 0 and isinstance(node.args[0], torch.fx.Node):
        source = node.args[0]
    reading = read(source, constants) if _value(node) is not None else None
    if isinstance(reading, Obstruction):
        graph.refusals.append(Refusal(node.name, operation(source), reading.law, reading.fact, reading.remedy))
    if isinstance(reading, Reading) and not _agrees(node, reading):
        reading = None
    if reading is None or isinstance(reading, Obstruction) or not reading.terms:
        return Opaque(node.name, operation(node), tuple(one.name for one in node.all_input_nodes if one not in constants))
    computed = sum(constants.operators(one) for one in source.all_input_nodes)
    return Linear(
        node.name,
        operation(source),
        {root.name: mapped for root, mapped in reading.terms.items()},
        weights=reading.weights,
        operators=(0 if reading.free else 1) + computed,
        sources=tuple(name for one in source.all_input_nodes for name in constants.sources(one)),
    )


def _is_read_through(node: torch.fx.Node, constants: Constants) -> bool:
    """Whether a node of several outputs is a linear map whose first output alone is used, so that the getitem stands for it."""
    if _value(node) is not None or not node.users:
        return False
    firsts = all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    return firsts and isinstance(read(node, constants), Reading)


def _agrees(node: torch.fx.Node, reading: Reading) -> bool:
    """Whether the maps give the shape that was traced; what does not is left alone."""
    result = node.meta["val"].shape
    for root, mapped in reading.terms.items():
        traced = root.meta["val"].shape
        if isinstance(mapped, Scalar):
            continue
        stencil = mapped.stencil
        channel = len(traced) - 1 - stencil.rank
        sizes = tuple(size if isinstance(size, int) else None for size in traced[channel + 1 :])
        expected = (stencil.out_channels, *stencil.output_sizes(sizes))
        if channel < 0 or traced[channel] != stencil.in_channels or len(result) != len(traced):
            return False
        if any(n is not None and isinstance(size, int) and size != n for n, size in zip(expected, result[channel:], strict=True)):
            return False
    return True


def _value(node: torch.fx.Node) -> Value | None:
    traced: Any = node.meta.get("val")
    if not isinstance(traced, torch.Tensor):
        return None
    shape = tuple(size if isinstance(size, int) else None for size in traced.shape)
    return Value(node.name, shape, tuple(_example(size) for size in traced.shape))


def _example(size: Any) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else 1
