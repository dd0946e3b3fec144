"""Runs a model beside its trace at other sizes than the example's: which relations between sizes matter, and where both are one.

Every relation that the model asked for while it was traced is kept. What tracing took for granted by itself, that sizes are not 0 or 1, is
dropped where the model and its trace gave the same at those sizes. What no relation tells apart and gives something else all the same holds
the axis fixed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from refold.dialects.aten._conditions import Condition, Place, Shapes, allows, fixed_size, or_at
from refold.dialects.aten._guard import TracedInput
from refold.dialects.aten._run import run_program
from refold.dialects.aten._sizes import fixed
from refold.errors import FoldError

SCANNED = 256
"""Sizes up to which a relation of one axis is looked at one by one."""
POINTS = 1 << 16
"""Choices of sizes of several axes that are looked at."""
FAR = (300, 511, 512, 513, 1000, 4095, 4096, 65_536, 10**6, 2**31)
"""Sizes beyond, at which it is looked at too."""
TRIED = 3
"""Sizes that break a relation at which a model is run: so many of the smallest, and of those nearest to the example."""
RUNS = 128
"""Runs of the model on which a decision is based; what tracing assumed and is still open then is kept."""
LARGER = 4
"""Times the numbers of the example that an input may have in a trial."""
ALWAYS = 1 << 14
"""Numbers that it may have in any case."""
SMALL = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128)
"""Sizes at which a model is tried for the smallest that it takes."""
HELD = 1 << 22
"""Numbers of the model's outputs that are kept for the proof."""
OTHER_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64, torch.bool)


class Outcome(Enum):
    """What a trial gave."""

    SAME = "the model and its trace give the same"
    DIFFERENT = "the trace gives something else"
    FAILS = "the trace does not run"
    REFUSED = "the model does not run"
    SKIPPED = "not tried"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of both, and what the model gave where it is to be compared with what it is folded into."""

    shapes: Shapes
    outcome: Outcome
    leaves: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()


@dataclass(slots=True)
class Trials:
    """A model and its trace, run side by side.

    `original` takes args and kwargs and raises `FoldError` where it does not run; `traced` are the tensors among the inputs, as traced.
    """

    original: Callable[[tuple[Any, ...], Mapping[str, Any]], Any]
    program: ExportedProgram
    traced: Mapping[str, torch.Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    seen: dict[tuple[tuple[str, tuple[int, ...]], ...], Trial] = field(default_factory=dict)
    example: Shapes = field(init=False)
    base: dict[Any, int] = field(init=False)
    runs: int = 0
    limit: int = RUNS
    held: int = 0

    def __post_init__(self) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, torch.Tensor)]
        self.example = {name: tuple(leaf.shape) for name, leaf in zip(self.traced, tensors, strict=True)}
        self.base = {}

    def settle(self, conditions: Sequence[Condition]) -> list[Condition]:
        """The conditions that are to be checked, the plainest first, and axes that have to be fixed besides."""
        self.base = self._smallest(conditions)
        for condition in conditions:
            for shapes in self.breaking(condition):
                self.run(shapes)
        for shapes in self._probes(conditions):
            self.run(shapes)
        kept = [one for one in conditions if not one.is_assumed]
        for condition in (one for one in conditions if one.is_assumed):
            outcomes = {trial.outcome for trial in self._breaks(condition, kept)}
            if Outcome.SAME not in outcomes or Outcome.SKIPPED in outcomes:
                kept.append(condition)
        assumed = sorted((one for one in conditions if one.is_assumed), key=lambda one: -one.places[0][1])  # the batch last
        for fault in self._faults():
            if allows(kept, fault.shapes):
                reason = next((one for one in assumed if not one.holds_at(fault.shapes)), None)
                kept += self._fixing(fault.shapes) if reason is None else [reason]
        return sorted(self.with_example(kept), key=plainness)

    def _breaks(self, condition: Condition, kept: Sequence[Condition]) -> Iterator[Trial]:
        """The trials that a condition excludes and those that are kept do not."""
        for trial in self.seen.values():
            if not condition.holds_at(trial.shapes) and allows(kept, trial.shapes):
                yield trial

    def _faults(self) -> list[Trial]:
        """The trials in which the trace was not the model, those first that leave the example in the fewest axes."""
        faults = [trial for trial in self.seen.values() if trial.outcome in (Outcome.DIFFERENT, Outcome.FAILS)]
        usual = self.shapes_at({})
        return sorted(faults, key=lambda trial: sum(_moved(trial.shapes[name], usual[name]) for name in usual))

    def other_dtypes(self, one: TracedInput) -> Iterator[tuple[torch.dtype, Trial]]:
        """Dtypes that the model takes as well for an input, with its trace giving the same."""
        shapes = self.shapes_at({})
        for dtype in OTHER_DTYPES:
            if dtype is not one.dtype and _may_be_cast(one.dtype, dtype):
                leaves = self.inputs_at(shapes, {one.name: dtype})
                outcome, outputs = self._compare(leaves)
                if outcome is Outcome.SAME:
                    yield dtype, Trial(shapes, outcome, tuple(leaves), tuple(outputs))

    @property
    def structure(self) -> pytree.TreeSpec:
        """How the leaves of the inputs are nested."""
        return pytree.tree_structure((self.args, dict(self.kwargs)))

    def run(self, shapes: Shapes) -> Trial:
        """One trial, or what it gave before."""
        key = tuple(shapes.items())
        if key not in self.seen:
            self.seen[key] = self._tried(shapes)
        return self.seen[key]

    def _tried(self, shapes: Shapes) -> Trial:
        if self.runs >= self.limit or self._is_large(shapes):
            return Trial(shapes, Outcome.SKIPPED)
        self.runs += 1
        leaves = self.inputs_at(shapes)
        outcome, outputs = self._compare(leaves)
        if outcome is not Outcome.SAME:
            return Trial(shapes, outcome)
        numbers = sum(one.numel() for one in (*leaves, *outputs) if isinstance(one, torch.Tensor))
        if self.held + numbers > HELD:
            return Trial(shapes, outcome)
        self.held += numbers
        return Trial(shapes, outcome, tuple(leaves), tuple(outputs))

    def _is_large(self, shapes: Shapes) -> bool:
        return any(math.prod(shape) > max(ALWAYS, LARGER * math.prod(self.example[name])) for name, shape in shapes.items())

    def _compare(self, leaves: Sequence[Any]) -> tuple[Outcome, list[Any]]:
        args, kwargs = pytree.tree_unflatten(list(leaves), self.structure)
        try:
            expected, structure = pytree.tree_flatten(self.original(args, kwargs))
        except FoldError:
            return Outcome.REFUSED, []
        if not is_nested_alike(self.program.call_spec.out_spec, structure):
            return Outcome.DIFFERENT, []
        try:
            traced = run_program(self.program, [one.clone() if isinstance(one, torch.Tensor) else one for one in leaves], wide=False)
        except Exception:  # whatever an operator raises, it is not silent
            return Outcome.FAILS, []
        return (Outcome.SAME if agree(traced, expected) else Outcome.DIFFERENT), expected

    def inputs_at(self, shapes: Shapes, dtypes: Mapping[str, torch.dtype] | None = None) -> list[Any]:
        """The leaves of the inputs, its tensors of other shapes, and of other dtypes where they are named."""
        names = iter(self.traced)
        resized = []
        for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))):
            if not isinstance(leaf, torch.Tensor):
                resized.append(leaf)
                continue
            name = next(names)
            tensor = stretched(leaf, shapes[name])
            resized.append(_cast(tensor, dtypes[name]) if dtypes and name in dtypes else tensor)
        return resized

    def _smallest(self, conditions: Sequence[Condition]) -> dict[Any, int]:
        """A small size for each free one at which model and trace give the same, so that trials cost little; the example's, if none is."""
        symbols = [symbol for symbol, places in self._groups().items() if self._is_free(places[0])]
        batch = {symbol for symbol in symbols if all(axis == 0 for _, axis in self._groups()[symbol])}
        start = {symbol: self._size_of(self._groups()[symbol][0]) for symbol in symbols}
        for size in SMALL:
            tried = {symbol: min(start[symbol], 2 if symbol in batch else size) for symbol in symbols}
            shapes = self.shapes_at({}, tried)
            if allows(conditions, shapes) and self.run(shapes).outcome is Outcome.SAME:
                return tried
            if all(size >= start[symbol] for symbol in symbols):
                break
        return start

    def _groups(self) -> dict[Any, list[Place]]:
        """The axes of each size that stands by itself: a symbol of the trace, or a fixed axis."""
        found: dict[Any, list[Place]] = {}
        for name, value in self.traced.items():
            for axis, size in enumerate(value.shape):
                if fixed(size) is not None:
                    found[name, axis] = [(name, axis)]
                elif size.node.expr.is_symbol:  # type: ignore[attr-defined]
                    found.setdefault(size.node.expr, []).append((name, axis))  # type: ignore[attr-defined]
        return found

    def _is_free(self, place: Place) -> bool:
        return fixed(self.traced[place[0]].shape[place[1]]) is None

    def _size_of(self, place: Place) -> int:
        return self.example[place[0]][place[1]]

    def shapes_at(self, point: Mapping[Place, int], base: Mapping[Any, int] | None = None) -> Shapes:
        """The shapes of all inputs where some axes have these sizes, and those that the trace ties to them follow."""
        values = dict(self.base if base is None else base)
        for (name, axis), size in point.items():
            symbol = self.traced[name].shape[axis]
            if fixed(symbol) is None and symbol.node.expr.is_symbol:  # type: ignore[attr-defined]
                values[symbol.node.expr] = size  # type: ignore[attr-defined]
        shapes = {}
        for name, value in self.traced.items():
            sizes = [_worked_out(size, values, self.example[name][axis]) for axis, size in enumerate(value.shape)]
            shapes[name] = tuple(point.get((name, axis), size) for axis, size in enumerate(sizes))
        return shapes

    def moved(self, shapes: Shapes) -> dict[Place, int]:
        """The sizes in which shapes are not those of the smallest inputs."""
        usual = self.shapes_at({})
        return {(name, axis): size for name, shape in shapes.items() for axis, size in enumerate(shape) if size != usual[name][axis]}

    def amid_example(self, shapes: Shapes) -> Shapes:
        """These shapes, but with the example's sizes wherever they have those of the smallest inputs; a size of one is doubled."""
        sizes = {symbol: self._size_of(places[0]) for symbol, places in self._groups().items() if self._is_free(places[0])}
        return self.shapes_at(self.moved(shapes), {symbol: 2 if size == 1 else size for symbol, size in sizes.items()})

    def breaking(self, condition: Condition) -> Iterator[Shapes]:
        """Inputs that break a condition and as few others as may be: the smallest, and those nearest to the example."""
        sizes = tuple(self._size_of(place) for place in condition.places)
        points = _broken(condition, sizes)
        near = sorted(points, key=lambda point: sum(abs(one - size) for one, size in zip(point, sizes, strict=True)))
        for point in dict.fromkeys([*points[:TRIED], *near[:TRIED]]):
            yield self.shapes_at(dict(zip(condition.places, point, strict=True)))

    def _probes(self, conditions: Sequence[Condition]) -> Iterator[Shapes]:
        """Each free size by itself: empty, one, small and far ones, the example's neighbours; and all of them at once."""
        start = {symbol: self._size_of(places[0]) for symbol, places in self._groups().items() if self._is_free(places[0])}
        for symbol, n in start.items():
            small = self.base[symbol]
            for size in dict.fromkeys((0, 1, small + 1, small + 2, small + 3, 2 * small + 1, n, n + 1, 2 * n - 1)):
                yield self.shapes_at({}, {**self.base, symbol: size})
        for number in (1, 3):
            yield self.shapes_at({}, dict.fromkeys(start, number))
        yield from self._spread_apart()
        far = {symbol: n + n // 2 + 1 for symbol, n in start.items()}
        for sizes in (self.base, far, {**start, **{symbol: size + 1 for symbol, size in start.items() if size > 2}}):
            shapes = self.shapes_at({}, sizes)
            if allows(conditions, shapes):
                yield shapes

    def _spread_apart(self) -> Iterator[Shapes]:
        """Inputs whose axes of one item, which tracing does not leave free, are longer: those of each number in turn, and all of them."""
        single = [place for place in itertools.chain(*self._groups().values()) if self._size_of(place) == 1 and not self._is_free(place)]
        for axis in sorted({axis for _, axis in single}):
            yield self.shapes_at({place: 3 for place in single if place[1] == axis})
        yield self.shapes_at(dict.fromkeys(single, 3))

    def _fixing(self, shapes: Shapes) -> list[Condition]:
        """Conditions that the free axes in which these shapes leave the smallest or the example's stay as in the example."""
        usual = self.shapes_at({})
        moved = [
            (name, axis)
            for name, shape in shapes.items()
            for axis, size in enumerate(shape)
            if self._is_free((name, axis)) and size != self.example[name][axis] and size != usual[name][axis]
        ]
        moved = moved or [
            (name, axis) for name, shape in shapes.items() for axis in range(len(shape)) if shape[axis] != self.example[name][axis]
        ]
        return [fixed_size(name, axis, self.example[name][axis]) for name, axis in moved]

    def with_example(self, conditions: Iterable[Condition]) -> list[Condition]:
        """The conditions, allowing the example, for which the model and its trace were seen to give the same: its batch was doubled."""
        return [or_at(one, self.example) for one in conditions]


def broken_together(condition: Condition, other: Condition, example: Shapes) -> Iterator[dict[Place, int]]:
    """Sizes that break two conditions at once, small ones first, among those that are looked at; none of more than two axes."""
    places = tuple(dict.fromkeys((*condition.places, *other.places)))
    if len(places) > 2:
        return
    axes = _looked_at([example[name][axis] for name, axis in places], condition.numbers | other.numbers)
    for point in itertools.product(*axes):
        sizes = dict(zip(places, point, strict=True))
        if not any(one.holds([sizes[place] for place in one.places]) for one in (condition, other)):
            yield sizes


def in_order(conditions: Iterable[Condition], example: Shapes) -> Iterator[Condition]:
    """The conditions, the plainest first, with `is_implied` set on those that were seen to be broken only where a plainer one is."""
    ordered: list[Condition] = []
    for condition in sorted(conditions, key=plainness):
        sizes = [example[name][axis] for name, axis in condition.places]
        plainer = [one for one in ordered if set(one.places) <= set(condition.places)]
        is_looked_at = max(condition.numbers, default=0) < SCANNED or bool(_broken(condition, sizes))
        ordered.append(replace(condition, is_implied=is_looked_at and not _broken(condition, sizes, plainer)))
    yield from ordered


def _moved(shape: Sequence[int], other: Sequence[int]) -> int:
    return sum(one != size for one, size in zip(shape, other, strict=True))


def plainness(condition: Condition) -> tuple[int, int, str]:
    """By what conditions are put in order for people: few axes and few words first."""
    return len(condition.places), len(condition.text), condition.text


def _broken(condition: Condition, sizes: Sequence[int], kept: Sequence[Condition] = ()) -> list[tuple[int, ...]]:
    """Sizes of its axes that break a condition and none of those that are `kept`, the smallest first; `sizes` are those of the example."""
    placed = [(one, [condition.places.index(place) for place in one.places]) for one in kept]
    axes = _looked_at(sizes, set().union(*(one.numbers for one in (condition, *kept))))
    points = (point for point in _points(axes, sizes) if not condition.holds(point))
    return sorted((point for point in points if all(one.holds([point[at] for at in places]) for one, places in placed)), key=math.prod)


def _points(axes: Sequence[Sequence[int]], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All choices of a size for each axis; where they are too many, those that leave all but a few axes as in the example."""
    counts = [1]  # of choices, by how many axes take any of their sizes
    for axis in axes:
        counts = [more + len(axis) * fewer for more, fewer in zip([*counts, 0], [0, *counts], strict=True)]
    moved = next((number - 1 for number in range(2, len(counts)) if counts[number] > POINTS), len(axes))
    chosen = itertools.combinations(range(len(axes)), moved)
    every = ([axes[place] if place in places else [size] for place, size in enumerate(sizes)] for places in chosen)
    yield from dict.fromkeys(point for one in every for point in itertools.product(*one))


def _looked_at(sizes: Sequence[int], numbers: set[int]) -> list[list[int]]:
    """The sizes of each axis at which a condition of these numbers is looked at."""
    if len(sizes) == 1:
        turns = {times * number + step for number in numbers for times in (1, 2, 3) for step in (-1, 0, 1)}
        return [sorted({*range(SCANNED), *FAR, *(turn for turn in turns if turn >= 0)})]
    few = {0, 1, 2, 3, 5, 8, 33, 257, 4096}
    if len(sizes) == 2:
        products = sorted(one * other for one in numbers for other in (1, *numbers) if 0 < one * other < SCANNED)[:12]
        parts = {part for number in numbers for part in range(2, SCANNED) if number % part == 0 and number >= part * 2}
        few |= {4, 6, 7, 9, 12, 16, 17, 64, 100, 1000, *parts, *(one + step for one in products for step in (-1, 0, 1))}
    return [sorted({*few, *(size + step for step in (-1, 0, 1))} - {-1}) for size in sizes]


def _worked_out(size: Any, values: Mapping[Any, int], example: int) -> int:
    known = fixed(size)
    if known is not None:
        return example
    expression = size.node.expr.subs(dict(values))
    return int(expression) if expression.is_number else example


def stretched(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A tensor of another shape: cut off, or repeated; numbers that look measured are varied, so that no two parts are alike."""
    result = tensor
    for axis, size in enumerate(shape):
        length = result.shape[axis]
        if length < size:
            times = -(-size // max(1, length))
            result = (
                torch.cat([result] * times, dim=axis)
                if length
                else result.new_ones((*result.shape[:axis], size, *result.shape[axis + 1 :]))
            )
        result = result.narrow(axis, 0, size)
    if result.shape == tensor.shape or not tensor.is_floating_point():
        return result
    if tensor.numel() and len(tensor.detach().flatten()[:64].unique()) * 2 < min(64, tensor.numel()):
        return result
    generator = torch.Generator().manual_seed(result.numel())
    noise = torch.rand(result.shape, generator=generator, dtype=torch.float64).to(result.device, result.dtype)
    return result * (0.75 + 0.5 * noise)


def _may_be_cast(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Whether numbers of a dtype are worth a try in another: those with a fraction in any, whole ones in whole ones of no more meaning."""
    if dtype.is_complex or other.is_complex:
        return False
    return dtype.is_floating_point or not other.is_floating_point


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.detach().abs().to(dtype) if dtype is torch.uint8 and tensor.is_floating_point() else tensor.detach().to(dtype)


def is_nested_alike(traced: pytree.TreeSpec | None, given: pytree.TreeSpec) -> bool:
    """Whether outputs of a trace are nested as those of the model; torch has sizes in a tuple where the model gives a `torch.Size`."""
    if traced is None or traced == given:
        return True
    kinds = {torch.Size: tuple}
    mine, theirs = traced.children(), given.children()
    same = kinds.get(traced.type, traced.type) is kinds.get(given.type, given.type) and traced.context == given.context
    return same and len(mine) == len(theirs) and all(map(is_nested_alike, mine, theirs))


def agree(traced: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether outputs are one but for a few roundings: alike in number, shape and dtype, and in three quarters of their digits.

    Both come from the same operators in the same dtype, so that hardly a rounding parts them.
    """
    if len(traced) != len(outputs):
        return False
    for mine, theirs in zip(traced, outputs, strict=True):
        if not isinstance(theirs, torch.Tensor) or not isinstance(mine, torch.Tensor):
            if type(mine) is not type(theirs) or mine != theirs:
                return False
            continue
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            return False
        if theirs.is_complex():
            mine, theirs = torch.view_as_real(mine), torch.view_as_real(theirs)
        if not theirs.is_floating_point():
            if not torch.equal(mine, theirs):
                return False
            continue
        sizes = theirs.detach().abs()
        scale = float(sizes[sizes.isfinite()].max()) if bool(sizes.isfinite().any()) else 0.0
        limit = torch.finfo(theirs.dtype).eps ** 0.75 * scale
        if not torch.allclose(mine.detach(), theirs.detach(), rtol=0.0, atol=limit, equal_nan=True):
            return False
    return True
