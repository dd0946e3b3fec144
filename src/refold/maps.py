"""What a linear node makes of one of its inputs: scale, formula, or one of these between rearrangements; sums and compositions of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from refold.algebra import (
    Formula,
    Leaf,
    Obstruction,
    Rearrangement,
    Selection,
    Sizes,
    Stencil,
    add_formulas,
    compose_formulas,
    identity,
    move_back,
    move_forward,
    scale_and_shift,
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """`scale * x + shift`, the same for every channel, so that it acts along any axis."""

    scale: float = 1.0
    shift: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.scale == 1.0 and self.shift == 0.0


IDENTITY = Scalar()


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the network: its shape with None where a size is free, and the sizes that the example had."""

    name: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...]

    def sizes(self, rank: int) -> Sizes:
        """The last `rank` sizes, those of the spatial axes."""
        return self.shape[len(self.shape) - rank :]


@dataclass(frozen=True, slots=True)
class Step:
    """One operator that only rearranges a tensor, to be written again as node `name` has it.

    `example` is the shape of its output in the example and `reads` names other values whose shape it asks for. `resized` is the axis of its
    output that has another number of items than in the model, and that number; not every operator can be written so. `mean_of` is how many
    items of the example a mean is taken of. `stated` is the shape to write where the model works it out: 0 for a size that stays.
    """

    name: str
    rearrangement: Rearrangement
    example: tuple[int, ...]
    reads: tuple[str, ...] = ()
    is_flexible: bool = True
    resized: tuple[int, int] | None = None
    mean_of: int = 1
    stated: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A chain of operators that only rearrange, and what it does in all."""

    steps: tuple[Step, ...]
    rearrangement: Rearrangement

    @property
    def value(self) -> Value:
        """What it gives."""
        return Value(self.steps[-1].name, self.rearrangement.shape, self.steps[-1].example)

    def resized(self, axis: int, items: int) -> Layout | Obstruction:
        """The same for an input with so many items on an axis."""
        if self.rearrangement.sizes[self.rearrangement.inputs[axis][0]] == (items, ()):
            return self
        total, steps, place = self.rearrangement.resized(axis, items), [], axis
        for step in self.steps:
            factors = step.rearrangement.inputs[place]
            if factors not in step.rearrangement.outputs or not step.is_flexible:
                return Obstruction(
                    "rearrangement",
                    f"`{step.name}` between the two states the number of channels, which would be {items} there",
                    "let it work that size out, or keep the number of channels",
                )
            changed = step.rearrangement.resized(place, items)
            place = step.rearrangement.outputs.index(factors)
            example = tuple(items if other == place else size for other, size in enumerate(step.example))
            steps.append(replace(step, rearrangement=changed, example=example, resized=(place, items)))
        return Layout(tuple(steps), total)


@dataclass(frozen=True, slots=True)
class Moved:
    """`after(inner(before(x)))`: a map between rearrangements of its input and of its output."""

    inner: Scalar | Formula
    before: Layout | None = None
    after: Layout | None = None

    @property
    def stencil(self) -> Stencil:
        """That of the map between; of one channel where it acts on all alike."""
        return Stencil(1, 1, 1, ()) if isinstance(self.inner, Scalar) else self.inner.stencil

    @property
    def steps(self) -> tuple[Step, ...]:
        """The operators that rearrange, in order."""
        return tuple(step for layout in (self.before, self.after) if layout is not None for step in layout.steps)

    @property
    def longest(self) -> int:
        """Numbers of the longest sum of its output, those of means counted."""
        return sum(step.mean_of for step in self.steps) + (0 if isinstance(self.inner, Scalar) else self.inner.stencil.fan_in)

    def leaves(self) -> Iterator[Leaf]:
        """The values that it is made of."""
        return iter(()) if isinstance(self.inner, Scalar) else self.inner.leaves()


Map: TypeAlias = "Scalar | Formula | Moved"
"""What a linear node makes of one of its inputs."""


def as_moved(mapped: Map) -> Moved:
    """A map with its rearrangements, which may be none."""
    return mapped if isinstance(mapped, Moved) else Moved(mapped)


def sum_maps(left: Map, right: Map, root: Value) -> Map | Obstruction:
    """`left(x) + right(x)` for the root value x."""
    if not isinstance(left, Moved) and not isinstance(right, Moved):
        return _sum(left, right, root)
    one, other = as_moved(left), as_moved(right)
    if not _alike(one, other):
        one, other = _in_front(one), _in_front(other)
    if not _alike(one, other):
        return Obstruction("sum", "the two maps rearrange what they read in different ways", "rearrange alike in both branches")
    total = _sum(one.inner, other.inner, _seen(one.before, root))
    return total if isinstance(total, Obstruction) else Moved(total, one.before, one.after)


def compose_maps(second: Map, first: Map, root: Value) -> Map | Obstruction:
    """`second(first(x))` for the root value x.

    A rearrangement that stands between the two lets the second pass to its front or the first to its back, where it carries what they act
    on; rearrangements that undo each other vanish.
    """
    if not isinstance(second, Moved) and not isinstance(first, Moved):
        return _compose(second, first, root)
    outer, inner = as_moved(second), as_moved(first)
    middle = _join(inner.after, outer.before)
    if isinstance(middle, Obstruction):
        return middle
    if middle is None:
        mapped = _compose(outer.inner, inner.inner, _seen(inner.before, root))
        return mapped if isinstance(mapped, Obstruction) else _settled(inner.before, mapped, outer.after)
    ways = [_compose_in_front, _compose_behind]
    if middle.rearrangement.averages or isinstance(inner.inner, Scalar) or (_is_diagonal(inner.inner) and not _is_diagonal(outer.inner)):
        ways.reverse()
    results = []
    for way in ways:
        result = way(outer, middle, inner, root)
        if not isinstance(result, Obstruction):
            return result
        results.append(result)
    return results[0]


def _compose_in_front(outer: Moved, middle: Layout, inner: Moved, root: Value) -> Map | Obstruction:
    passed = _forward(outer.inner, middle)
    if isinstance(passed, Obstruction):
        return passed
    mapped = _compose(passed[0], inner.inner, _seen(inner.before, root))
    after = _join(passed[1], outer.after)
    if isinstance(mapped, Obstruction):
        return mapped
    return after if isinstance(after, Obstruction) else _settled(inner.before, mapped, after)


def _compose_behind(outer: Moved, middle: Layout, inner: Moved, root: Value) -> Map | Obstruction:
    passed = _back(inner.inner, middle, None if isinstance(outer.inner, Scalar) else outer.inner.stencil.in_channels)
    if isinstance(passed, Obstruction):
        return passed
    before = _join(inner.before, passed[1])
    if isinstance(before, Obstruction):
        return before
    mapped = _compose(outer.inner, passed[0], _seen(before, root))
    return mapped if isinstance(mapped, Obstruction) else _settled(before, mapped, outer.after)


def without_bias(mapped: Map) -> Map:
    """The linear part of a map."""
    if isinstance(mapped, Moved):
        bare = without_bias(mapped.inner)
        assert not isinstance(bare, Moved)
        return Moved(bare, mapped.before, mapped.after)
    if isinstance(mapped, Scalar):
        return Scalar(mapped.scale)
    return mapped.linear_part()


def _alike(one: Moved, other: Moved) -> bool:
    """Whether two maps rearrange alike."""
    pairs = ((one.before, other.before), (one.after, other.after))
    return all((a and a.rearrangement) == (b and b.rearrangement) for a, b in pairs)


def _in_front(mapped: Moved) -> Moved:
    """The map with all that is rearranged behind it, where it passes."""
    passed = mapped if mapped.before is None else _forward(mapped.inner, mapped.before)
    if isinstance(passed, (Moved, Obstruction)):
        return mapped
    after = _join(passed[1], mapped.after)
    return mapped if isinstance(after, Obstruction) else Moved(passed[0], None, after)


def _settled(before: Layout | None, inner: Scalar | Formula, after: Layout | None) -> Map:
    """The map with rearrangements that undo each other across it gone, and those of channels alone taken into it."""
    mapped = Moved(inner, before, after)
    if before is not None:
        other = _in_front(mapped)
        if len(other.steps) < len(mapped.steps) or isinstance(inner, Scalar):
            mapped = other
    if mapped.before is None and mapped.after is not None and isinstance(mapped.inner, Formula):
        mapped = _with_order(mapped.inner, mapped.after)
    return mapped.inner if mapped.before is None and mapped.after is None else mapped


def _with_order(inner: Formula, after: Layout) -> Moved:
    """The map with its channels put in the order that a rearrangement behind it gives them, where it does no more than that."""
    moved, stencil = after.rearrangement, inner.stencil
    axis = len(moved.inputs) - 1 - stencil.rank
    ordered = moved.order(axis) if len(moved.outputs) == len(moved.inputs) else None
    if stencil.groups == 1 and ordered is not None and ordered[0] == axis and moved.unordered(axis).is_identity:
        chosen = Selection(ordered[1], len(ordered[1]), stencil.rank, inner.anywhere)
        composed = compose_formulas(chosen, inner, (None,) * stencil.rank)
        if not isinstance(composed, Obstruction):
            return Moved(composed)
    return Moved(inner, None, after)


def _join(first: Layout | None, second: Layout | None) -> Layout | Obstruction | None:
    """One rearrangement after another: None where nothing is rearranged in all."""
    if first is None or second is None:
        return second if first is None else first
    steps = list(first.steps)
    for step in second.steps:
        steps.append(step)
        total: Rearrangement | None = None
        for start in reversed(range(len(steps))):
            own = steps[start].rearrangement
            total = own if total is None else own.then(total)
            if total is None:
                return Obstruction("rearrangement", "two rearrangements split an axis in ways that have nothing in common", "split it once")
            if total.is_identity:
                del steps[start:]
                break
    if not steps:
        return None
    total = steps[0].rearrangement
    for step in steps[1:]:
        joined = total.then(step.rearrangement)
        assert joined is not None
        total = joined
    return Layout(tuple(steps), total)


def _forward(mapped: Scalar | Formula, layout: Layout) -> tuple[Scalar | Formula, Layout | None] | Obstruction:
    """The map that does in front of a layout what this one does behind it, and the layout that is then behind it."""
    if isinstance(mapped, Scalar):
        return mapped, layout
    passed = move_forward(mapped, layout.rearrangement)
    if isinstance(passed, Obstruction):
        return passed
    formula, rest = passed
    if rest.is_identity:
        return formula, None
    if rest != layout.rearrangement:
        return Obstruction("rearrangement", "the channels are put in another order and moved to another axis", "do one of the two")
    if formula.stencil.is_diagonal:
        return formula, layout
    return _resized(formula, layout, len(rest.inputs) - 1 - formula.stencil.rank, formula.stencil.out_channels)


def _back(mapped: Scalar | Formula, layout: Layout, channels: int | None) -> tuple[Scalar | Formula, Layout] | Obstruction:
    """The map that does behind a layout what this one does in front of it, and the layout that is then in front of it."""
    if isinstance(mapped, Scalar):
        return mapped, layout
    passed = move_back(mapped, layout.rearrangement, channels)
    if isinstance(passed, Obstruction):
        return passed
    if mapped.stencil.is_diagonal:
        return passed[0], layout
    axis = len(layout.rearrangement.inputs) - 1 - mapped.stencil.rank
    return _resized(passed[0], layout, axis, mapped.stencil.in_channels)


def _resized(formula: Formula, layout: Layout, axis: int, channels: int) -> tuple[Formula, Layout] | Obstruction:
    if any(window.stride > 1 or window.upsample > 1 or window.excess != -1 for window in formula.stencil.windows):
        return Obstruction("rearrangement", "the map changes sizes that the rearrangement beside it states", "keep the sizes")
    resized = layout.resized(axis, channels)
    return resized if isinstance(resized, Obstruction) else (formula, resized)


def _seen(layout: Layout | None, root: Value) -> Value:
    return root if layout is None else layout.value


def _is_diagonal(mapped: Scalar | Formula) -> bool:
    return isinstance(mapped, Scalar) or mapped.stencil.is_diagonal


def _sum(left: Scalar | Formula, right: Scalar | Formula, root: Value) -> Scalar | Formula | Obstruction:
    if isinstance(left, Scalar) and isinstance(right, Scalar):
        return Scalar(left.scale + right.scale, left.shift + right.shift)
    if isinstance(left, Selection) and isinstance(right, Selection):
        joined = _joined(left, right)
        if joined is not None:
            return joined
    if isinstance(left, Scalar):
        return _sum(right, left, root)
    if isinstance(right, Scalar):
        if right.scale == 0.0 and right.shift == 0.0:
            return left
        right = _as_formula(right, left, left.stencil.in_channels)
    return add_formulas(left, right, root.sizes(left.stencil.rank))


def _compose(second: Scalar | Formula, first: Scalar | Formula, root: Value) -> Scalar | Formula | Obstruction:
    if isinstance(second, Scalar) and isinstance(first, Scalar):
        return Scalar(second.scale * first.scale, second.scale * first.shift + second.shift)
    if isinstance(second, Scalar):
        assert not isinstance(first, Scalar)
        if second.is_identity:
            return first
        second = _as_formula(second, first, first.stencil.out_channels)
    elif isinstance(first, Scalar):
        if first.is_identity:
            return second
        first = _as_formula(first, second, second.stencil.in_channels)
    if isinstance(second, Selection) and isinstance(first, Selection) and second.rank == first.rank:
        return _plain(replace(first, sources=tuple(None if one is None else first.sources[one] for one in second.sources)))
    return compose_formulas(second, first, root.sizes(first.stencil.rank))


def _joined(left: Selection, right: Selection) -> Scalar | Selection | None:
    """The sum of two selections of one value, where no channel of the output has both."""
    alike = (left.channels, left.rank, len(left.sources)) == (right.channels, right.rank, len(right.sources))
    pairs = list(zip(left.sources, right.sources, strict=True)) if alike else [(0, 0)]
    if any(one is not None and other is not None for one, other in pairs):
        return None
    return _plain(replace(left, sources=tuple(other if one is None else one for one, other in pairs)))


def _plain(selection: Selection) -> Scalar | Selection:
    """A selection, or the identity where it changes nothing."""
    return IDENTITY if selection.sources == tuple(range(selection.channels)) else selection


def _as_formula(scalar: Scalar, like: Formula, channels: int) -> Leaf:
    plain = identity(channels, like.stencil.rank, like.anywhere)
    if scalar.is_identity:
        return Leaf(plain, origin=("identity", channels))
    ones = plain.kernel.reshape(-1)
    value = scale_and_shift(ones * scalar.scale, ones * scalar.shift, like.stencil.rank)
    return Leaf(value, origin=("scalar", scalar.scale, scalar.shift, channels))
