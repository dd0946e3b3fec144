"""When two values are equal: a value may be off by what the first network itself is off there, and a margin."""

from __future__ import annotations

import numpy as np

from refold.verification import FACTOR
from refold.walk import Array, Step, Walk

MARGIN = FACTOR**2
"""Both networks have rounded on their way, each by as much as `FACTOR` times what the other has."""


def allowed(first: Walk, step: Step) -> float:
    """What rounding explains at a value of the first network."""
    return MARGIN * first.slack(step.name)


def is_equal(value: Array, first: Walk, step: Step) -> bool:
    """Whether a value is one of the first network, as far as rounding lets them be the same."""
    return value.shape == step.value.shape and apart(value, step.value) <= allowed(first, step)


def apart(one: Array, other: Array) -> float:
    """The largest difference; NaN and infinity differ from every number but themselves."""
    if one.shape != other.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        between = np.abs(one - other)
    between = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, between)
    return float(np.nan_to_num(between, nan=np.inf, posinf=np.inf).max(initial=0.0))


def scale(value: Array) -> float:
    """The largest finite number."""
    return float(np.nan_to_num(np.abs(value), posinf=0.0).max(initial=0.0))
