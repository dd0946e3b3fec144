"""Which values must go on lying in memory as they do: those that an operator reads by strides or bytes, and what gives them their strides.

Whatever reads by position does not ask how a tensor lies. What `as_strided` gives hangs on it, and a merged layer may lay its output out
otherwise than the layers that it was made of; so may the network without a `contiguous(memory_format=...)` that only rearranges memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import fx

from refold.dialects.aten._constants import Constants

READERS = ("as_strided", "as_strided_", "as_strided_copy", "as_strided_scatter", "sym_stride", "sym_storage_offset", "stride")
BYTES = "view(dtype)"
BYTE_READERS = ("aten.view.dtype", "aten.view_copy.dtype")
PRODUCTS = ("linear", "mm", "addmm", "bmm", "baddbmm")
"""Operators that lay their output out in order, however their inputs lie."""
VIEWS = (
    *("view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "squeeze", "unsqueeze", "select", "slice", "narrow"),
    *("alias", "expand", "split", "split_with_sizes", "chunk", "unbind", "movedim", "swapaxes"),
)


def read_by_memory(nodes: Sequence[fx.Node], constants: Constants) -> dict[fx.Node, str]:
    """The nodes whose output must lie as it did, each with the operator that reads it so.

    From an operator that reads strides back to those that set them: what stands in front of these may lie as it likes. Bytes are not the
    same after any rounding, so what is read as another dtype is kept back to the inputs.
    """
    pinned: dict[fx.Node, str] = {}
    for node in reversed(nodes):
        reader = _reader(node) or pinned.get(node)
        if reader is not None and (_reader(node) or reader == BYTES or not _sets_strides(node)):
            for one in node.all_input_nodes:
                if one not in constants and one.op == "call_function":
                    pinned[one] = BYTES if pinned.get(one) == BYTES else reader
    return pinned


def set_for_outputs(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The operators that set the strides of an output, which its caller may read: they cost nothing to keep."""
    stack, found = [one for node in nodes if node.op == "output" for one in node.all_input_nodes], set()
    while stack:
        node = stack.pop()
        if _is_order(node):
            found.add(node)
        elif _name(node) in VIEWS:
            stack.extend(node.all_input_nodes[:1])
    return found


def _reader(node: fx.Node) -> str | None:
    """What a node reads memory by, if it does."""
    if str(node.target) in BYTE_READERS:
        return BYTES
    return _name(node) if _name(node) in READERS else None


def _sets_strides(node: fx.Node) -> bool:
    return _is_order(node) or _name(node) in PRODUCTS


def _is_order(node: fx.Node) -> bool:
    """Whether a node puts a tensor in an order of memory that it states."""
    if _name(node) == "contiguous":
        return True
    return any(isinstance(one, torch.memory_format) and one is not torch.preserve_format for one in _options(node))


def _options(node: fx.Node) -> Iterator[object]:
    return iter((*node.args, *node.kwargs.values()) if _name(node) in ("clone", "_to_copy", "to") else ())


def _name(node: fx.Node) -> str:
    target = node.target
    is_aten = isinstance(target, torch._ops.OpOverload) and target.namespace == "aten"
    return str(target._schema.name.split("::")[-1]) if is_aten else ""  # type: ignore[union-attr]
