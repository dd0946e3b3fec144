"""The code of a written module, in which operators are called by torch's own Python functions where these are the same operator.

Calling an overload (`torch.ops.aten.relu.default`) takes one or two microseconds more than calling the function (`torch.relu`), which
shows in networks of many small layers. The graph keeps the overloads, so whoever reads it finds one name for each operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx

FUNCTIONS = {
    "torch": (
        *("add", "sub", "mul", "div", "clamp", "relu", "sigmoid", "tanh", "prelu", "matmul", "softmax", "mean", "cat", "chunk"),
        *(
            "conv1d",
            "conv2d",
            "conv3d",
            "conv_transpose1d",
            "conv_transpose2d",
            "conv_transpose3d",
            "batch_norm",
            "layer_norm",
            "group_norm",
        ),
        *("max_pool1d", "max_pool2d", "max_pool3d", "flatten", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "select"),
    ),
    "torch._C._nn": (
        *("linear", "gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "mish", "relu6"),
        *("avg_pool2d", "avg_pool3d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "pad"),
    ),
}
"""Functions that take what the operator of their name takes."""

PLACES = {name: place for place, names in FUNCTIONS.items() for name in names}


def use_bindings(graph: fx.Graph) -> None:
    """Let the code of a graph call the functions."""
    overloads = {node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    calls: dict[str, str] = {}
    for overload in overloads:
        space, _, name = overload._schema.name.partition("::")
        if space == "aten" and name in PLACES:
            calls[f" = torch.ops.aten.{name}.{overload._overloadname}("] = f" = {PLACES[name]}.{name}("
    graph.on_generate_code(lambda former: _renaming(calls, former))


def _renaming(calls: Mapping[str, str], former: Callable[[list[str]], list[str]] | None) -> Callable[[list[str]], list[str]]:
    def rename(lines: list[str]) -> list[str]:
        return [_renamed(line, calls) for line in (lines if former is None else former(lines))]

    return rename


def _renamed(line: str, calls: Mapping[str, str]) -> str:
    for overload, function in calls.items():
        if overload in line:
            return line.replace(overload, function)
    return line
