"""Takes in-place operators out of a traced graph: by renaming where nothing else sees the write, by torch's own pass elsewhere.

Torch's pass traces the whole graph anew, which takes minutes where sizes are free. Most networks write in place only to what an operator
before has just made (`relu_`, `add_`), and there the write is the same as the operator without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx
from torch.export import ExportedProgram

FRESH = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "linear",
        "addmm",
        "mm",
        "bmm",
        "baddbmm",
        "matmul",
        "batch_norm",
        "layer_norm",
        "group_norm",
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "neg",
        "pow",
        "sqrt",
        "rsqrt",
        "exp",
        "log",
        "abs",
        "clamp",
        "maximum",
        "minimum",
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "prelu",
        "silu",
        "mish",
        "gelu",
        "sigmoid",
        "logsigmoid",
        "tanh",
        "softplus",
        "softsign",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "softmax",
        "log_softmax",
        "_softmax",
        "_log_softmax",
        "cat",
        "stack",
        "mean",
        "sum",
        "amax",
        "amin",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
    ]
)
"""Operators whose output never shares storage with an input, in any case that they have."""


def rename_in_place(program: ExportedProgram) -> bool:
    """Replace every in-place operator of the graph by its functional namesake; False, with nothing changed, where that is not enough.

    Requires that the caller owns the program: its graph is changed, and its signature keeps the old names.
    """
    order = {node: position for position, node in enumerate(program.graph.nodes)}
    renamed: dict[fx.Node, torch._ops.OpOverload] = {}
    for node in order:
        if node.op == "get_attr" or (node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator)):
            return False
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if _writes_statistics(node):
            return False
        if node.target._schema.is_mutable:
            namesake = _namesake(node)
            if namesake is None or not _is_unseen(node, order, renamed):
                return False
            renamed[node] = namesake
    for node, namesake in renamed.items():
        written = node.args[0]
        assert isinstance(written, fx.Node)
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)
        node.target = namesake
    return True


@contextmanager
def idle_dropouts_as_views(program: ExportedProgram) -> Iterator[None]:
    """Within the block, a dropout that drops nothing stands in the graph as the view that it is."""
    idle = [(node, node.target, node.args) for node in program.graph.nodes if _is_idle_dropout(node)]
    for node, _, args in idle:
        node.target, node.args = torch.ops.aten.alias.default, args[:1]
    try:
        yield
    finally:
        for node, target, args in idle:
            node.target, node.args = target, args


def _is_idle_dropout(node: fx.Node) -> bool:
    if node.target not in (torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default, torch.ops.aten.alpha_dropout.default):
        return False
    return len(node.args) == 3 and node.args[2] is False and not node.kwargs


def has_effect(node: fx.Node) -> bool:
    """Whether an operator does something beside making its output, so that it stays even where nothing reads it.

    To torch a random operator has one, a dropout in eval too, since it moves the generator on.
    """
    random = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
    return node.op == "call_function" and node.is_impure() and not random


def _namesake(node: fx.Node) -> torch._ops.OpOverload | None:
    """`aten.relu.default` for `aten.relu_.default`, where it takes the same arguments and gives the same dtype."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    name = _name(target)
    if target.namespace != "aten" or not name.endswith("_"):
        return None
    overload = getattr(getattr(torch.ops.aten, name[:-1], None), target._overloadname, None)
    if not isinstance(overload, torch._ops.OpOverload) or overload._schema.is_mutable:
        return None
    mine, theirs = ([argument.name for argument in one._schema.arguments] for one in (target, overload))
    traced = [one.meta["val"] for one in node.all_input_nodes if isinstance(one.meta.get("val"), torch.Tensor)]
    same_dtype = all(tensor.ndim == 0 or tensor.dtype == traced[0].dtype for tensor in traced)
    return overload if mine == theirs and same_dtype else None


def _is_unseen(node: fx.Node, order: dict[fx.Node, int], renamed: dict[fx.Node, torch._ops.OpOverload]) -> bool:
    """Whether what a node writes to shares storage with no other value: it is an operator's own, and nothing before took a view."""
    written = node.args[0]
    if not isinstance(written, fx.Node) or not _is_fresh(written, renamed):
        return False
    before = [user for user in written.users if order[user] < order[node]]
    return all(_is_fresh(user, renamed) or not isinstance(user.meta.get("val"), torch.Tensor) for user in before)


def _is_fresh(node: fx.Node, renamed: dict[fx.Node, torch._ops.OpOverload]) -> bool:
    return node in renamed or (
        isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten" and _name(node.target) in FRESH
    )


def _name(target: torch._ops.OpOverload) -> str:
    return str(target._schema.name.split("::")[-1])


def _writes_statistics(node: fx.Node) -> bool:
    """Whether a normalization updates running statistics, which its schema does not say."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    if _name(target) not in ("batch_norm", "instance_norm", "native_batch_norm", "cudnn_batch_norm"):
        return False
    arguments = dict(zip((one.name for one in target._schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return bool(arguments.get("training", arguments.get("use_input_stats"))) and arguments.get("running_mean") is not None
