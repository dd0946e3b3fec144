"""Whom a Shape asks: it reads no numbers, so that any value of the same sizes tells it as much as the one that it names.

A network that takes `x.shape` between two linear layers would keep the one from the other, if x had to stay for its sizes alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from refold.dialects.onnx._constants import SIZES, STANDARD, Constants
from refold.dialects.onnx._layout import Readers
from refold.dialects.onnx._scopes import Equalities, Scope
from refold.graph import Graph, Opaque


def find_tellers(scope: Scope, constants: Constants, equalities: Equalities, graph: Graph, readers: Readers) -> dict[str, str]:
    """For each Shape of a value that may go: the last of those it is made from that stays and has the sizes which are read, if any has."""
    shapes = {taken.shape: taken.asked for name, taken in constants.taken.items() if name == scope.key(taken.shape)}
    if not shapes:
        return {}
    staying = set(_staying(scope, constants, graph, readers))
    known = {name: equalities.shape(typed) for name in staying if (typed := scope.types.get(name)) is not None}
    found: dict[str, str] = {}
    for shape, asked in shapes.items():
        typed = scope.types.get(asked)
        if typed is None or asked in staying:
            continue
        sizes, axes = equalities.shape(typed), _axes_read(shape, scope, constants, readers)
        made_from = _made_from(asked, scope)
        fitting = [
            name
            for name, other in known.items()
            if name in made_from and len(other) == len(sizes) and all(other[axis] == sizes[axis] for axis in axes)
        ]
        if fitting:
            found[shape] = max(fitting, key=lambda name: readers.order.get(name, -1))
    return found


def _made_from(name: str, scope: Scope) -> set[str]:
    """The values of this graph that a value is made from: that sizes of others have one name with its own is a claim of the file's."""
    found: set[str] = set()
    stack = [name]
    while stack:
        node = scope.producers.get(stack.pop())
        new = {one for one in (() if node is None else node.input) if one} - found
        found |= new
        stack.extend(new)
    return found


def _axes_read(shape: str, scope: Scope, constants: Constants, readers: Readers) -> set[int]:
    """The axes whose sizes are read of a Shape, those left out that are known."""
    axes: set[int] = set()
    stack = [shape]
    while stack:
        name = stack.pop()
        taking = [[one for one in node.output if one] for node in readers.nodes.get(name, ())]
        if name in readers.elsewhere or not all(scope.key(one) in constants.taken for results in taking for one in results):
            axes.update(int(axis) for axis in constants.taken[scope.key(name)].axes.reshape(-1))
        else:
            stack.extend(one for results in taking for one in results if not constants.has(one, scope))
    return axes


def _staying(scope: Scope, constants: Constants, graph: Graph, readers: Readers) -> Iterator[str]:
    """Values that are there whatever is folded: inputs, outputs, and what something makes or reads that is not linear."""
    yield from (name for name in (*scope.inputs, *readers.elsewhere) if scope.owner(name) is scope and not constants.has(name, scope))
    for node in scope.graph.node:
        names = [name for name in node.output if name]
        if not names or (node.op_type in SIZES and node.domain in STANDARD):
            continue
        if all(isinstance(graph.nodes.get(scope.key(name)), Opaque) for name in names):
            yield from (name for name in (*names, *node.input) if name and scope.owner(name) is scope and not constants.has(name, scope))
