"""Counts the operators of ATen graphs, traced or written."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx, nn

from refold.census import Census
from refold.dialects.aten._read import operation

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
LINEARS = ("linear", "addmm", "mm")
ADDITIONS = ("add", "sub", "rsub")


def count(
    nodes: Iterable[fx.Node],
    tensors: Iterable[torch.Tensor],
    multiply_adds: int,
    module_of: Callable[[str], nn.Module] | None = None,
) -> Census:
    """Count operators that make tensors, and the tensors that a network stores, each once; parameters are those that train."""
    kinds = [kind for node in nodes if (kind := _kind(node, module_of)) is not None]
    distinct = {id(tensor): tensor for tensor in tensors}.values()
    return Census(
        operators=len(kinds),
        convolutions=sum(kind in CONVOLUTIONS for kind in kinds),
        linears=sum(kind in LINEARS for kind in kinds),
        batch_norms=sum(kind == "batch_norm" for kind in kinds),
        additions=sum(kind in ADDITIONS for kind in kinds),
        parameters=sum(tensor.numel() for tensor in distinct if isinstance(tensor, nn.Parameter)),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in distinct),
        multiply_adds=multiply_adds,
    )


def _kind(node: fx.Node, module_of: Callable[[str], nn.Module] | None) -> str | None:
    if node.op == "call_module":
        assert module_of is not None
        module = module_of(str(node.target))
        if isinstance(module, nn.Linear):
            return "linear"
        return "convolution" if next(module.parameters(recurse=False), None) is not None else None
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = operation(node)
    return None if name.startswith(("sym_", "_assert", "detach", "alias")) else name
