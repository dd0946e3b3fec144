"""At which sizes a region is run both ways: at every residue of its strides, and at the smallest, where its borders overlap.

A window repeats itself: what it reads at `n + stride` items is what it reads at `n` and one position more in the middle. So a size stands
for all that are congruent to it modulo the strides, once both borders and a middle lie apart from one another.

The sizes are only suggested here. Whether a region takes one is found by running the original, so that a fault in the arithmetic of
windows cannot hide the sizes at which it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from refold.errors import GeometryError, VerificationError
from refold.geometry import Window
from refold.graph import Graph, Linear
from refold.maps import Map, Moved, Scalar, as_moved
from refold.verification import RegionEvidence, judge_region

Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"
"""The shape of each value that a region reads."""

Stated: TypeAlias = "Mapping[str, Sequence[int | None]]"
"""The shape of each value that a region reads, as it is known: None for an axis that is free."""

Run: TypeAlias = "Callable[[Shapes], RegionEvidence | None]"
"""Runs a region both ways: None where the original does not run on these shapes."""

RESIDUES = 64
"""Residues of one axis that are tried; where its strides have more in common, they are taken evenly among them."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Sizes of one region. `base` is the smallest with both borders and a middle on every axis.

    Each of `others` holds shapes of which the first alone is run where the original takes it; the rest change one axis each and are run
    where it does not. `spatial` are the sizes of the spatial axes alone, equal for regions that differ in their channels.
    """

    base: Shapes
    others: tuple[tuple[Shapes, ...], ...] = ()
    spatial: object = None


def sizes_of(graph: Graph, value: str, form: Mapping[str, Map], nodes: Sequence[Linear]) -> Trials:
    """The sizes for a region of linear `nodes` that became `form`, none of whose maps rearranges anything.

    An axis whose size is fixed stays congruent to that. Axes take their sizes in one trial, the first from its smallest upwards and the
    next from its largest downwards, so that each size of each axis is seen beside a size of the other that has a middle, or nearly.
    """
    region = _Region(graph, value, form, nodes)
    columns = {axis: region.columns(axis) for axis in region.spatial}
    start = {axis: column[0] for axis, column in columns.items()}
    base = region.shapes(start, lead=1)
    others: list[tuple[Shapes, ...]] = [(region.shapes(start, lead=2),)]
    for number in range(1, max(map(len, columns.values()), default=1)):
        chosen = {axis: _turn(column, number, backwards=bool(place % 2)) for place, (axis, column) in enumerate(columns.items())}
        alone = [{**start, axis: one} for axis, one in chosen.items()] if len(chosen) > 1 else []
        others.append(tuple(region.shapes(one, lead=1) for one in (chosen, *alone)))
    spatial = [[tuple(one.values()) for one in column] for column in columns.values()]
    return Trials(base, tuple(tried for tried in others if dict(tried[0]) != dict(base)), spatial)


def run_trials(
    run: Run, first: Sequence[Shapes], others: Iterable[Sequence[Shapes]] = (), stated: Stated | None = None
) -> RegionEvidence | None:
    """The evidence at the first of these shapes that the original takes, with that of all others that it takes; None if it takes none.

    `stated` are the shapes of the values that are read. A fixed axis is made smaller where that shows the same for less. Places that the
    graph states, as those of a slice, are not made smaller with it: what does not pass, or does not run, is run again with fixed axes as
    they are, and that decides.
    """

    def decide(shapes: Shapes) -> RegionEvidence | None:
        actual = {root: _as_fixed((stated or {}).get(root, ()), shape) for root, shape in shapes.items()}
        try:
            evidence = run(shapes)
            if evidence is None or actual == dict(shapes) or judge_region(evidence).passed:
                return evidence
        except VerificationError:
            if actual == dict(shapes):
                raise
            return run(actual)
        return run(actual) or evidence

    evidence = next(filter(None, map(decide, first)), None)
    if evidence is None:
        return None
    further: list[RegionEvidence] = []
    for tried in others:
        whole = decide(tried[0])
        found = [whole] if whole is not None else [one for one in map(decide, tried[1:]) if one is not None]
        further.extend(found)
    return replace(evidence, further=tuple(further))


def _as_fixed(stated: Sequence[int | None], shape: Sequence[int]) -> tuple[int, ...]:
    """A shape with the sizes that are stated; one of another rank stays as it is."""
    if len(stated) != len(shape):
        return tuple(shape)
    return tuple(size if known is None else known for known, size in zip(stated, shape, strict=True))


def share(keys: Mapping[str, object], weights: Mapping[str, int]) -> dict[str, str]:
    """For each region the one that is run at every size for it: the lightest with the same key.

    Regions have the same key where their operators are the same, with the same arguments, on both sides. They differ in their numbers
    alone, which `base` shows for each: every tap and every border is read there.
    """
    lightest: dict[object, str] = {}
    for name, key in keys.items():
        other = lightest.setdefault(key, name)
        if weights[name] < weights[other]:
            lightest[key] = name
    return {name: lightest[key] for name, key in keys.items()}


@dataclass(slots=True)
class _Region:
    """Where the axes of a region lie, counted from the last backwards, since the values that it reads may have more or fewer."""

    graph: Graph
    value: str
    form: Mapping[str, Map]
    nodes: Sequence[Linear]
    spatial: list[int] = field(default_factory=list)
    channels: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for mapped in self.form.values():
            assert not isinstance(mapped, Moved)
            if not isinstance(mapped, Scalar):
                self.channels[-1 - mapped.stencil.rank] = mapped.stencil.out_channels
        axes = {-1 - axis for mapped in self.form.values() for axis in range(as_moved(mapped).stencil.rank)}
        self.spatial = sorted(axes)

    def columns(self, axis: int) -> list[dict[str, int]]:
        """What the roots may be at a spatial axis, together; the first has both borders and a middle."""
        windows = self._windows(axis)
        held = {root: size for root in windows if (size := self.graph.values[root].shape[axis]) is not None}
        primary = max(windows, key=lambda root: (windows[root].stride, windows[root].kernel, root in held))
        window = windows[primary]
        total = self.channels.get(axis)
        if total is None:
            total = self._with_middle(axis, list(windows.values()))
            total = min([total, *(_positions(windows[root], size) for root, size in held.items())])
        if held or axis in self.channels:
            return [{root: _congruent(one, total, held.get(root)) for root, one in windows.items()}]
        start = _over(window, total)[0]
        period = self._period(axis, windows.values())
        step = max(1, period // RESIDUES)
        least = _over(window, 1)[0]
        sizes = dict.fromkeys((*range(start, start + period + 1, step), 1, 2, least, least + 1, (start + 1) // 2))
        columns = []
        for size in sizes:
            try:
                choices = {root: _over(one, window.output_size(size)) for root, one in windows.items()}
            except GeometryError:  # too small by the arithmetic of windows; the original has the last word
                choices = {root: range(size, size + 1) for root in windows}
            if all(choices.values()):
                columns.append({root: size if root == primary else one[size % len(one)] for root, one in choices.items()})
        return columns or [{root: _congruent(one, total, None) for root, one in windows.items()}]

    def shapes(self, chosen: Mapping[int, Mapping[str, int]], *, lead: int) -> Shapes:
        """The shapes of all roots with the sizes that were chosen for their spatial axes, and `lead` items on axes in front of channels."""
        output = self.graph.values[self.value]
        sizes = {-1 - axis: self._size(-1 - axis, chosen, lead) for axis in range(len(output.example))}
        shapes = {}
        for root, mapped in self.form.items():
            shape = dict(sizes)
            if not isinstance(mapped, Scalar):
                stencil = as_moved(mapped).stencil
                shape[-1 - stencil.rank] = stencil.in_channels
                shape |= {-1 - axis: chosen[-1 - axis][root] for axis in range(stencil.rank)}
            shapes[root] = tuple(shape[axis] for axis in sorted(shape))
        return shapes

    def _size(self, axis: int, chosen: Mapping[int, Mapping[str, int]], lead: int) -> int:
        """The size of an axis of the output."""
        if axis in self.channels:
            return self.channels[axis]
        if axis in chosen:
            windows = self._windows(axis)
            root = max(windows, key=lambda one: windows[one].stride)
            return _positions(windows[root], chosen[axis][root])
        known = self.graph.values[self.value].shape[axis]
        if not self.channels and axis != -len(self.graph.values[self.value].shape):
            return known or lead + 1  # all maps act on every channel alike, and only the original knows which axis those are
        return lead if known is None else min(known, lead)

    def _windows(self, axis: int) -> dict[str, Window]:
        """What the maps of the form have on an axis, by the root that they read."""
        stencils = {root: as_moved(mapped).stencil for root, mapped in self.form.items()}
        return {root: stencil.windows[axis] for root, stencil in stencils.items() if stencil.rank >= -axis}

    def _original(self, axis: int) -> list[Window]:
        """The windows of the original's nodes on an axis."""
        stencils = [as_moved(mapped).stencil for node in self.nodes for mapped in node.terms.values()]
        return [stencil.windows[axis] for stencil in stencils if stencil.rank >= -axis]

    def _with_middle(self, axis: int, windows: Sequence[Window]) -> int:
        """Positions of the smallest output with both borders and a middle."""
        read = [*windows, *self._original(axis)]
        borders = max(math.ceil(max(0, one.before) / one.stride) + math.ceil(max(0, one.after) / one.stride) for one in read)
        return borders + max(one.upsample for one in read)

    def _period(self, axis: int, windows: Iterable[Window]) -> int:
        """After how many items everything repeats."""
        return math.lcm(*(one.stride for one in (*windows, *self._original(axis))))


def _turn(column: Sequence[Mapping[str, int]], number: int, *, backwards: bool) -> Mapping[str, int]:
    """The `number`-th of a column, in turns; `backwards` from its end."""
    return column[(-number if backwards else number) % len(column)]


def _over(window: Window, positions: int) -> range:
    """The numbers of items over which a window takes so many positions."""
    places = max(1, window.stride * (positions - 1) - window.excess)
    last = window.stride * positions - window.excess - 1
    first = max(1, -(-(places - 1) // window.upsample) + 1)
    return range(first, max(first, (last - 1) // window.upsample + 1) + 1)


def _congruent(window: Window, positions: int, size: int | None) -> int:
    """How many items give so many positions, congruent to a size that is fixed and no more than that."""
    if size is None:
        return _over(window, positions)[0]
    rest = (window.places(size) + window.excess) % window.stride
    places = window.stride * (positions - 1) - window.excess + rest
    return max(1, min(size, -(-(places - 1) // window.upsample) + 1))


def _positions(window: Window, size: int) -> int:
    """Positions over so many items; one where the window does not fit, for the original to say so."""
    try:
        return max(1, window.output_size(size))
    except GeometryError:
        return 1
