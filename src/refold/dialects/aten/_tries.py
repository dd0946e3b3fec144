"""Sizes at which a written file is tried, and inputs of those sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from refold.dialects.aten._conditions import Condition, Place
from refold.dialects.aten._sizes import fixed
from refold.dialects.aten._trials import stretched
from refold.verification import SEED

Sizes: TypeAlias = "Mapping[Place, int]"
"""The axes that are not as in the example, and what they are instead."""

BROKEN = 4
"""Sizes that are tried for each relation that they break."""
NEAR = 64
"""Sizes up to which each is looked at for one that breaks a relation, and as far beyond the example's own."""
FARTHEST = 20
"""Powers of two that are looked at beyond them."""
ITEMS = 1 << 24
"""Items that an input larger than the example's may have to be tried."""


@dataclass(frozen=True)
class Example:
    """The inputs that a network was traced on; `names` are those of its tensors and numbers, in order."""

    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def leaves(self) -> dict[str, Any]:
        """The inputs by name."""
        return dict(zip(self.names, pytree.tree_leaves((self.args, dict(self.kwargs))), strict=True))

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of those that are tensors."""
        return tuple(name for name, leaf in self.leaves.items() if isinstance(leaf, torch.Tensor))

    @property
    def sizes(self) -> dict[Place, int]:
        """The size of every axis."""
        tensors = {name: leaf for name, leaf in self.leaves.items() if isinstance(leaf, torch.Tensor)}
        return {(name, axis): int(size) for name, leaf in tensors.items() for axis, size in enumerate(leaf.shape)}

    def at(self, sizes: Sizes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs of other sizes.

        They are those of the example cut or repeated; floats that are all alike are drawn anew, since nothing could be told by them.
        """
        random = torch.Generator().manual_seed(SEED)
        spec = pytree.tree_structure((self.args, dict(self.kwargs)))
        made = [self._resized(name, leaf, sizes, random) for name, leaf in self.leaves.items()]
        args, kwargs = pytree.tree_unflatten(made, spec)
        return args, kwargs

    def _resized(self, name: str, leaf: Any, sizes: Sizes, random: torch.Generator) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        shape = tuple(sizes.get((name, axis), int(size)) for axis, size in enumerate(leaf.shape))
        if shape == tuple(leaf.shape):
            return leaf
        if leaf.is_floating_point() and leaf.numel() and bool((leaf == leaf.flatten()[0]).all()):
            return torch.randn(shape, generator=random).to(leaf)
        return stretched(leaf.detach(), shape)


@dataclass(frozen=True)
class Group:
    """Axes that a program takes for one size: what each of them is as a function of that size."""

    symbol: Any
    size: int
    axes: Mapping[Place, Any]

    def at(self, size: int) -> dict[Place, int]:
        """The axes at another size."""
        return {place: int(expression.subs({self.symbol: size})) for place, expression in self.axes.items()}

    @property
    def is_batch(self) -> bool:
        """Whether it is the first axis of every input that it stands in."""
        return all(axis == 0 for _, axis in self.axes)


def groups_of(shapes: Mapping[str, Sequence[Any]], sizes: Mapping[Place, int]) -> list[Group]:
    """The free sizes of a program's inputs. An axis that hangs on several of them is in the group of each."""
    expressions = {(name, axis): size.node.expr for name, shape in shapes.items() for axis, size in enumerate(shape) if fixed(size) is None}
    free = {place: expression for place, expression in expressions.items() if expression.free_symbols}
    symbols = sorted({symbol for expression in free.values() for symbol in expression.free_symbols}, key=str)
    found = []
    for symbol in symbols:
        axes = {place: expression for place, expression in free.items() if expression.free_symbols == {symbol}}
        plain = next((place for place, expression in axes.items() if expression == symbol), None)
        if plain is not None:
            found.append(Group(symbol, sizes[plain], axes))
    return found


@dataclass(frozen=True)
class Tries:
    """All sizes to try. `untried` are relations for which no size could be found that is small enough to run."""

    alone: tuple[tuple[Group, dict[Place, int]], ...]
    others: tuple[dict[Place, int], ...]
    untried: tuple[Condition, ...] = ()


@dataclass
class _Chooser:
    example: Mapping[Place, int]
    groups: Sequence[Group]
    conditions: Sequence[Condition]
    known: Sequence[Sizes]
    free: set[Place] = field(init=False)

    def __post_init__(self) -> None:
        self.free = {place for group in self.groups for place in group.axes}

    def choose(self) -> Tries:
        alone = [(group, group.at(size)) for group in self.groups for size in self._sizes(group)]
        broken: list[dict[Place, int]] = []
        untried: list[Condition] = []
        for condition in self.conditions:
            if self.free.isdisjoint(condition.places):
                continue
            found = list(itertools.islice(self._breaking(condition), BROKEN))
            broken += found
            if not found and self._breaks_far_away(condition):
                untried.append(condition)
        known = [{place: size for place, size in sizes.items() if size != self.example[place]} for sizes in self.known]
        others = [*self._torn(), *broken, *self._together(), *(one for one in known if self.free.issuperset(one))]
        unique = {tuple(sorted(one.items())): one for one in others if self._fits(one)}
        return Tries(tuple(one for one in alone if self._fits(one[1])), tuple(unique.values()), tuple(untried))

    def _sizes(self, group: Group) -> list[int]:
        """Few sizes that differ in kind: the smallest, the example's neighbours and parts, and some that all relations allow."""
        if group.is_batch:
            return [size for size in dict.fromkeys((1, 2, 3, group.size + 1, 0)) if size != group.size]
        n = group.size
        near = (1, 2, 3, 5, n // 4, n // 2, 3 * n // 4, n - 1, n + 1, 3 * n // 2)
        allowed = [size for size in range(1, n + NEAR) if size != n and self._allows(group.at(size))]
        picked = (*allowed[:2], *allowed[len(allowed) // 2 :][:1], *allowed[-1:])
        return sorted({size for size in (*near, *picked) if size > 0 and size != n})

    def _torn(self) -> Iterator[dict[Place, int]]:
        """Each axis of a group apart from the others."""
        for group in self.groups:
            for place in group.axes if len(group.axes) > 1 else ():
                n = self.example[place]
                yield from ({place: size} for size in (1, 2, n + 1, n // 2, 2 * n) if size > 0 and size != n)

    def _together(self) -> Iterator[dict[Place, int]]:
        """Several sizes at once, small ones and unlike each other."""
        spatial = [group for group in self.groups if not group.is_batch]
        for shares in ((2,), (4, 2), (2, 4), (3, 3)):
            sizes = [max(1, group.size // shares[position % len(shares)]) for position, group in enumerate(spatial)]
            batches = [group.at(3) for group in self.groups if group.is_batch] if shares == (2,) else []
            yield {place: size for one in (*batches, *map(Group.at, spatial, sizes)) for place, size in one.items()}
        if len(spatial) > 1:
            yield {
                place: size
                for group, size in zip(spatial, (1, *[group.size for group in spatial[1:]]), strict=True)
                for place, size in group.at(size).items()
            }

    def _breaking(self, condition: Condition) -> Iterator[dict[Place, int]]:
        """Sizes that break a relation, of one axis at a time; those that break no other come first."""
        found: list[dict[Place, int]] = []
        for place in condition.places:
            if place in self.free:
                n = self.example[place]
                turns = {number + step for number in condition.numbers for step in (-1, 0, 1) if n + NEAR < number + step}
                reach = sorted({*range(1, n + NEAR + 1), *turns}, key=lambda size: abs(size - n))
                broken = [sizes for sizes in ({place: size} for size in reach) if not self._holds(condition, sizes) and self._fits(sizes)]
                found += [*broken[:2], *broken[-1:], *broken[len(broken) // 2 :][:1]]
        found.sort(key=lambda sizes: sum(not self._holds(other, sizes) for other in self.conditions))
        yield from found

    def _breaks_far_away(self, condition: Condition) -> bool:
        powers = [1 << power for power in range(6, FARTHEST)]
        return any(not self._holds(condition, {place: size}) for place in condition.places if place in self.free for size in powers)

    def _holds(self, condition: Condition, sizes: Sizes) -> bool:
        return condition.holds([sizes.get(place, self.example[place]) for place in condition.places])

    def _allows(self, sizes: Sizes) -> bool:
        return all(self._holds(condition, sizes) for condition in self.conditions)

    def _fits(self, sizes: Sizes) -> bool:
        return bool(sizes) and all(
            self._items(name, sizes) <= max(ITEMS, 2 * self._items(name, {})) and sizes.items() - self.example.items()
            for name in {name for name, _ in sizes}
        )

    def _items(self, name: str, sizes: Sizes) -> int:
        return math.prod(sizes.get(place, size) for place, size in self.example.items() if place[0] == name)


def choose_tries(
    example: Mapping[Place, int], groups: Sequence[Group], conditions: Sequence[Condition], known: Sequence[Sizes] = ()
) -> Tries:
    """Where to try a file that leaves these groups of axes free, of a network whose tracing took these conditions for granted.

    `known` are sizes that something was seen at before.
    """
    return _Chooser(example, groups, conditions, known).choose()
