"""From a plan back to a PyTorch module: plain layers under names near their origin, everything else as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from refold.algebra import Formula, Leaf, Rearrangement
from refold.dialects.aten._bindings import use_bindings
from refold.dialects.aten._constants import is_finite
from refold.dialects.aten._functional import has_effect
from refold.dialects.aten._guard import SizeGuard
from refold.dialects.aten._layers import ATEN, Layer, make_layer
from refold.dialects.aten._paths import Paths
from refold.dialects.aten._rearranging import write_step
from refold.dialects.aten._structure import code_generator
from refold.graph import Refusal
from refold.maps import Layout, Map, Scalar, as_moved
from refold.plan import Fold, Plan

GUARD = "size_guard"
"""Where the check of sizes stands in a written module, unless the model has a part of that name."""


@dataclass(frozen=True, slots=True)
class Written:
    """A module, the nodes of its graph that compute each fold, and the folds that could not be written."""

    module: fx.GraphModule
    emitted: dict[str, tuple[fx.Node, ...]]
    names: dict[str, str]
    sources: dict[str, fx.Node]
    refusals: tuple[Refusal, ...]


def write_module(program: ExportedProgram, plan: Plan, arguments: Sequence[str], guard: SizeGuard | None = None) -> Written:
    """Write a plan as a module of its own; `arguments` are the names that its forward takes, `guard` holds its inputs to what was traced.

    Ensures that the result shares no storage with the original, and that every folded weight is finite: a fold whose numbers leave the
    range of their dtype is refused here.
    """
    return _Writer(program, list(arguments), guard).write(plan)


@dataclass(slots=True)
class _Writer:
    program: ExportedProgram
    arguments: list[str]
    guard: SizeGuard | None
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    layers: dict[object, Layer] = field(default_factory=dict)
    places: Paths = field(default_factory=Paths)
    paths: dict[object, str] = field(default_factory=dict)
    copies: dict[int, torch.Tensor] = field(default_factory=dict)
    emitted: dict[str, tuple[fx.Node, ...]] = field(default_factory=dict)
    originals: dict[str, fx.Node] = field(default_factory=dict)

    def write(self, plan: Plan) -> Written:
        order = list(self.program.graph.nodes)
        self.originals = {node.name: node for node in order}
        traced = {node.name: node.meta.get("val") for node in order}
        channels_last = any(map(_is_channels_last, self.program.state_dict.values()))
        folds: dict[str, Fold] = {}
        refusals = []
        for fold in plan.folds:
            refusal = self._make_layers(fold, traced[fold.value].dtype, channels_last)
            if refusal is None:
                folds[fold.value] = fold
            else:
                refusals.append(refusal)
        live = _live(order, folds)
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        self.places = Paths(self._kept(live, specs))
        for fold in folds.values():
            if fold.value in live:
                self._place_layers(fold, traced[fold.value].dtype)
        self._inputs(order, specs)
        for node in order:
            if node.name in self.nodes:
                continue
            if node.op == "output":
                self._output(node)
            elif node.name not in live:
                continue
            elif node.op == "placeholder":
                self.nodes[node.name] = self._attribute(str(specs[node.name].target))
            elif node.name in folds:
                self.nodes[node.name] = self._emit(folds[node.name], traced[node.name].dtype)
            else:
                self.nodes[node.name] = self._copy(node)
        module = fx.GraphModule(self.root, self.graph, "Folded")
        spec = self.program.call_spec
        assert spec.in_spec is not None
        module.graph.set_codegen(code_generator(self.arguments, spec.in_spec, spec.out_spec))
        use_bindings(module.graph)
        module.recompile()
        named = {node.name: node for node in module.graph.nodes}
        emitted = {value: tuple(named[node.name] for node in nodes) for value, nodes in self.emitted.items()}
        names = {value: self._name(folds[value], traced[value].dtype) for value in emitted}
        return Written(module, emitted, names, dict(self.nodes), tuple(refusals))

    def _inputs(self, order: Sequence[fx.Node], specs: Mapping[str, InputSpec]) -> None:
        for node in order:
            if node.op == "placeholder" and specs[node.name].kind == InputKind.USER_INPUT:
                self.nodes[node.name] = self.graph.placeholder(node.name)
        if self.guard is not None:
            path = self.places.place(GUARD)
            _attach(self.root, path, self.guard)
            self.graph.call_module(path, tuple(self.nodes[name] for name in self.guard.reads))

    def _make_layers(self, fold: Fold, dtype: torch.dtype, channels_last: bool) -> Refusal | None:
        for mapped in _inner(fold):
            if (mapped.key, dtype) in self.layers:
                continue
            value = mapped.evaluate(dtype)
            if not (is_finite(value.kernel) and is_finite(value.bias)):
                return Refusal(
                    fold.value,
                    " + ".join(dict.fromkeys(node.operation for node in fold.nodes)),
                    "rounding",
                    f"folded weights leave the range of {str(dtype).removeprefix('torch.')}",
                    "fold the model in float32 and convert it afterwards",
                )
            state = self.program.state_dict
            trainable = any(state[name].requires_grad for leaf in mapped.leaves() for name in leaf.names if name in state)
            self.layers[mapped.key, dtype] = make_layer(value, trainable=trainable, channels_last=channels_last)
        return None

    def _kept(self, live: set[str], specs: Mapping[str, InputSpec]) -> Iterator[str]:
        """Names of the original's tensors and parts that stand in the written module too."""
        for name in live:
            if name in specs and specs[name].kind != InputKind.USER_INPUT:
                yield str(specs[name].target)
            elif self.originals[name].op == "get_attr":
                yield str(self.originals[name].target)
        for spec in self.program.graph_signature.output_specs:
            if spec.kind not in (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION):
                yield str(spec.target)

    def _place_layers(self, fold: Fold, dtype: torch.dtype) -> None:
        for mapped in _inner(fold):
            if (mapped.key, dtype) not in self.paths:
                path = self.places.place(_path(mapped, fold.value))
                self.paths[mapped.key, dtype] = path
                _attach(self.root, path, self.layers[mapped.key, dtype].module)

    def _name(self, fold: Fold, dtype: torch.dtype) -> str:
        paths = [self.paths[mapped.key, dtype] for mapped in _inner(fold)]
        return ", ".join(paths) or fold.value

    def _emit(self, fold: Fold, dtype: torch.dtype) -> fx.Node:
        made: list[fx.Node] = []
        loose = 0.0
        sums: dict[Rearrangement | None, fx.Node] = {}
        behind: dict[Rearrangement | None, Layout | None] = {}
        for root, mapped in fold.form.items():  # in the author's order: the first term of a sum decides how the sum lies in memory
            moved = as_moved(mapped)
            inner, term = moved.inner, self._rearrange(moved.before, self.nodes[root], made)
            if isinstance(inner, Scalar):
                loose += inner.shift
                if inner.scale != 1.0:
                    made.append(self.graph.call_function(ATEN.mul.Tensor, (term, inner.scale)))
                    term = made[-1]
            else:
                made.extend(self.layers[inner.key, dtype].emit(self.graph, self.paths[inner.key, dtype], term))
                term = made[-1]
            place = None if moved.after is None else moved.after.rearrangement
            behind[place] = moved.after
            sums[place] = self._add(sums.get(place), term, made)
        total: fx.Node | None = None
        for place, term in sums.items():
            total = self._add(total, self._rearrange(behind[place], term, made), made)
        if loose:
            made.append(self.graph.call_function(ATEN.add.Tensor, (total, loose)))
            total = made[-1]
        assert total is not None
        self.emitted[fold.value] = tuple(made)
        return total

    def _add(self, total: fx.Node | None, term: fx.Node, made: list[fx.Node]) -> fx.Node:
        if total is None:
            return term
        made.append(self.graph.call_function(ATEN.add.Tensor, (total, term)))
        return made[-1]

    def _rearrange(self, layout: Layout | None, x: fx.Node, made: list[fx.Node]) -> fx.Node:
        for step in () if layout is None else layout.steps:
            original = self.originals[step.name]
            made.append(write_step(self.graph, step, original, x, lambda one: self.nodes[one.name]))
            x = made[-1]
        return x

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            path = self.places.kept(str(node.target))
            _attach(self.root, path, getattr(self.program.graph_module, str(node.target)))
            return self.graph.get_attr(path)
        copy = self.graph.node_copy(node, lambda one: self.nodes[one.name])
        if copy.target is ATEN.view.default:
            copy.target = ATEN.reshape.default
        return copy

    def _attribute(self, name: str) -> fx.Node:
        state = self.program.state_dict
        original = state[name] if name in state else self.program.constants[name]
        copy: Any = original
        if isinstance(original, torch.Tensor):
            copy = self.copies.get(id(original))
            if copy is None:
                copy = original.detach().clone()
                if isinstance(original, nn.Parameter):
                    copy = nn.Parameter(copy, original.requires_grad)
                self.copies[id(original)] = copy
        path = self.places.kept(name)
        _attach(self.root, path, copy, persistent=name in state)
        return self.graph.get_attr(path)

    def _output(self, node: fx.Node) -> None:
        results: list[Any] = []
        (values,) = node.args
        assert isinstance(values, (tuple, list))
        for spec, value in zip(self.program.graph_signature.output_specs, values, strict=True):
            new = self.nodes[value.name] if isinstance(value, fx.Node) else value
            match spec.kind:
                case OutputKind.USER_OUTPUT:
                    results.append(new)
                case OutputKind.USER_INPUT_MUTATION:
                    self.graph.call_function(ATEN.copy_.default, (self.nodes[str(spec.target)], new))
                case _:
                    self.graph.call_function(ATEN.copy_.default, (self._attribute(str(spec.target)), new))
        self.graph.output(tuple(results))


def _live(order: Sequence[fx.Node], folds: dict[str, Fold]) -> set[str]:
    """Names of the nodes that the written graph still needs."""
    by_name = {node.name: node for node in order}
    live: set[str] = set()
    stack = [node.name for node in order if node.op == "output" or has_effect(node)]
    while stack:
        name = stack.pop()
        if name not in live:
            live.add(name)
            stack.extend(_read_by(folds[name], by_name) if name in folds else (one.name for one in by_name[name].all_input_nodes))
    return live


def _read_by(fold: Fold, by_name: Mapping[str, fx.Node]) -> set[str]:
    """Names of the nodes that a fold reads: its roots, and what its rearrangements take their sizes from."""
    steps = [by_name[step.name] for mapped in fold.form.values() for step in as_moved(mapped).steps]
    return {*fold.form, *(one.name for step in steps for one in step.all_input_nodes if one is not step.args[0])}


def _inner(fold: Fold) -> list[Formula]:
    """The maps of a fold that take a layer."""
    return [moved.inner for moved in map(as_moved, fold.form.values()) if isinstance(moved.inner, Formula)]


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _path(mapped: Map, fallback: str) -> str:
    """A name near the origin: the layer that the kernel came from, or the folder that holds all that went into it."""
    assert isinstance(mapped, Formula)
    leaves = [leaf for leaf in mapped.leaves() if leaf.names]
    kernels = {_owner(leaf) for leaf in leaves if not leaf.stencil.is_diagonal}
    if len(kernels) == 1:
        return kernels.pop() or "folded"
    owners = [_owner(leaf).split(".") for leaf in leaves]
    if not owners:
        return f"folded_{fallback}"
    return ".".join([*filter(None, _shared_start(owners)), "folded"])


def _owner(leaf: Leaf) -> str:
    """The module that holds the parameters of a leaf."""
    owners = [name.split(".parametrizations.")[0].rpartition(".")[0].split(".") for name in leaf.names]
    return ".".join(_shared_start(owners))


def _shared_start(paths: Sequence[Sequence[str]]) -> list[str]:
    """The folders that all paths begin with."""
    return [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))]


def _attach(root: nn.Module, path: str, value: Any, *, persistent: bool = True) -> None:
    """Put a module, parameter or tensor under a dotted path, with plain modules on the way."""
    *folders, last = path.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    match value:
        case nn.Module():
            root.add_module(last, value)
        case nn.Parameter():
            root.register_parameter(last, value)
        case torch.Tensor():
            root.register_buffer(last, value, persistent=persistent)
        case _:
            setattr(root, last, value)
