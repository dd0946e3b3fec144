"""The whole folded network at sizes that are not the example's: where it cannot run it says so in words, elsewhere it is compared."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from refold.dialects.aten._allowed import Allowed
from refold.dialects.aten._compare import compared, is_explained, output_evidence
from refold.dialects.aten._conditions import Allowance, Condition, Shapes, allows, fixed_size, more_than
from refold.dialects.aten._guard import SizeGuard, TracedInput
from refold.dialects.aten._trace import run
from refold.dialects.aten._trials import Trial
from refold.errors import FoldError
from refold.verification import OutputEvidence, SizeEvidence, judge_outputs

if TYPE_CHECKING:
    from refold.dialects.aten._model import AtenModel

COMPARED = 4
"""Sizes at which whole networks are compared: the two ends of those that were tried, and between."""
LISTED = 8
"""Sizes that the original takes and the folded network refuses which a certificate lists."""


def narrower(source: AtenModel, module: torch.nn.Module, traced: Allowed, example: Shapes) -> list[Condition]:
    """Conditions under which the folded network runs, where it does not at sizes at which the original does.

    A crop that became part of a convolution is an example: of an axis too short for it the original makes nothing, and the convolution
    does not run. What tracing took for granted (that sizes are not 0 or 1) folding did as well: where the trace is right without and the
    folded network is not, it holds. A fold that is wrong elsewhere is left for the proof to find.
    """
    shown = [trial for trial in traced.shown if allows(traced.conditions, trial.shapes)]
    assumed = [one for one in source.traced.conditions if one.is_assumed and one.holds_at(example)]
    conditions: list[Condition] = []
    for trial in shown:
        relied_on = next((one for one in assumed if not one.holds_at(trial.shapes)), None)
        is_open = trial.leaves and allows(conditions, trial.shapes)
        if relied_on is not None and is_open and _runs(source, module, trial) and not _is_same(source, module, trial):
            conditions.append(relied_on)
    shown = [trial for trial in shown if allows(conditions, trial.shapes)]
    failing = [trial.shapes for trial in shown if trial.leaves and not _runs(source, module, trial)]
    passing = [trial.shapes for trial in shown if trial.shapes not in failing]
    while failing:
        candidates = [*_bounds(failing[0], example, passing)]
        conditions.append(candidates[0])
        failing = [shapes for shapes in failing if conditions[-1].holds_at(shapes)]
    return conditions


def _bounds(failing: Shapes, example: Shapes, passing: Sequence[Shapes]) -> Iterator[Condition]:
    """Conditions that exclude these shapes: the axis is longer, where that excludes nothing that runs; else it is that of the example."""
    moved = [(name, axis) for name, shape in failing.items() for axis, size in enumerate(shape) if size != example[name][axis]]
    for name, axis in moved:
        bound = more_than(name, axis, failing[name][axis])
        if bound.holds_at(example) and all(bound.holds_at(shapes) for shapes in passing):
            yield bound
    for name, axis in moved:
        yield fixed_size(name, axis, example[name][axis])


def is_borne_out(source: AtenModel, module: torch.nn.Module, traced: Allowed, other: Allowance) -> bool:
    """Whether the folded network gives what the original gives at all sizes that only `other` allows and that were tried.

    Folds are proven for sizes that the trace allows; a network that is right beyond them has to show it.
    """
    own = [trial for trial in traced.shown if trial.leaves and allows(other, trial.shapes) and not allows(traced.conditions, trial.shapes)]
    return bool(own) and all(_runs(source, module, trial) and _is_same(source, module, trial) for trial in own)


def _is_same(source: AtenModel, module: torch.nn.Module, trial: Trial) -> bool:
    """Whether the folded network gives what the original gave in a trial."""
    return all(check.passed for check in judge_outputs(_evidence(source, module, trial)))


def _evidence(source: AtenModel, module: torch.nn.Module, trial: Trial) -> Iterable[OutputEvidence]:
    """What both give in a trial, with the truth where roundings do not explain how far they are apart."""
    args, kwargs = _inputs(source, trial)
    folded = pytree.tree_leaves(run(module, args, kwargs))
    if is_explained(trial.outputs, folded, source.longest):
        return output_evidence([str(n) for n in range(len(folded))], trial.outputs, folded, source.longest, source.roundings)
    return tuple(compared(source, module, (args, kwargs)))


def with_dtypes(
    source: AtenModel, module: torch.nn.Module, guard: SizeGuard, dtypes: Sequence[tuple[str, torch.dtype, Trial]]
) -> Iterator[TracedInput]:
    """The inputs that the network takes, each with the other dtypes for which it gives what the original gives.

    Folding takes a cast to the dtype that an input has already for nothing at all, so that not all that the original takes is taken.
    """
    inputs = guard.inputs
    taken: dict[str, list[torch.dtype]] = {}
    for name, dtype, trial in dtypes:
        guard.inputs = tuple(replace(one, others=(dtype,)) if one.name == name else one for one in inputs)
        try:
            with redirect_stderr(io.StringIO()):  # torch tells of a graph that does not run; this one may
                folded = pytree.tree_leaves(run(module, *_inputs(source, trial)))
        except FoldError:
            continue
        finally:
            guard.inputs = inputs
        evidence = output_evidence([str(n) for n in range(len(folded))], trial.outputs, folded, source.longest, source.roundings)
        if all(check.passed for check in judge_outputs(evidence)):
            taken.setdefault(name, []).append(dtype)
    for one in inputs:
        yield replace(one, others=tuple(taken.get(one.name, ())))


def compared_elsewhere(source: AtenModel, module: torch.nn.Module, allowed: Allowed) -> Iterator[SizeEvidence]:
    """The folded network beside what the original gave at other sizes: empty, smallest, largest and between; and what it refuses."""
    shown = [trial for trial in allowed.shown if trial.leaves]
    for trial in _spread(sorted(shown, key=_numbers), COMPARED):
        yield SizeEvidence(trial.shapes, tuple(_evidence(source, module, trial)))
    for shapes, condition in _spread([*allowed.refused], LISTED):
        yield SizeEvidence(shapes, refusal=f"it takes only inputs where {condition.text}")


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """So many of the items, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(position * (len(items) - 1) / (most - 1))] for position in range(most)]


def _numbers(trial: Trial) -> int:
    return sum(math.prod(shape) for shape in trial.shapes.values())


def _inputs(source: AtenModel, trial: Trial) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    spec = pytree.tree_structure((source.args, dict(source.kwargs)))
    args, kwargs = pytree.tree_unflatten(list(trial.leaves), spec)
    return args, kwargs


def _runs(source: AtenModel, module: torch.nn.Module, trial: Trial) -> bool:
    try:
        with redirect_stderr(io.StringIO()):
            run(module, *_inputs(source, trial))
    except FoldError:
        return False
    return True
