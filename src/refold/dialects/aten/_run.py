"""Runs a functional program node by node, in its own dtypes or in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from refold.dialects.aten._constants import evaluate, widened


def run_program(program: ExportedProgram, flat_inputs: Sequence[Any], *, wide: bool) -> list[Any]:
    """The user outputs of a program: as it is, or `wide`, in float64 with parameters widened one at a time."""
    change: Callable[[Any], Any] = widened if wide else lambda value: value
    values: dict[str, Any] = {}
    inputs = iter(flat_inputs)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    last_use = {one.name: node.name for node in program.graph.nodes for one in node.all_input_nodes}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                values[node.name] = change(next(inputs))
            continue
        if node.op == "output":
            (results,) = node.args
            kinds = [spec.kind for spec in program.graph_signature.output_specs]
            return [
                change(_stored(program, specs, values, one)) if isinstance(one, fx.Node) else one
                for one, kind in zip(results, kinds, strict=True)
                if kind == OutputKind.USER_OUTPUT
            ]
        if node.op == "get_attr":
            values[node.name] = getattr(program.graph_module, str(node.target))
            continue
        values[node.name] = evaluate(node, lambda one: change(_stored(program, specs, values, one)), wide=wide)
        for one in node.all_input_nodes:
            if last_use[one.name] == node.name:
                values.pop(one.name, None)
    raise AssertionError("a graph ends with its output node")


def _stored(program: ExportedProgram, specs: Mapping[str, Any], values: Mapping[str, Any], node: fx.Node) -> Any:
    if node.name in values:
        return values[node.name]
    name = specs[node.name].target
    return program.state_dict[name] if name in program.state_dict else program.constants[name]
