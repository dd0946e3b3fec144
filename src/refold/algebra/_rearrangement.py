"""Rearrangements of a tensor: permutations, reshapes and means as one value, which puts the factors that the axes are made of in order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, tuple[str, ...]]
"""A number of items: a known factor and the names of free ones."""


def size_of(known: int, *free: str) -> Size:
    """A size; a free factor that occurs twice is named twice."""
    return known, tuple(sorted(free))


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """What a chain of permutations, reshapes and means does: every axis is a product of factors, and the factors are put in another order.

    `sizes` are those of the factors, in the order of the input; `inputs` and `outputs` hold the factors of each axis, from the outermost.
    An axis of one item has none; over a factor that no output has, the mean is taken. No two factors always go side by side, so that equal
    rearrangements are equal values.

    >>> shape = [size_of(2), size_of(6), size_of(5)]
    >>> split = Rearrangement.reshape(shape, [size_of(2), size_of(2), size_of(3), size_of(5)])
    >>> split.inputs, split.outputs
    (((0,), (1, 2), (3,)), ((0,), (1,), (2,), (3,)))
    """

    sizes: tuple[Size, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]

    @classmethod
    def permutation(cls, shape: Sequence[Size], order: Sequence[int]) -> Rearrangement:
        """Axis i of the output is axis `order[i]` of the input.

        >>> Rearrangement.permutation([size_of(1, "n"), size_of(4), size_of(7)], (0, 2, 1)).outputs
        ((0,), (2,), (1,))
        """
        axes = _plain(shape)
        return _merged([size for size in shape if size != ONE], axes, [axes[axis] for axis in order])

    @classmethod
    def reshape(cls, shape: Sequence[Size], wanted: Sequence[Size]) -> Rearrangement | None:
        """The same items in the same order under another shape; None where sizes do not divide one another."""
        pieces = _refine(shape, wanted)
        if pieces is None:
            return None
        axes = ([[number for number, piece in enumerate(pieces) if piece[side] == axis] for axis in range(n)] for side, n in
                ((0, len(shape)), (1, len(wanted))))  # fmt: skip
        return _merged([size for _, _, size in pieces], *axes)

    @classmethod
    def mean(cls, shape: Sequence[Size], over: Sequence[int], *, keeps: bool) -> Rearrangement:
        """The mean over some axes, which keep one item or go.

        >>> Rearrangement.mean([size_of(2), size_of(3), size_of(5)], [1], keeps=True).outputs
        ((0,), (), (2,))
        """
        axes = _plain(shape)
        left = [[] if axis in over else factors for axis, factors in enumerate(axes) if keeps or axis not in over]
        return _merged([size for size in shape if size != ONE], axes, left)

    def then(self, second: Rearrangement) -> Rearrangement | None:
        """This one and after it the second; None where the two split an axis in ways that have no common one.

        >>> shape = [size_of(6), size_of(5)]
        >>> split = Rearrangement.reshape(shape, [size_of(2), size_of(3), size_of(5)])
        >>> split.then(split.inverse()).is_identity
        True
        """
        sizes: list[Size] = []
        mine: dict[int, list[int]] = {}
        theirs: dict[int, list[int]] = {}
        if len(self.outputs) != len(second.inputs):
            return None
        for own, other in zip(self.outputs, second.inputs, strict=True):
            pieces = _refine([self.sizes[one] for one in own], [second.sizes[one] for one in other])
            if pieces is None:
                return None
            for left, right, size in pieces:
                mine.setdefault(own[left], []).append(len(sizes))
                theirs.setdefault(other[right], []).append(len(sizes))
                sizes.append(size)
        for one, size in enumerate(self.sizes):
            if one not in mine:
                mine[one] = [len(sizes)]
                sizes.append(size)
        return _merged(
            sizes,
            [[new for one in axis for new in mine[one]] for axis in self.inputs],
            [[new for one in axis for new in theirs[one]] for axis in second.outputs],
        )

    def inverse(self) -> Rearrangement:
        """What puts everything back.

        A factor that a mean was taken over is in no axis that this reads, and stays in the axis that it comes from: that axis is not whole.
        """
        return (
            Rearrangement(self.sizes, self.outputs, self.inputs) if self.averages else _merged(list(self.sizes), self.outputs, self.inputs)
        )

    @property
    def averages(self) -> bool:
        """Whether a mean is taken."""
        return sum(map(len, self.outputs)) < len(self.sizes)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.inputs == self.outputs

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The sizes of the output, None where they are free."""
        totals = [math.prod(self.sizes[one][0] for one in axis) for axis in self.outputs]
        return tuple(None if any(self.sizes[one][1] for one in axis) else total for axis, total in zip(self.outputs, totals, strict=True))

    def source(self, axis: int) -> int | None:
        """The axis of the input that is this axis of the output, whole and in order; None where there is none or it has one item."""
        factors = self.outputs[axis]
        return self.inputs.index(factors) if factors and factors in self.inputs else None

    def order(self, axis: int) -> tuple[int, tuple[int, ...]] | None:
        """The axis of the input that is this axis of the output in another order, and which item of it each item is.

        >>> groups, back = [size_of(2), size_of(3)], [size_of(6)]
        >>> swapped = Rearrangement.reshape(back, groups).then(Rearrangement.permutation(groups, (1, 0)))
        >>> swapped.then(Rearrangement.reshape(groups[::-1], back)).order(0)
        (0, (0, 3, 1, 4, 2, 5))
        """
        factors = self.outputs[axis]
        for source, own in enumerate(self.inputs):
            if factors and sorted(factors) == sorted(own) and not any(self.sizes[one][1] for one in own):
                steps = {one: math.prod(self.sizes[inner][0] for inner in own[own.index(one) + 1 :]) for one in own}
                places = [0]
                for one in factors:
                    places = [place + steps[one] * item for place in places for item in range(self.sizes[one][0])]
                return source, tuple(places)
        return None

    def holder(self, axis: int, items: int | None = None) -> tuple[int, tuple[int, ...]] | None:
        """The axis of the input that tells the item of this axis of the output, and which item that is for each of its own.

        `items` are those of that axis where its size is free in name only.

        >>> shape = [size_of(1, "n"), size_of(2), size_of(3)]
        >>> Rearrangement.reshape([shape[0], size_of(6)], shape).holder(2)
        (1, (0, 1, 2, 0, 1, 2))
        """
        factors = self.outputs[axis]
        for source, own in enumerate(self.inputs):
            if not factors or not set(factors) <= set(own) or any(self.sizes[one][1] for one in factors):
                continue
            known = math.prod(self.sizes[one][0] for one in own)
            free = [place for place, one in enumerate(own) if self.sizes[one][1]]
            if free and (items is None or items % known or free != list(range(free[0], free[-1] + 1))):
                return None
            steps = {one: math.prod(self.sizes[inner][0] for inner in factors[factors.index(one) + 1 :]) for one in factors}
            places = [0]
            for place, one in enumerate(own):
                count = self.sizes[one][0] * ((items or known) // known if place in free[:1] else 1)
                places = [start + steps.get(one, 0) * item for start in places for item in range(count)]
            return source, tuple(places)
        return None

    def unordered(self, axis: int) -> Rearrangement:
        """The same with the factors of one axis of the output left in the order of the input."""
        return _merged(list(self.sizes), self.inputs, [sorted(one) if number == axis else one for number, one in enumerate(self.outputs)])

    def resized(self, axis: int, items: int) -> Rearrangement:
        """The same for an input with so many items on an axis that is carried whole."""
        (factor,) = self.inputs[axis]
        sizes = [size_of(items) if number == factor else size for number, size in enumerate(self.sizes)]
        if items > 1:
            return Rearrangement(tuple(sizes), self.inputs, self.outputs)
        without = [[[one for one in held if one != factor] for held in axes] for axes in (self.inputs, self.outputs)]
        return _merged(sizes, *without)


ONE: Size = (1, ())


def _plain(shape: Sequence[Size]) -> list[list[int]]:
    """One factor for each axis of more than one item."""
    axes, number = [], 0
    for size in shape:
        axes.append([number] if size != ONE else [])
        number += size != ONE
    return axes


def _merged(sizes: list[Size], inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> Rearrangement:
    """The value with factors that go side by side made one, numbered in the order of the input."""
    follows = {left: right for axis in outputs for left, right in itertools.pairwise(axis)}
    joined: dict[int, int] = {}
    kept: list[Size] = []
    here = {one for axis in outputs for one in axis}
    for axis in inputs:
        for position, one in enumerate(axis):
            before = axis[position - 1] if position else None
            if before is not None and (follows.get(before) == one or not {before, one} & here):
                kept[-1] = _product(kept[-1], sizes[one])
            else:
                joined[one] = len(kept)
                kept.append(sizes[one])
    return Rearrangement(
        tuple(kept),
        tuple(tuple(joined[one] for one in axis if one in joined) for axis in inputs),
        tuple(tuple(joined[one] for one in axis if one in joined) for axis in outputs),
    )


def _refine(left: Sequence[Size], right: Sequence[Size]) -> list[tuple[int, int, Size]] | None:
    """The common factors of two products: for each the place on the left, the place on the right, and its size."""
    pieces: list[tuple[int, int, Size]] = []
    mine, theirs = ([(place, size) for place, size in enumerate(sizes) if size != ONE][::-1] for sizes in (left, right))
    while mine and theirs:
        (one, size), (other, wanted) = mine.pop(), theirs.pop()
        rest, missing = _quotient(size, wanted), _quotient(wanted, size)
        if rest is not None:
            pieces.append((one, other, wanted))
            if rest != ONE:
                mine.append((one, rest))
        elif missing is not None:
            pieces.append((one, other, size))
            theirs.append((other, missing))
        else:
            return None
    return None if mine or theirs else pieces


def _product(one: Size, other: Size) -> Size:
    return one[0] * other[0], tuple(sorted((*one[1], *other[1])))


def _quotient(size: Size, divisor: Size) -> Size | None:
    left = list(size[1])
    for name in divisor[1]:
        if name not in left:
            return None
        left.remove(name)
    return (size[0] // divisor[0], tuple(left)) if divisor[0] and size[0] % divisor[0] == 0 else None
