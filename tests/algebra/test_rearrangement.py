"""Rearrangements against NumPy's own, and the law that a map along some axes passes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refold.algebra import (
    Formula,
    Leaf,
    Obstruction,
    Rearrangement,
    Selection,
    _kernels,
    compose_formulas,
    convolution,
    move_back,
    move_forward,
    scale_and_shift,
    window,
)
from refold.algebra._rearrangement import size_of
from refold.geometry import Window
from tests.algebra.oracle import numbers

Steps = list[tuple[str, tuple[int, ...]]]


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], Steps]:
    """A shape and a few permutations and reshapes of it."""
    start = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    shape, steps = start, []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            order = tuple(draw(st.permutations(range(len(shape)))))
            steps.append(("permute", order))
            shape = tuple(shape[axis] for axis in order)
        else:
            factors = [prime for size in shape for prime in {1: [], 2: [2], 3: [3], 4: [2, 2], 6: [2, 3]}.get(size, [size])]
            cuts = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=3)))
            wanted = tuple(math.prod(factors[a:b]) for a, b in itertools.pairwise([0, *cuts, len(factors)]))
            steps.append(("reshape", wanted))
            shape = wanted
    return start, steps


def by_numpy(x: np.ndarray, steps: Steps) -> np.ndarray:
    for kind, argument in steps:
        x = x.transpose(argument) if kind == "permute" else x.reshape(argument)
    return x


def as_values(shape: Sequence[int], steps: Steps) -> list[Rearrangement]:
    found = []
    for kind, argument in steps:
        sizes = [size_of(size) for size in shape]
        one = (
            Rearrangement.permutation(sizes, argument)
            if kind == "permute"
            else Rearrangement.reshape(sizes, [size_of(size) for size in argument])
        )
        assert one is not None
        found.append(one)
        shape = [shape[axis] for axis in argument] if kind == "permute" else argument
    return found


def applied(rearrangement: Rearrangement, x: np.ndarray) -> np.ndarray:
    """What a rearrangement says, done."""
    sizes = [size for size, _ in rearrangement.sizes]
    order = [one for axis in rearrangement.outputs for one in axis]
    gone = [one for one in range(len(sizes)) if one not in order]
    whole = x.reshape(sizes).transpose([*order, *gone])
    wanted = [size for size in rearrangement.shape if size is not None]
    return np.asarray(whole.mean(tuple(range(len(order), len(sizes)))).reshape(wanted))


def joined(shape: Sequence[int], steps: Steps) -> Rearrangement | None:
    total: Rearrangement | None = None
    for one in as_values(shape, steps):
        total = one if total is None else total.then(one)
        if total is None:
            return None
    return total


@given(chains())
def test_a_chain_is_what_numpy_does(chain: tuple[tuple[int, ...], Steps]) -> None:
    shape, steps = chain
    total = joined(shape, steps)
    if total is None:
        return
    x = np.arange(math.prod(shape)).reshape(shape)
    result = by_numpy(x, steps)
    assert np.array_equal(applied(total, x), result)
    assert np.array_equal(applied(total.inverse(), result), x)
    back = total.then(total.inverse())
    assert back is not None
    assert back.is_identity
    if total.is_identity:
        assert result.shape == x.shape
        assert np.array_equal(result, x)


@given(chains())
def test_axes_that_are_carried_are_those_of_numpy(chain: tuple[tuple[int, ...], Steps]) -> None:
    shape, steps = chain
    total = joined(shape, steps)
    if total is None:
        return
    places = np.indices(shape)
    for axis, size in enumerate(total.shape):
        assert size is not None
        source = total.source(axis)
        if source is not None:
            moved = by_numpy(places[source], steps)
            assert np.array_equal(moved, np.indices(moved.shape)[axis])
        ordered = total.order(axis)
        if ordered is not None:
            moved = by_numpy(places[ordered[0]], steps)
            assert np.array_equal(moved, np.asarray(ordered[1])[np.indices(moved.shape)[axis]])
        held = total.holder(axis)
        if held is not None:
            there = applied(total.inverse(), np.indices(tuple(size or 0 for size in total.shape))[axis])
            assert np.array_equal(there, np.asarray(held[1])[places[held[0]]])


def test_free_sizes_divide_by_name() -> None:
    n, h = size_of(1, "n"), size_of(1, "h")
    joined_axes = Rearrangement.reshape([n, size_of(4), h], [size_of(4, "n"), h])
    assert joined_axes is not None
    assert joined_axes.shape == (None, None)
    apart = Rearrangement.reshape([size_of(4, "n"), h], [n, size_of(4), h])
    assert apart is not None
    both = joined_axes.then(apart)
    assert both is not None
    assert both.is_identity
    assert Rearrangement.reshape([n, size_of(6)], [h, size_of(6)]) is None
    assert Rearrangement.reshape([size_of(6)], [size_of(2), size_of(2)]) is None
    assert Rearrangement.reshape([size_of(0)], [size_of(0), size_of(0)]) is None


def apply(formula: Formula, x: np.ndarray) -> np.ndarray:
    """A map of an array of any number of leading axes, in NumPy alone; windows keep the size."""
    value = formula.evaluate()
    rank = len(value.windows)
    channel = x.ndim - 1 - rank
    moved = np.moveaxis(x, channel, 0)
    pads = [(0, 0)] * (moved.ndim - rank) + [(one.before, one.after) for one in value.windows]
    moved = np.pad(moved, pads)
    each = value.kernel.shape[1]
    out = []
    for o in range(value.out_channels):
        start = o // (value.out_channels // value.groups) * each
        total = np.zeros(())
        for tap in itertools.product(*(range(one.kernel) for one in value.windows)):
            cut: Any = (Ellipsis, *(slice(t, t + size) for t, size in zip(tap, x.shape[channel + 1 :], strict=True)))
            part = moved[start : start + each][cut]
            total = total + np.tensordot(value.kernel[(o, slice(None), *tap)], part, 1)
        out.append(total + value.bias[o])
    return np.moveaxis(np.stack(out), 0, channel)


IMAGE = (2, 4, 3, 5)
MOVES: dict[str, Steps] = {
    "channels last": [("permute", (0, 2, 3, 1))],
    "tokens": [("reshape", (2, 4, 15)), ("permute", (0, 2, 1))],
    "swapped": [("permute", (0, 1, 3, 2))],
    "batch and channels swapped": [("permute", (1, 0, 2, 3))],
    "flat": [("reshape", (2, 60))],
    "a frame more": [("reshape", (1, 2, 4, 1, 3, 5)), ("permute", (0, 2, 1, 3, 4, 5))],
    "shuffled": [("reshape", (2, 2, 2, 3, 5)), ("permute", (0, 2, 1, 3, 4)), ("reshape", IMAGE)],
}
MAPS: dict[str, Formula] = {
    "norm": Leaf(scale_and_shift(numbers(1, 4), numbers(2, 4), 2)),
    "pointwise": Leaf(convolution(numbers(3, 4, 4, 1, 1), numbers(4, 4))),
    "grouped": Leaf(convolution(numbers(5, 4, 2, 1, 1), numbers(6, 4), groups=2)),
    "across": Leaf(convolution(numbers(7, 4, 4, 1, 3), numbers(8, 4), padding=[0, 1])),
    "dense": Leaf(convolution(numbers(9, 4, 4, 3, 3), numbers(10, 4), padding=1)),
}
BACK = {
    ("norm", "channels last"), ("norm", "tokens"), ("norm", "swapped"), ("norm", "batch and channels swapped"), ("norm", "flat"),
    ("norm", "a frame more"), ("norm", "shuffled"),
    ("pointwise", "channels last"), ("pointwise", "tokens"), ("pointwise", "swapped"), ("pointwise", "batch and channels swapped"),
    ("pointwise", "a frame more"),
    ("grouped", "channels last"), ("grouped", "tokens"), ("grouped", "swapped"), ("grouped", "batch and channels swapped"),
    ("grouped", "a frame more"),
    ("across", "swapped"), ("across", "a frame more"), ("dense", "swapped"), ("dense", "a frame more"),
    ("across", "batch and channels swapped"), ("dense", "batch and channels swapped"),
}  # fmt: skip
"""Which maps pass which rearrangements."""


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", MAPS)
def test_a_map_passes_what_carries_its_axes(name: str, move: str) -> None:
    formula, steps = MAPS[name], MOVES[move]
    x = numbers(11, *IMAGE)
    total = joined(IMAGE, steps)
    assert total is not None
    passed = move_back(formula, total)
    assert ((name, move) in BACK) == (not isinstance(passed, Obstruction))
    if isinstance(passed, Obstruction):
        assert passed.law == "rearrangement"
        return
    behind, rest = passed
    assert np.array_equal(apply(behind, applied(rest, x)), applied(total, apply(formula, x)))
    forward = move_forward(behind, total)
    assert (name, move) != ("norm", "shuffled") or not isinstance(forward, Obstruction)
    if not isinstance(forward, Obstruction):
        front, rest = forward
        assert np.array_equal(applied(rest, apply(front, x)), apply(behind, applied(total, x)))


EIGHT = (2, 4, 2, 4)
"""A mean of eight small integers is exact."""
POOLED = Rearrangement.mean([size_of(size) for size in EIGHT], (2, 3), keeps=True)


def test_a_mean_is_taken() -> None:
    x = numbers(13, *EIGHT)
    assert POOLED.averages
    assert not POOLED.inverse().averages
    assert np.array_equal(applied(POOLED, x), x.mean((2, 3), keepdims=True))
    gone = Rearrangement.mean([size_of(size) for size in EIGHT], (1, 3), keeps=False)
    assert np.array_equal(applied(gone, x), x.mean((1, 3)))
    flat = POOLED.then(Rearrangement.reshape([size_of(2), size_of(4), size_of(1), size_of(1)], [size_of(2), size_of(4)]) or POOLED)
    assert flat is not None
    assert np.array_equal(applied(flat, x), x.mean((2, 3)))
    last = joined(EIGHT, MOVES["channels last"])
    assert last is not None
    tokens = last.then(Rearrangement.mean([size_of(2), size_of(2), size_of(4), size_of(4)], (1, 2), keeps=False))
    assert tokens == flat


@pytest.mark.parametrize("name", ["norm", "pointwise", "grouped"])
def test_a_map_of_channels_passes_a_mean_of_the_others(name: str) -> None:
    formula, x = MAPS[name], numbers(14, *EIGHT)
    for passed in (move_back(formula, POOLED), move_forward(formula, POOLED)):
        assert not isinstance(passed, Obstruction)
        other, rest = passed
        assert rest == POOLED
        assert np.array_equal(apply(other, applied(POOLED, x)), applied(POOLED, apply(formula, x)))


@pytest.mark.parametrize("name", ["across", "dense"])
def test_a_map_along_an_axis_does_not_pass_a_mean_over_it(name: str) -> None:
    for passed in (move_back(MAPS[name], POOLED), move_forward(MAPS[name], POOLED)):
        assert isinstance(passed, Obstruction)


def test_channels_in_another_order_join_a_map_of_all_channels() -> None:
    x, total = numbers(12, *IMAGE), joined(IMAGE, MOVES["shuffled"])
    assert total is not None
    passed = move_forward(MAPS["dense"], total)
    assert not isinstance(passed, Obstruction)
    front, rest = passed
    assert rest.is_identity
    assert np.array_equal(apply(front, x), apply(MAPS["dense"], applied(total, x)))
    refused = move_forward(MAPS["grouped"], total)
    assert isinstance(refused, Obstruction)
    assert "takes them in 2 groups" in refused.fact


@pytest.mark.parametrize(("shape", "wanted"), [([2, 3], [2]), ([2], [2, 3]), ([], [2]), ([2], [])])
def test_no_reshape_makes_more_or_fewer_items(shape: list[int], wanted: list[int]) -> None:
    assert Rearrangement.reshape([size_of(one) for one in shape], [size_of(one) for one in wanted]) is None


def test_rearrangements_that_do_the_same_are_equal() -> None:
    """An axis that was split and put together again on the way is one factor, whether it is moved or averaged."""
    six, five, pair, three = size_of(6), size_of(5), size_of(2), size_of(3)
    split = Rearrangement.reshape([six, five], [pair, three, five])
    assert split is not None
    for last, whole in (
        (Rearrangement.permutation([pair, three, five], (2, 0, 1)), Rearrangement.permutation([six, five], (1, 0))),
        (Rearrangement.mean([pair, three, five], (0, 1), keeps=False), Rearrangement.mean([six, five], (0,), keeps=False)),
    ):
        there = split.then(last)
        assert there is not None
        merged = Rearrangement.reshape([size_of(size or 0) for size in there.shape], [size_of(size or 0) for size in whole.shape])
        assert merged is not None
        assert there.then(merged) == whole


def held_by(rearrangement: Rearrangement, axis: int, free: int) -> list[tuple[int, tuple[int, ...]]]:
    """Each axis of the input that tells the item of an axis of the output, and how, with so many items for each free factor."""
    sizes = [known * free ** len(names) for known, names in rearrangement.sizes]
    own = rearrangement.outputs[axis]
    found = []
    for place, factors in enumerate(rearrangement.inputs):
        if own and set(own) <= set(factors):
            grid = np.indices([sizes[one] for one in factors]).reshape(len(factors), -1)
            told = np.zeros(grid.shape[1], dtype=int)
            for one in own:
                told = told * sizes[one] + grid[factors.index(one)]
            found.append((place, tuple(told.tolist())))
    return found


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_holder_of_an_axis_with_a_free_one_beside_it(order: tuple[int, ...]) -> None:
    """Where an axis has 2, 3 and n items side by side in any order, it tells the item of each of the two that are known."""
    parts = [size_of(2), size_of(3), size_of(1, "n")]
    sizes = [parts[one] for one in order]
    split = Rearrangement.reshape([size_of(5), size_of(6, "n")], [size_of(5), *sizes])
    assert split is not None
    for axis, part in enumerate(sizes, 1):
        if part[1]:
            assert split.holder(axis, 24) is None
            continue
        assert [split.holder(axis, 6 * n) for n in (1, 4)] == [held_by(split, axis, n)[0] for n in (1, 4)]
        assert split.holder(axis) is None
        assert split.holder(axis, 25) is None
    assert split.holder(0) == (0, (0, 1, 2, 3, 4))


def test_no_axis_of_one_item_and_none_that_is_spread_over_two_is_held() -> None:
    one = Rearrangement.permutation([size_of(1), size_of(4)], (1, 0))
    assert (one.source(1), one.order(1), one.holder(1)) == (None, None, None)
    merged = Rearrangement.reshape([size_of(2), size_of(3)], [size_of(6)])
    assert merged is not None
    assert (merged.source(0), merged.order(0), merged.holder(0)) == (None, None, None)


@pytest.mark.parametrize(("name", "move"), sorted(BACK))
def test_a_map_that_was_carried_tells_of_itself_what_its_numbers_tell(name: str, move: str) -> None:
    total = joined(IMAGE, MOVES[move])
    assert total is not None
    passed = move_back(MAPS[name], total)
    assert not isinstance(passed, Obstruction)
    carried, plain = passed[0], Leaf(passed[0].evaluate())
    constant = numbers(3, plain.stencil.in_channels)
    assert np.array_equal(carried.level(None), plain.level(None))
    assert np.array_equal(carried.level(constant), plain.level(constant))
    assert np.array_equal(carried.gain(abs(constant)), plain.gain(abs(constant)))
    assert np.array_equal(carried.swing(constant), plain.swing(constant))
    assert carried.peak == plain.peak == abs(plain.value.kernel).max()
    assert carried.anywhere is MAPS[name].anywhere
    assert (carried.size, carried.slack, len(list(carried.leaves()))) == (1, None, 1)
    assert carried.depth == (0 if carried is MAPS[name] else 1)
    some, whole = carried.block(range(1, 3), {}), _kernels.dense_rows(plain.value.kernel, plain.value.groups, range(1, 3))
    assert (some.groups, np.array_equal(some.kernel, whole), np.array_equal(some.bias, plain.value.bias[1:3])) == (1, True, True)
    part = carried.linear_part().evaluate()
    assert np.array_equal(part.kernel, plain.value.kernel)
    assert not part.bias.any()
    assert carried.key == move_back(MAPS[name], total)[0].key  # type: ignore[index]
    assert carried.key != carried.linear_part().key


SINGLE, NEAR = 2.0**-24, 2.0**-20
"""The roundoff of float32, and a gap between two constants that are one in it."""


@pytest.mark.parametrize("move", ["swapped", "shuffled", "a frame more"])
def test_a_map_that_was_carried_is_as_deep_as_coarse_and_as_slack_as_what_it_was(move: str) -> None:
    """A constant around a batch norm that differs by roundings from its shift, and behind it what makes them larger."""
    level = numbers(1, 4) + 2.0 ** np.arange(4)
    frame, cut = ([Window(1), Window(1, before=pad, after=pad)] for pad in (1, -1))
    outer = Leaf(window(4, frame, level, fill=level * (1 + NEAR)), rounding=SINGLE)
    inner = Leaf(scale_and_shift(np.ones(4), level, 2), rounding=SINGLE)
    formula = compose_formulas(outer, inner, (None, None))
    assert isinstance(formula, Formula)
    if move == "shuffled":
        formula = compose_formulas(Leaf(window(4, cut, level)), formula, (None, None))
        assert isinstance(formula, Formula)
    assert formula.rounding == SINGLE
    assert formula.slack is not None
    total = joined(IMAGE, MOVES[move])
    assert total is not None
    passed = move_back(formula, total)
    assert not isinstance(passed, Obstruction)
    carried = passed[0]
    assert (carried.depth, carried.rounding, carried.size) == (1 + formula.depth, SINGLE, formula.size)
    assert [leaf.value for leaf in carried.leaves()] == [leaf.value for leaf in formula.leaves()]
    assert carried.slack is not None
    assert np.array_equal(carried.slack, formula.slack[[0, 2, 1, 3]] if move == "shuffled" else formula.slack)


@pytest.mark.parametrize("move", ["swapped", "shuffled"])
def test_tensors_are_carried_alike(move: str) -> None:
    total, scale, shift = joined(IMAGE, MOVES[move]), numbers(1, 4), numbers(2, 4)
    assert total is not None
    ours, theirs = (move_back(Leaf(scale_and_shift(make(scale), make(shift), 2)), total) for make in (np.asarray, torch.from_numpy))
    assert not isinstance(ours, Obstruction)
    assert not isinstance(theirs, Obstruction)
    wanted, given_ = ours[0].evaluate(), theirs[0].evaluate()
    assert isinstance(given_.kernel, torch.Tensor)
    assert np.array_equal(wanted.kernel, given_.kernel.numpy())
    assert np.array_equal(wanted.bias, given_.bias.numpy())


def test_a_map_that_was_carried_pads_with_what_it_padded_with() -> None:
    fill, total = numbers(5, 4), joined(IMAGE, MOVES["swapped"])
    assert total is not None
    passed = move_back(Leaf(window(4, [Window(1), Window(1, before=1, after=2)], fill, fill=fill)), total)
    assert not isinstance(passed, Obstruction)
    assert passed[0].fill is not None
    assert np.array_equal(passed[0].fill, fill)
    made = passed[0].evaluate().fill
    assert made is not None
    assert np.array_equal(made, fill)


def test_a_map_whose_axes_stay_is_carried_as_it_is() -> None:
    total = joined(IMAGE, [("reshape", (1, 2, 4, 3, 5))])
    assert total is not None
    passed = move_back(MAPS["dense"], total)
    assert not isinstance(passed, Obstruction)
    assert passed[0] is MAPS["dense"]


def test_a_selection_of_channels_is_one_wherever_it_is_carried() -> None:
    """It stays indices: written out it would be a dense kernel."""
    picked = Selection((2, None, 0, 1), 4, 2, np.zeros(0))
    total = joined(IMAGE, MOVES["channels last"])
    assert total is not None
    passed = move_back(picked, total)
    assert not isinstance(passed, Obstruction)
    carried, rest = passed
    assert isinstance(carried, Selection)
    x = numbers(11, *IMAGE)
    assert np.array_equal(apply(carried, applied(rest, x)), applied(total, apply(picked, x)))


def test_channels_in_another_order_do_not_join_a_map_that_pads_them_with_constants() -> None:
    total = joined(IMAGE, MOVES["shuffled"])
    assert total is not None
    padded = convolution(numbers(9, 4, 4, 3, 3), padding=1, fill=np.arange(1.0, 5.0))
    refused = move_forward(Leaf(padded), total)
    assert isinstance(refused, Obstruction)
    assert refused.law == "composition"


@pytest.mark.parametrize("items", [1, 2, 5])
def test_an_axis_that_is_carried_whole_may_have_other_items(items: int) -> None:
    total = joined((2, 3, 4), [("permute", (0, 2, 1))])
    assert total is not None
    assert total.resized(1, items) == joined((2, items, 4), [("permute", (0, 2, 1))])
