"""The graphs of a model, one within another, and what is known of their values: types, shapes and sizes that are free but equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from refold.dialects.onnx._integers import state_integers
from refold.dialects.onnx._load import graphs_of
from refold.geometry import Window
from refold.maps import Value

Size: TypeAlias = "int | str | None"
"""A size that is known, free but named, or free."""

GUESSES = (64, 224, 32, 16, 8, 1)
"""Sizes that are tried for what is free behind the channels."""

FOLLOWED = 1 << 20
"""Items of the longest list whose numbers inference may follow: it writes them out one by one."""


@dataclass(frozen=True, slots=True)
class Typed:
    """The type of a tensor: its element type, its sizes, and the sizes that it has when the free ones are those of the example."""

    elem_type: int
    shape: tuple[Size, ...]
    example: tuple[int, ...]


@dataclass(slots=True)
class Scope:
    """One graph. Names that it does not define itself come from the `outer` one.

    `prefix` makes its value names unique in the model. `equal` maps free sizes to the name of one that is known to be the same.
    """

    graph: GraphProto
    prefix: str = ""
    outer: Scope | None = None
    within: list[tuple[NodeProto, Scope]] = field(default_factory=list)
    types: dict[str, Typed] = field(default_factory=dict)
    producers: dict[str, NodeProto] = field(default_factory=dict)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    """Values of known rank whose sizes inference loses even where those of the inputs are numbers."""
    tellers: dict[str, str] = field(default_factory=dict)
    """By the output of a Shape: another value that has the sizes which are read of it, and stays."""

    def owner(self, name: str) -> Scope | None:
        """The scope that defines a name."""
        scope: Scope | None = self
        while scope is not None and not (name in scope.producers or name in scope.initializers or name in scope.inputs):
            scope = scope.outer
        return scope

    def typed(self, name: str) -> Typed | None:
        """What is known of a value, of this scope or one around it."""
        owner = self.owner(name)
        return None if owner is None else owner.types.get(name)

    def key(self, name: str) -> str:
        """The name of a value in the neutral graph."""
        return f"{self.prefix}{name}"

    def captured(self) -> set[str]:
        """Names of this graph and those within it that come from outside."""
        names = {name for node in self.graph.node for name in node.input if name}
        names.update(one.name for one in self.graph.output)
        for _, inner in self.within:
            names |= inner.captured()
        return {name for name in names if not (name in self.producers or name in self.initializers or name in self.inputs)}

    def all(self) -> Iterator[Scope]:
        """This scope and those within it."""
        yield self
        for _, inner in self.within:
            yield from inner.all()


def make_scopes(
    model: ModelProto, guesses: Sequence[int] = GUESSES, given: Mapping[str, Sequence[int]] | None = None
) -> tuple[Scope, str | None]:
    """The scopes of a model with all types that can be inferred, and why not all could be.

    The sizes of the example are those of the inputs that are `given`; without any, `guesses` are tried for what is free.
    """
    bare = _without_claims(model)
    state_integers(bare)
    inferred, complaint = _infer(bare)
    if state_integers(bare, inferred):
        inferred, complaint = _infer(bare)
    example = _infer(_with_sizes(bare, guesses, given or {}))[0]
    return _scope(model.graph, inferred.graph, example.graph, "", None), complaint


def _without_claims(model: ModelProto) -> ModelProto:
    """A copy for inference: without the shapes that the file claims for what can be inferred, which tools leave behind out of date.

    What reads an Identity reads what that reads: inference follows constants (the shape of a Reshape, say) through other operators alone.
    """
    bare = ModelProto()
    bare.CopyFrom(model)
    stack = [bare.graph]
    same: dict[str, str] = {}
    while stack:
        graph = stack.pop()
        del graph.value_info[:]
        for output in graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")
        for node in graph.node:
            for position, name in enumerate(node.input):
                node.input[position] = same.get(name, name)
            if node.op_type == "Identity" and not node.domain and len(node.input) == 1:
                same[node.output[0]] = node.input[0]
        stack.extend(inner for node in graph.node for _, inner in graphs_of(node))
    return bare


def _infer(model: ModelProto) -> tuple[ModelProto, str | None]:
    follows = _has_short_lists(model)
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=follows), None
    except Exception as error:  # the C++ side raises whatever the operator's own function does
        complaint = str(error).strip().splitlines()
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=follows), complaint[0] if complaint else "unknown"
    except Exception:
        return model, complaint[0] if complaint else "unknown"


def _has_short_lists(model: ModelProto) -> bool:
    """Whether no value of one axis is so long that writing out its numbers takes memory and time without end."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:
        inferred = model.graph
    shapes = [kind.tensor_type.shape.dim for _, kind in _types(inferred)]
    return all(len(shape) != 1 or shape[0].dim_value <= FOLLOWED for shape in shapes)


def free_sizes(model: ModelProto) -> Iterator[tuple[ValueInfoProto, int]]:
    """The free axes of the inputs."""
    given = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in given or not value.type.tensor_type.HasField("shape"):
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value <= 0:
                yield value, axis


def set_sizes(model: ModelProto, guess: int, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Give every free size of the inputs a number, the same for the same name, and return the shapes of the inputs."""
    named: dict[str, int] = {}
    for value, axis in free_sizes(model):
        dim = value.type.tensor_type.shape.dim[axis]
        name, rank = dim.dim_param, len(value.type.tensor_type.shape.dim)
        size = batch if axis == 0 and rank > 1 else guess
        if axis == 1 and rank >= 4:
            size = 3
        dim.dim_value = named.setdefault(name, size) if name else size
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
    }


def _set_given(model: ModelProto, given: Mapping[str, Sequence[int]]) -> None:
    """Give every free size of the inputs the number that it has in those that are given."""
    for value, axis in free_sizes(model):
        if axis < len(shape := given.get(value.name, ())):
            value.type.tensor_type.shape.dim[axis].dim_value = shape[axis]


def _with_sizes(model: ModelProto, guesses: Sequence[int], given: Mapping[str, Sequence[int]]) -> ModelProto:
    """The model with free sizes set to those of an example: the given one, else one under which inference goes through."""
    if not any(True for _ in free_sizes(model)):
        return model
    if given:
        trial = ModelProto()
        trial.CopyFrom(model)
        _set_given(trial, given)
        return trial
    for guess in guesses:
        trial = ModelProto()
        trial.CopyFrom(model)
        set_sizes(trial, guess)
        try:
            onnx.shape_inference.infer_shapes(trial, strict_mode=True)
        except Exception:
            continue
        return trial
    return model


def _scope(graph: GraphProto, inferred: GraphProto, example: GraphProto, prefix: str, outer: Scope | None) -> Scope:
    scope = Scope(graph, prefix, outer)
    scope.initializers = {tensor.name: tensor for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        scope.inputs.add(sparse.values.name)
    scope.inputs |= {value.name for value in graph.input}
    scope.producers = {name: node for node in graph.node for name in node.output if name}
    concrete = {name: _sizes(kind) for name, kind in _types(example)}
    for name, kind in (*_types(inferred), *_types(graph)):
        sizes = _sizes(kind)
        if name in scope.types or sizes is None or not kind.tensor_type.elem_type:
            continue
        known = concrete.get(name)
        numbers = known if known is not None and len(known) == len(sizes) else sizes
        if not all(isinstance(size, int) for size in numbers):
            scope.lost.add(name)
        scope.types[name] = Typed(
            kind.tensor_type.elem_type,
            tuple(size if size is not None else f"?{prefix}{name}.{axis}" for axis, size in enumerate(sizes)),
            tuple(size if isinstance(size, int) else 1 for size in numbers),
        )
    for tensor in graph.initializer:
        scope.types[tensor.name] = Typed(tensor.data_type, tuple(tensor.dims), tuple(tensor.dims))
    pairs = zip(graph.node, inferred.node, example.node, strict=True)
    for number, (node, inferred_node, example_node) in enumerate(pairs):
        inner = zip(graphs_of(node), graphs_of(inferred_node), graphs_of(example_node), strict=True)
        for (label, one), (_, two), (_, three) in inner:
            scope.within.append((node, _scope(one, two, three, f"{prefix}{node.name or node.op_type}#{number}.{label}/", scope)))
    return scope


def _types(graph: GraphProto) -> Iterator[tuple[str, TypeProto]]:
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.HasField("tensor_type"):
            yield value.name, value.type


def _sizes(kind: TypeProto) -> tuple[Size, ...] | None:
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None) for dim in kind.tensor_type.shape.dim
    )


def value_of(key: str, typed: Typed) -> Value:
    """The value as the neutral graph has it."""
    return Value(key, tuple(size if isinstance(size, int) else None for size in typed.shape), typed.example)


@dataclass(slots=True)
class Equalities:
    """Free sizes that are known to be the same although inference gave them names of their own."""

    same: dict[str, Size] = field(default_factory=dict)
    derived: dict[object, Size] = field(default_factory=dict)
    grown: dict[str, tuple[int, Size]] = field(default_factory=dict)
    """Sizes that are another one and so many more."""
    products: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    """Sizes that are a number times other ones."""

    def find(self, size: Size) -> Size:
        """The one name for all sizes that are the same."""
        while isinstance(size, str) and size in self.same:
            size = self.same[size]
        return size

    def shape(self, typed: Typed) -> tuple[Size, ...]:
        """A shape in those names."""
        return tuple(self.find(size) for size in typed.shape)

    def equate(self, size: Size, known: Size) -> None:
        """A free size is the same as another one."""
        size, known = self.find(size), self.find(known)
        if isinstance(size, str) and known is not None and size != known:
            self.same[size] = known

    def grow(self, size: Size, source: Size, more: int) -> None:
        """A free size is another one and so many more, fewer where negative."""
        size, source = self.find(size), self.find(source)
        if isinstance(source, str) and source in self.grown:
            before, source = self.grown[source]
            more, source = more + before, self.find(source)
        if more == 0:
            self.equate(size, source)
        elif isinstance(size, str) and size != source:
            self.grown.setdefault(size, (more, source))
            self.learn(size, (more, source))

    def slide(self, size: Size, source: Size, window: Window) -> None:
        """A free size is how many positions a window takes over another one."""
        if window.stride == window.upsample == 1:
            self.grow(size, source, 1 + window.excess)
            return
        source, excess = self.find(source), window.excess
        if isinstance(source, str) and source in self.grown:
            more, source = self.grown[source]
            source, excess = self.find(source), excess + window.upsample * more
        self.learn(size, (window.stride, window.upsample, excess, source))

    def learn(self, size: Size, origin: object) -> None:
        """A free size is what `origin` says: equal origins, equal sizes."""
        size = self.find(size)
        if isinstance(size, str):
            known = self.find(self.derived.setdefault(origin, size))
            if known != size:
                self.same[size] = known


def same_shape(one: Typed | None, other: Typed | None, equalities: Equalities) -> bool:
    """Whether two values have the same shape at every run."""
    if one is None or other is None or len(one.shape) != len(other.shape):
        return False
    return equalities.shape(one) == equalities.shape(other)


def broadcast(shapes: list[tuple[Size, ...]]) -> tuple[Size, ...]:
    """The shape of an elementwise operator's output where it is certain, None for sizes where it is not."""
    rank = max(map(len, shapes))
    result: list[Size] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if -axis <= len(shape)} - {1}
        known = [size for size in sizes if isinstance(size, int)]
        result.append(known[0] if known else (next(iter(sizes)) if len(sizes) == 1 else (None if sizes else 1)))
    return tuple(result)
