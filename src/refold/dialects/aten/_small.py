"""Looks at what a model does with small sizes, where tracing takes a path for granted.

Torch traces free sizes as if they were at least two, and notes of every derived size that it is not 0 or 1. A model that branches on just
that looks the same as one that does not; running both on a size that breaks the note tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from refold.dialects.aten._guard import Condition, more_than_one
from refold.dialects.aten._run import run_program
from refold.errors import FoldError

LARGEST = 64
"""The largest size that a note is tried on; those that hold up to it are left alone."""
TRIES = 3
"""Sizes that are tried for a note where the model itself does not take the first."""


@dataclass(slots=True)
class SmallSizes:
    """A model and its trace, run side by side on parts of the inputs. `traced` are the tensors among the inputs, by name, as traced."""

    run: Callable[[tuple[Any, ...], Mapping[str, Any]], Any]
    program: ExportedProgram
    traced: Mapping[str, torch.Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    seen: dict[tuple[Any, int], bool | None] = field(default_factory=dict)

    def conditions(self, doubtful: Sequence[Condition]) -> Iterator[Condition]:
        """Those of the doubtful conditions, and that sizes are more than one, which the model does hang on."""
        places = self._places()
        kept: list[Condition] = []
        ones = [more_than_one(*axes[0]) for axes in places.values()]
        for condition in (*ones, *doubtful):
            symbol = next((symbol for symbol, axes in places.items() if [*condition.places] == axes[:1]), None)
            if symbol is None:
                continue
            if self._matters(condition, symbol, places[symbol], [one for one in kept if one.places == condition.places]):
                kept.append(condition)
                yield condition

    def _places(self) -> dict[Any, list[tuple[str, int]]]:
        """The axes of each free size that stands by itself."""
        found: dict[Any, list[tuple[str, int]]] = {}
        for name, value in self.traced.items():
            sizes: list[Any] = list(value.shape)
            for axis, size in enumerate(sizes):
                if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                    found.setdefault(size.node.expr, []).append((name, axis))
        return found

    def _matters(self, condition: Condition, symbol: Any, axes: Sequence[tuple[str, int]], kept: Sequence[Condition]) -> bool:
        breaking = [n for n in range(1, LARGEST) if not condition.holds([n]) and all(one.holds([n]) for one in kept)]
        for size in breaking[:TRIES]:
            same = self._same_at(symbol, axes, size)
            if same is not None:
                return not same
        return False

    def _same_at(self, symbol: Any, axes: Sequence[tuple[str, int]], size: int) -> bool | None:
        """Whether model and trace give the same there; None where the model does not take the size or the trace fails by itself."""
        if (symbol, size) not in self.seen:
            self.seen[symbol, size] = self._compare(axes, size)
        return self.seen[symbol, size]

    def _compare(self, axes: Sequence[tuple[str, int]], size: int) -> bool | None:
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        names = iter(self.traced)
        cut = [_resized(leaf, [axis for name, axis in axes if name == own], size) for leaf in leaves for own in _own(leaf, names)]
        if all(one is other or one.shape == other.shape for one, other in zip(cut, leaves, strict=True) if isinstance(one, torch.Tensor)):
            return None
        args, kwargs = pytree.tree_unflatten(cut, spec)
        try:
            expected = pytree.tree_leaves(self.run(args, kwargs))
        except FoldError:
            return None
        try:
            traced = run_program(self.program, [one.clone() if isinstance(one, torch.Tensor) else one for one in cut], wide=False)
        except Exception:  # whatever an operator raises, it is not silent
            return None
        return agree(traced, expected)


def _own(leaf: Any, names: Iterator[str]) -> tuple[str]:
    """The name of an input that is a tensor, the next of all; others have none."""
    return (next(names),) if isinstance(leaf, torch.Tensor) else ("",)


def _resized(leaf: Any, axes: Sequence[int], size: int) -> Any:
    """An input with another size on some axes: cut off, or repeated."""
    for axis in axes:
        times = -(-size // max(1, leaf.shape[axis]))
        leaf = torch.cat([leaf] * times, dim=axis).narrow(axis, 0, size)
    return leaf


def agree(traced: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether outputs differ by no more than rounding: alike in shape, and in half of their digits."""
    if len(traced) != len(outputs):
        return False
    for mine, theirs in zip(traced, outputs, strict=True):
        if not isinstance(theirs, torch.Tensor):
            continue
        if mine.shape != theirs.shape:
            return False
        if theirs.is_floating_point():
            sizes = theirs.detach().abs()
            scale = float(sizes[sizes.isfinite()].max()) if bool(sizes.isfinite().any()) else 0.0
            half = torch.finfo(theirs.dtype).eps ** 0.5 * scale
            if not torch.allclose(mine.detach(), theirs.detach(), rtol=0.0, atol=half, equal_nan=True):
                return False
    return True
