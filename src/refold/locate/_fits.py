"""Fits a departing value, channel by channel, from what should be there and from the branches whose sum that is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from refold.locate._compare import allowed, scale
from refold.walk import Array, Step, Walk

AFFINE = ("add", "scale", "shift", "batch_norm")
NOTICEABLE = 1e-3
"""The share of a branch's largest factor from which one that is off is told of; what is fitted is exact to rounding all the same."""


def fitted(first: Walk, step: Step, region: Sequence[Step]) -> Iterator[tuple[str, Step]]:
    """What the fit says where there is one, with the value of the first network that should be there."""
    if step.value.ndim < 2:
        return
    theirs = _by_channel(step.value)
    inside = {one.name for one in region}
    for one in region:
        if one.value.shape != step.value.shape:
            continue
        mine, bound = _by_channel(one.value), allowed(first, one)
        if (shift := _fit([], theirs - mine, bound)) is not None:
            yield f"dropped bias: it is off by a number per channel, {_span(shift[-1])}", one
        elif (factors := _fit([mine], theirs, bound)) is not None and np.abs(factors[0]).min() * scale(one.value) > bound:
            yield f"missing scale: it is what it should be times {_span(factors[0])} per channel", one
        branches = {name: first.steps[name].value for name in _branches(first, one, inside)}
        if len(branches) < 2 or any(value.shape != step.value.shape for value in branches.values()):
            continue
        regressors = [_by_channel(value) for value in branches.values()]
        expected, found = _fit(regressors, mine, bound), _fit(regressors, theirs, bound)
        if expected is not None and found is not None:
            yield _told(first, region, list(branches), expected, found), one


def _branches(first: Walk, counterpart: Step, inside: Collection[str]) -> dict[str, None]:
    """The values of which a value is a sum, each times a factor per channel: what batch norms, scales and sums of a region read."""
    found: dict[str, None] = {}
    stack = [counterpart.name]
    while stack:
        name = stack.pop()
        step = first.steps[name]
        if name in inside and step.kind in AFFINE:
            stack.extend(reversed(step.reads))
        else:
            found[name] = None
    return found


def _told(first: Walk, region: Sequence[Step], branches: Sequence[str], expected: Array, found: Array) -> str:
    """Which of the branches weighs something else than it should, and in which channels."""
    off: dict[int, Array] = {}
    for number in range(len(branches)):
        apart = np.abs(found[number] - expected[number])
        channels = np.flatnonzero(apart > NOTICEABLE * np.abs(expected[number]).max())
        if len(channels):
            off[number] = channels
    groups = max((one.options["groups"] for one in region if one.kind == "convolution"), default=1)
    inside = {one.name for one in region}
    if len(off) == 1 and groups > 1:
        ((number, channels),) = off.items()
        gone = np.abs(found[number][channels]).max() < NOTICEABLE * np.abs(expected[number]).max()
        if branches[number] not in inside and gone:
            return f"grouped identity: under {groups} groups the identity is lost in {len(channels)} of {found.shape[1]} channels"
    norms = _norms(region)
    told = ", ".join(f"{norms.get(branches[one], first.steps[branches[one]])} by {_ratio(found[one], expected[one])}" for one in off)
    told = told or f"every branch by less than {NOTICEABLE:.1%}, and their shifts"
    return f"train-mode statistics, or other numbers of a batch norm than the original's: {told}"


def _norms(region: Sequence[Step]) -> Mapping[str, Step]:
    """The batch norm that reads a value."""
    return {step.reads[0]: step for step in region if step.kind == "batch_norm" and step.reads}


def _ratio(found: Array, expected: Array) -> str:
    used = expected != 0
    return _span(found[used] / expected[used]) if used.any() else "what should be 0"


def _fit(regressors: Sequence[Array], target: Array, bound: float) -> Array | None:
    """Coefficients per channel, a constant last, that give the target from the regressors; None where none do."""
    samples = target.shape[1]
    if samples < len(regressors) + 2:
        return None
    result = np.zeros((len(regressors) + 1, target.shape[0]))
    for channel in range(target.shape[0]):
        table = np.stack([*(one[channel] for one in regressors), np.ones(samples)], axis=1)
        if not (np.isfinite(table).all() and np.isfinite(target[channel]).all()):
            return None
        result[:, channel] = np.linalg.lstsq(table, target[channel], rcond=None)[0]
        if np.abs(table @ result[:, channel] - target[channel]).max() > bound:
            return None
    return result


def _by_channel(value: Array) -> Array:
    return np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)


def _span(numbers: Array) -> str:
    low, high = float(np.min(numbers)), float(np.max(numbers))
    return f"{low:.3g}" if np.isclose(low, high) else f"{low:.3g} to {high:.3g}"
