"""What plans cost: of maps, of parts of channels, and of what several nodes read."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from refold.algebra import (
    Formula,
    Leaf,
    Obstruction,
    Rearrangement,
    Selection,
    add_formulas,
    compose_formulas,
    convolution,
    transposed_convolution,
    window,
)
from refold.algebra._rearrangement import size_of
from refold.geometry import Window
from refold.graph import Linear
from refold.maps import Layout, Map, Moved, Scalar, Step, Value, compose_maps
from refold.plan import Cost, _takes_part, cost_as_it_stands
from tests.algebra.oracle import numbers
from tests.planned import SIZE, Net, assert_sound, counts, live


def test_what_costs_compare() -> None:
    assert Cost(1, 2, 3) + Cost(1, 1, 1) == Cost(2, 3, 4)
    assert Cost(1, 1000, 3).excess_over(Cost(1, 999, 3)) == "1,000 multiply-adds instead of 999"
    assert Cost(1, 2, 4).excess_over(Cost(2, 2, 3)) == "4 weights instead of 3"
    assert Cost(2, 2, 3).excess_over(Cost(1, 2, 3)) == "2 operators instead of 1"
    assert Cost(1, 2, 3).excess_over(Cost(1, 2, 3)) is None


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
