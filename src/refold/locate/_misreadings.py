"""The ways in which converters read operators wrongly, or leave them out: in words, and as changes of the steps that they touch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from refold.locate._regions import above
from refold.walk import PLAIN_EPS, Array, Change, Step, Walk

WEIGHTED = ("convolution", "linear", "transposed_convolution")
OPTIONS = ("padding", "dilation", "stride")

Changes = dict[str, Change]


def misreadings(region: Sequence[Step]) -> Iterator[tuple[str, Changes]]:
    """Each way to read operators of a region wrongly, the plainest first."""
    kinds: dict[str, list[Step]] = {}
    for step in region:
        kinds.setdefault(step.kind, []).append(step)
    norms, convolutions = kinds.get("batch_norm", []), kinds.get("convolution", [])
    yield from _together("train-mode statistics: those of the batch, where the original uses the running ones", norms, {"training": True})
    for step in kinds.get("scale", []):
        yield f"missing scale: {step.options['constant']} read as 1", {step.name: step.options["kept"]}
    biased = [step for step in region if step.kind in WEIGHTED and step.options["bias"]]
    yield from _together("dropped bias of a layer", biased, {"bias": None})
    for step in kinds.get("shift", []):
        yield f"dropped bias: {step.options['constant']} read as 0", {step.name: step.options["kept"]}
    yield from _together("dropped bias of a batch norm", norms, {"bias": None})
    yield from _together("missing scale: the weight of a batch norm read as 1", norms, {"weight": None})
    other = [step for step in norms if np.float32(step.options["eps"]) != np.float32(PLAIN_EPS)]
    yield from _together(f"eps of a batch norm read as {PLAIN_EPS}", other, {"eps": PLAIN_EPS})
    modes = [step for step in kinds.get("pad", []) if step.options["mode"] != "constant"]
    names = ", ".join(dict.fromkeys(str(step.options["mode"]) for step in modes))
    yield from _together(f"lost padding mode: zeros, where the original continues its input by {names}", modes, {"mode": "constant"})
    spread = [step for step in convolutions if set(step.options["dilation"]) != {1}]
    yield from _each("lost dilation: 1, where the original spreads its taps", {step: _dense(step) for step in spread})


def omissions(region: Sequence[Step], first: Walk) -> Iterator[tuple[str, str, Changes]]:
    """Every value of a region in turn replaced by one that it is made from, with as little as can be between them first.

    What is left out comes in words, and with it the name of the value that goes on in its place.
    """
    made_from = above(region)
    found = []
    for step in region:
        for name in made_from[step.name]:
            if first.steps[name].value.shape == step.value.shape:
                between = [one for one in region if one.name in made_from[step.name] and name in made_from[one.name]]
                found.append(([*between, step], name))
    for steps, kept in sorted(found, key=lambda one: len(one[0])):
        folder = next((one.folder for one in steps if one.folder), "")
        told = ", ".join(one.operation for one in steps)
        yield f"{told} (in `{folder}`)" if folder else told, kept, {steps[-1].name: kept}


def variants(step: Step, second: Walk, region: Sequence[Step]) -> Iterator[tuple[str, Array]]:
    """A convolution of the second network with options that convolutions of a region of the first have: in words, and its value."""
    if step.kind != "convolution":
        return
    own = step.options
    theirs = [one.options for one in region if one.kind == "convolution" and len(one.options["stride"]) == len(own["stride"])]
    choices = {option: list(dict.fromkeys([own[option], *(one[option] for one in theirs)])) for option in OPTIONS}
    ways = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    every: list[dict[str, Any]] = [{option: value for option, value in way.items() if value != own[option]} for way in ways]
    for changed in sorted(filter(None, every), key=len):
        told = ", ".join(f"{option} (={_told(own[option])}) where the original has {_told(value)}" for option, value in changed.items())
        for value in second.again([step.name], {step.name: changed}).values():
            yield f"lost {' and '.join(changed)}: {told}", value


def _together(text: str, steps: Sequence[Step], change: Mapping[str, Any]) -> Iterator[tuple[str, Changes]]:
    return _each(text, dict.fromkeys(steps, change))


def _each(text: str, changes: Mapping[Step, Change]) -> Iterator[tuple[str, Changes]]:
    """All these changes, then each alone."""
    if changes:
        yield text, {step.name: change for step, change in changes.items()}
    if len(changes) > 1:
        for step, change in changes.items():
            yield f"{text} (`{step.folder or step.name}`)", {step.name: change}


def _dense(step: Step) -> Change:
    """Taps side by side, and a padding that belongs to them."""
    dilation = step.options["dilation"]
    padding = [(before // spread, after // spread) for (before, after), spread in zip(step.options["padding"], dilation, strict=True)]
    return {"dilation": (1,) * len(dilation), "padding": tuple(padding)}


def _told(numbers: Sequence[Any]) -> str:
    """A number an axis, one for all where they are the same.

    >>> _told(((1, 1), (1, 1))), _told((1, 2)), _told(((0, 1), (0, 1)))
    ('1', '1, 2', '0 + 1')
    """
    each = [str(one) if isinstance(one, int) else str(one[0]) if one[0] == one[1] else f"{one[0]} + {one[1]}" for one in numbers]
    return ", ".join(each if len(set(each)) > 1 else each[:1])
