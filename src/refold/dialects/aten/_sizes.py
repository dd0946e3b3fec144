"""Sizes of traced tensors: which are free and which are fixed, whether torch wrote them as numbers or as symbols of one value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

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


Symbols: TypeAlias = "Mapping[Any, int]"
"""What each free size is in the inputs that were given; tracing may have doubled their batch."""


def example(size: Any, symbols: Symbols | None = None) -> int:
    """What a size is in the inputs that were given, or without them in those that were traced.

    It is 2 where it hangs on the data, so that no example is known.
    """
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if symbols is not None and expression.free_symbols <= symbols.keys():
        return _substituted(expression, frozenset(symbols.items()))
    return int(size.node.hint) if size.node.has_hint() else 2


@lru_cache(maxsize=4096)
def _substituted(expression: Any, symbols: frozenset[tuple[Any, int]]) -> int:
    """The same few expressions come back in every layer of a network, and sympy takes its time."""
    return int(expression.subs(dict(symbols)))


def is_same(one: Any, other: Any) -> bool:
    """Whether two sizes are the same number, or the same symbol."""
    if isinstance(one, torch.SymInt) and isinstance(other, torch.SymInt):
        return bool(one.node.expr == other.node.expr)
    return fixed(one) is not None and fixed(one) == fixed(other)


def symbols_of(traced: Iterable[torch.Tensor], given: Iterable[torch.Tensor]) -> dict[Any, int]:
    """The free sizes of traced inputs, with what they are in the inputs that were given."""
    found: dict[Any, int] = {}
    for one, other in zip(traced, given, strict=True):
        sizes: list[Any] = list(one.shape)
        for symbolic, actual in zip(sizes, other.shape, strict=True):
            if isinstance(symbolic, torch.SymInt) and symbolic.node.expr.is_symbol:
                found.setdefault(symbolic.node.expr, int(actual))
    return found
