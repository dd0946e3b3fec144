"""Makes a network that fails smaller while it fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz.recipe import Recipe, Step

OPTIONAL = ("outputs", "constants", "listed", "nameless", "unnamed", "ranks", "example")
"""Options that a recipe can do without."""


def shrink(recipe: Recipe, fails: Callable[[Recipe], bool], *, seconds: float = 120.0) -> Recipe:
    """The smallest recipe that was found by taking away while `fails` holds, within so many seconds."""
    until = time.monotonic() + seconds
    smaller = True
    while smaller and time.monotonic() < until:
        smaller = False
        for candidate in _smaller(recipe):
            if time.monotonic() > until:
                break
            if candidate.size < recipe.size and fails(candidate):
                recipe, smaller = candidate, True
                break
    return recipe


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    """What to try, the boldest first."""
    first = len(recipe.inputs)
    yield recipe.live()
    for place in range(first, first + len(recipe.steps)):
        yield replace(recipe, outputs=(place,)).live()
    for number in range(len(recipe.steps) - 1, -1, -1):
        for stands_in in dict.fromkeys(recipe.steps[number].reads):
            yield without_step(recipe, number, stands_in)
    for place in range(first):
        if all(place not in step.reads for step in recipe.steps) and place not in recipe.outputs and first > 1:
            yield without_input(recipe, place)
    for name in recipe.options:
        if name in OPTIONAL:
            yield replace(recipe, options={one: value for one, value in recipe.options.items() if one != name})
    for number, step in enumerate(recipe.steps):
        if "within" in step.attributes:
            yield _with(recipe, number, {name: value for name, value in step.attributes.items() if name != "within"})
    for label, size in {label: size for one in recipe.inputs for label, size in zip(one.labels, one.shape, strict=True)}.items():
        for less in (1, 2, size - 1):
            if 0 < less < size:
                yield replace(recipe, inputs=tuple(one.resized({label: less}) for one in recipe.inputs))


def without_step(recipe: Recipe, number: int, stands_in: int) -> Recipe:
    """The recipe where an earlier value stands in the place of a step's."""
    gone = len(recipe.inputs) + number

    def moved(place: int) -> int:
        place = stands_in if place == gone else place
        return place - 1 if place > gone else place

    steps = [replace(step, reads=tuple(map(moved, step.reads))) for at, step in enumerate(recipe.steps) if at != number]
    return replace(recipe, steps=tuple(steps), outputs=tuple(map(moved, recipe.outputs)))


def without_input(recipe: Recipe, gone: int) -> Recipe:
    """The recipe without an input that nothing reads."""

    def moved(place: int) -> int:
        return place - 1 if place > gone else place

    steps = [replace(step, reads=tuple(map(moved, step.reads))) for step in recipe.steps]
    inputs = tuple(one for place, one in enumerate(recipe.inputs) if place != gone)
    return replace(recipe, inputs=inputs, steps=tuple(steps), outputs=tuple(map(moved, recipe.outputs)))


def _with(recipe: Recipe, number: int, attributes: dict[str, object]) -> Recipe:
    step = recipe.steps[number]
    return replace(recipe, steps=(*recipe.steps[:number], Step(step.operator, step.reads, attributes), *recipe.steps[number + 1 :]))
