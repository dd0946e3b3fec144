"""Why a value is not what it should be: every cause is tried in numbers, and named where it gives those that departed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np

from refold.locate._compare import MARGIN, allowed, apart, is_equal, scale
from refold.locate._fits import fitted
from refold.locate._misreadings import misreadings, omissions, variants
from refold.verification import FACTOR
from refold.walk import Change, Step, Walk

UNKNOWN = "unknown: no misreading of the original's operators that was tried gives these numbers"
NARROW = {"bfloat16": (ml_dtypes.bfloat16, 2.0**-8), "float16": (np.float16, 2.0**-11), "float32": (np.float32, 2.0**-24)}
"""Dtypes that weights are rounded to, and their unit roundoffs."""


def causes(first: Walk, second: Walk, step: Step, region: Sequence[Step], known: Collection[str]) -> Iterator[tuple[str, Step]]:
    """Each cause that gives the numbers of a step of the second network, with the value of the first that it should be; plainest first.

    `known` are the values of the first network that the second has too.
    """
    yield from _read_otherwise(first, step, region, known)
    for text, value in variants(step, second, region):
        for one in region:
            if is_equal(value, first, one):
                yield text, one
    yield from fitted(first, step, region)
    if (name := _precision(second, step.name)) is not None:
        for one in reversed(region):
            reach = NARROW[name][1] * scale(one.value)
            if reach > FACTOR * first.slack(one.name) and apart(step.value, one.value) <= MARGIN * reach:
                yield f"dtype: the weights are no finer than {name}", one


def _read_otherwise(first: Walk, step: Step, region: Sequence[Step], known: Collection[str]) -> Iterator[tuple[str, Step]]:
    for text, changes in misreadings(region):
        yield from ((text, one) for one in _given(first, step, region, changes))
    for text, kept, changes in omissions(region, first):
        for one in _given(first, step, region, changes):
            yield (f"left out: {text}" if kept in known else f"{one.operation} folded through what stands before it: {text}"), one


def _given(first: Walk, step: Step, region: Sequence[Step], changes: Mapping[str, Change]) -> Iterator[Step]:
    """The steps of a region that with these changes come out as the departing one."""
    for name, value in first.again([one.name for one in region], changes).items():
        if step.value.shape == value.shape and apart(step.value, value) <= allowed(first, first.steps[name]):
            yield first.steps[name]


def _precision(walk: Walk, name: str) -> str | None:
    """The lowest dtype that holds the weights of an operator exactly; None where it has none or none does."""
    held = set(NARROW)
    weighted = False
    for weight in walk.weights(name):
        weighted = True
        held = {one for one in held if np.array_equal(weight, weight.astype(NARROW[one][0]).astype(weight.dtype))}
    return next((one for one in NARROW if one in held), None) if weighted else None
