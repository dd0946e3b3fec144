"""What the ATen operators that only rearrange a tensor do to it, and how they are written again on another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from refold.algebra import Obstruction, Rearrangement
from refold.dialects.aten._reading import Call, Reading, reads
from refold.dialects.aten._sizes import example, is_same, shape_of
from refold.maps import IDENTITY, Layout, Moved, Step

ATEN = torch.ops.aten
STATED = (ATEN.view.default, ATEN.reshape.default, ATEN._unsafe_view.default)
"""Operators that state every size of their output."""
RIGID = ("unflatten.int", "reshape_as.default", "view_as.default", "squeeze.default")
"""Operators that cannot be written for another number of channels."""


@reads("aten.permute.default")
def _permute(call: Call) -> Reading | Obstruction | None:
    """y = x, its axes in another order."""
    ndim = call.output.ndim
    return _rearranged(call, [axis % ndim for axis in call["dims"]])


@reads("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def _transpose(call: Call) -> Reading | Obstruction | None:
    """y = x, two axes swapped."""
    order = list(range(call.output.ndim))
    first, second = (list(call.arguments.values())[position] % call.output.ndim for position in (1, 2))
    order[first], order[second] = order[second], order[first]
    return _rearranged(call, order)


@reads("aten.t.default", "aten.numpy_T.default", "aten.mT.default")
def _transposed_matrix(call: Call) -> Reading | Obstruction | None:
    """y = x, its last two axes swapped."""
    order = list(range(call.output.ndim))
    return _rearranged(call, [*order[:-2], *order[-2:][::-1]]) if call.output.ndim == 2 or "mT" in str(call.node.target) else None


@reads("aten.movedim.int")
def _moved_axis(call: Call) -> Reading | Obstruction | None:
    """y = x, one axis at another place."""
    ndim = call.output.ndim
    source, target = call["source"] % ndim, call["destination"] % ndim
    order = [axis for axis in range(ndim) if axis != source]
    return _rearranged(call, [*order[:target], source, *order[target:]])


@reads(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.reshape_as.default",
    "aten.view_as.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
)
def _reshape(call: Call) -> Reading | Obstruction | None:
    """y = x, its items in the same order under another shape; to squeeze a free axis is no such thing, but where it has one item."""
    return None if _squeezes_a_free_axis(call) else _rearranged(call, None)


def _squeezes_a_free_axis(call: Call) -> bool:
    if not str(call.node.target).startswith("aten.squeeze") or not call.is_activation(call["self"]):
        return False
    shape = shape_of(call["self"].meta["val"])
    named = call.arguments.get("dim", range(len(shape)))
    return any(shape[axis] is None for axis in ([named] if isinstance(named, int) else named))


@reads("aten.mean.dim")
def _mean(call: Call) -> Reading | Obstruction | None:
    """y = the mean of x over some axes."""
    x = call["self"]
    if not call.is_activation(x) or not call["dim"]:
        return None
    ndim = x.meta["val"].ndim
    return _averaged(call, {axis % ndim for axis in call["dim"]}, keeps=call["keepdim"])


@reads("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten.adaptive_avg_pool3d.default")
def _global_average(call: Call) -> Reading | Obstruction | None:
    """y = the mean of x over all of its spatial axes."""
    rank = int(str(call.node.target).split("avg_pool")[1][0])
    if not call.is_activation(call["self"]) or any(size != 1 for size in call["output_size"]):
        return None
    ndim = call["self"].meta["val"].ndim
    return _averaged(call, set(range(ndim - rank, ndim)), keeps=True)


def _averaged(call: Call, axes: set[int], *, keeps: bool) -> Reading | None:
    x = call["self"]
    mine = x.meta["val"].shape
    done = Rearrangement.mean([_size(size) for size in mine], sorted(axes), keeps=keeps)
    items = math.prod(example(mine[axis]) for axis in axes)
    if done.is_identity:
        return Reading({x: IDENTITY})
    step = Step(call.node.name, done, tuple(example(size) for size in call.output.shape), mean_of=items)
    return Reading({x: Moved(IDENTITY, None, Layout((step,), done))})


def _rearranged(call: Call, order: Sequence[int] | None) -> Reading | None:
    x = call["self"]
    if not call.is_activation(x):
        return None
    mine, result = x.meta["val"].shape, call.output.shape
    if len(mine) == len(result) and all(map(is_same, mine, result)) and order is None:
        return Reading({x: IDENTITY}, free=True)
    shape = [_size(size) for size in mine]
    done = Rearrangement.reshape(shape, [_size(size) for size in result]) if order is None else Rearrangement.permutation(shape, order)
    if done is None or done.is_identity:
        return None
    shown = tuple(example(size) for size in result)
    asked = tuple(one.name for one in call.node.all_input_nodes if one is not x and isinstance(one.meta.get("val"), torch.Tensor))
    is_flexible = str(call.node.target).removeprefix("aten.") not in RIGID
    step = Step(call.node.name, done, shown, asked, is_flexible)
    return Reading({x: Moved(IDENTITY, None, Layout((step,), done))})


def _size(size: Any) -> tuple[int, tuple[str, ...]]:
    """A traced size as the factors that it is a product of."""
    if isinstance(size, int):
        return size, ()
    known, free = 1, []
    for factor in size.node.expr.as_ordered_factors():
        base, times = factor.as_base_exp()
        if factor.is_Integer:
            known *= int(factor)
        elif times.is_Integer and int(times) > 0:
            free += [str(base)] * int(times)
        else:
            free.append(str(factor))
    return known, tuple(sorted(free))


def write_step(graph: fx.Graph, step: Step, original: fx.Node, x: fx.Node, known: Callable[[fx.Node], fx.Node]) -> fx.Node:
    """Write an operator again, with x for what it read; `known` gives the new nodes of the sizes that it names."""
    source = original.args[0]
    args, kwargs = fx.node.map_arg((original.args, original.kwargs), lambda one: x if one is source else known(one))
    target: Any = original.target
    if target in STATED:
        target = ATEN.reshape.default
        if step.resized is not None:
            stated: Any = args[1]
            sizes = list(stated)
            sizes[step.resized[0]] = step.resized[1]
            args = (args[0], sizes)
    return graph.call_function(target, args, kwargs)
