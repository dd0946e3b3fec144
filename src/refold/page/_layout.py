"""Where boxes stand and arrows run: a layered layout after Sugiyama, Tagawa and Toda (1981), by fast-sugiyama."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fast_sugiyama import from_edges

from refold.drawing import Box

WIDTH, HEIGHT = 132, 36
ACROSS, DOWN = 152, 62
"""From the middle of one box to that of the next, in the units of a picture (pixels at full size)."""
MARGIN = 16

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """The middles of the boxes, by name; the points that each arrow passes; and the size of it all. Arrows run down."""

    places: dict[str, Point]
    arrows: tuple[tuple[str, str, tuple[Point, ...]], ...]
    width: int
    height: int


def lay_out(boxes: Sequence[Box]) -> Layout:
    """Place boxes in layers, each below all that it reads; parts that nothing joins stand side by side.

    >>> plan = lay_out((Box("x", "input"), Box("y", "conv", ("x",)), Box("z", "add", ("x", "y"))))
    >>> [plan.places[name][1] for name in "xyz"]
    [34, 96, 158]
    """
    places: dict[str, Point] = {}
    arrows: list[tuple[str, str, tuple[Point, ...]]] = []
    left = 0.0
    for part in _parts(boxes):
        numbers = {box.name: number for number, box in enumerate(part)}
        points, width, links = _place([(numbers[read], numbers[box.name]) for box in part for read in box.reads if read in numbers])
        at = {node: (round(left + x) + MARGIN + WIDTH // 2, round(y) + MARGIN + HEIGHT // 2) for node, (x, y) in points.items()}
        places |= {name: at[number] for name, number in numbers.items()}
        arrows += [(part[path[0]].name, part[path[-1]].name, tuple(at[one] for one in path)) for path in _paths(links, len(part))]
        left += width + ACROSS
    stops = [*places.values(), *(point for _, _, points in arrows for point in points)]
    right, bottom = (max((point[axis] for point in stops), default=0) for axis in (0, 1))
    return Layout(places, tuple(arrows), right + WIDTH // 2 + MARGIN, bottom + HEIGHT // 2 + MARGIN)


def _parts(boxes: Sequence[Box]) -> Iterable[list[Box]]:
    """The boxes in parts that nothing joins, each in the order given."""
    joined = {box.name: box.name for box in boxes}

    def first(name: str) -> str:
        while joined[name] != name:
            joined[name] = name = joined[joined[name]]
        return name

    for box in boxes:
        for read in box.reads:
            if read in joined:
                joined[first(box.name)] = first(read)
    parts: dict[str, list[Box]] = {}
    for box in boxes:
        parts.setdefault(first(box.name), []).append(box)
    return parts.values()


def _place(edges: Sequence[tuple[int, int]]) -> tuple[dict[int, tuple[float, float]], float, list[tuple[int, int]]]:
    """Where the vertices of one part stand, how wide it is, and what links them: the boxes and, counted on from them, where arrows bend.

    The parts are placed one by one, since fast-sugiyama counts the bends of several over each other.
    """
    if not edges:
        return {0: (0.0, 0.0)}, 0.0, []
    ((positions, width, height, links),) = from_edges(edges, vertex_spacing=ACROSS, dummy_vertices=True)
    points = {int(node): (x, (height - y) * DOWN / ACROSS) for node, (x, y) in positions}
    return points, width, [(int(source), int(target)) for source, target in links or ()]


def _paths(links: Sequence[tuple[int, int]], boxes: int) -> Iterator[list[int]]:
    """The links joined into whole arrows, from a box to a box over the vertices between."""
    following = {source: target for source, target in links if source >= boxes}
    for source, target in links:
        if source < boxes:
            path = [source, target]
            while path[-1] >= boxes:
                path.append(following[path[-1]])
            yield path
