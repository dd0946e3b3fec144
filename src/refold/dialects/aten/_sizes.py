"""Sizes of traced tensors: which are free and which are fixed, whether torch wrote them as numbers or as symbols of one value."""

from __future__ import annotations

from typing import Any

import torch


def fixed(size: Any) -> int | None:
    """A size as a number, or None where it is free."""
    if isinstance(size, int):
        return size
    known = size.node.maybe_as_int() if isinstance(size, torch.SymInt) else None
    return None if known is None else int(known)


def shape_of(tensor: torch.Tensor) -> tuple[int | None, ...]:
    """The sizes of a traced tensor, None where they are free."""
    return tuple(fixed(size) for size in tensor.shape)


def example(size: Any) -> int:
    """What a size was in the example; 2 where it hangs on the data, so that no example is known."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else 2
