"""From a plan back to an ONNX model: each fold in the place of the node that made its value, everything else as it was."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from refold.algebra import Rearrangement
from refold.dialects.onnx._constants import SIZES, STANDARD, Constants
from refold.dialects.onnx._layers import Layers
from refold.dialects.onnx._load import Source, graphs_of
from refold.dialects.onnx._rearranging import write_step
from refold.dialects.onnx._scopes import Scope
from refold.dialects.onnx._tensors import Tensors, tensor_of, type_name
from refold.graph import Refusal
from refold.maps import Layout, Moved, Scalar, as_moved
from refold.plan import Fold, Plan


@dataclass(frozen=True, slots=True)
class Written:
    """A skeleton with its tensors, the nodes that compute each fold, and the folds that could not be written."""

    skeleton: ModelProto
    tensors: Tensors
    emitted: dict[str, tuple[NodeProto, ...]]
    folds: tuple[Fold, ...]
    refusals: tuple[Refusal, ...]
    gone: frozenset[str]
    """Values of the original that it makes no more."""


def write_model(source: Source, top: Scope, constants: Constants, plan: Plan) -> Written:
    """Write a plan as a model of its own.

    Ensures that every folded weight is finite: a fold whose numbers leave the range of their type is refused here. Kernels are not worked
    out yet, unless that is needed to know.
    """
    return _Writer(source, top, constants).write(plan)


@dataclass(slots=True)
class _Writer:
    source: Source
    top: Scope
    constants: Constants
    taken: set[str] = field(default_factory=set)
    emitted: dict[str, tuple[NodeProto, ...]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    """Values that folds make, where the node that made them goes."""

    def write(self, plan: Plan) -> Written:
        skeleton = ModelProto()
        skeleton.CopyFrom(self.source.skeleton)
        tensors = Tensors(self.source.tensors.token, list(self.source.tensors.payloads))
        self.taken = {name for scope in self.top.all() for name in (*scope.producers, *scope.initializers, *scope.inputs)}
        layers = Layers(tensors, self.source.opset, self._fresh)
        owners = {scope.key(name): (scope, name) for scope in self.top.all() for name in scope.producers}
        folds, refusals = [], []
        for fold in plan.folds:
            scope, name = owners[fold.value]
            refusal = self._refusal(fold, scope, name, layers)
            if refusal is not None:
                refusals.append(refusal)
                continue
            folds.append(fold)
            self.emitted[fold.value] = self._emit(fold, scope, name, layers)
        self._find_dead(folds, owners)
        self._rewrite(self.top, skeleton.graph)
        self._place_initializers(skeleton, layers)
        return Written(skeleton, tensors, self.emitted, tuple(folds), tuple(refusals), frozenset(self.gone))

    def _fresh(self, wish: str) -> str:
        name = next(one for one in itertools.chain([wish], (f"{wish}_{n}" for n in itertools.count(1))) if one not in self.taken)
        self.taken.add(name)
        return name

    def _refusal(self, fold: Fold, scope: Scope, name: str, layers: Layers) -> Refusal | None:
        elem_type = scope.types[name].elem_type
        operations = tuple(dict.fromkeys(node.operation for node in fold.nodes))
        inner = [as_moved(mapped).inner for mapped in fold.form.values()]
        if elem_type == TensorProto.DOUBLE and any(map(layers.convolves, inner)) and not any("Conv" in one for one in operations):
            return Refusal(
                fold.value,
                " + ".join(operations),
                "runtime",
                "ONNX Runtime has no convolution in float64, and the model does without",
                "fold the model in float32",
            )
        if not any(layers.overflows(one, elem_type) for one in inner):
            return None
        return Refusal(
            fold.value,
            " + ".join(operations),
            "rounding",
            f"folded weights leave the range of {type_name(elem_type)}",
            "fold the model in float32 and convert it afterwards",
        )

    def _emit(self, fold: Fold, scope: Scope, value: str, layers: Layers) -> tuple[NodeProto, ...]:
        typed = scope.types[value]
        elem_type, dimensions = typed.elem_type, len(typed.shape)
        made: list[NodeProto] = []
        loose = 0.0
        sums: dict[Rearrangement | None, str] = {}
        behind: dict[Rearrangement | None, Layout | None] = {}
        ordered = sorted(((root, as_moved(mapped)) for root, mapped in fold.form.items()), key=_last)
        for root, moved in ordered:
            term = self._rearrange(moved.before, root.removeprefix(scope.prefix), scope, layers, made)
            inner, after, joins = moved.inner, moved.after, "Add"
            place = None if after is None else after.rearrangement
            behind[place] = after
            if isinstance(inner, Scalar):
                loose += inner.shift
                if inner.scale == -1.0 and place in sums:
                    inner, joins = Scalar(), "Sub"
            nodes = layers.emit(inner, term, dimensions if place is None else len(place.inputs), elem_type, value)
            made.extend(nodes)
            sums[place] = self._join(joins, sums.get(place), nodes[-1].output[0] if nodes else term, value, made)
        total: str | None = None
        for place, term in sums.items():
            total = self._join("Add", total, self._rearrange(behind[place], term, scope, layers, made), value, made)
        if loose:
            made.append(helper.make_node("Add", [total or "", layers.number(loose, elem_type, value)], [self._fresh(f"{value}.add")]))
        last = made[-1].output[0]
        for number, node in enumerate(made):
            node.name = self._node_name(scope, value, number, len(made))
            node.input[:] = [value if one == last else one for one in node.input]
        made[-1].output[0] = value
        return tuple(made)

    def _join(self, operation: str, total: str | None, term: str, value: str, made: list[NodeProto]) -> str:
        if total is None:
            return term
        made.append(helper.make_node(operation, [total, term], [self._fresh(f"{value}.{operation.lower()}")]))
        return str(made[-1].output[0])

    def _rearrange(self, layout: Layout | None, x: str, scope: Scope, layers: Layers, made: list[NodeProto]) -> str:
        for step in () if layout is None else layout.steps:
            name = step.name.removeprefix(scope.prefix)
            original = scope.producers[name]
            shape = original.input[1] if len(original.input) > 1 else ""
            known = self.constants.value(shape, scope) if shape and self.constants.has(shape, scope) else None
            if known is not None and self.constants.operators(shape, scope):  # worked out, maybe from the shape of what is gone
                step = replace(step, stated=tuple(int(size) for size in known.reshape(-1)))
            made.append(write_step(step, original, x, self._fresh(f"{name}.again"), known, partial(layers.shape, name)))
            x = made[-1].output[0]
        return x

    def _node_name(self, scope: Scope, value: str, number: int, total: int) -> str:
        name = scope.producers[value].name or value
        return name if number == total - 1 else f"{name}.{number}"

    def _find_dead(self, folds: Sequence[Fold], owners: dict[str, tuple[Scope, str]]) -> None:
        """Find the nodes that only what was folded away still read, back to the constants."""
        removable = {node.output for fold in folds for node in fold.nodes}
        uses: Counter[str] = Counter()
        stack: list[str] = []
        for scope in self.top.all():
            for node in scope.graph.node:
                uses.update(self._reads(node, scope))
                stack.extend(key for key in self._only_asked(node, scope) if folds)
            uses.update(scope.key(one.name) for one in scope.graph.output)

        def drop(node: NodeProto, scope: Scope) -> None:
            for key in self._reads(node, scope):
                uses[key] -= 1
                stack.append(key)

        for fold in folds:
            scope, _ = owners[fold.value]
            for node in self.emitted[fold.value]:
                uses.update(self._reads(node, scope))
        stack.extend(self.emitted)
        while stack:
            key = stack.pop()
            if key in self.gone or key in self.replaced or key not in owners:
                continue
            scope, name = owners[key]
            node = scope.producers[name]
            outputs = [scope.key(one) for one in node.output if one]
            made_anew = [one for one in outputs if one in self.emitted]
            if any(uses[one] for one in outputs if one not in made_anew):
                continue
            moved = node.op_type in SIZES and node.domain in STANDARD
            if not (made_anew or key in removable or moved or self.constants.has(name, scope)):
                continue
            self.gone.update(one for one in outputs if one not in made_anew)
            self.replaced.update(made_anew)
            drop(node, scope)

    def _reads(self, node: NodeProto, scope: Scope) -> Iterator[str]:
        """Keys of the values that a node needs, where they are defined."""
        only_asked = set(self._only_asked(node, scope))
        for name in filter(None, node.input):
            if node.output[:1] and node.output[0] in scope.tellers:
                name = scope.tellers[node.output[0]]
            owner = scope.owner(name)
            if owner is not None and owner.key(name) not in only_asked:
                yield owner.key(name)

    def _only_asked(self, node: NodeProto, scope: Scope) -> list[str]:
        """Keys of what a constant node reads that is none: it asks for sizes that are known, or for a type."""
        if not node.output or not all(self.constants.has(name, scope) for name in node.output if name):
            return []
        asked = [name for name in node.input if name and not self.constants.has(name, scope)]
        return [owner.key(name) for name in asked if (owner := scope.owner(name)) is not None]

    def _left(self, node: NodeProto, scope: Scope) -> Iterator[NodeProto]:
        """A node that stays: a Shape of what has gone asks another value, and what is known of such a Shape is written as a constant."""
        asked = self._only_asked(node, scope)
        if any(key in self.gone or self._is_told(key, scope) for key in asked):
            for name in filter(None, node.output):
                elem_type = scope.types[name].elem_type
                dtype = helper.tensor_dtype_to_np_dtype(elem_type)
                tensor = tensor_of(name, self.constants.value(name, scope).astype(dtype), elem_type)
                yield helper.make_node("Constant", [], [name], name=node.name, value=tensor)
            return
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.output[:1] and node.output[0] in scope.tellers and self._is_told(scope.key(node.output[0]), scope):
            copy.input[0] = scope.tellers[node.output[0]]
        yield copy

    def _without(self, node: NodeProto, made_anew: Sequence[str], scope: Scope) -> NodeProto:
        """A node that stays for some of its outputs while others are made anew under their names."""
        node.output[:] = [self._fresh(f"{name}.left") if scope.key(name) in made_anew else name for name in node.output]
        return node

    def _is_told(self, key: str, scope: Scope) -> bool:
        """Whether sizes come from a Shape of what has gone."""
        taken = self.constants.taken.get(key)
        return taken is not None and taken.shape in scope.tellers and scope.key(taken.asked) in self.gone

    def _rewrite(self, scope: Scope, graph: GraphProto) -> None:
        within = iter(scope.within)
        nodes: list[NodeProto] = []
        for original, node in zip(scope.graph.node, graph.node, strict=True):
            for _, inner in graphs_of(node):
                self._rewrite(next(within)[1], inner)
            keys = [scope.key(name) for name in original.output if name]
            made_anew = [key for key in keys if key in self.emitted]
            for key in made_anew:
                nodes.extend(self.emitted[key])
                self.emitted[key][-1].doc_string = original.doc_string
            if not any(key in self.gone or key in self.replaced for key in keys):
                nodes.extend(self._without(one, made_anew, scope) for one in self._left(node, scope))
        del graph.node[:]
        graph.node.extend(nodes)
        left = {name for node in nodes for name in node.output} | {one.name for one in (*graph.input, *graph.initializer)}
        vanished = {name for name in scope.producers if name not in left}
        for listed in (graph.value_info, graph.quantization_annotation):
            for position in reversed(range(len(listed))):
                entry = listed[position]
                if (entry.name if hasattr(entry, "name") else entry.tensor_name) in vanished:
                    del listed[position]

    def _place_initializers(self, skeleton: ModelProto, layers: Layers) -> None:
        graph = skeleton.graph
        read = _names_read(graph)
        needed_as_input = skeleton.ir_version < 4
        inputs = {one.name for one in graph.input}
        for position in reversed(range(len(graph.initializer))):
            name = graph.initializer[position].name
            if name not in read and (needed_as_input or name not in inputs):
                del graph.initializer[position]
                self._forget_input(graph, name)
        for tensor in layers.initializers:
            graph.initializer.append(tensor)
            if needed_as_input:
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        for node in graph.node:
            for _, inner in graphs_of(node):
                _drop_unused(inner)

    def _forget_input(self, graph: GraphProto, name: str) -> None:
        for listed in (graph.input, graph.value_info):
            for position in reversed(range(len(listed))):
                if listed[position].name == name:
                    del listed[position]


def _last(term: tuple[str, Moved]) -> tuple[bool, bool]:
    """Scalars come last, those that are subtracted after the others."""
    inner = term[1].inner
    return isinstance(inner, Scalar), isinstance(inner, Scalar) and inner.scale < 0


def _names_read(graph: GraphProto) -> set[str]:
    """Names that a graph or one within it reads or gives."""
    names = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    for node in graph.node:
        for _, inner in graphs_of(node):
            names |= _names_read(inner)
    return names


def _drop_unused(graph: GraphProto) -> None:
    read = _names_read(graph) | {one.name for one in graph.input}
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name not in read:
            del graph.initializer[position]
    for node in graph.node:
        for _, inner in graphs_of(node):
            _drop_unused(inner)
