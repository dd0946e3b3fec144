"""Where two networks that should be the same function part: the first value that departs, and a cause that was tried in numbers.

Both run once in float64. A value of the second that equals one of the first, to within `FACTOR` squared times what the first is off in
its own dtype, is matched: each of the two has rounded on its way there. The first value that is not, and after which nothing is matched
again, departs. What it should have been is looked for in the stretch of the first network behind the last match: with its operators read
wrongly in each of the ways that converters do, the numbers of one of them come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refold.errors import FoldError
from refold.locate._causes import UNKNOWN, causes
from refold.locate._compare import apart, is_equal
from refold.locate._departure import Departure, departure
from refold.locate._pair import paired, walk_both
from refold.locate._regions import behind, frontier, lost
from refold.walk import Step, Walk

TRIED = 3
"""Departing values in a row that a cause is looked for."""


def locate(original: Any, folded: Any, example_inputs: Any = None, *, kwargs: Mapping[str, Any] | None = None) -> Departure | None:
    """The first value at which `folded` stops being `original`, and the likely cause; None where no value departs.

    Each of the two is a `torch.nn.Module`, a `torch.export.ExportedProgram` or an ONNX model: a path, an `onnx.ModelProto` or an
    `onnx_ir.Model`. An ONNX model takes the inputs of the other by name where the names are the same, by position where they are not.

    Raises `FoldError` where a network cannot be traced or run, or takes or gives something else than the other.

    >>> import torch
    >>> layer = torch.nn.Conv2d(2, 2, 3)
    >>> spoilt = torch.nn.Conv2d(2, 2, 3, bias=False)
    >>> spoilt.weight = layer.weight
    >>> locate(layer, spoilt, torch.randn(1, 2, 5, 5)).cause
    'dropped bias of a layer'
    """
    first, second = walk_both(original, folded, example_inputs, kwargs)
    if len(first.outputs) != len(second.outputs):
        raise FoldError(f"the two models give {len(first.outputs)} and {len(second.outputs)} outputs; compare models that give the same")
    matches = _match(first, second)
    pairs = list(zip(first.outputs, second.outputs, strict=True))
    if all(mine not in first.steps or theirs not in second.steps or mine in matches.get(theirs, ()) for mine, theirs in pairs):
        return None
    departing = lost(second, matches)
    if not departing:
        mine, theirs = next(pair for pair in pairs if pair[0] not in matches.get(pair[1], ()))
        return _ends_early(first, second, matches[theirs], mine, theirs)
    guesses = []
    for name in departing[:TRIED]:
        guesses.append(_explain(first, second, matches, name))
        if guesses[-1].cause != UNKNOWN:
            return guesses[-1]
    shapes = {step.value.shape for step in first.steps.values()}
    return next((one for one in guesses if second.steps[one.operator].value.shape in shapes), guesses[0])


def _match(first: Walk, second: Walk) -> dict[str, list[str]]:
    """For each value of the second network the values of the first that it equals, the last of them first.

    Inputs are the same whatever dtype the second takes them in.
    """
    by_shape: dict[tuple[int, ...], list[Step]] = {}
    for step in reversed(list(first.steps.values())):
        by_shape.setdefault(step.value.shape, []).append(step)
    found = {}
    for step in second.steps.values():
        equal = [one.name for one in by_shape.get(step.value.shape, ()) if is_equal(step.value, first, one)]
        if equal:
            found[step.name] = equal
    for theirs, mine in paired(first.inputs, second.inputs).items():
        if theirs in second.steps and mine in first.steps:
            found.setdefault(theirs, [mine])
    return found


def _explain(first: Walk, second: Walk, matches: Mapping[str, list[str]], name: str) -> Departure:
    step = second.steps[name]
    matched = frontier(second, matches, name)
    region = behind(first, [matches[theirs][-1] for theirs in matched])
    last = (str(first.steps[matches[matched[-1]][0]]), str(second.steps[matched[-1]])) if matched else ("nothing", "nothing")
    known = {one for equal in matches.values() for one in equal}
    for cause, counterpart in causes(first, second, step, region, known):
        return departure(step, first, counterpart, cause, last)
    like = [one for one in region if one.value.shape == step.value.shape and one.kind == step.kind]
    like = like or [one for one in region if one.value.shape == step.value.shape] or region
    if not like:
        end = next(first.steps[one] for one in first.outputs if one in first.steps)
        return departure(step, first, end, f"one operator more: the original ends before {step.operation}", last)
    nearest = min(like, key=lambda one: apart(step.value, one.value))
    return departure(step, first, nearest, UNKNOWN, last)


def _ends_early(first: Walk, second: Walk, equal: list[str], mine: str, theirs: str) -> Departure:
    """The output of the second network is a value that the first goes on from."""
    rest = [step.operation for step in behind(first, equal[:1]) if step.kind != "input"]
    told = ", ".join(dict.fromkeys(rest)) or "another value is given"
    last = str(first.steps[equal[0]]), str(second.steps[theirs])
    return departure(second.steps[theirs], first, first.steps[mine], f"left out: {told}", last)
