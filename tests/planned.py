"""Small graphs made by hand, run as they stand and as a plan folds them, and what must hold of any plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from refold.algebra import (
    AffineConv,
    Formula,
    Leaf,
    convolution,
    scale_and_shift,
)
from refold.graph import Graph, Linear, Opaque
from refold.maps import Map, Moved, Scalar, Value
from refold.plan import Cost, Plan, cost_as_it_stands, make_plan
from tests.algebra.oracle import apply, numbers, probe

SIZE = 7


class Layers:
    """A format whose layers pad alike on both sides by zeros; anything else takes a padding of its own, by one number."""

    def operators(self, formula: Formula, dimensions: int) -> int | None:
        """One, two with a padding in front, None for a constant that differs from channel to channel."""
        if formula.fill is not None and len(set(formula.fill.tolist())) > 1:
            return None
        plain = formula.fill is None and formula.stencil.mode == "constant"
        return 1 if plain and all(one.before == one.after >= 0 for one in formula.stencil.windows) else 2


@dataclass
class Net:
    """A graph under construction, one spatial axis; each method adds a node and gives its name."""

    channels: int = 4
    graph: Graph = field(default_factory=Graph)

    def __post_init__(self) -> None:
        self._value("x", self.channels, SIZE)

    def conv(self, root: str, out: int | None = None, taps: int = 3, *, seed: int = 0, biased: bool = False, **options: object) -> str:
        """A convolution that keeps the size unless told otherwise."""
        given_channels = self.graph.values[root].example[1]
        seed = seed or len(self.graph.nodes) + 1
        groups = int(str(options.get("groups", 1)))
        kernel = numbers(seed, out or given_channels, given_channels // groups, taps)
        bias = numbers(seed + 50, out or given_channels) if biased else None
        return self.map("conv", root, convolution(kernel, bias, **{"padding": taps // 2} | options))  # type: ignore[arg-type]

    def norm(self, root: str, *, seed: int = 0) -> str:
        """A scale and shift of each channel."""
        channels = self.graph.values[root].example[1]
        seed = seed or len(self.graph.nodes) + 1
        return self.map("norm", root, scale_and_shift(numbers(seed, channels), numbers(seed + 1, channels), 1))

    def map(self, operation: str, root: str, value: AffineConv) -> str:
        """Any map of one value."""
        name = f"{operation}{len(self.graph.nodes)}"
        (size,) = value.stencil.output_sizes(self.graph.values[root].example[2:])
        assert size is not None
        self._value(name, value.out_channels, size)
        self.graph.nodes[name] = Linear(name, operation, {root: Leaf(value, origin=name)}, value.stencil.weights)
        return name

    def scalar(self, root: str, scale: float, shift: float = 0.0) -> str:
        """One number times a value, plus another."""
        return self.terms("scalar", {root: Scalar(scale, shift)})

    def add(self, *roots: str) -> str:
        """A sum of two values or more, which may be the same."""
        return self.terms("add", {root: Scalar(float(roots.count(root))) for root in roots}, len(roots) - 1)

    def terms(self, operation: str, terms: Mapping[str, Map], operators: int = 1) -> str:
        """A linear node by its terms, of the shape of its first root."""
        name = f"{operation}{len(self.graph.nodes)}"
        _, channels, size = self.graph.values[next(iter(terms))].example
        self._value(name, channels, size)
        self.graph.nodes[name] = Linear(name, operation, terms, 0, operators)
        return name

    def relu(self, *roots: str) -> str:
        """A node that is not linear."""
        name = f"relu{len(self.graph.nodes)}"
        _, channels, size = self.graph.values[roots[0]].example
        self._value(name, channels, size)
        self.graph.nodes[name] = Opaque(name, "relu", roots)
        return name

    def plan(self, *outputs: str) -> Plan:
        """The plan of the network with these outputs."""
        self.graph.outputs = set(outputs)
        return make_plan(self.graph, Layers())

    def _value(self, name: str, channels: int, size: int) -> None:
        self.graph.values[name] = Value(name, (None, channels, None), (2, channels, size))


def live(graph: Graph, plan: Plan) -> list[str]:
    """The nodes that the outputs still need, in order."""
    forms = {fold.value: fold.form for fold in plan.folds}
    needed, stack = set(), list(graph.outputs)
    while stack:
        name = stack.pop()
        if name in needed or name not in graph.nodes:
            continue
        needed.add(name)
        node = graph.nodes[name]
        stack.extend(forms.get(name, node.terms) if isinstance(node, Linear) else node.inputs)
    return [name for name in graph.nodes if name in needed]


def run(graph: Graph, plan: Plan, size: int = SIZE) -> dict[str, torch.Tensor]:
    """The outputs, with the folds in the place of the nodes they replace."""
    forms = {fold.value: fold.form for fold in plan.folds}
    values = {name: probe(9, value.example[1], (size,)) for name, value in graph.values.items() if name not in graph.nodes}
    for name in live(graph, plan):
        node = graph.nodes[name]
        if isinstance(node, Opaque):
            values[name] = sum((values[root] for root in node.inputs[1:]), values[node.inputs[0]]).relu()
            continue
        parts = []
        for root, mapped in forms.get(name, node.terms).items():
            assert not isinstance(mapped, Moved)
            parts.append(
                mapped.scale * values[root] + mapped.shift if isinstance(mapped, Scalar) else apply(mapped.evaluate(), values[root])
            )
        values[name] = sum(parts[1:], parts[0])
    return {name: values[name] for name in graph.outputs}


def total(graph: Graph, plan: Plan) -> Cost:
    """What the network costs with the folds in place."""
    after = {fold.value: fold.after for fold in plan.folds}
    nodes = [graph.nodes[name] for name in live(graph, plan)]
    return sum((after.get(node.output) or cost_as_it_stands(node, graph) for node in nodes if isinstance(node, Linear)), Cost())


NOTHING = Plan((), ())


def assert_sound(net: Net, plan: Plan) -> None:
    """The same numbers at every size, and nothing dearer."""
    for size in (SIZE, 4, 12):
        before, after = run(net.graph, NOTHING, size), run(net.graph, plan, size)
        for name in before:
            assert torch.equal(before[name], after[name]), name
    assert total(net.graph, plan).excess_over(total(net.graph, NOTHING)) is None
    for fold in plan.folds:
        assert fold.after.operators < fold.before.operators
        assert fold.after.excess_over(fold.before) is None
        assert fold.nodes[-1].output == fold.value


def counts(net: Net, plan: Plan) -> tuple[int, int]:
    """Operators before and after."""
    return total(net.graph, NOTHING).operators, total(net.graph, plan).operators


def taps(plan: Plan) -> list[list[tuple[int, ...]]]:
    """Kernel sizes of each fold's terms."""
    return [[() if isinstance(one, Scalar) else one.stencil.taps for one in fold.form.values()] for fold in plan.folds]


def repvgg(net: Net, root: str) -> str:
    """Two convolutions and an identity, each with its norm, summed."""
    three, one = net.norm(net.conv(root)), net.norm(net.conv(root, taps=1))
    return net.add(net.add(three, one), net.norm(root))
