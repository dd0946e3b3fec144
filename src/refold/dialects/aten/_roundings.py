"""How coarsely each output of a program is rounded: by the narrowest floats that are worked out on the way to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from refold.verification import coarsest


def roundings(program: ExportedProgram) -> list[float]:
    """The unit roundoff of each output: the largest of any floats from which it is worked out, 0 where none are.

    What is only read or viewed, as an input in float32 that is cast to float64, is rounded nowhere. Whole numbers pass no rounding on:
    they are equal or not.
    """
    units: dict[str, float] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            (results,) = node.args
            kinds = [spec.kind for spec in program.graph_signature.output_specs]
            return [
                units[one.name] if isinstance(one, fx.Node) else 0.0
                for one, kind in zip(results, kinds, strict=True)
                if kind == OutputKind.USER_OUTPUT
            ]
        own, read = unit(node.meta.get("val")), node.all_input_nodes
        is_viewed = getattr(node.target, "is_view", False) and own == unit([one.meta.get("val") for one in read])  # casts are views, too
        is_rounded = node.op == "call_function" and not is_viewed
        passed = max((units[one.name] for one in read), default=0.0)
        units[node.name] = coarsest(own, passed) if is_rounded or not own else passed
    raise AssertionError("a graph ends with its output node")


def unit(value: Any) -> float:
    """The unit roundoff of a tensor, or the largest of several; 0 for what holds no floats."""
    tensors = [one for one in pytree.tree_leaves(value) if isinstance(one, torch.Tensor)]
    return max((torch.finfo(one.dtype).eps / 2 for one in tensors if one.is_floating_point() or one.is_complex()), default=0.0)
