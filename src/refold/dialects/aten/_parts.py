"""Parts of a tensor along one axis, as selections of its channels."""

from __future__ import annotations

import torch
from torch.fx import Node

from refold.algebra import Obstruction, Selection
from refold.dialects.aten._reading import Call, Reading, reads
from refold.dialects.aten._sizes import fixed


@reads("aten.chunk.default", "aten.split.Tensor", "aten.split_with_sizes.default", "aten.split.sizes")
def _split(call: Call) -> Reading | Obstruction | None:
    """y = one of the parts that x is split in; the operator counts with the first."""
    index, source, x = call.arguments.get("index"), call.node.args[0], call["self"]
    if not isinstance(index, int) or not isinstance(source, Node) or not call.is_activation(x):
        return None
    parts = source.meta["val"]
    axis = call["dim"] % call.output.ndim
    ends = [0]
    for part in parts[: index + 1]:
        width = fixed(part.shape[axis])
        if width is None:
            return None
        ends.append(ends[-1] + width)
    reading = select(call, axis, range(*ends[-2:]))
    return None if reading is None else Reading(reading.terms, free=index > 0)


@reads("aten.narrow.default")
def _narrow(call: Call) -> Reading | Obstruction | None:
    """y = so many channels of x."""
    start, length = call["start"], call["length"]
    if not (isinstance(start, int) and isinstance(length, int)):
        return None
    return select(call, call["dim"] % call.output.ndim, range(start, start + length))


@reads("aten.index_select.default")
def _index_select(call: Call) -> Reading | Obstruction | None:
    """y = the channels of x that are listed."""
    if call["index"] not in call.constants:
        return None
    return select(call, call["dim"] % call.output.ndim, [int(one) for one in call.constants.value(call["index"])])


def select(call: Call, axis: int, chosen: range | list[int]) -> Reading | None:
    """y = these channels of x, along an axis that is not the batch."""
    x = call["self"]
    if not call.is_activation(x) or axis == 0:
        return None
    channels = fixed(x.meta["val"].shape[axis])
    if channels is None or not chosen:
        return None
    sources = tuple(one + channels if one < 0 else one for one in chosen)
    like = torch.empty(0, dtype=torch.float64, device=call.output.device)
    return Reading({x: Selection(sources, channels, call.output.ndim - 1 - axis, like)})
