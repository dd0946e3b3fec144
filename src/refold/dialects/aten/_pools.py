"""Traces pools over one axis with the length of that axis left free.

To trace `max_pool1d`, torch runs kernels that want its length as a number, and so holds inputs to the length of the example. The same
pool over a plane that is one item high is traced with its sizes free; in the graph it becomes what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_ATEN = torch.ops.aten
_IDLE = (1, 1, 0, 1)
"""Window, stride, padding and dilation of a pool that does nothing along an axis."""
_POOLS = (functional.max_pool1d, torch.max_pool1d, _ATEN.max_pool1d.default)


class PoolsAsPlanes(TorchFunctionMode):
    """While it is active, `max_pool1d` is run as `max_pool2d` over a plane that is one item high."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, another in its place where it is such a pool."""
        if func in _POOLS and not (kwargs or {}).get("return_indices") and len(args) < 7:
            options = {name: option for name, option in (kwargs or {}).items() if name != "return_indices"}
            return _over_plane(*args, **options)
        return func(*args, **(kwargs or {}))


def _over_plane(
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> torch.Tensor:
    def beside(value: Any, usual: int) -> list[Any]:
        """An option of the pool with a number for the axis of one item in front."""
        return [usual, *(value if isinstance(value, Sequence) else [value])]

    window = beside(kernel_size, 1)
    steps = window if stride is None or stride == [] or stride == () else beside(stride, 1)
    plane = torch.max_pool2d(input.unsqueeze(-2), window, steps, beside(padding, 0), beside(dilation, 1), ceil_mode)
    return plane.squeeze(-2)


def restore_pools(program: ExportedProgram) -> None:
    """Write pools over a plane that is one item high as pools over one axis."""
    graph = program.graph
    for node in list(graph.nodes):
        lifted = _lifted(node)
        if lifted is None:
            continue
        plane = node.args[0]
        with graph.inserting_before(node):
            pool = graph.call_function(_ATEN.max_pool1d.default, (lifted, *_along(plane)))
        pool.meta.update(node.meta)
        node.replace_all_uses_with(pool)
        program.graph_signature.replace_all_uses(node.name, pool.name)
        for one in (node, plane, plane.args[0]):
            if not one.users:
                graph.erase_node(one)


def _lifted(node: fx.Node) -> fx.Node | None:
    """What a pool over such a plane reads, where a node ends one: an axis put in, a pool that leaves it alone, the axis taken out."""
    match node:
        case fx.Node(target=_ATEN.squeeze.dim, args=(fx.Node(target=_ATEN.max_pool2d.default, args=(fx.Node() as tall, *options)), -2)) if (
            tall.target is _ATEN.unsqueeze.default and tall.args[1] == -2
        ):
            if any(isinstance(option, Sequence) and len(option) == 1 for option in options[:4]):
                return None  # one number for both axes
            first = [option[0] for option in options[:4] if isinstance(option, Sequence) and option]
            return tall.args[0] if first == [*_IDLE[: len(first)]] and isinstance(tall.args[0], fx.Node) else None
    return None


def _along(plane: fx.Node) -> list[Any]:
    """The options of the pool for the axis that it runs along."""
    return [option[1:] if isinstance(option, Sequence) else option for option in plane.args[1:]]
