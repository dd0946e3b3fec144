"""Finds other sizes at which a trace is the model: where the model, traced at sizes that a condition rules out, is the same graph.

Much of what tracing notes is asked by torch itself, or decides nothing: that an axis is not 1, since one of 1 would be spread over others;
that an axis is as long as a parameter, which one item would be spread over too. Each such group of sizes is traced once more, and where
the graph is the one that was traced before, the conditions that torch noted on the way are an alternative to the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from refold.dialects.aten._conditions import Condition, Conditions, Place, Shapes, allows, fixed_size, not_among, or_at, where_broken
from refold.dialects.aten._trials import Outcome, Trials, broken_together

Retrace: TypeAlias = "Callable[[tuple[Any, ...], Mapping[str, Any]], Conditions | None]"
"""Traces the model at other inputs and gives the conditions there; None where it is not found to be the same graph."""

TIMES = 8
"""Times that a model is traced again."""
WORK = 4_000
"""Nodes times conditions that are traced again in all, since the time of tracing grows with both: networks of more are not."""
STEPS = (1, 2, 3)
"""By how much an axis is longer than where a model was traced again, one axis at a time, where model and trace are run."""
MORE_RUNS = 32
"""Runs of the model for each time that it is traced again, beside those of `Trials`."""
TOGETHER = 2
"""Sizes at which two conditions are broken at once."""


def find_alternatives(trials: Trials, conditions: Sequence[Condition], retrace: Retrace) -> list[Conditions]:
    """Conditions under which the trace is the model as well, at sizes that `conditions` do not all allow and the model takes.

    For each, model and trace were run at several sizes, and gave the same.
    """
    work = max(1, len(trials.program.graph.nodes) * len(conditions))
    found: list[Conditions] = []
    failed: list[Mapping[Place, int]] = []
    for _, shapes in zip(range(min(TIMES, WORK // work)), _ruled_out(trials, conditions, found, failed), strict=False):
        trials.limit += MORE_RUNS
        traced = trials.amid_example(shapes)
        if trials.run(traced).outcome is not Outcome.SAME:
            traced = shapes
        args, kwargs = pytree.tree_unflatten(trials.inputs_at(traced), trials.structure)
        alternative = retrace(args, kwargs)
        if alternative is None or not allows(alternative, traced):
            failed.append(trials.moved(shapes))
            continue
        for one, start in _with_batch_of_one(trials, alternative, traced, retrace):
            _run_beyond_both(trials, conditions, one, traced)
            _run_around(trials, one, shapes if start is traced else start)
            if _is_borne_out(trials, one):
                found.append(one)
    return found


def at_example(trials: Trials, broken: Sequence[Condition], kept: Sequence[Condition], retrace: Retrace | None) -> list[Condition]:
    """What has to hold besides where the conditions do not that the example breaks: the model asked, of a batch that was doubled, for one.

    Of what it asks on the other path nothing is known, so that it is traced there too. Where that is not the same graph, only the sizes of
    the example were seen to give the same.
    """
    there = None if retrace is None else retrace(trials.args, trials.kwargs)
    if there is None or not allows(there, trials.example):
        there = tuple(fixed_size(name, axis, size) for name, shape in trials.example.items() for axis, size in enumerate(shape))
    asked = {place for one in broken for place in one.places}
    others = [one for one in not_among(there, kept) if not one.is_assumed and not asked.issuperset(one.places)]
    return [where_broken(broken, one) for one in others]


def asks_no_more(trials: Trials, conditions: Sequence[Condition], retrace: Retrace, dtypes: Mapping[str, torch.dtype]) -> bool:
    """Whether the model, traced with inputs of other dtypes, is the same graph and asks no more of sizes than before.

    It may ask for a dtype and a size at once; the sizes at which other dtypes are run need not be those.
    """
    if len(trials.program.graph.nodes) * len(conditions) > WORK:
        return False
    args, kwargs = pytree.tree_unflatten(trials.inputs_at(trials.amid_example(trials.shapes_at({})), dtypes), trials.structure)
    there = retrace(args, kwargs)
    return there is not None and not [one for one in not_among(there, conditions) if not one.is_assumed]


def _ruled_out(
    trials: Trials, conditions: Sequence[Condition], found: Sequence[Conditions], failed: Sequence[Mapping[Place, int]]
) -> Iterator[Shapes]:
    """Sizes that nothing allows yet although trace and model gave the same, each once; `found` and `failed` may grow in between.

    Where some sizes of some axes make another graph, the same with more axes moved are left out.

    Those first that tell most: nothing empty, few axes of one item, which tracing does not leave free; then those nearest to the example.
    """
    tried: list[Shapes] = []

    def oddness(shapes: Shapes) -> tuple[int, int, int, int]:
        sizes = [size for shape in shapes.values() for size in shape]
        moved = [size for name, shape in shapes.items() for size, usual in zip(shape, trials.example[name], strict=True) if size != usual]
        return sizes.count(0), sizes.count(1), len(moved), sum(moved)

    while True:
        same = [trial.shapes for trial in trials.seen.values() if trial.outcome is Outcome.SAME and trial.shapes not in tried]
        candidates = [
            shapes
            for shapes in same
            if not any(allows(one, shapes) for one in (conditions, *found))
            and not any(one.items() <= trials.moved(shapes).items() for one in failed)
        ]
        if not candidates:
            return
        tried.append(min(candidates, key=oddness))
        yield tried[-1]


def _with_batch_of_one(trials: Trials, alternative: Conditions, traced: Shapes, retrace: Retrace) -> list[tuple[Conditions, Shapes]]:
    """The conditions and where they were found, with those of a batch of one where the example's was doubled and one gives the same.

    Where the model asked whether the batch is one, it is traced with one too.
    """
    shapes = {
        name: (1, *shape[1:]) if shape and trials.example[name][0] == 1 and shape[0] == 2 else shape for name, shape in traced.items()
    }
    if shapes == traced or trials.run(shapes).outcome is not Outcome.SAME:
        return [(alternative, traced)]
    if all(one.is_assumed or one.holds_at(shapes) for one in alternative):
        return [(tuple(or_at(one, shapes) for one in alternative), traced)]
    args, kwargs = pytree.tree_unflatten(trials.inputs_at(shapes), trials.structure)
    single = retrace(args, kwargs)
    return [(alternative, traced)] if single is None or not allows(single, shapes) else [(alternative, traced), (single, shapes)]


def _run_beyond_both(trials: Trials, conditions: Sequence[Condition], alternative: Conditions, traced: Shapes) -> None:
    """Run where a condition is broken and the alternative does not hold either: whether the model runs there says if that matters."""
    for condition in conditions:
        if not condition.holds_at(traced):
            for other in not_among(alternative, conditions):
                for point in itertools.islice(broken_together(condition, other, trials.example), TOGETHER):
                    trials.run(trials.shapes_at(point))


def _run_around(trials: Trials, alternative: Conditions, start: Shapes) -> None:
    """Run at sizes that the alternative allows and that are a little larger in one axis."""
    for name, shape in start.items():
        for axis, size in enumerate(shape):
            for step in STEPS:
                shapes = {**start, name: (*shape[:axis], size + step, *shape[axis + 1 :])}
                if allows(alternative, shapes):
                    trials.run(shapes)


def _is_borne_out(trials: Trials, alternative: Conditions) -> bool:
    """Whether model and trace gave the same in all trials that the alternative allows, wherever the model ran."""
    outcomes = {trial.outcome for trial in trials.seen.values() if allows(alternative, trial.shapes)}
    return outcomes <= {Outcome.SAME, Outcome.REFUSED, Outcome.SKIPPED}
