"""Follows where each place of a tensor comes from, through slices, pads, assignments and concatenations, to find a padding in disguise.

A network that overwrites the border of a padded tensor, or sets a tensor into a larger canvas, has written a padding with a fill. What it
wrote is found by carrying the places themselves through the operators: a tensor of place numbers stands for the input, a negative label
for each constant, and the result is a padding if the input's places lie in one block, in order, with one constant all around.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from refold.dialects.aten._constants import Constants
from refold.dialects.aten._sizes import fixed, shape_of

ENTRIES = ("aten.slice_scatter.default", "aten.select_scatter.default", "aten.cat.default", "aten.copy.default")
TRIALS = (((9, 2), (14, 4)), ((41, 8), (66, 20)), ((161, 32), (266, 80)), ((641, 128), (1066, 320)))
"""Sizes for the free symbols of the graph, as the first and the step to the next, in pairs: a padding that comes out alike for both of a
pair does not hang on the sizes, nor on two of them being equal, nor, since each differs by an odd number, on a power of 2. A pair is too
small where a place of the network is left no room."""
LARGEST = 1 << 24
"""Places of a tensor that are followed; where free sizes multiply, the larger trials go far beyond."""
ROOM = 3
"""Items along an axis that show a border on both sides and a middle."""


@dataclass(frozen=True, slots=True)
class Padding:
    """A padding that was found: of what, by how much on each axis, with which number a channel, in how many operators."""

    root: Node
    pads: tuple[tuple[int, int], ...]
    fill: torch.Tensor
    operators: int
    constants: tuple[Node, ...]


def find_padding(node: Node, constants: Constants) -> Padding | None:
    """The padding that a chain of assignments ends in, or None where it is something else."""
    traced = node.meta.get("val")
    if str(node.target) not in ENTRIES or not isinstance(traced, torch.Tensor) or traced.ndim < 3:
        return None
    for pair in TRIALS:
        trials = [_Trial(constants, size, step, traced.ndim - 2) for size, step in pair]
        first, second = (trial.padding(node) for trial in trials)
        if first is not None and second is not None and first.pads == second.pads and first.root is second.root:
            return first
        if not any(trial.is_crowded for trial in trials):
            return None
    return None


class _NotALayout(Exception):
    """The chain holds something that is neither a place nor a constant a channel."""


@dataclass(slots=True)
class _Trial:
    constants: Constants
    size: int
    step: int
    rank: int
    root: Node | None = None
    is_crowded: bool = False
    symbols: dict[Any, int] = field(default_factory=dict)
    levels: list[torch.Tensor] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)
    fillers: dict[str, Node] = field(default_factory=dict)

    def padding(self, node: Node) -> Padding | None:
        try:
            places = self._places(node)
        except (_NotALayout, IndexError, ValueError):
            return None
        if self.root is None or not isinstance(places, np.ndarray):
            return None
        sizes = self._root_sizes()
        corner = np.argwhere(places == 0)
        if len(corner) != 1:
            return None
        start = tuple(int(at) for at in corner[0])
        pads = tuple((at, whole - size - at) for at, whole, size in zip(start, places.shape, sizes, strict=True))
        middle = tuple(slice(at, at + size) for at, size in zip(start, sizes, strict=True))
        own = np.arange(int(np.prod(sizes))).reshape(sizes)
        if any(after < 0 for _, after in pads) or not np.array_equal(places[middle], own):
            return None
        border = np.ones(places.shape, dtype=bool)
        border[middle] = False
        labels = np.unique(places[border])
        if len(labels) != 1 or labels[0] >= 0:
            return None
        channels = shape_of(self.root.meta["val"])[1]
        if channels is None:
            return None
        fill = self.levels[-int(labels[0]) - 1].expand(channels)
        return Padding(self.root, pads, fill, len(self.seen) - 1, tuple(self.fillers.values()))

    def _root_sizes(self) -> tuple[int, ...]:
        assert self.root is not None
        return tuple(self._size(size) for size in self.root.meta["val"].shape[2:])

    def _size(self, size: int | torch.SymInt) -> int:
        """A size of the graph in this trial; one that hangs on the data stands for nothing."""
        known = fixed(size)
        if known is not None:
            return known
        assert isinstance(size, torch.SymInt)
        if not size.node.has_hint():
            raise _NotALayout
        expression = size.node.expr
        for symbol in sorted(expression.free_symbols, key=str):
            self.symbols.setdefault(symbol, self.size + self.step * len(self.symbols))
        return int(expression.subs(self.symbols))

    def _places(self, value: Any, axes: int | None = None) -> Any:
        """A tensor's places, or a number of the graph, at the sizes of this trial.

        A constant is read as spread over `axes` axes, the spatial ones where not said.
        """
        if isinstance(value, (list, tuple)):
            return [self._places(one) for one in value]
        if not isinstance(value, Node):
            return value
        traced = value.meta.get("val")
        if isinstance(traced, (int, torch.SymInt)):
            return self._size(traced)
        if value in self.constants:
            return self._label(value, self.rank if axes is None else axes)
        if value.name not in self.seen:
            result = self._follow(value)
            self.seen[value.name] = result
        return self.seen[value.name]

    def _follow(self, node: Node) -> Any:
        follow = FOLLOW.get(str(node.target))
        if follow is None:
            return self._start(node)
        assert isinstance(node.target, torch._ops.OpOverload)
        schema = node.target._schema.arguments
        arguments = {argument.name: argument.default_value for argument in schema}
        arguments.update(zip((argument.name for argument in schema), node.args, strict=False))
        arguments.update(node.kwargs)
        return follow(self, arguments)

    def _start(self, node: Node) -> Any:
        """The tensor that the chain starts from: there may be one only."""
        traced = node.meta.get("val")
        if not isinstance(traced, torch.Tensor) or traced.ndim != self.rank + 2 or self.root not in (None, node):
            raise _NotALayout
        self.root = node
        sizes = self._root_sizes()
        self.is_crowded = any(size < ROOM for size in sizes)
        if math.prod(sizes) > LARGEST:
            raise _NotALayout
        return np.arange(int(np.prod(sizes))).reshape(sizes)

    def _label(self, node: Node, axes: int) -> Any:
        """A constant as a label that broadcasts: it must be one number, or one a channel, alike at every place."""
        traced = node.meta["val"]
        aligned = (1,) * (axes + 2 - traced.ndim) + tuple(traced.shape)
        value = self.constants.value(node).double().reshape(aligned)
        level = value[(slice(0, 1), slice(None), *[slice(0, 1)] * axes)]
        if not torch.equal(value, level.expand_as(value)):
            raise _NotALayout
        self.fillers[node.name] = node
        return np.broadcast_to(self._level(level.reshape(-1)).reshape((1,) * axes), aligned[2:])

    def _level(self, level: torch.Tensor) -> Any:
        for position, known in enumerate(self.levels):
            if torch.equal(
                known.expand_as(level) if known.numel() == 1 else known, level.expand_as(known) if level.numel() == 1 else level
            ):
                return np.full((1,) * self.rank, -position - 1)
        self.levels.append(level)
        return np.full((1,) * self.rank, -len(self.levels))

    # Each follower takes the arguments by name.

    def cut(self, arguments: dict[str, Any]) -> Any:
        places = self._places(arguments["self"])
        axis, cut = self._cut(arguments)
        return places if axis is None else places[(slice(None),) * axis + (cut,)]

    def slice_scatter(self, arguments: dict[str, Any]) -> Any:
        places, source = self._places(arguments["self"]), self._places(arguments["src"])
        axis, cut = self._cut(arguments)
        target = (...,) if axis is None else (slice(None),) * axis + (cut,)
        changed = places.copy()
        changed[target] = source
        return changed

    def select(self, arguments: dict[str, Any]) -> Any:
        places = self._places(arguments["self"])
        axis = self._axis(arguments["dim"])
        if axis is None:
            raise _NotALayout
        return np.take(places, self._places(arguments["index"]), axis=axis)

    def select_scatter(self, arguments: dict[str, Any]) -> Any:
        places, source = self._places(arguments["self"]), self._places(arguments["src"], self.rank - 1)
        axis = self._axis(arguments["dim"])
        if axis is None:
            raise _NotALayout
        changed = places.copy()
        changed[(slice(None),) * axis + (self._places(arguments["index"]),)] = source
        return changed

    def cat(self, arguments: dict[str, Any]) -> Any:
        axis = self._axis(arguments["dim"])
        if axis is None:
            raise _NotALayout
        return np.concatenate([self._places(node) for node in arguments["tensors"]], axis=axis)

    def pad(self, arguments: dict[str, Any]) -> Any:
        pads = self._places(arguments["pad"])
        if arguments.get("mode", "constant") != "constant" or len(pads) > 2 * self.rank or any(side < 0 for side in pads):
            raise _NotALayout
        places = self._places(arguments["self"])
        pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
        label = self._level(torch.tensor([float(arguments["value"] or 0.0)], dtype=torch.float64))
        return np.pad(places, [(0, 0)] * (self.rank - len(pairs)) + pairs, constant_values=int(label.reshape(-1)[0]))

    def copy(self, arguments: dict[str, Any]) -> Any:
        places = self._places(arguments["self"])
        return np.broadcast_to(self._places(arguments["src"], places.ndim), places.shape)

    def fill(self, arguments: dict[str, Any]) -> Any:
        number = arguments["value"]
        places = self._places(arguments["self"])
        label = (
            self._places(number, places.ndim)
            if isinstance(number, Node)
            else self._level(torch.tensor([float(number)], dtype=torch.float64))
        )
        return np.broadcast_to(label, places.shape)

    def full(self, arguments: dict[str, Any]) -> Any:
        sizes = self._places(arguments["size"])
        number = arguments.get("fill_value", 0.0)
        if len(sizes) != self.rank + 2 or isinstance(number, Node):
            raise _NotALayout
        return np.broadcast_to(self._level(torch.tensor([float(number)], dtype=torch.float64)), sizes[2:])

    def expand(self, arguments: dict[str, Any]) -> Any:
        sizes = self._places(arguments["size"])
        places = self._places(arguments["self"], len(sizes) - 2)
        return np.broadcast_to(places, [own if size == -1 else size for own, size in zip(places.shape, sizes[2:], strict=True)])

    def same(self, arguments: dict[str, Any]) -> Any:
        return self._places(arguments["self"])

    def _axis(self, dim: int) -> int | None:
        """The spatial axis, or None for the batch and the channels."""
        axis = dim % (self.rank + 2) - 2
        return None if axis < 0 else axis

    def _cut(self, arguments: dict[str, Any]) -> tuple[int | None, slice]:
        start, end, step = (self._places(arguments[name]) for name in ("start", "end", "step"))
        axis = self._axis(arguments["dim"])
        if axis is None and (start not in (None, 0) or end not in (None, 2**63 - 1) or step != 1):
            raise _NotALayout
        return axis, slice(start, end, step)


FOLLOW: dict[str, Callable[[_Trial, dict[Any, Any]], Any]] = {
    "aten.slice.Tensor": _Trial.cut,
    "aten.slice_scatter.default": _Trial.slice_scatter,
    "aten.select.int": _Trial.select,
    "aten.select_scatter.default": _Trial.select_scatter,
    "aten.cat.default": _Trial.cat,
    "aten.pad.default": _Trial.pad,
    "aten.constant_pad_nd.default": _Trial.pad,
    "aten.copy.default": _Trial.copy,
    "aten.fill.Scalar": _Trial.fill,
    "aten.fill.Tensor": _Trial.fill,
    "aten.full.default": _Trial.full,
    "aten.zeros.default": _Trial.full,
    "aten.new_zeros.default": _Trial.full,
    "aten.new_full.default": _Trial.full,
    "aten.expand.default": _Trial.expand,
    "aten.clone.default": _Trial.same,
}
