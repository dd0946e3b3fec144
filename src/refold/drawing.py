"""A network before and after folding as boxes and arrows, the same for every format. Where the boxes stand is for others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from refold.graph import Graph, Linear, Opaque, shared_folder
from refold.maps import Scalar
from refold.plan import Fold

INPUT = "input"
"""What the box of a value says that no operator makes."""


@dataclass(frozen=True, slots=True)
class Box:
    """One operator, or an input of the network.

    `name` is the value that it makes, `reads` the values that it takes, `shape` has None where a size is free, `sources` are the
    parameters that it holds, and `folds` says which of the folds, counted from 0, it goes into or is the result of; several where each
    takes it. `adds` tells a plain sum of what is read.
    """

    name: str
    operation: str
    reads: tuple[str, ...] = ()
    shape: tuple[int | None, ...] | None = None
    sources: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()
    adds: bool = False

    @property
    def fold(self) -> int | None:
        """The first of its folds."""
        return next(iter(self.folds), None)

    @property
    def place(self) -> str:
        """The folder that all its parameters lie in, or nothing."""
        return shared_folder(self.sources)


@dataclass(frozen=True)
class Drawing:
    """The boxes before and after, each in topological order."""

    before: tuple[Box, ...]
    after: tuple[Box, ...]

    def folded(self, fold: int) -> tuple[Box, ...]:
        """The boxes that went into a fold."""
        return tuple(self._members.get(fold, ()))

    def branches_of(self, fold: int) -> Iterator[str]:
        """What went into a fold as text, a branch a line."""
        return branches(self.folded(fold), self._roots[fold])

    @cached_property
    def _members(self) -> dict[int, list[Box]]:
        members: dict[int, list[Box]] = defaultdict(list)
        for box in self.before:
            for fold in box.folds:
                members[fold].append(box)
        return members

    @cached_property
    def _roots(self) -> dict[int, str]:
        return {box.fold: box.name for box in self.after if box.fold is not None}


def draw(graph: Graph, folds: Sequence[Fold], became: Callable[[Fold], Sequence[str]]) -> Drawing:
    """The boxes of a network before and after `folds`; `became` says which operators a fold was written as."""
    member: dict[str, tuple[int, ...]] = {}
    for number, fold in enumerate(folds):
        member |= {node.output: (*member.get(node.output, ()), number) for node in fold.nodes}
    result = {fold.value: number for number, fold in enumerate(folds)}
    before = tuple(_box(graph, node, member.get(node.output, ())) for node in graph.nodes.values())
    read = {name for box in before for name in box.reads}
    inputs = tuple(Box(name, INPUT, shape=value.shape) for name, value in graph.values.items() if name not in graph.nodes and name in read)
    after = []
    for box in before:
        if box.name in result:
            fold = folds[result[box.name]]
            sources = tuple(dict.fromkeys(name for node in fold.nodes for name in node.sources))
            after.append(Box(box.name, " + ".join(became(fold)), tuple(fold.form), box.shape, sources, (result[box.name],)))
        else:
            after.append(Box(box.name, box.operation, box.reads, box.shape, box.sources))
    needed = _needed(after, graph.outputs | {box.name for box in before if box.fold is None})
    return Drawing((*inputs, *before), (*inputs, *(box for box in after if box.name in needed)))


def branches(boxes: Sequence[Box], root: str) -> Iterator[str]:
    """The boxes of one fold as text, from the value `root` that they make back to what they read; a branch a line.

    >>> boxes = (Box("c", "conv", ("x",)), Box("n", "norm", ("c",)), Box("y", "add", ("n", "x"), adds=True))
    >>> print("\\n".join(branches(boxes, "y")))
    add
    ├─ norm ← conv ← x
    └─ x
    """
    inside = {box.name: box for box in boxes}
    readers = Counter(name for box in boxes for name in box.reads)
    told: set[str] = set()

    def summands(box: Box) -> Iterator[str]:
        """What a box reads, where a sum that no other box reads stands in a sum what that one reads."""
        for name in box.reads:
            other = inside.get(name)
            if other is None or readers[name] > 1 or not (box.adds and other.adds and len(other.reads) > 1):
                yield name
            else:
                told.add(name)
                yield from summands(other)

    def told_from(name: str, lead: str, follow: str) -> Iterator[str]:
        chain = []
        while name in inside and name not in told:
            told.add(name)
            box = inside[name]
            chain.append(_label(box))
            if len(box.reads) != 1:
                yield lead + " ← ".join(chain)
                reads = list(summands(box))
                for position, read in enumerate(reads):
                    last = position == len(reads) - 1
                    yield from told_from(read, follow + ("└─ " if last else "├─ "), follow + ("   " if last else "│  "))
                return
            (name,) = box.reads
        again = f"{_label(inside[name])} as above" if name in inside else name
        yield lead + " ← ".join([*chain, again])

    return told_from(root, "", "")


def _box(graph: Graph, node: Linear | Opaque, folds: tuple[int, ...]) -> Box:
    value = graph.values.get(node.output)
    shape = None if value is None else value.shape
    if isinstance(node, Linear):
        adds = all(isinstance(mapped, Scalar) and mapped.is_identity for mapped in node.terms.values())
        return Box(node.output, node.operation, tuple(node.terms), shape, node.sources, folds, adds)
    return Box(node.output, node.operation, tuple(dict.fromkeys(node.inputs)), shape, (), folds)


def _needed(boxes: Sequence[Box], wanted: set[str]) -> set[str]:
    """The values that the wanted ones hang on, themselves included."""
    needed = set(wanted)
    for box in reversed(boxes):
        if box.name in needed:
            needed.update(box.reads)
    return needed


def _label(box: Box) -> str:
    return f"{box.operation} {box.place}" if box.place else box.operation
