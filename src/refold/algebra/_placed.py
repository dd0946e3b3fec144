"""The law of place: a map that acts along some axes of a tensor is the same map wherever a rearrangement carries those axes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from array_api_compat import array_namespace, device

from refold.algebra import _kernels
from refold.algebra._affine import AffineConv, Array, Obstruction, Stencil
from refold.algebra._combine import compose as compose_formulas
from refold.algebra._formula import Formula, Leaf, Memo
from refold.algebra._rearrangement import Rearrangement
from refold.algebra._selection import Selection
from refold.geometry import Window

LAW = "rearrangement"


class Carried(Formula):
    """A map that is another one on the other side of a rearrangement."""

    inner: Formula

    @property
    def peak(self) -> float:
        return self.inner.peak

    @property
    def rounding(self) -> float:
        return self.inner.rounding

    @property
    def depth(self) -> int:
        return 1 + self.inner.depth

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def anywhere(self) -> Array:
        return self.inner.anywhere

    def leaves(self) -> Iterator[Leaf]:
        yield from self.inner.leaves()


@dataclass(frozen=True, eq=False)
class Placed(Carried):
    """A map with its spatial axes in other places: axis i of this one is axis `axes[i]` of the inner one, or none that it moves along.

    What the inner map does not name here it must leave as it is.
    """

    inner: Formula
    axes: tuple[int | None, ...]

    @cached_property
    def stencil(self) -> Stencil:  # type: ignore[override]
        own = self.inner.stencil
        windows = tuple(Window(1) if axis is None else own.windows[axis] for axis in self.axes)
        return Stencil(own.in_channels, own.out_channels, own.groups, windows, own.mode)

    @property
    def fill(self) -> Array | None:  # type: ignore[override]
        return self.inner.fill

    def gain(self, level: Array) -> Array:
        return self.inner.gain(level)

    def swing(self, gap: Array) -> Array:
        return self.inner.swing(gap)

    @property
    def slack(self) -> Array | None:
        return self.inner.slack

    def _linear_part(self) -> Formula:
        return Placed(self.inner.linear_part(), self.axes)

    @property
    def key(self) -> Hashable:
        return (LAW, self.axes, self.inner.key)

    def _level(self, constant: Array | None) -> Array:
        return self.inner.level(constant)

    def block(self, rows: range | None, memo: Memo) -> AffineConv:
        inner = self.inner.block(rows, memo)
        xp = array_namespace(inner.kernel)
        named = [axis for axis in self.axes if axis is not None]
        rest = [axis for axis in range(inner.kernel.ndim - 2) if axis not in named]
        kernel = xp.permute_dims(inner.kernel, (0, 1, *(2 + axis for axis in (*named, *rest))))
        kernel = xp.reshape(kernel, (*inner.kernel.shape[:2], *self.stencil.taps))
        return AffineConv(kernel, inner.bias, self.stencil.windows, inner.groups, self.stencil.mode, inner.fill)


@dataclass(frozen=True, eq=False)
class Spread(Carried):
    """A scale and shift of each channel where each channel has become several: channel i is scaled as `places[i]` of the inner map is."""

    inner: Formula
    places: tuple[int, ...]
    rank: int

    @cached_property
    def stencil(self) -> Stencil:  # type: ignore[override]
        items = len(self.places)
        return Stencil(items, items, items, (Window(1),) * self.rank)

    fill = None

    def gain(self, level: Array) -> Array:
        xp = array_namespace(level)
        return xp.abs(self._taken(self._scale)) * level

    @property
    def slack(self) -> Array | None:
        slack = self.inner.slack
        return None if slack is None else self._taken(slack)

    def _linear_part(self) -> Formula:
        return Spread(self.inner.linear_part(), self.places, self.rank)

    @property
    def key(self) -> Hashable:
        return (LAW, self.places, self.rank, self.inner.key)

    def _level(self, constant: Array | None) -> Array:
        bias = self._taken(self.inner.level(None))
        return bias if constant is None else bias + self._taken(self._scale) * constant

    def block(self, rows: range | None, memo: Memo) -> AffineConv:
        scale, bias = self._taken(self._scale), self._taken(self.inner.level(None))
        xp = array_namespace(scale)
        kernel, groups = xp.reshape(scale, (-1, *([1] * (self.rank + 1)))), len(self.places)
        if rows is not None:
            kernel, bias, groups = _kernels.dense_rows(kernel, groups, rows), bias[rows.start : rows.stop], 1
        return AffineConv(kernel, bias, self.stencil.windows, groups)

    @cached_property
    def _scale(self) -> Array:
        kernel = self.inner.block(None, {}).kernel
        return array_namespace(kernel).reshape(kernel, (-1,))

    def _taken(self, numbers: Array) -> Array:
        xp = array_namespace(numbers)
        return xp.take(numbers, xp.asarray(self.places, dtype=xp.int64, device=device(numbers)))


def move_forward(formula: Formula, rearrangement: Rearrangement) -> tuple[Formula, Rearrangement] | Obstruction:
    """The map that does in front of a rearrangement what `formula` does behind it, and the rearrangement that is then behind it.

    Exact when the rearrangement carries the channels and every axis that the map moves along whole. Channels that it puts in another order
    within their own axis are put so by a map of many channels.
    """
    stencil = formula.stencil
    channel = len(rearrangement.outputs) - 1 - stencil.rank
    source = rearrangement.source(channel)
    if source is not None:
        return _moved(formula, source, rearrangement, stencil.rank)
    spread = _spread(formula, rearrangement, channel)
    if spread is not None:
        return spread, rearrangement
    ordered = rearrangement.order(channel)
    if ordered is None:
        return Obstruction(
            LAW,
            f"the {stencil.in_channels} channels are not one whole axis on the other side of the rearrangement between",
            "keep the channels in one axis between the two",
        )
    source, places = ordered
    if stencil.groups > 1:
        return Obstruction(
            LAW,
            f"the channels between are put in another order, and the second map takes them in {stencil.groups} groups",
            "put a map without groups behind the reordering",
        )
    moved = _moved(formula, source, rearrangement.unordered(channel), stencil.rank)
    if isinstance(moved, Obstruction):
        return moved
    placed, rest = moved
    rank = placed.stencil.rank
    composed = compose_formulas(placed, Selection(places, len(places), rank, placed.anywhere), (None,) * rank)
    return composed if isinstance(composed, Obstruction) else (composed, rest)


def move_back(formula: Formula, rearrangement: Rearrangement, channels: int | None = None) -> tuple[Formula, Rearrangement] | Obstruction:
    """The map that does behind a rearrangement what `formula` does in front of it, and the rearrangement that is then in front of it.

    `channels` are those that a map behind it takes, where the axis that holds them is free in name only.
    """
    inverse = rearrangement.inverse()
    channel = len(inverse.outputs) - 1 - formula.stencil.rank
    source = inverse.source(channel)
    spread = _spread(formula, inverse, channel, channels) if source is None else None
    if spread is not None:
        return spread, rearrangement
    if source is None:
        return Obstruction(
            LAW,
            f"the {formula.stencil.out_channels} channels are not one whole axis on the other side of the rearrangement between",
            "keep the channels in one axis between the two",
        )
    moved = _moved(formula, source, inverse, formula.stencil.rank)
    return moved if isinstance(moved, Obstruction) else (moved[0], rearrangement)


def _spread(formula: Formula, rearrangement: Rearrangement, channel: int, items: int | None = None) -> Formula | None:
    """A scale and shift of each channel on the axis of the input that tells the channel, whatever else that axis tells."""
    held = rearrangement.holder(channel, items) if formula.stencil.is_diagonal else None
    return None if held is None else Spread(formula, held[1], len(rearrangement.inputs) - 1 - held[0])


def _moved(formula: Formula, source: int, rearrangement: Rearrangement, rank: int) -> tuple[Formula, Rearrangement] | Obstruction:
    """The formula at the axes of the input, `source` among them for the channels."""
    channel, there = len(rearrangement.outputs) - 1 - rank, len(rearrangement.inputs) - 1 - source
    axes: list[int | None] = [None] * there
    for axis, window in enumerate(formula.stencil.windows):
        if window.is_point:
            continue
        place = rearrangement.source(channel + 1 + axis)
        if place is None or place < source:
            return Obstruction(
                LAW,
                f"the map moves along axis {axis} behind its channels, which the rearrangement between does not carry",
                "keep the spatial axes whole and behind the channels",
            )
        axes[place - source - 1] = axis
    return placed(formula, tuple(axes)), rearrangement


def placed(formula: Formula, axes: Sequence[int | None]) -> Formula:
    """The map with its spatial axes in other places."""
    if tuple(axes) == tuple(range(formula.stencil.rank)):
        return formula
    if isinstance(formula, Selection):
        return Selection(formula.sources, formula.channels, len(axes), formula.like)
    return Placed(formula, tuple(axes))
