"""Parts of a tensor along one axis, as selections of its channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refold.algebra import Obstruction, Selection
from refold.dialects.onnx._call import Call, Reading, reads

LIKE = np.zeros(0)


@reads("Split")
def _split(call: Call) -> Reading | Obstruction | None:
    """y = one of the parts that x is split in; the operator counts with the first."""
    x, name = call.x, call.node.output[0]
    maker = call.scope.producers[name]
    axis = int(call.get("axis", 0)) % len(call.output.shape)
    parts = list(maker.output)
    widths = [typed.shape[axis] if (typed := call.typed(one)) is not None else None for one in parts[: parts.index(name) + 1]]
    ends = [0]
    for width in widths:
        if not isinstance(width, int):
            return None
        ends.append(ends[-1] + width)
    reading = select(call, x, axis, range(*ends[-2:])) if sum(map(bool, parts)) > 1 else None
    return None if reading is None else Reading(reading.terms, operators=1 if name == parts[0] else 0)


@reads("Gather")
def _gather(call: Call) -> Reading | Obstruction | None:
    """y = the channels of x that are listed."""
    x, indices = call.x, call.input(1)
    if not call.is_constant(indices):
        return None
    listed = call.value(indices)
    if listed.ndim != 1:
        return None
    return select(call, x, int(call.get("axis", 0)) % len(call.output.shape), [int(one) for one in listed])


def select(call: Call, x: str, axis: int, chosen: Sequence[int]) -> Reading | None:
    """y = these channels of x, along an axis that is not the batch."""
    typed = call.typed(x)
    channels = None if typed is None else typed.shape[axis]
    if not call.is_activation(x) or axis == 0 or not isinstance(channels, int) or not chosen:
        return None
    sources = tuple(one + channels if one < 0 else one for one in chosen)
    return Reading({x: Selection(sources, channels, len(call.output.shape) - 1 - axis, LIKE)})
