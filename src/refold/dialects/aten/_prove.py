"""Runs the original nodes of a region, and the nodes that replace them, in float64 on random input, at every residue of its strides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from refold.dialects.aten._constants import Constants, evaluate, widened
from refold.dialects.aten._sizes import example, other_examples, shape_of
from refold.dialects.aten._write import Written
from refold.graph import Graph
from refold.maps import Moved, as_moved
from refold.plan import Fold
from refold.trials import Shapes, Trials, run_trials, share, sizes_of
from refold.verification import RegionEvidence, does_not_run

FAILURES = (RuntimeError, ValueError, IndexError)
"""What operators raise on sizes that they do not take."""
CHANNELS = ("in_channels", "out_channels", "in_features", "out_features", "training")
"""Settings of a layer that no size hangs on."""
STATED = (torch.ops.aten.slice_scatter.default, torch.ops.aten.select_scatter.default)
"""Operators that write into a tensor whose sizes may be numbers that hold at the example alone."""
SPELT = 64
"""Whole numbers of a constant up to which regions are told apart by each of them, and beyond by the constant."""
LARGEST = 1 << 22
"""Items up to which what a region reads is tried at other sizes of the inputs."""


def region_evidence(
    program: ExportedProgram, constants: Constants, graph: Graph, folds: Sequence[Fold], written: Written, seed: int
) -> Iterator[RegionEvidence]:
    """Each fold, run both ways at the sizes that `refold.trials` gives; one that hangs on sizes of the inputs, at other sizes of those."""
    nodes = {node.name: node for node in program.graph.nodes}
    order = {name: position for position, name in enumerate(nodes)}

    def region_of(fold: Fold) -> _Region:
        return _Region(fold, _between(nodes[fold.value], fold, constants, order), nodes, constants, graph, written, seed)

    regions = {fold.value: region_of(fold) for fold in folds}
    leaders = share({value: region.key for value, region in regions.items()}, {fold.value: fold.after.weights for fold in folds})
    for fold in folds:
        leader = leaders[fold.value]
        yield regions.pop(fold.value).prove(None if leader == fold.value else written.names[leader])


@dataclass(eq=False)
class _Region:
    """The original nodes of a fold, in order, beside those that replace them, and the widened weights of both."""

    fold: Fold
    region: Sequence[fx.Node]
    nodes: Mapping[str, fx.Node]
    constants: Constants
    graph: Graph
    written: Written
    seed: int
    wide: dict[str, Any] = field(default_factory=dict)
    weights: dict[tuple[str, bool], torch.Tensor] = field(default_factory=dict)
    measured: dict[tuple[tuple[int, ...], ...], list[int | None]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.written.names[self.fold.value]

    @property
    def new(self) -> Sequence[fx.Node]:
        """The nodes that replace it."""
        return self.written.emitted[self.fold.value]

    @cached_property
    def sizes(self) -> tuple[list[fx.Node], list[fx.Node]]:
        """The sizes of the graph that the original nodes read, and those that the new ones do."""
        read = {one: None for node in self.new for one in node.all_input_nodes if _hint(one) is not None}
        return [node for node in self.region if _hint(node) is not None], list(read)

    @cached_property
    def examples(self) -> Shapes:
        """The shapes of what it reads in the example."""
        return {root: tuple(example(size) for size in self.nodes[root].meta["val"].shape) for root in self.fold.form}

    @cached_property
    def trials(self) -> Trials:
        """The sizes to run it at."""
        measured = [node for part in self.sizes for node in part]
        is_stated = any(node.target in STATED for node in self.region) or any(isinstance(one, Moved) for one in self.fold.form.values())
        if not measured and not is_stated:
            return sizes_of(self.graph, self.fold.value, self.fold.form, self.fold.nodes)
        shapes = [self.nodes[root].meta["val"].shape for root in self.fold.form]
        self.measured[tuple(self.examples.values())] = [_hint(node) for node in measured]
        others = []
        for numbers in other_examples([*(size for shape in shapes for size in shape), *(node.meta["val"] for node in measured)]):
            rest = iter(numbers)
            changed = dict(zip(self.fold.form, (tuple(next(rest) for _ in shape) for shape in shapes), strict=True))
            if max(map(math.prod, changed.values())) <= LARGEST:
                self.measured[tuple(changed.values())] = list(rest)
                others.append((changed,))
        return Trials(self.examples, tuple(others), [str(shape) for shape in shapes])

    @cached_property
    def key(self) -> object:
        """Equal for regions that have the same operators and arguments on both sides and try the same sizes, whatever their numbers."""
        original = self._told(self.region, [*self.fold.form])
        new = self._told(self.new, [self.written.sources[root].name for root in self.fold.form])
        return repr((original, new, self.trials.spatial, self.nodes[self.fold.value].meta["val"].dtype))

    def prove(self, like: str | None) -> RegionEvidence:
        """Run it both ways at the smallest size with both borders and a middle, and at all others unless those of `like` stand for them."""
        told: list[Exception] = []

        def run(shapes: Shapes) -> RegionEvidence | None:
            numbers = iter(self.measured.get(tuple(shapes.values()), ()))
            known, asked = ({node.name: next(numbers) for node in part} for part in self.sizes)
            generator = torch.Generator().manual_seed(self.seed)
            inputs = {
                root: torch.randn(shape, dtype=torch.float64, generator=generator).to(self.nodes[root].meta["val"].device)
                for root, shape in shapes.items()
            }
            try:
                original, way = self._run_original(inputs, known)
            except FAILURES as error:
                told.append(error)
                return None
            try:
                folded = self._run_folded(inputs, asked)
                magnitude = self._run_folded(inputs, asked, absolute=True)
            except FAILURES as error:
                if not all(one.numel() for one in way):  # nothing is left of a value between, and the folded region says so
                    return None
                raise does_not_run(self.name, error) from error
            peak = max((float(one.abs().max()) for one in (*way, *inputs.values()) if one.numel()), default=0.0)
            return RegionEvidence(
                self.name, tuple(node.operation for node in self.fold.nodes), original, folded, magnitude, peak, self._longest(),
                torch.finfo(self.nodes[self.fold.value].meta["val"].dtype).eps / 2, shapes=tuple(shapes.values()), like=like,
            )  # fmt: skip

        stated = {root: self.graph.values[root].shape for root in self.fold.form}
        others = self.trials.others if like is None else ()
        evidence = run_trials(run, (self.trials.base, self.examples), others, stated)
        if evidence is None:
            raise told[-1]
        return evidence

    def _longest(self) -> int:
        """The longest sum on either side."""
        folded = sum(as_moved(mapped).longest + 1 for mapped in self.fold.form.values())
        return max(folded, *(_longest(self.nodes[node.output]) for node in self.fold.nodes)) + len(self.fold.nodes)

    def _run_original(self, inputs: Mapping[str, torch.Tensor], sizes: Mapping[str, int | None]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The value, and all tensors on the way to it."""
        values: dict[str, Any] = {**inputs, **sizes}
        for node in self.region:
            if node.name not in sizes:
                values[node.name] = evaluate(node, lambda one: values[one.name] if one.name in values else self._constant(one))
        result = values[self.region[-1].name]
        assert isinstance(result, torch.Tensor)
        return result, [values[node.name] for node in self.region if isinstance(values[node.name], torch.Tensor)]

    def _constant(self, node: fx.Node) -> Any:
        if node.name not in self.wide:
            self.wide[node.name] = widened(self.constants.value(node))
        return self.wide[node.name]

    def _run_folded(self, inputs: Mapping[str, torch.Tensor], sizes: Mapping[str, int | None], *, absolute: bool = False) -> torch.Tensor:
        """The new nodes in float64; `absolute` takes every number by its size, and a weight by that which its rounding is measured by."""
        values: dict[str, Any] = {**sizes}
        for root, tensor in inputs.items():
            values[self.written.sources[root].name] = tensor.abs() if absolute else tensor

        def changed(arg: Any) -> Any:
            return abs(arg) if absolute and isinstance(arg, float) else arg

        for node in self.new:
            match node.op:
                case "get_attr":
                    values[node.name] = self._weight(str(node.target), absolute=absolute)
                case "call_module":
                    layer = self.written.module.get_submodule(str(node.target))
                    weights = {name: self._weight(f"{node.target}.{name}", absolute=absolute) for name, _ in layer.named_parameters()}
                    (x,) = node.args
                    assert isinstance(x, fx.Node)
                    with torch.no_grad():
                        values[node.name] = torch.func.functional_call(layer, weights, (values[x.name],))
                case _:
                    args, kwargs = (
                        fx.node.map_arg(fx.node.map_aggregate(given, changed), lambda one: values[one.name])
                        for given in (node.args, node.kwargs)
                    )
                    values[node.name] = node.target(*args, **kwargs)  # type: ignore[operator, arg-type]
        result = values[self.new[-1].name]
        assert isinstance(result, torch.Tensor)
        return result

    def _weight(self, path: str, *, absolute: bool) -> torch.Tensor:
        """A weight of the folded module in float64, widened once for all sizes."""
        found = self.weights.get((path, absolute))
        if found is None:
            stored = _fetch(self.written.module, path).detach()
            # What lies below the smallest normal number of a dtype is rounded as that number is.
            found = self._weight(path, absolute=False).abs().add_(torch.finfo(stored.dtype).tiny) if absolute else stored.double()
            self.weights[path, absolute] = found
        return found

    def _told(self, nodes: Sequence[fx.Node], roots: Sequence[str]) -> list[object]:
        """Nodes by their operators and arguments: other nodes of theirs by their places, constants by what operators may hang on."""
        places = {name: position for position, name in enumerate((*roots, *(node.name for node in nodes)))}

        def read(node: fx.Node) -> Any:
            return ("at", places[node.name]) if node.name in places else ("given", self._described(node))

        told: list[object] = []
        for node in nodes:
            match node.op:
                case "call_module":
                    layer = self.written.module.get_submodule(str(node.target))
                    settings = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name not in CHANNELS}
                    kind: object = (type(layer).__name__, settings, [(name, _taps(one)) for name, one in layer.named_parameters()])
                case "get_attr":
                    kind = _taps(_fetch(self.written.module, str(node.target)))
                case _:
                    kind = str(node.target)
            told.append((kind, _expression(node), fx.node.map_arg(node.args, read), fx.node.map_arg(node.kwargs, read)))
        return told

    def _described(self, node: fx.Node) -> object:
        if node not in self.constants:
            return _expression(node)
        value = node.meta["val"]
        if value.is_floating_point():
            return _taps(value)
        return self.constants.value(node).tolist() if value.numel() <= SPELT else node.name


def _taps(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape of a weight, of its channels only whether they are many."""
    return tuple(min(int(size), 2) if axis < 2 else int(size) for axis, size in enumerate(tensor.shape))


def _between(end: fx.Node, fold: Fold, constants: Constants, order: Mapping[str, int]) -> list[fx.Node]:
    """The nodes from the roots to the value, in order."""
    found: dict[str, fx.Node] = {}
    stack = [end]
    while stack:
        node = stack.pop()
        if node.name in found or node in constants or (node.name in fold.form and node is not end):
            continue
        found[node.name] = node
        if _hint(node) is None:
            stack.extend(node.all_input_nodes)
    return sorted(found.values(), key=lambda node: order[node.name])


def _hint(node: fx.Node) -> int | None:
    """The number that a size of the graph was in the example, or None for anything else."""
    value = node.meta.get("val")
    return example(value) if isinstance(value, torch.SymInt) else None


def _expression(node: fx.Node) -> str | None:
    """A size of the graph by the sizes of the inputs that it hangs on, or None for anything else."""
    value = node.meta.get("val")
    return str(value) if isinstance(value, torch.SymInt) else None


def _fetch(module: torch.nn.Module, path: str) -> torch.Tensor:
    folder, _, name = path.rpartition(".")
    tensor = getattr(module.get_submodule(folder), name)
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _longest(node: fx.Node) -> int:
    """The longest sum of an original node: the size of its largest constant over its output channels, or one."""
    shapes = [
        shape_of(one.meta["val"]) for one in node.all_input_nodes if one.op == "placeholder" and isinstance(one.meta["val"], torch.Tensor)
    ]
    known = [[size for size in shape if size is not None] for shape in shapes if len(shape) > 1 and None not in shape]
    return max((math.prod(shape) // max(1, shape[0]) for shape in known), default=1)
