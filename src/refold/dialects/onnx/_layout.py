"""Runs the operators that only move numbers on an input of labels, to find a padding in disguise.

A network that overwrites the border of a padded tensor, or sets a tensor into a larger canvas, has written a padding with a fill. What it
wrote is found by running it: every number of the input is a label of its own, and the result is a padding if the labels lie in one block,
in order, with one constant a channel all around.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from refold.algebra import Obstruction
from refold.dialects.onnx._call import Call
from refold.dialects.onnx._constants import MOVES, SCATTERS, SIZES, STANDARD, read_numbers, widened
from refold.dialects.onnx._load import graphs_of
from refold.dialects.onnx._scopes import Scope, Typed
from refold.dialects.onnx._tensors import FLOATS, Array

INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
TRIALS = ((9, 2), (14, 5))
"""Numbers for the free sizes, as the first and the step to the next: a padding that comes out alike for both does not hang on the sizes,
nor on two of them being equal."""
LARGEST = 1 << 24
"""Labels up to which a chain is run."""
FLOOR = 1 << 24
"""No label is smaller, so that none is a size that a chain has made a number of."""


@dataclass(frozen=True, slots=True)
class Padding:
    """A padding that was found: of what, by how much on each axis, with which number a channel.

    `constants` feed the chain, and `operators` of it serve nothing else.
    """

    root: str
    pads: tuple[tuple[int, int], ...]
    fill: Array | None
    constants: tuple[str, ...]
    operators: int


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads the values of a graph."""

    nodes: Mapping[str, tuple[NodeProto, ...]]
    elsewhere: frozenset[str]
    """Values that are outputs or that a graph within reads."""
    order: Mapping[str, int]
    """Where the node that makes a value stands."""

    @classmethod
    def of(cls, scope: Scope) -> Readers:
        """The readers in one scope."""
        nodes: dict[str, list[NodeProto]] = {}
        order: dict[str, int] = {}
        for number, node in enumerate(scope.graph.node):
            order.update(dict.fromkeys(node.output, number))
            for name in filter(None, node.input):
                nodes.setdefault(name, []).append(node)
        elsewhere = {one.name for one in scope.graph.output}
        elsewhere.update(name for _, inner in scope.within for name in inner.captured())
        return cls({name: tuple(found) for name, found in nodes.items()}, frozenset(elsewhere), order)

    def ends_chain(self, name: str) -> bool:
        """Whether something that does not move numbers reads a value."""
        return name in self.elsewhere or any(not _is(node, SIZES) for node in self.nodes.get(name, ()))


def find_padding(call: Call, readers: Readers) -> Padding | Obstruction | None:
    """The padding that a chain ends in, or None where it is something else; what it might have been where it does not run at every size."""
    node, name = call.node, call.node.output[0]
    typed = call.scope.types.get(name)
    if not _is(node, MOVES) or typed is None or typed.elem_type not in FLOATS or len(typed.shape) < 3 or not readers.ends_chain(name):
        return None
    chain = _Chain(call, readers)
    if not (chain.collect(name) and chain.sets_places):
        return None
    found = []
    for size, step in TRIALS:
        trial = _Trial(chain, size, step)
        outcome = trial.padding(name)
        if outcome is None or isinstance(outcome, Obstruction):
            return outcome
        found.append(outcome)
        if not trial.symbols:
            break
    pads, fill = found[0]
    if any(other != pads or not np.array_equal(level, fill) for other, level in found[1:]):
        return None
    operators = chain.own_operators(name) + sum(call.constants.operators(one, call.scope) for one in chain.constants)
    return Padding(chain.root, pads, fill if bool(fill.any()) else None, tuple(chain.constants), operators)


def _is(node: NodeProto, operators: tuple[str, ...]) -> bool:
    return node.domain in STANDARD and node.op_type in operators


@dataclass(slots=True)
class _Chain:
    """The operators from a value back to the one float value that they move, and to the shapes that they ask for."""

    call: Call
    readers: Readers
    root: str = ""
    inner: set[str] = field(default_factory=set)
    constants: dict[str, None] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)
    """Values of which only the shape is asked for, and what they are moved from."""

    @property
    def nodes(self) -> list[NodeProto]:
        """In order."""
        return [self.call.scope.producers[name] for name in sorted(self.inner, key=self.readers.order.__getitem__)]

    @property
    def scatters(self) -> bool:
        """Whether a scatter is among the operators."""
        return any(self.call.scope.producers[name].op_type in SCATTERS for name in self.inner)

    @property
    def sets_places(self) -> bool:
        """Whether a scatter or a concatenation along a spatial axis is among the operators that move floats."""
        for name in self.inner:
            node, typed = self.call.scope.producers[name], self.call.typed(name)
            if typed is None or typed.elem_type not in FLOATS:
                continue
            if node.op_type in SCATTERS:
                return True
            if node.op_type == "Concat" and any(one.name == "axis" and one.i % len(typed.shape) >= 2 for one in node.attribute):
                return True
        return False

    def collect(self, name: str) -> bool:
        """Walk back; False where something else than moving happens on the way."""
        kind = self.call.output.elem_type
        leaves: set[str] = set()
        stack = [(name, False)]
        seen: set[tuple[str, bool]] = set()
        while stack:
            entry = stack.pop()
            one, only_shape = entry
            if entry in seen:
                continue
            seen.add(entry)
            if self.call.is_constant(one):
                self.constants[one] = None
                continue
            typed = self.call.typed(one)
            node = self.call.scope.producers.get(one)
            if typed is None:
                return False
            if typed.elem_type == kind:
                if node is None or not self._moves(node, kind):
                    (self.measured if only_shape else leaves).add(one)
                    continue
            elif node is None or typed.elem_type not in INTEGERS or not self._counts(node):
                if not only_shape:
                    return False
                self.measured.add(one)
                continue
            self.inner.add(one)
            numbers = read_numbers(node)
            stack.extend((below, only_shape or below not in numbers) for below in node.input if below)
        if len(leaves) != 1:
            return False
        (self.root,) = leaves
        return True

    def _moves(self, node: NodeProto, kind: int) -> bool:
        """Whether a node moves numbers of one type and changes none."""
        if not _is(node, MOVES) or len(node.output) != 1 or _reduces(node):
            return False
        for name in read_numbers(node):
            typed = self.call.typed(name)
            if typed is None or typed.elem_type not in (kind, *INTEGERS):
                return False
        return True

    def _counts(self, node: NodeProto) -> bool:
        """Whether a node makes whole numbers of whole numbers, or of a shape."""
        if not _is(node, SIZES) or len(node.output) != 1 or any(True for _ in graphs_of(node)):
            return False
        if node.op_type in ("Shape", "Size"):
            return True
        kinds = [self.call.typed(name) for name in node.input if name]
        return all(typed is not None and typed.elem_type in INTEGERS for typed in kinds)

    def own_operators(self, end: str) -> int:
        """Operators that nothing but the chain reads."""
        own: set[str] = set()
        for node in reversed(self.nodes):
            name = node.output[0]
            if name == end or (name not in self.readers.elsewhere and self._reads_of(name) <= own):
                own.add(name)
        return len(own)

    def _reads_of(self, name: str) -> set[str]:
        return {one.output[0] for one in self.readers.nodes.get(name, ())}


@dataclass(slots=True)
class _Trial:
    """One run of a chain, with a number for each free size."""

    chain: _Chain
    size: int
    step: int
    symbols: dict[str, int] = field(default_factory=dict)

    def padding(self, name: str) -> tuple[tuple[tuple[int, int], ...], Array] | Obstruction | None:
        """Padding and fill."""
        call = self.chain.call
        root = call.typed(self.chain.root)
        if root is None or not isinstance(root.shape[1], int) or len(root.shape) != len(call.output.shape):
            return None
        shape = self._shape(root)
        feeds = {one: widened(call.value(one)) for one in self.chain.constants}
        start = _above(feeds.values(), self.chain.nodes)
        count = math.prod(shape)
        if start is None or not 0 < count <= LARGEST:
            return None
        for one in self.chain.measured:
            typed = call.typed(one)
            assert typed is not None
            feeds.setdefault(one, np.broadcast_to(np.zeros(()), self._shape(typed)))
        labels = feeds[self.chain.root] = np.arange(start, start + count, dtype=np.float64).reshape(shape)
        try:
            (result,) = call.constants.run(self.chain.nodes, feeds, [name])
        except Exception as error:  # the evaluator's operators raise what they like
            return self._fixed(shape, error)
        return _as_padding(np.asarray(result), labels)

    def _fixed(self, shape: tuple[int, ...], error: Exception) -> Obstruction | None:
        """What to say of places that are overwritten at one size alone."""
        if not self.symbols or not self.chain.scatters:
            return None
        why = (str(error).splitlines() or [type(error).__name__])[0].strip()
        return Obstruction(
            "reading",
            f"overwriting places of `{self.chain.root}` works at some sizes only, although its sizes are free: it fails at "
            f"{' x '.join(map(str, shape))} ({why})",
            "export with free sizes by torch.onnx.export(..., dynamo=True), or with fixed ones",
        )

    def _shape(self, typed: Typed) -> tuple[int, ...]:
        sizes = []
        for size in self.chain.call.equalities.shape(typed):
            if isinstance(size, str):
                size = self.symbols.setdefault(size, self.size + self.step * len(self.symbols))
            assert size is not None
            sizes.append(size)
        return tuple(sizes)


def _as_padding(result: Array, labels: Array) -> tuple[tuple[tuple[int, int], ...], Array] | None:
    """How the result pads the labels, by how much and with what, where it does."""
    corner = np.argwhere(result == labels.flat[0])
    if result.ndim != labels.ndim or len(corner) != 1 or result.shape[:2] != labels.shape[:2]:
        return None
    (begin,) = corner.tolist()
    pads = tuple((at, whole - size - at) for at, whole, size in zip(begin, result.shape, labels.shape, strict=True))
    middle = tuple(slice(at, at + size) for at, size in zip(begin, labels.shape, strict=True))
    if not np.array_equal(result[middle], labels):
        return None
    border = np.ones(result.shape[2:], dtype=bool)
    border[middle[2:]] = False
    around = result[:, :, border]
    if around.size == 0:
        return pads[2:], np.zeros(labels.shape[1])
    fill = around[0, :, 0]
    if not (bool(np.isfinite(fill).all()) and bool((fill < labels.flat[0]).all()) and bool((around == fill[None, :, None]).all())):
        return None
    return pads[2:], fill


def _above(constants: Iterable[Array], nodes: Iterable[NodeProto]) -> int | None:
    """A whole number above every constant, so that labels from there on are none of them; None where there are too few left."""
    peak = float(FLOOR)
    held = [_held(attribute) for node in nodes for attribute in node.attribute]
    for array in (*constants, *held):
        if array is not None and array.dtype.kind == "f":
            sizes = np.abs(array[np.isfinite(array)])
            peak = max(peak, float(sizes.max(initial=0.0)))
    return math.floor(peak) + 1 if peak + LARGEST < 2**52 else None


def _held(attribute: AttributeProto) -> Array | None:
    match attribute.type:
        case AttributeProto.FLOAT:
            return np.asarray(attribute.f, np.float64)
        case AttributeProto.TENSOR:
            return np.asarray(widened(numpy_helper.to_array(attribute.t)))
    return None


def _reduces(node: NodeProto) -> bool:
    """Whether a scatter adds to what is there, or the like."""
    return any(one.name == "reduction" and one.s not in (b"none", b"") for one in node.attribute)
