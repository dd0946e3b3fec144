"""The sizes at which a network is compared: every axis of every input by itself, axes of one label together, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.fuzz.recipe import Draw, Recipe

TRIES = 40
"""Sizes that are offered to the original."""
BROADCAST = "one"
"""How labels of axes begin that are of one item to be broadcast."""


def sizes_of(recipe: Recipe) -> Iterator[tuple[Recipe, bool]]:
    """The example's sizes, then others, none twice.

    The second value says that axes which belong together (of one label, or of one item to be broadcast) are torn apart.
    """
    yield recipe, False
    draw = Draw(f"sizes {recipe.seed}")
    labels = sorted({label for one in recipe.inputs for label in one.labels})
    known = {label: size for one in recipe.inputs for label, size in zip(one.labels, one.shape, strict=True)}
    seen = {recipe.inputs}

    def other(size: int) -> int:
        return draw.one(1, 2, 3, 5, 7, 8, 13, size + 1, size - 1, 2 * size, size + 2, draw.randint(1, 16), 0 if draw.chance(0.2) else 4)

    for turn in range(TRIES):
        apart = False
        sized = list(recipe.inputs)
        if turn < 3 * len(labels):
            label = labels[turn % len(labels)]
            size = (1, known[label] + draw.one(1, 2, 3, known[label]), other(known[label]))[turn // len(labels)]
            sized = [one.resized({label: size}) for one in sized]
            apart = label.startswith(BROADCAST)
        elif turn % 4 == 0 and len(sized) > 1:
            at, apart = draw.randrange(len(sized)), True
            axis = draw.randrange(max(1, len(sized[at].shape)))
            shape = tuple(other(size) if place == axis else size for place, size in enumerate(sized[at].shape))
            sized[at] = replace(sized[at], shape=shape)
        else:
            changed = {
                label: other(known[label]) for label in labels if (label != "c" or draw.chance(0.1)) and not label.startswith(BROADCAST)
            }
            sized = [one.resized(changed) for one in sized]
        if tuple(sized) not in seen:
            seen.add(tuple(sized))
            yield replace(recipe, inputs=tuple(sized)), apart
