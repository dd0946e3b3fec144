"""Sizes of traced tensors: which are free and which are fixed, whether torch wrote them as numbers or as symbols of one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def other_examples(sizes: Sequence[Any]) -> Iterator[tuple[int, ...]]:
    """What all these sizes are, together, where the inputs have other sizes than those that were traced.

    The free sizes of the inputs change together, within what tracing found them to be; relations between them that it noted hold.
    """
    symbolic = [size for size in sizes if isinstance(size, torch.SymInt)]
    if not symbolic or not all(size.node.has_hint() for size in symbolic):
        return
    environment = symbolic[0].node.shape_env
    known = {symbol: int(value) for symbol, value in environment.backed_var_to_val.items()}
    moved = sorted({symbol for size in symbolic for symbol in size.node.expr.free_symbols if fixed(size) is None}, key=str)
    if not all(symbol in known for symbol in moved):
        return
    guards = [guard.expr for guard in environment.guards if guard.expr.free_symbols & set(moved)]
    for change in CHANGES:
        chosen = {symbol: change(known[symbol], number) for number, symbol in enumerate(moved)}
        everywhere = frozenset((known | chosen).items())
        ranges = (environment.var_to_range[symbol] for symbol in moved)
        if not all(one.lower <= value <= one.upper for one, value in zip(ranges, chosen.values(), strict=True)):
            continue
        if all(guard.subs(dict(everywhere)) == True for guard in guards):  # noqa: E712 - a relation of sympy's that holds is no bool
            yield tuple(size if isinstance(size, int) else _substituted(size.node.expr, everywhere) for size in sizes)


CHANGES: tuple[Callable[[int, int], int], ...] = (
    lambda size, number: size + 1 + number,
    lambda size, number: size - 1 - number,
    lambda size, number: size // 2,
    lambda size, number: 2 * size,
    lambda size, number: 3 + number,
    lambda size, number: 2,
)
"""What a free size becomes, by what it was and its number among them: near ones, near multiples, and the smallest."""


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
