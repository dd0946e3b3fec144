"""Plans of networks drawn at random: sound, the same each time, and with nothing left to fold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.algebra import (
    AffineConv,
    Formula,
    Leaf,
)
from refold.graph import Linear
from refold.plan import Plan
from tests.planned import NOTHING, Net, assert_sound, live, repvgg


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
