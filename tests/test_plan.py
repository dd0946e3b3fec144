"""Plans of small graphs made by hand: what folds, what stays, why, and that the numbers are the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from refold.algebra import (
    convolution,
    transposed_convolution,
    window,
)
from refold.geometry import Window
from refold.maps import Scalar
from refold.plan import Plan
from tests.algebra.oracle import numbers
from tests.planned import Net, assert_sound, counts, live, repvgg, taps


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
