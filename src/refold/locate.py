"""Where two networks that should be the same function part: the first value that departs, and a cause that was tried in numbers.

Both run once in float64. A value of the second that equals one of the first, to within `FACTOR` squared times what the first is off in
its own dtype, is matched: each of the two has rounded on its way there. The first value that is not, and after which nothing is matched
again, departs. What it should have been is looked for in the stretch of the first network behind the last match: with its operators read
wrongly in each of the ways that converters do, the numbers of one of them come out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refold.errors import FoldError
from refold.verification import FACTOR

REACH = 32
"""Operators behind the last match that are looked at."""
TRIED = 3
"""Departing values in a row that a cause is looked for."""
UNKNOWN = "unknown: no misreading of the original's operators that was tried gives these numbers"


class Step(Protocol):
    """A value of a network: what makes it, where, from what, its numbers, and how far the network itself is off there."""

    @property
    def name(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def value(self) -> NDArray[Any]: ...
    @property
    def slack(self) -> float: ...


class Walk(Protocol):
    """A network that ran once, as its dialect gives it."""

    @property
    def steps(self) -> Mapping[str, Step]:
        """Its values in order."""

    @property
    def outputs(self) -> list[str]:
        """The names of those that it gives."""

    def explanations(self, region: Collection[str]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        """What the values of a region would be if operators of it were read wrongly, or left out behind a value."""

    def variants(self, name: str, other: Any, region: Collection[str]) -> Iterator[tuple[str, Any]]:
        """What a value would be with options that the other network has."""

    def precision(self, name: str) -> str | None:
        """The lowest dtype that holds the weights of an operator exactly."""

    def branches(self, region: Collection[str]) -> dict[str, str]:
        """The batch norms of a region, and what each reads."""

    def groups(self, region: Collection[str]) -> int:
        """The most groups of a convolution in a region."""


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the second network leaves the first.

    `operator` is the departing value of the second and `folder` where it stands, `counterpart` the value of the first that it should
    be; `difference` is the largest between the two, infinite where the shapes differ, `scale` the largest number of the counterpart,
    `allowed` what rounding explains. `last_match` are the values, of the first and the second, that were still equal.
    """

    operator: str
    operation: str
    folder: str
    counterpart: str
    difference: float
    scale: float
    allowed: float
    cause: str
    last_match: tuple[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        relative = self.difference / self.scale if self.scale else self.difference
        where = f" in `{self.folder}`" if self.folder else ""
        return (
            f"equal up to {self.last_match[1]} (in the original {self.last_match[0]})\n"
            f"departs at {self.operator} ({self.operation}{where}), which should be {self.counterpart}: by {self.difference:.3g}, "
            f"{relative:.2g} of its scale, where rounding explains {self.allowed:.2g}\n"
            f"likely cause: {self.cause}"
        )


def locate(original: Any, folded: Any, example_inputs: Any = None, *, kwargs: Mapping[str, Any] | None = None) -> Departure | None:
    """The first value at which `folded` stops being `original`, and the likely cause; None where no value departs.

    Raises `FoldError` where a network cannot be traced or gives another number of outputs.

    >>> import torch
    >>> layer = torch.nn.Conv2d(2, 2, 3)
    >>> spoilt = torch.nn.Conv2d(2, 2, 3, bias=False)
    >>> spoilt.weight = layer.weight
    >>> locate(layer, spoilt, torch.randn(1, 2, 5, 5)).cause
    'dropped bias of a layer'
    """
    if example_inputs is None and kwargs is None and (own := getattr(original, "example_inputs", None)) is not None:
        example_inputs, kwargs = own
    first, second = _walk(original, example_inputs, kwargs), _walk(folded, example_inputs, kwargs)
    if len(first.outputs) != len(second.outputs):
        raise FoldError(f"the two models give {len(first.outputs)} and {len(second.outputs)} outputs; compare models that give the same")
    matches = _match(first, second)
    pairs = list(zip(first.outputs, second.outputs, strict=True))
    if all(mine not in first.steps or theirs not in second.steps or mine in matches.get(theirs, ()) for mine, theirs in pairs):
        return None
    lost = _lost(second, matches)
    if not lost:
        mine, theirs = next(pair for pair in pairs if pair[0] not in matches.get(pair[1], ()))
        return _ends_early(first, second, matches[theirs], mine, theirs)
    guesses = [_explain(first, second, matches, name) for name in lost[:TRIED]]
    shapes = {step.value.shape for step in first.steps.values()}
    first_of_its_shape = next((one for one in guesses if second.steps[one.operator].value.shape in shapes), guesses[0])
    return next((one for one in guesses if one.cause != UNKNOWN), first_of_its_shape)


def _walk(model: Any, example: Any, kwargs: Mapping[str, Any] | None) -> Walk:
    if isinstance(model, (str, os.PathLike)) or type(model).__module__.partition(".")[0] in ("onnx", "onnx_ir"):
        what = Path(model).name if isinstance(model, (str, os.PathLike)) else type(model).__name__
        raise FoldError(f"values are compared one by one in PyTorch models alone, and {what} is an ONNX model; compare the modules")
    from refold.dialects import aten

    return aten.walk(model, example, kwargs)


def _match(first: Walk, second: Walk) -> dict[str, list[str]]:
    """For each value of the second network the values of the first that it equals, the last of them first."""
    by_shape: dict[tuple[int, ...], list[Step]] = {}
    for step in reversed(list(first.steps.values())):
        by_shape.setdefault(step.value.shape, []).append(step)
    found = {}
    for step in second.steps.values():
        equal = [one.name for one in by_shape.get(step.value.shape, ()) if _is_equal(step.value, one)]
        if equal:
            found[step.name] = equal
    return found


def _is_equal(value: NDArray[Any], step: Step) -> bool:
    return _apart(value, step.value) <= FACTOR**2 * step.slack


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference; NaN and infinity differ from every number but themselves."""
    if one.shape != other.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, apart)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _lost(second: Walk, matches: Collection[str]) -> list[str]:
    """The values, in order, from which an output is reached without passing a match."""
    lost: set[str] = set()
    stack = [name for name in second.outputs if name in second.steps]
    while stack:
        name = stack.pop()
        if name not in matches and name not in lost:
            lost.add(name)
            stack.extend(one for one in second.steps[name].reads if one in second.steps)
    return [name for name in second.steps if name in lost]


def _explain(first: Walk, second: Walk, matches: Mapping[str, list[str]], name: str) -> Departure:
    step = second.steps[name]
    frontier = _frontier(second, matches, name)
    roots = [matches[theirs][-1] for theirs in frontier]
    region = _region(first, roots)
    inside = [first.steps[one] for one in first.steps if one in region]
    last = (_called(first.steps[matches[frontier[-1]][0]]), _called(second.steps[frontier[-1]])) if frontier else ("nothing", "nothing")
    known = {one for equal in matches.values() for one in equal}
    for cause, counterpart in _causes(first, second, step, region, known):
        return _departure(step, counterpart, cause, last)
    like = [one for one in inside if one.value.shape == step.value.shape and one.operation == step.operation]
    like = like or [one for one in inside if one.value.shape == step.value.shape] or inside
    if not like:
        end = next(first.steps[one] for one in first.outputs if one in first.steps)
        return _departure(step, end, f"one operator more: the original ends before {step.operation}", last)
    nearest = min(like, key=lambda one: _apart(step.value, one.value))
    return _departure(step, nearest, UNKNOWN, last)


def _causes(first: Walk, second: Walk, step: Step, region: Collection[str], known: Collection[str]) -> Iterator[tuple[str, Step]]:
    """Each cause that gives the numbers of a value, with the value of the first network that it should be; the plainest first."""
    yield from _reads_otherwise(first, step, region, known)
    for text, value in second.variants(step.name, first, region):
        for one in _counterparts(first, region):
            if _is_equal(value, one):
                yield text, one
    yield from _fitted(first, step, region)
    precision = second.precision(step.name)
    for one in reversed(list(_counterparts(first, region))):
        wide = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}.get(precision or "", 0.0)
        reach = wide * _scale(one.value)
        if reach > FACTOR * one.slack and _apart(step.value, one.value) <= FACTOR**2 * reach:
            yield f"dtype: the weights are no finer than {precision}", one


def _reads_otherwise(first: Walk, step: Step, region: Collection[str], known: Collection[str]) -> Iterator[tuple[str, Step]]:
    for text, kept, values in first.explanations(region):
        for name, value in values.items():
            if name in first.steps and _apart(step.value, value) <= FACTOR**2 * first.steps[name].slack:
                if kept is None:
                    yield text, first.steps[name]
                elif kept in known:
                    yield f"left out: {text}", first.steps[name]
                else:
                    yield f"{first.steps[name].operation} folded through what stands before it: {text}", first.steps[name]


def _fitted(first: Walk, step: Step, region: Collection[str]) -> Iterator[tuple[str, Step]]:
    """Fits the departing value, channel by channel, from what should be there and from the branches that go into it."""
    if step.value.ndim < 2:
        return
    theirs = _by_channel(step.value)
    norms = {norm: read for norm, read in first.branches(region).items() if first.steps[read].value.shape == step.value.shape}
    for one in _counterparts(first, region):
        if one.value.shape != step.value.shape:
            continue
        mine, allowed = _by_channel(one.value), FACTOR**2 * one.slack
        if (shift := _fit([], theirs - mine, allowed)) is not None:
            yield f"dropped bias: it is off by a number per channel, {_span(shift[-1])}", one
        elif (scale := _fit([mine], theirs, allowed)) is not None and np.abs(scale[0]).min() * _scale(one.value) > allowed:
            yield f"missing scale: it is what it should be times {_span(scale[0])} per channel", one
        above = _above(first, one.name, region)
        branches = {norm: read for norm, read in norms.items() if norm in above}
        regressors = [_by_channel(first.steps[read].value) for read in branches.values()]
        if len(branches) > 1 and (expected := _fit(regressors, mine, allowed)) is not None:
            found = _fit(regressors, theirs, allowed)
            if found is not None:
                yield _told_of_branches(first, region, branches, expected, found), one


def _told_of_branches(
    first: Walk, region: Collection[str], branches: Mapping[str, str], expected: NDArray[Any], found: NDArray[Any]
) -> str:
    """Which of the branches weighs something else than it should, and in which channels."""
    off = {}
    for number, norm in enumerate(branches):
        size = np.abs(expected[number]).max()
        channels = np.flatnonzero(np.abs(found[number] - expected[number]) > 1e-3 * size)
        if len(channels):
            off[norm] = channels
    groups = first.groups(region)
    for norm, channels in off.items():
        number = list(branches).index(norm)
        gone = np.abs(found[number][channels]).max() < 1e-3 * np.abs(expected[number]).max()
        if len(off) == 1 and groups > 1 and branches[norm] not in region and gone:
            return f"grouped identity: under {groups} groups the identity is lost in {len(channels)} of {found.shape[1]} channels"
    told = ", ".join(
        f"{_called(first.steps[norm])} by {_span(found[list(branches).index(norm)] / expected[list(branches).index(norm)])}" for norm in off
    )
    return f"train-mode statistics, or other numbers of a batch norm than the original's: {told or 'its shifts alone'}"


def _fit(regressors: list[NDArray[Any]], target: NDArray[Any], allowed: float) -> NDArray[Any] | None:
    """Coefficients per channel, a constant last, that give the target from the regressors; None where none do."""
    samples = target.shape[1]
    if samples < len(regressors) + 2:
        return None
    result = np.zeros((len(regressors) + 1, target.shape[0]))
    for channel in range(target.shape[0]):
        table = np.stack([*(one[channel] for one in regressors), np.ones(samples)], axis=1)
        result[:, channel] = np.linalg.lstsq(table, target[channel], rcond=None)[0]
        if np.abs(table @ result[:, channel] - target[channel]).max() > allowed:
            return None
    return result


def _by_channel(value: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)


def _span(numbers: NDArray[Any]) -> str:
    low, high = float(np.min(numbers)), float(np.max(numbers))
    return f"{low:.3g}" if np.isclose(low, high) else f"{low:.3g} to {high:.3g}"


def _ends_early(first: Walk, second: Walk, equal: list[str], mine: str, theirs: str) -> Departure:
    """The output of the second network is a value that the first goes on from."""
    region = _region(first, equal[:1])
    rest = [first.steps[one] for one in first.steps if one in region and first.steps[one].operation != "input"]
    told = ", ".join(dict.fromkeys(one.operation for one in rest)) or "another value is given"
    last = _called(first.steps[equal[0]]), _called(second.steps[theirs])
    return _departure(second.steps[theirs], first.steps[mine], f"left out: {told}", last)


def _departure(step: Step, counterpart: Step, cause: str, last: tuple[str, str]) -> Departure:
    difference, scale = _apart(step.value, counterpart.value), _scale(counterpart.value)
    return Departure(
        step.name, step.operation, step.folder, _called(counterpart), difference, scale, FACTOR**2 * counterpart.slack, cause, last
    )


def _scale(value: NDArray[Any]) -> float:
    return float(np.nan_to_num(np.abs(value), posinf=0.0).max(initial=0.0))


def _called(step: Step) -> str:
    return f"{step.name} in `{step.folder}`" if step.folder else step.name


def _counterparts(first: Walk, region: Collection[str]) -> Iterator[Step]:
    return (step for name, step in first.steps.items() if name in region)


def _frontier(second: Walk, matches: Collection[str], name: str) -> list[str]:
    """The matched values that a value is made from with nothing matched between."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    stack = [one for one in second.steps[name].reads if one in second.steps]
    while stack:
        one = stack.pop()
        if one in matches:
            found[one] = None
        elif one not in seen:
            seen.add(one)
            stack.extend(below for below in second.steps[one].reads if below in second.steps)
    return [one for one in second.steps if one in found]


def _above(first: Walk, name: str, region: Collection[str]) -> set[str]:
    """What a value of a region is made from within it."""
    found: set[str] = set()
    stack = [name]
    while stack:
        for one in first.steps[stack.pop()].reads:
            if one in region and one not in found:
                found.add(one)
                stack.append(one)
    return found


def _region(first: Walk, roots: Collection[str]) -> set[str]:
    """The first values that hang on the roots, sizes and all else between them included."""
    inside: set[str] = set()
    for name, step in first.steps.items():
        if len(inside) == REACH:
            break
        if name not in roots and any(one in inside or one in roots for one in step.reads):
            inside.add(name)
    return inside
