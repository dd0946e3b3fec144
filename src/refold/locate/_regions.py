"""Stretches of a network: what hangs on a value, what a value is made from, and where the two meet."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from refold.walk import Step, Walk

REACH = 32
"""Operators behind the last match that are looked at."""


def lost(second: Walk, matches: Collection[str]) -> list[str]:
    """The values, in order, from which an output is reached without passing a match."""
    found: set[str] = set()
    stack = [name for name in second.outputs if name in second.steps]
    while stack:
        name = stack.pop()
        if name not in matches and name not in found:
            found.add(name)
            stack.extend(second.steps[name].reads)
    return [name for name in second.steps if name in found]


def frontier(second: Walk, matches: Collection[str], name: str) -> list[str]:
    """The matched values that a value is made from with nothing matched between."""
    found: set[str] = set()
    seen: set[str] = set()
    stack = [*second.steps[name].reads]
    while stack:
        one = stack.pop()
        if one in matches:
            found.add(one)
        elif one not in seen:
            seen.add(one)
            stack.extend(second.steps[one].reads)
    return [one for one in second.steps if one in found]


def behind(first: Walk, roots: Collection[str]) -> list[Step]:
    """The first values, in order, that hang on the roots."""
    inside: dict[str, Step] = {}
    for name, step in first.steps.items():
        if len(inside) == REACH:
            break
        if name not in roots and any(one in inside or one in roots for one in step.reads):
            inside[name] = step
    return list(inside.values())


def above(region: Iterable[Step]) -> dict[str, list[str]]:
    """What each value of a region is made from, as far as the region reaches and the values that it begins with; nearest first."""
    inside = {step.name: step for step in region}
    found = {}
    for name, step in inside.items():
        seen: dict[str, None] = {}
        queue = [*step.reads]
        while queue:
            one = queue.pop(0)
            if one not in seen:
                seen[one] = None
                queue.extend(inside[one].reads if one in inside else ())
        found[name] = list(seen)
    return found
