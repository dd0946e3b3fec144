"""Plans of small graphs made by hand: what folds, what stays, why, and that the numbers are the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refold.algebra import (
    AffineConv,
    Formula,
    Leaf,
    Obstruction,
    Rearrangement,
    Selection,
    add_formulas,
    compose_formulas,
    convolution,
    scale_and_shift,
    transposed_convolution,
    window,
)
from refold.algebra._rearrangement import size_of
from refold.geometry import Window
from refold.graph import Graph, Linear, Opaque
from refold.maps import Layout, Map, Moved, Scalar, Step, Value, compose_maps
from refold.plan import Cost, Plan, _takes_part, cost_as_it_stands, make_plan
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


# ----------------------------------------------------------------------------------------------------------------------------- what folds


def repvgg(net: Net, root: str) -> str:
    """Two convolutions and an identity, each with its norm, summed."""
    three, one = net.norm(net.conv(root)), net.norm(net.conv(root, taps=1))
    return net.add(net.add(three, one), net.norm(root))


def test_a_repvgg_block_becomes_one_convolution() -> None:
    net = Net()
    plan = net.plan(repvgg(net, "x"))
    assert_sound(net, plan)
    (fold,) = plan.folds
    assert taps(plan) == [[(3,)]]
    assert len(fold.nodes) == 7
    assert fold.laws == ("composition", "sum")
    assert counts(net, plan) == (7, 1)
    assert plan.refusals == ()


def test_every_block_of_a_chain_becomes_one_convolution() -> None:
    net = Net()
    name = "x"
    for _ in range(4):
        name = net.relu(repvgg(net, name))
    plan = net.plan(name)
    assert_sound(net, plan)
    assert taps(plan) == [[(3,)]] * 4
    assert counts(net, plan) == (28, 4)


def test_a_low_rank_branch_joins_the_kernel_beside_it() -> None:
    """LoRA: dear on its own, free beside a kernel of its size."""
    net = Net(channels=8)
    base = net.conv("x", taps=1)
    plan = net.plan(net.add(base, net.scalar(net.conv(net.conv("x", 2, taps=1), 8, taps=1), 2.0)))
    assert_sound(net, plan)
    assert taps(plan) == [[(1,)]]
    assert counts(net, plan) == (5, 1)


def test_a_bottleneck_alone_stays() -> None:
    net = Net(channels=8)
    plan = net.plan(net.conv(net.conv("x", 2, taps=1), 8, taps=1))
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert refusal.law == "cost"
    assert refusal.operation == "conv → conv"
    assert "merged it would take 896 multiply-adds instead of 448" in refusal.fact


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("nested", ["left", "right", "flat"])
def test_branches_are_summed_in_any_order(order: Sequence[int], nested: str) -> None:
    net = Net()
    branches = [net.conv("x"), net.norm(net.conv("x", taps=1)), "x"]
    a, b, c = (branches[i] for i in order)
    name = net.add(a, b, c) if nested == "flat" else net.add(net.add(a, b), c) if nested == "left" else net.add(a, net.add(b, c))
    plan = net.plan(name)
    assert_sound(net, plan)
    assert taps(plan) == [[(3,)]]
    assert counts(net, plan) == (5, 1)


def test_a_bottleneck_is_tried_again_once_its_sum_has_moved_on() -> None:
    """The low-rank branch ends up two values further down than where it was first too dear."""
    net = Net()
    low_rank = net.conv(net.conv("x", 1, taps=1), 4, taps=1)
    total_ = net.add(net.conv("x", taps=1), low_rank)
    plan = net.plan(net.conv(net.conv(total_, padding=2, dilation=2), padding=2, dilation=2))
    assert_sound(net, plan)
    assert [list(fold.form) for fold in plan.folds] == [["x"]]
    assert counts(net, plan) == (6, 2)


def test_a_residual_of_another_value_stays_an_addition() -> None:
    """The sum of two roots keeps its addition, and the biases of both end up in one."""
    net = Net()
    inner = net.relu(net.conv("x"))
    plan = net.plan(net.add(net.norm(net.conv(inner)), net.norm(net.conv("x", taps=1)), "x"))
    assert_sound(net, plan)
    (fold,) = plan.folds
    assert set(fold.form) == {inner, "x"}
    assert fold.after.operators == 3


def test_sums_of_sums_of_two_roots() -> None:
    net = Net()
    y = net.relu("x")
    first = net.add(net.conv("x"), net.conv(y))
    second = net.add(net.conv(y, taps=1), net.norm("x"))
    plan = net.plan(net.relu(net.add(first, net.add(second, first))))
    assert_sound(net, plan)
    assert taps(plan) == [[(3,), (3,)]]
    assert plan.folds[0].after.operators == 3


def test_a_value_that_a_node_reads_twice() -> None:
    net = Net()
    doubled = net.add("x", "x")
    conv = net.conv(doubled)
    plan = net.plan(net.add(conv, conv))
    assert_sound(net, plan)
    assert taps(plan) == [[(3,)]]
    assert counts(net, plan) == (3, 1)


def test_a_shared_norm_is_folded_into_all_that_read_it() -> None:
    net = Net()
    norm = net.norm("x")
    plan = net.plan(net.relu(net.conv(norm, taps=1)), net.relu(net.conv(norm, taps=1)))
    assert_sound(net, plan)
    assert len(plan.folds) == 2
    assert counts(net, plan) == (3, 2)


def test_a_shared_intermediate_is_not_computed_twice() -> None:
    net = Net()
    shared = net.conv("x")
    plan = net.plan(net.relu(net.conv(shared, taps=1)), net.relu(net.conv(shared, taps=1)))
    assert_sound(net, plan)
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert refusal.law == "cost"
    assert "since 2 nodes read it" in refusal.fact


def test_a_fork_that_joins_again_is_one_region() -> None:
    net = Net()
    shared = net.conv("x")
    plan = net.plan(net.add(net.conv(shared, taps=1), net.scalar(net.norm(shared), -1.0)))
    assert_sound(net, plan)
    assert taps(plan) == [[(3,)]]
    assert counts(net, plan) == (5, 1)


def test_scalars_fold_into_whatever_stands_beside_them() -> None:
    net = Net()
    plan = net.plan(net.scalar(net.scalar(net.conv(net.scalar("x", 3.0)), -1.0, 2.0), 0.5))
    assert_sound(net, plan)
    assert counts(net, plan) == (4, 1)
    net = Net()
    plan = net.plan(net.relu(net.scalar(net.scalar("x", 3.0), 2.0)))
    assert_sound(net, plan)
    assert [dict(fold.form) for fold in plan.folds] == [{"x": Scalar(6.0)}]


def test_a_padding_joins_the_convolution_behind_it() -> None:
    net = Net()
    padded = net.map("pad", "x", window(4, [Window(1, before=1, after=1)], np.zeros(1)))
    plan = net.plan(net.norm(net.conv(padded, padding=0)))
    assert_sound(net, plan)
    assert counts(net, plan) == (3, 1)


def test_a_transposed_convolution_takes_its_norm() -> None:
    net = Net()
    up = net.map("up", "x", transposed_convolution(numbers(1, 4, 4, 2), numbers(2, 4), stride=2))
    plan = net.plan(net.norm(up))
    assert_sound(net, plan)
    assert counts(net, plan) == (2, 1)


# ------------------------------------------------------------------------------------------------------------------------------ what stays


def test_a_second_reader_that_is_not_linear_keeps_the_value() -> None:
    net = Net()
    conv = net.conv("x")
    plan = net.plan(net.relu(conv), net.norm(conv))
    assert_sound(net, plan)
    assert conv in live(net.graph, plan)
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert refusal.law == "cost" or refusal.law == "use"
    assert refusal.node == conv


def test_a_value_between_that_is_an_output_stays() -> None:
    net = Net()
    conv = net.conv("x")
    plan = net.plan(conv, net.norm(conv))
    assert_sound(net, plan)
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert (refusal.law, refusal.node, refusal.operation) == ("use", conv, "conv → norm")
    assert "it is an output of the model" in refusal.fact


def test_a_value_that_must_stay_and_no_law_lets_pass_is_refused_by_the_law() -> None:
    net = Net()
    conv = net.conv("x", groups=4)
    plan = net.plan(conv, net.relu(net.conv(conv, groups=4)))
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert (refusal.law, refusal.node) == ("composition", conv)


def test_a_norm_that_is_read_elsewhere_is_passed_by() -> None:
    """The norm must stay, yet the convolution behind it can read what the norm reads if that saves it an operator."""
    net = Net()
    conv = net.conv("x", taps=1)
    norm = net.norm(conv)
    plan = net.plan(net.relu(norm), net.add(norm, net.conv("x", taps=1)))
    assert_sound(net, plan)
    assert counts(net, plan)[1] < counts(net, plan)[0]


def test_a_norm_in_front_of_zero_padding_stays() -> None:
    net = Net()
    plan = net.plan(net.conv(net.norm("x")))
    assert_sound(net, plan)
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert refusal.operation == "norm → conv"


def test_padding_between_two_convolutions_is_refused_by_law() -> None:
    net = Net()
    plan = net.plan(net.conv(net.conv("x", groups=4), groups=4))
    assert_sound(net, plan)
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert refusal.law == "composition"
    assert "still reads its input on axis 0" in refusal.fact


def test_branches_of_different_strides_are_refused_by_law() -> None:
    net = Net()
    plan = net.plan(net.add(net.conv("x"), net.map("conv", "x", convolution(numbers(1, 4, 4, 1), padding=0, dilation=2))))
    assert taps(plan) == [[(3,)]]
    net = Net()
    shifted = net.map("conv", "x", convolution(numbers(1, 4, 4, 3), padding=1, mode="replicate"))
    plan = net.plan(net.add(net.conv("x"), shifted))
    assert_sound(net, plan)
    assert plan.folds == ()
    assert {refusal.law for refusal in plan.refusals} == {"sum"}


def test_dilated_branches_whose_union_is_large_stay_apart() -> None:
    net = Net()
    plan = net.plan(net.add(net.conv("x"), net.conv("x", padding=4, dilation=4)))
    assert_sound(net, plan)
    assert plan.folds == ()
    assert {refusal.law for refusal in plan.refusals} == {"cost"}


def test_what_the_format_has_no_operator_for_stays() -> None:
    net = Net()
    pad = net.map("pad", "x", window(4, [Window(1, before=1, after=1)], np.zeros(1), fill=np.arange(4.0)))
    plan = net.plan(net.conv(pad, padding=0))
    assert_sound(net, plan)
    assert plan.folds == ()
    (refusal,) = plan.refusals
    assert refusal.law == "writing"


def test_nothing_linear_is_an_empty_plan() -> None:
    net = Net()
    assert net.plan(net.relu(net.relu("x"))) == Plan((), ())
    assert Net().plan("x") == Plan((), ())


def test_refusals_met_while_reading_come_first() -> None:
    net = Net(channels=8)
    from_reading = net.plan(net.conv(net.conv("x", 2, taps=1), 8, taps=1)).refusals[0]
    net.graph.refusals.append(from_reading)
    assert net.plan(*net.graph.outputs).refusals[0] is from_reading


def test_what_costs_compare() -> None:
    assert Cost(1, 2, 3) + Cost(1, 1, 1) == Cost(2, 3, 4)
    assert Cost(1, 1000, 3).excess_over(Cost(1, 999, 3)) == "1,000 multiply-adds instead of 999"
    assert Cost(1, 2, 4).excess_over(Cost(2, 2, 3)) == "4 weights instead of 3"
    assert Cost(2, 2, 3).excess_over(Cost(1, 2, 3)) == "2 operators instead of 1"
    assert Cost(1, 2, 3).excess_over(Cost(1, 2, 3)) is None


# ---------------------------------------------------------------------------------------------------------------------------- any network


def test_what_a_map_costs() -> None:
    """Multiply-adds at the sizes of the example, 2 x 4 x 7 items, as the layer that would be called does them."""
    net = Net()
    up = net.map("up", "x", transposed_convolution(numbers(1, 4, 2, 3), stride=2, groups=2))
    maps: dict[str, tuple[str, Cost]] = {
        "dense": (net.conv("x", 6), Cost(1, 2 * 7 * 6 * 4 * 3, 6 * 4 * 3)),
        "grouped": (net.conv("x", groups=2), Cost(1, 2 * 7 * 4 * 2 * 3, 4 * 2 * 3)),
        "strided": (net.conv("x", stride=2), Cost(1, 2 * 4 * 4 * 4 * 3, 4 * 4 * 3)),
        "transposed": (up, Cost(1, 2 * 4 * 7 * 2 * 3, 4 * 2 * 3)),
        "norm": (net.norm("x"), Cost(1, 2 * 4 * 7, 4)),
        "scalar": (net.scalar("x", 2.0), Cost(1, 2 * 4 * 7, 0)),
        "identity": (net.scalar("x", 1.0), Cost(1, 0, 0)),
    }
    for kind, (name, wanted) in maps.items():
        node = net.graph.nodes[name]
        assert isinstance(node, Linear)
        assert cost_as_it_stands(node, net.graph) == wanted, kind


def test_a_map_costs_what_it_does_to_all_that_a_mean_is_taken_of() -> None:
    net = Net()
    conv = net.graph.nodes[net.conv("x", 6)]
    assert isinstance(conv, Linear)
    pooled = Rearrangement.mean([size_of(1, "n"), size_of(6), size_of(SIZE)], (2,), keeps=False)
    net.graph.values["mean"] = Value("mean", (None, 6), (2, 6))
    layer = conv.terms["x"]
    assert isinstance(layer, Formula)
    moved = Moved(layer, None, Layout((Step("mean", pooled, (2, 6), mean_of=SIZE),), pooled))
    node = Linear("mean", "mean", {"x": moved}, conv.weights)
    assert cost_as_it_stands(node, net.graph) == cost_as_it_stands(conv, net.graph) == Cost(1, 2 * SIZE * 6 * 4 * 3, 6 * 4 * 3)


def part(net: Net, root: str, *sources: int) -> str:
    """Some channels of a value, in this order."""
    channels = net.graph.values[root].example[1]
    name = f"part{len(net.graph.nodes)}"
    net._value(name, len(sources), net.graph.values[root].example[2])
    net.graph.nodes[name] = Linear(name, "part", {root: Selection(sources, channels, 1, np.zeros(0))})
    return name


def test_a_map_of_all_channels_is_not_torn_apart_by_those_that_read_some() -> None:
    net = Net()
    norm = net.norm("x")
    plan = net.plan(net.relu(net.conv(part(net, norm, 0, 1), taps=1)), net.relu(net.conv(part(net, norm, 2, 3), taps=1)))
    assert norm in live(net.graph, plan)
    assert "2 nodes read it, some of them a part of its channels" in [refusal.fact for refusal in plan.refusals]
    assert {refusal.law for refusal in plan.refusals if refusal.node == norm} == {"selection"}


def test_which_maps_read_a_part_of_the_channels() -> None:
    some, turned = (Selection(sources, 4, 1, np.zeros(0)) for sources in ((2, 0), (3, 2, 1, 0)))
    down, up = (Leaf(convolution(numbers(seed, out, inputs, 1))) for seed, out, inputs in ((1, 2, 4), (2, 4, 2)))

    def of(one: Formula | Obstruction) -> bool:
        assert isinstance(one, Formula)
        return _takes_part(one)

    assert (of(some), of(turned), of(down)) == (True, False, False)
    assert of(add_formulas(some, some, (None,)))
    assert not of(add_formulas(some, down, (None,)))
    assert not of(add_formulas(down, some, (None,)))
    assert of(compose_formulas(up, some, (None,)))
    assert not of(compose_formulas(some, compose_formulas(up, down, (None,)), (None,)))  # type: ignore[arg-type]
    assert _takes_part(Moved(some))
    assert not _takes_part(Scalar(2.0))


def test_a_map_joins_the_one_reader_that_takes_some_of_its_channels() -> None:
    net = Net()
    conv = net.conv("x")
    plan = net.plan(net.relu(net.norm(part(net, conv, 2, 0))))
    assert_sound(net, plan)
    assert counts(net, plan) == (3, 1)


def test_a_map_that_all_readers_take_in_another_order_joins_each() -> None:
    net = Net()
    norm = net.norm("x")
    plan = net.plan(*(net.relu(net.conv(part(net, norm, *order), taps=1)) for order in ((1, 0, 3, 2), (3, 2, 1, 0))))
    assert_sound(net, plan)
    assert counts(net, plan) == (5, 2)


def test_a_padding_goes_with_the_two_maps_in_front_of_it() -> None:
    """A padding filled with a bias and a norm before it are dear until the convolution in front of both is gone as well."""
    net = Net()
    first = net.norm(net.conv("x", taps=1))
    padded = net.map("pad", first, window(4, [Window(1, before=1, after=1)], np.zeros(1)))
    plan = net.plan(net.relu(net.conv(padded, padding=0, groups=4)))
    assert_sound(net, plan)
    assert plan.folds


@pytest.mark.parametrize(("parts", "goes"), [(2, True), (6, True), (7, False)])
def test_a_concatenation_of_up_to_six_parts_goes_whole(parts: int, goes: bool) -> None:
    """No part of it can be written alone, so that all of them are tried together, as many as that takes."""
    net = Net()
    roots = [net.conv("x", 2, taps=1) for _ in range(parts)]
    taken = Selection.side_by_side([2] * parts, 1, np.zeros(0))
    name = "concatenation"
    net._value(name, 2 * parts, SIZE)
    net.graph.nodes[name] = Linear(name, name, dict(zip(roots, taken, strict=True)))
    plan = net.plan(net.relu(name))
    assert_sound(net, plan)
    assert [fold.value for fold in plan.folds] == [name] * goes


def test_what_rearranges_behind_a_fold_is_counted() -> None:
    net = Net()
    norm = net.norm(net.conv("x", taps=1))
    turned = Rearrangement.permutation([size_of(1, "n"), size_of(4), size_of(SIZE)], (0, 2, 1))
    net.graph.values["turned"] = Value("turned", (None, SIZE, 4), (2, SIZE, 4))
    step = Step("turned", turned, (2, SIZE, 4))
    net.graph.nodes["turned"] = Linear("turned", "turned", {norm: Moved(Scalar(), None, Layout((step,), turned))})
    (fold,) = net.plan(net.relu("turned")).folds
    assert ([node.operation for node in fold.nodes], fold.before.operators, fold.after.operators) == (["conv", "norm", "turned"], 3, 2)


def resized_like(net: Net, root: str, other: str) -> str:
    """A value put in a shape that is asked of another value when it is written."""
    shape = net.graph.values[root].example
    sizes = [size_of(1, "n"), size_of(shape[1]), size_of(shape[2])]
    turned = Rearrangement.permutation(sizes, (0, 2, 1))
    name = f"turned{len(net.graph.nodes)}"
    net.graph.values[name] = Value(name, (None, shape[2], shape[1]), (shape[0], shape[2], shape[1]))
    step = Step(name, turned, net.graph.values[name].example, (other,))
    net.graph.nodes[name] = Linear(name, "turned", {root: Moved(Scalar(), None, Layout((step,), turned))})
    return name


def test_a_value_whose_shape_is_asked_for_stays() -> None:
    net = Net()
    conv = net.conv("x")
    norm = net.norm(conv)
    turned = resized_like(net, net.relu("x"), conv)
    plan = net.plan(net.relu(norm), turned)
    assert conv not in {node.output for fold in plan.folds for node in fold.nodes if node.output != fold.value}
    assert [(refusal.law, refusal.fact) for refusal in plan.refusals if refusal.node == conv] == [
        ("use", "the value between is needed elsewhere: its shape is asked for")
    ]
    assert {fold.value for fold in net.plan(net.relu(norm)).folds} == {norm}  # nothing asks once nobody needs the turned one


@pytest.mark.parametrize("why", ["nothing", "an output", "read by an activation", "its shape is asked for"])
def test_what_is_needed_elsewhere_does_not_pay_for_a_merge(why: str) -> None:
    """A bottleneck merges with the convolution in front of it where that goes; where that stays, it would be computed twice."""
    net = Net()
    front = net.conv("x", taps=1)
    end = net.relu(net.conv(net.conv(front, 1, taps=1), 4, taps=1))
    outputs = [end]
    if why == "an output":
        outputs.append(front)
    elif why == "read by an activation":
        outputs.append(net.relu(front))
    elif why == "its shape is asked for":
        outputs.append(resized_like(net, net.relu("x"), front))
    plan = net.plan(*outputs)
    if why != "its shape is asked for":
        assert_sound(net, plan)
    assert (front in live(net.graph, plan), len(plan.folds)) == (why != "nothing", int(why == "nothing"))


LAYERS: dict[str, Callable[[Net, str], str]] = {
    "dense": lambda net, root: net.conv(root),
    "point": lambda net, root: net.conv(root, taps=1),
    "depthwise": lambda net, root: net.conv(root, groups=4),
    "norm": lambda net, root: net.norm(root),
}


@pytest.mark.parametrize(("first", "second"), list(itertools.product(LAYERS, repeat=2)))
def test_a_value_and_what_is_made_of_it_read_side_by_side(first: str, second: str) -> None:
    """A reader of a value that another reader of it reads as well."""
    for third in LAYERS:
        net = Net()
        shared = LAYERS[first](net, "x")
        made = LAYERS[second](net, shared)
        total_ = net.add(LAYERS[third](net, made), LAYERS[third](net, shared), made)
        assert_sound(net, net.plan(net.relu(total_)))
        assert_sound(net, net.plan(net.relu(total_), net.relu(net.norm(made))))


@st.composite
def networks(draw: st.DrawFn) -> tuple[Net, tuple[str, ...]]:
    """Layers put on one another and beside one another at random, all of one shape, and what of them is an output."""
    net = Net(channels=draw(st.sampled_from((2, 4))))
    names = ["x"]
    for _ in range(draw(st.integers(2, 9))):
        root = draw(st.sampled_from(names[-4:]))
        match draw(st.sampled_from(("conv", "point", "wide", "depthwise", "norm", "scalar", "add", "add", "relu", "narrow"))):
            case "conv":
                name = net.conv(root, biased=draw(st.booleans()))
            case "point":
                name = net.conv(root, taps=1, biased=draw(st.booleans()))
            case "wide":
                name = net.conv(root, taps=3, dilation=2, padding=2)
            case "depthwise":
                name = net.conv(root, groups=net.channels)
            case "norm":
                name = net.norm(root)
            case "scalar":
                name = net.scalar(root, draw(st.sampled_from((-1.0, 2.0, 0.0))), draw(st.sampled_from((0.0, 1.0))))
            case "add":
                name = net.add(root, *draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)))
            case "relu":
                name = net.relu(root)
            case _:
                name = net.conv(net.conv(root, 1, taps=1), net.channels, taps=1)
        names.append(name)
    outputs = {names[-1], *draw(st.lists(st.sampled_from(names), max_size=2))}
    return net, tuple(sorted(outputs))


@given(networks())
def test_any_plan_is_sound(drawn: tuple[Net, tuple[str, ...]]) -> None:
    net, outputs = drawn
    plan = net.plan(*outputs)
    assert_sound(net, plan)
    laws = {refusal.law for refusal in plan.refusals}
    assert laws <= {"sum", "composition", "cost", "use", "writing"}
    assert all(refusal.node in net.graph.nodes for refusal in plan.refusals)


@given(networks())
def test_a_plan_is_the_same_each_time(drawn: tuple[Net, tuple[str, ...]]) -> None:
    net, outputs = drawn
    one, again = net.plan(*outputs), net.plan(*outputs)
    assert [(fold.value, list(fold.form), fold.after) for fold in one.folds] == [
        (fold.value, list(fold.form), fold.after) for fold in again.folds
    ]
    assert one.refusals == again.refusals


def test_the_soundness_test_can_fail() -> None:
    net = Net()
    plan = net.plan(repvgg(net, "x"))
    (fold,) = plan.folds
    (mapped,) = fold.form.values()
    assert isinstance(mapped, Formula)
    value = mapped.evaluate()
    wrong = AffineConv(value.kernel, value.bias + np.eye(4)[1], value.windows)
    with pytest.raises(AssertionError):
        assert_sound(net, Plan((type(fold)(fold.value, {"x": Leaf(wrong)}, fold.nodes, fold.before, fold.after),), ()))
    with pytest.raises(AssertionError):
        assert_sound(net, Plan((type(fold)(fold.value, fold.form, fold.nodes, fold.after, fold.before),), ()))


def folded(net: Net, plan: Plan) -> Net:
    """The network that a plan makes."""
    forms = {fold.value: fold for fold in plan.folds}
    result = Net(channels=net.channels)
    result.graph.values = net.graph.values
    for name in live(net.graph, plan):
        node, fold = net.graph.nodes[name], forms.get(name)
        result.graph.nodes[name] = node if fold is None else Linear(name, "folded", fold.form, fold.after.weights, fold.after.operators)
    return result


@given(networks())
def test_a_folded_network_has_nothing_left_to_fold(drawn: tuple[Net, tuple[str, ...]]) -> None:
    net, outputs = drawn
    net.graph.outputs = set(outputs)
    net = folded(net, NOTHING)  # without the nodes that nothing needs
    plan = net.plan(*outputs)
    again = folded(net, plan).plan(*outputs)
    assert [(fold.value, fold.before, fold.after) for fold in again.folds] == []


def test_what_comes_to_nothing_by_itself_is_no_fold() -> None:
    """Twice and then half of a value is the value: there is no operator to write for that."""
    net = Net()
    front = net.relu("x")
    twice = net.scalar(front, 2.0)
    assert net.plan(net.relu(net.scalar(twice, 0.5))).folds == ()
    (fold,) = net.plan(net.relu(net.conv(net.scalar(twice, 0.5)))).folds
    assert list(fold.form) == [front]


def test_a_norm_joins_the_layer_in_front_before_it_is_spread_over_its_readers() -> None:
    """In its two readers it would save no operator, and the layer in front could join neither."""
    net = Net()
    norm = net.norm(net.conv("x"))
    plan = net.plan(net.relu(net.conv(norm, taps=1)), net.relu(net.add(norm, "x")))
    assert_sound(net, plan)
    assert [[node.operation for node in fold.nodes] for fold in plan.folds] == [["conv", "norm"]]


def test_a_value_that_is_kept_stays_as_it_is_made() -> None:
    net = Net()
    first = net.norm(net.conv("x"))
    last = net.norm(net.conv(first, taps=1))
    (fold,) = net.plan(last).folds
    assert (fold.value, list(fold.form)) == (last, ["x"])
    net.graph.kept = {first}
    (fold,) = net.plan(last).folds
    assert (fold.value, list(fold.form)) == (last, [first])


def test_the_work_of_planning_grows_with_the_network_and_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of three branches, each of a sum of three: every value can be tried with every other near it."""
    tried = 0

    def counted(second: Map, first: Map, root: Value) -> Map | Obstruction:
        nonlocal tried
        tried += 1
        return compose_maps(second, first, root)

    def work(layers: int) -> int:
        nonlocal tried
        net, outs, tried = Net(), ["x"], 0
        for _ in range(layers):
            near = outs[-3:]
            outs.append(net.add(*(net.norm(one) for one in near)) if len(near) > 1 else net.conv(near[0]))
        net.plan(outs[-1])
        return tried

    monkeypatch.setattr("refold.plan.compose_maps", counted)
    small, large = work(100), work(200)
    assert large < 2.5 * small
