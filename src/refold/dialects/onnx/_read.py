"""From the graphs of an ONNX model to the neutral graph."""

from __future__ import annotations

from dataclasses import replace

from onnx import NodeProto

from refold.algebra import Obstruction
from refold.dialects.onnx._call import MISREAD, Call, Reading
from refold.dialects.onnx._constants import STANDARD, Constants
from refold.dialects.onnx._layout import Readers
from refold.dialects.onnx._load import graphs_of
from refold.dialects.onnx._operators import read
from refold.dialects.onnx._scopes import Equalities, Scope, Size, broadcast, value_of
from refold.dialects.onnx._tellers import find_tellers
from refold.errors import FoldError
from refold.graph import Graph, Linear, Opaque, Refusal
from refold.maps import Moved, Scalar, Value, as_moved

ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Mean", "Pow", "PRelu")
OLDEST = 7
"""The first opset whose operators broadcast and normalize as they do today."""


def read_graph(top: Scope, constants: Constants, opset: int) -> Graph:
    """All graphs of a model as one neutral graph. A graph within another shares no value with it: what it captures is a root of its own."""
    graph = Graph()
    equalities = Equalities()
    for scope in top.all():
        _read_scope(scope, constants, opset, graph, equalities)
    _drop_chains(graph, top)
    for scope in top.all():
        for name, typed in scope.types.items():
            if (key := scope.key(name)) in graph.values:
                graph.values[key] = _as_learned(graph.values[key], equalities.shape(typed))
    return graph


def _as_learned(value: Value, shape: tuple[Size, ...]) -> Value:
    """A value with the sizes that inference left free and the operators around it fix."""
    known = [size if isinstance(size, int) else None for size in shape]
    example = tuple(one if size is None else size for one, size in zip(value.example, known, strict=True))
    return replace(value, shape=tuple(known), example=example)


def _drop_chains(graph: Graph, top: Scope) -> None:
    """Take out what only the way hangs on in which a linear node was written: it hangs on its terms alone.

    What nothing read in the first place stays, for it is written as it was.
    """
    used = {scope.key(name) for scope in top.all() for node in scope.graph.node for name in node.input}
    stack = [*graph.outputs, *(name for name in graph.nodes if name not in used)]
    live: set[str] = set()
    while stack:
        name = stack.pop()
        reader = graph.nodes.get(name)
        if name in live or reader is None:
            continue
        live.add(name)
        stack.extend(reader.terms if isinstance(reader, Linear) else reader.inputs)
        if isinstance(reader, Linear):
            stack.extend(name for mapped in reader.terms.values() for step in as_moved(mapped).steps for name in step.reads)
    for name in [name for name in graph.nodes if name not in live]:
        del graph.nodes[name]


def _read_scope(scope: Scope, constants: Constants, opset: int, graph: Graph, equalities: Equalities) -> None:
    for name in (*(one.name for one in scope.graph.input), *scope.captured(), *scope.initializers):
        typed = scope.typed(name)
        if typed is not None and not constants.has(name, scope):
            graph.values[scope.key(name)] = value_of(scope.key(name), typed)
    inner: dict[int, set[str]] = {}
    for node, one in scope.within:
        inner.setdefault(id(node), set()).update(one.captured())
    readers = Readers.of(scope)
    for number, node in enumerate(scope.graph.node):
        if node.output and all(constants.has(name, scope) for name in node.output if name):
            continue
        for name in filter(None, node.output):
            typed = scope.typed(name)
            if typed is not None:
                graph.values[scope.key(name)] = value_of(scope.key(name), typed)
        reads = {name for name in node.input if name} | inner.get(id(node), set())
        reads = {scope.key(name) for name in reads if not constants.has(name, scope)}
        _learn_elementwise(node, scope, equalities)
        linear = _linear(node, scope, constants, opset, graph, equalities, readers)
        for name in [name for name in node.output if name] or [f"#{number} {node.op_type}"]:
            key = scope.key(name)
            graph.nodes[key] = linear if linear is not None and linear.output == key else Opaque(key, node.op_type, tuple(sorted(reads)))
        if linear is not None:
            _learn_windows(node, scope, linear, equalities)
        for name in filter(None, node.output[1:] if node.op_type == "Split" else ()):
            part = _linear(_with_output(node, name), scope, constants, opset, graph, equalities, readers)
            if part is not None:
                graph.nodes[part.output] = part
    graph.outputs |= {scope.key(one.name) for one in scope.graph.output}
    scope.tellers = find_tellers(scope, constants, equalities, graph, readers)
    for shape, teller in scope.tellers.items():
        graph.nodes[scope.key(shape)] = Opaque(scope.key(shape), "Shape", (scope.key(teller),))


def _with_output(node: NodeProto, name: str) -> NodeProto:
    """The node as it makes one of its outputs."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [name]
    return copy


def _linear(
    node: NodeProto, scope: Scope, constants: Constants, opset: int, graph: Graph, equalities: Equalities, readers: Readers
) -> Linear | None:
    if node.domain not in STANDARD or opset < OLDEST or not node.output or not node.output[0] or any(True for _ in graphs_of(node)):
        return None
    call = Call(node, scope, constants, equalities, opset)
    try:
        reading = read(call, readers)
        fits = isinstance(reading, Reading) and _agrees(call, reading)
    except FoldError:
        raise
    except MISREAD:
        return None
    if isinstance(reading, Obstruction):
        graph.refusals.append(Refusal(scope.key(node.output[0]), node.op_type, reading.law, reading.fact, reading.remedy))
    if not isinstance(reading, Reading) or not fits:
        return None
    given = [name for name in node.input if name and constants.has(name, scope)]
    return Linear(
        scope.key(node.output[0]),
        node.op_type,
        {scope.key(name): mapped for name, mapped in reading.terms.items()},
        weights=reading.weights,
        operators=reading.operators if reading.operators is not None else 1 + sum(constants.operators(name, scope) for name in given),
        sources=tuple(dict.fromkeys(source for name in given for source in constants.sources(name, scope))),
    )


def _agrees(call: Call, reading: Reading) -> bool:
    """Whether the maps give the shape that was inferred; what does not is left alone."""
    result = call.output.shape
    for name, mapped in reading.terms.items():
        typed = call.typed(name)
        if typed is None:
            return False
        if isinstance(mapped, (Scalar, Moved)):
            continue
        stencil = mapped.stencil
        channel = len(typed.shape) - 1 - stencil.rank
        sizes = tuple(size if isinstance(size, int) else None for size in typed.shape[channel + 1 :])
        if channel < 0 or typed.shape[channel] != stencil.in_channels or len(result) != len(typed.shape):
            return False
        expected = (stencil.out_channels, *stencil.output_sizes(sizes))
        if any(n is not None and isinstance(size, int) and size != n for n, size in zip(expected, result[channel:], strict=True)):
            return False
    return True


def _learn_elementwise(node: NodeProto, scope: Scope, equalities: Equalities) -> None:
    """Elementwise operators give the sizes that they are given; inference names free ones anew."""
    typed = scope.typed(node.output[0]) if node.output else None
    if typed is None or node.op_type not in ELEMENTWISE or node.domain not in STANDARD:
        return
    operands = [scope.typed(name) for name in node.input]
    shapes = [equalities.shape(one) for one in operands if one is not None]
    if not shapes or len(shapes) < len(operands):
        return
    for size, known in zip(typed.shape, broadcast(shapes), strict=False):
        equalities.equate(size, known)


def _learn_windows(node: NodeProto, scope: Scope, linear: Linear, equalities: Equalities) -> None:
    """Windows that move alike over equal sizes give equal sizes."""
    typed = scope.typed(node.output[0])
    assert typed is not None
    for root, mapped in linear.terms.items():
        given = scope.typed(root.removeprefix(scope.prefix))
        assert given is not None
        if isinstance(mapped, Moved):
            continue
        windows = () if isinstance(mapped, Scalar) else mapped.stencil.windows
        channel = len(typed.shape) if isinstance(mapped, Scalar) else len(typed.shape) - 1 - len(windows)
        for axis, (size, source) in enumerate(zip(typed.shape, given.shape, strict=True)):
            if axis < channel:
                equalities.equate(size, source)
            elif axis > channel:
                equalities.slide(size, source, windows[axis - channel - 1])
