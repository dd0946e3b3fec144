"""Whether two runs of a network differ by the order of near-equal items: detections sorted by scores that all but tie, the best k of many.

Items lie along one axis of the outputs; the axes in front of it count apart, and outputs that change together change alike. An order is
the folded network's to choose only where the original's own roundings change it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST = 1 << 11
"""Items out of place up to which they are sought: each is compared with each."""


@dataclass(frozen=True, slots=True)
class Order:
    """That near-equal items of an output came in another order, and the sets agree.

    `moved` of `items` lie elsewhere along `axis`, by up to `places`; in the original's own runs, moved by roundings, up to `own` do.
    `difference` is the largest that is left once they are put in order.
    """

    axis: int
    moved: int
    items: int
    places: int
    own: int
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.moved:,} of {self.items:,} items along axis {self.axis} are near-equal and came in another order "
            f"(rounding moves {self.own:,} in the original itself); the sets agree"
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One output of two networks beside those of other runs of the first: inputs a rounding off, sums in another order, in float64.

    `rounding` is what rounding alone explains between two numbers, 0 where they are integers.
    """

    original: Array
    folded: Array
    own: tuple[Array, ...]
    rounding: float


def find_order(outputs: Sequence[Run], factor: float) -> list[Order | None]:
    """What of the differences of outputs the order of their items explains, for each output.

    None for an output that rounding explains, and for those that another order does not bring to agree. `factor` is how many times as many
    items, by how many times as many places, may be moved as in one of the original's own runs.
    """
    found: list[Order | None] = [None] * len(outputs)
    apart = [number for number, output in enumerate(outputs) if _is_comparable(output) and _is_apart(output, output.folded)]
    deepest = max((outputs[number].original.ndim for number in apart), default=0)
    for axis in range(deepest):
        left = [number for number in apart if found[number] is None and outputs[number].original.ndim > axis]
        for start in dict.fromkeys(outputs[number].original.shape[: axis + 1] for number in left):
            alike = [
                number
                for number, output in enumerate(outputs)
                if output.original.shape[: axis + 1] == start and _is_comparable(output) and _is_ever_apart(output)
            ]
            orders = _order_along(axis, [outputs[number] for number in alike], factor)
            for number, order in zip(alike, orders, strict=True):
                found[number] = order if number in left else found[number]
    return found


def _order_along(axis: int, outputs: Sequence[Run], factor: float) -> list[Order | None]:
    none: list[Order | None] = [None] * len(outputs)
    if outputs[0].original.shape[axis] < 2:
        return none
    own_moved, own_places = 0, 0
    bounds = [output.rounding for output in outputs]
    for number in range(min(len(output.own) for output in outputs)):
        places = _nearest(axis, outputs, [output.own[number] for output in outputs])
        if places is None:
            continue
        noise = [_left(axis, output, output.own[number], places) for output in outputs]
        if all(_is_told(output, output.own[number], left, factor) for output, left in zip(outputs, noise, strict=True)):
            own_moved, own_places = max(own_moved, _moved(places)), max(own_places, _farthest(places))
            bounds = [max(bound, factor * left) for bound, left in zip(bounds, noise, strict=True)]
    outputs = [replace(output, rounding=bound) for output, bound in zip(outputs, bounds, strict=True)]
    places = _nearest(axis, outputs, [output.folded for output in outputs])
    if places is None or not 0 < _moved(places) <= factor * own_moved or _farthest(places) > factor * own_places:
        return none
    orders: list[Order | None] = []
    for output in outputs:
        left = _left(axis, output, output.folded, places)
        if left > output.rounding or not _is_told(output, output.folded, left, factor):
            return none
        orders.append(Order(axis, _moved(places), places.size, _farthest(places), own_moved, left))
    return orders


def _nearest(axis: int, outputs: Sequence[Run], others: Sequence[Array]) -> NDArray[np.intp] | None:
    """Where each item of the outputs lies in the others, (leading, items): in its place if it agrees there, else where the nearest is.

    Each place is given once. None where more than `MOST` are out of place.
    """
    scales = [output.rounding or 0.5 for output in outputs]
    mine = np.concatenate([_items(output.original, axis) / scale for output, scale in zip(outputs, scales, strict=True)], axis=2)
    theirs = np.concatenate([_items(other, axis) / scale for other, scale in zip(others, scales, strict=True)], axis=2)
    places = np.tile(np.arange(mine.shape[1]), (mine.shape[0], 1))
    for lead, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        out = np.flatnonzero(np.abs(one - other).max(axis=1) > 1)
        if len(out) > MOST:
            return None
        free = np.ones(len(out), dtype=bool)
        for position in out:
            distances = np.where(free, np.abs(one[position] - other[out]).max(axis=1), np.inf)
            nearest = int(distances.argmin())
            places[lead, position], free[nearest] = out[nearest], False
    return places


def _items(array: Array, axis: int) -> Array:
    """The array as (leading, items, numbers of each)."""
    lead = int(np.prod(array.shape[:axis]))
    return array.reshape(lead, array.shape[axis], -1)


def _taken(items: Array, places: NDArray[np.intp]) -> Array:
    return np.take_along_axis(items, places[:, :, None], axis=1)


def _left(axis: int, output: Run, other: Array, places: NDArray[np.intp]) -> float:
    """The largest difference of another run once its items are put in order."""
    return float(np.abs(_items(output.original, axis) - _taken(_items(other, axis), places)).max())


def _is_told(output: Run, other: Array, left: float, factor: float) -> bool:
    """Whether order, and not what is left once that is restored, makes the difference of another run, if there is one."""
    return not _is_apart(output, other) or factor * left < float(np.abs(output.original - other).max())


def _moved(places: NDArray[np.intp]) -> int:
    return int((places != np.arange(places.shape[1])).sum())


def _farthest(places: NDArray[np.intp]) -> int:
    return int(np.abs(places - np.arange(places.shape[1])).max(initial=0))


def _is_comparable(output: Run) -> bool:
    arrays = (output.original, output.folded, *output.own)
    return output.original.size > 0 and all(one.shape == output.original.shape and bool(np.isfinite(one).all()) for one in arrays)


def _is_apart(output: Run, other: Array) -> bool:
    return bool(np.abs(output.original - other).max() > output.rounding)


def _is_ever_apart(output: Run) -> bool:
    return any(_is_apart(output, other) for other in (output.folded, *output.own))
