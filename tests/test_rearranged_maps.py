"""Chains of maps with permutations, reshapes and means between them: whatever `compose_maps` makes of one computes what the chain does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from refold.algebra import Formula, Leaf, Obstruction, Rearrangement, convolution, linear, scale_and_shift
from refold.algebra._rearrangement import Size, size_of
from refold.maps import IDENTITY, Layout, Map, Moved, Scalar, Step, Value, compose_maps, sum_maps, without_bias
from tests.algebra.oracle import apply, numbers, tensor

BATCH = 2
KINDS = ("permute", "split", "merge", "mean", "mix", "mix along", "scale", "scalar")


def sizes(shape: Sequence[int]) -> list[Size]:
    """The axes of a shape, the first of them free."""
    return [size_of(1, "n"), *map(size_of, shape[1:])]


def moved(done: Rearrangement | None, shape: Sequence[int], mean_of: int = 0) -> Map | None:
    if done is None or done.is_identity:
        return None
    return Moved(IDENTITY, None, Layout((Step("y", done, tuple(shape), mean_of=mean_of),), done))


@st.composite
def steps(draw: st.DrawFn, shape: tuple[int, ...]) -> Map | None:
    """A map of a value of this shape, or None where what was drawn is none."""
    kind, axis = draw(st.sampled_from(KINDS)), draw(st.integers(1, len(shape) - 1))
    items, rank, seed = shape[axis], len(shape) - 1 - axis, draw(st.integers(0, 99))
    match kind:
        case "permute":
            order = (0, *draw(st.permutations(range(1, len(shape)))))
            return moved(Rearrangement.permutation(sizes(shape), order), [shape[one] for one in order])
        case "split" if len(shape) < 6 and items in (4, 6):
            wanted = (*shape[:axis], *draw(st.permutations((2, items // 2))), *shape[axis + 1 :])
            return moved(Rearrangement.reshape(sizes(shape), sizes(wanted)), wanted)
        case "merge" if rank and items * shape[axis + 1] <= 36:
            wanted = (*shape[:axis], items * shape[axis + 1], *shape[axis + 2 :])
            return moved(Rearrangement.reshape(sizes(shape), sizes(wanted)), wanted)
        case "mean" if len(shape) > 2:
            keeps = draw(st.booleans())
            wanted = (*shape[:axis], *([1] if keeps else []), *shape[axis + 1 :])
            return moved(Rearrangement.mean(sizes(shape), [axis], keeps=keeps), wanted, items)
        case "mix" | "mix along" if rank <= 3:
            outputs, taps = draw(st.sampled_from((items, 1, 3))), [1] * rank
            if kind == "mix along" and rank and shape[-1] > 1:
                taps[-1] = 3
            kernel = numbers(seed, outputs, items, *taps)
            bias = numbers(seed + 1, outputs) if draw(st.booleans()) else None
            return Leaf(
                convolution(kernel, bias, padding=[size // 2 for size in taps])
                if rank
                else linear(kernel)
                if bias is None
                else linear(kernel, bias)
            )
        case "scale" if rank <= 3:
            return Leaf(scale_and_shift(numbers(seed, items), numbers(seed + 1, items), rank))
        case "scalar":
            return Scalar(2.0, 0.5)
    return None


def rearranged(done: Rearrangement, x: torch.Tensor) -> torch.Tensor:
    """What the factors of a rearrangement say, by torch."""
    factors = [known * (BATCH if free else 1) for known, free in done.sizes]
    given_ = [one for axis in done.inputs for one in axis]
    kept = [one for axis in done.outputs for one in axis]
    averaged = [one for one in given_ if one not in kept]
    y = x.reshape([factors[one] for one in given_] or [1])
    if given_:
        y = y.permute([given_.index(one) for one in (*kept, *averaged)])
    if averaged:
        y = y.mean(tuple(range(len(kept), len(given_))))
    return y.reshape([math.prod(factors[one] for one in axis) for axis in done.outputs])


def run(mapped: Map, x: torch.Tensor) -> torch.Tensor:
    if isinstance(mapped, Scalar):
        return mapped.scale * x + mapped.shift
    if isinstance(mapped, Moved):
        y = x if mapped.before is None else rearranged(mapped.before.rearrangement, x)
        y = run(mapped.inner, y)
        return y if mapped.after is None else rearranged(mapped.after.rearrangement, y)
    assert isinstance(mapped, Formula)
    lead = x.ndim - 1 - mapped.stencil.rank
    y = apply(mapped.evaluate(), x.reshape(-1, *x.shape[lead:]))
    return y.reshape(*x.shape[:lead], *y.shape[1:])


@given(st.data())
def test_a_chain_is_what_its_steps_are(data: st.DataObject) -> None:
    shape = (BATCH, *data.draw(st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=2, max_size=3)))
    root = Value("x", (None, *shape[1:]), shape)
    x = y = tensor(numbers(7, *shape))
    whole: Map = IDENTITY
    for _ in range(data.draw(st.integers(2, 5))):
        step = data.draw(steps(tuple(y.shape)))
        if step is None:
            continue
        composed = compose_maps(step, whole, root)
        if isinstance(composed, Obstruction):
            return
        whole, y = composed, run(step, y)
        torch.testing.assert_close(run(whole, x), y, rtol=0, atol=1e-9 * max(1.0, float(y.abs().max())))


@st.composite
def branches(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Map, torch.Tensor]:
    """A chain of maps as one, and what its steps make of an input."""
    root, x = Value("x", (None, *shape[1:]), shape), tensor(numbers(7, *shape))
    whole: Map = IDENTITY
    for _ in range(draw(st.integers(1, 3))):
        step = draw(steps(tuple(x.shape)))
        composed = whole if step is None else compose_maps(step, whole, root)
        if step is not None and not isinstance(composed, Obstruction):
            whole, x = composed, run(step, x)
    return whole, x


@given(st.data())
def test_a_sum_of_chains_is_the_sum_of_what_they_make(data: st.DataObject) -> None:
    shape = (BATCH, *data.draw(st.lists(st.sampled_from((2, 3, 4)), min_size=2, max_size=3)))
    root, x = Value("x", (None, *shape[1:]), shape), tensor(numbers(7, *shape))
    (left, one), (right, other) = data.draw(branches(shape)), data.draw(branches(shape))
    for first, second, wanted in ((left, right, (one, other)), (left, left, (one, one))):
        total = sum_maps(first, second, root)
        if isinstance(total, Obstruction):
            assert first is not second
            continue
        assert wanted[0].shape == wanted[1].shape
        torch.testing.assert_close(run(total, x), wanted[0] + wanted[1], rtol=0, atol=1e-9 * max(1.0, float(wanted[0].abs().max())))


@given(st.data())
def test_a_chain_without_its_bias_is_linear(data: st.DataObject) -> None:
    shape = (BATCH, *data.draw(st.lists(st.sampled_from((2, 3, 4)), min_size=2, max_size=3)))
    whole, y = data.draw(branches(shape))
    x = tensor(numbers(7, *shape))
    part = without_bias(whole)
    torch.testing.assert_close(run(part, x), y - run(whole, 0 * x), rtol=0, atol=1e-9 * max(1.0, float(y.abs().max())))
    assert not run(part, 0 * x).any()


def chained(shape: tuple[int, ...], *maps: Map | None) -> Map | Obstruction:
    whole: Map | Obstruction = IDENTITY
    for one in maps:
        assert one is not None
        assert not isinstance(whole, Obstruction)
        whole = compose_maps(one, whole, Value("x", (None, *shape[1:]), shape))
    return whole


def halved(shape: tuple[int, ...], axis: int) -> tuple[Map | None, Map | None]:
    """The mean over pairs along an axis."""
    split = (*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
    return (
        moved(Rearrangement.reshape(sizes(shape), sizes(split)), split),
        moved(Rearrangement.mean(sizes(split), [axis + 1], keeps=False), (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :]), 2),
    )


def test_no_map_passes_a_mean_over_part_of_the_channels() -> None:
    shape = (BATCH, 4, 8)
    wide, narrow = Leaf(convolution(numbers(1, 4, 4, 3), padding=[1])), Leaf(convolution(numbers(2, 5, 2, 1)))
    assert isinstance(chained(shape, wide, *halved(shape, 1), narrow), Obstruction)


def test_a_window_along_an_axis_stays_in_front_of_a_mean_over_part_of_it() -> None:
    shape = (BATCH, 4, 8)
    parts = [Leaf(convolution(numbers(1, 4, 4, 3), padding=[1])), *halved(shape, 2), Leaf(convolution(numbers(2, 5, 4, 1)))]
    x = wanted = tensor(numbers(3, *shape))
    for part in parts:
        assert part is not None
        wanted = run(part, wanted)
    whole = chained(shape, *parts)
    assert not isinstance(whole, Obstruction)
    torch.testing.assert_close(run(whole, x), wanted)


def test_an_axis_may_come_to_one_item() -> None:
    shape = (BATCH, 3, 4)
    average = moved(Rearrangement.mean(sizes(shape), [1], keeps=True), (BATCH, 1, 4), 3)
    back = moved(Rearrangement.permutation(sizes((BATCH, 6, 4)), (0, 2, 1)), (BATCH, 4, 6))
    whole = chained(shape, average, Leaf(convolution(numbers(1, 6, 1, 1))), back, Leaf(linear(numbers(2, 2, 6))))
    assert not isinstance(whole, Obstruction)
    x = tensor(numbers(3, *shape))
    mixed = torch.einsum("bcl,oc->blo", x.mean(1, keepdim=True), tensor(numbers(1, 6, 1)))
    torch.testing.assert_close(run(whole, x), mixed @ tensor(numbers(2, 2, 6)).T)


def test_the_runner_can_fail() -> None:
    flipped = Rearrangement.permutation(sizes((BATCH, 2, 2)), (0, 2, 1))
    x = torch.arange(8.0).reshape(BATCH, 2, 2)
    assert not torch.equal(rearranged(flipped, x), x)


SHAPE = (BATCH, 4, 6)
TURNED = (BATCH, 6, 4)


def turn(shape: tuple[int, ...] = SHAPE) -> Moved:
    """The last two axes swapped."""
    made = moved(Rearrangement.permutation(sizes(shape), (0, 2, 1)), (shape[0], shape[2], shape[1]))
    assert isinstance(made, Moved)
    return made


def mixed(outputs: int, inputs: int, taps: int = 1, seed: int = 1) -> Leaf:
    """Channels mixed, perhaps along the axis behind them, which keeps its size."""
    return Leaf(convolution(numbers(seed, outputs, inputs, taps), numbers(seed + 1, outputs), padding=[taps // 2]))


def sides(mapped: Map | Obstruction) -> tuple[bool, bool]:
    """Whether a map rearranges in front and behind."""
    assert not isinstance(mapped, Obstruction)
    return (mapped.before is not None, mapped.after is not None) if isinstance(mapped, Moved) else (False, False)


def test_on_which_side_a_rearrangement_stays() -> None:
    """A map of channels joins the map that it follows; what acts on each item alone leaves the rearrangement where it is needed."""
    token = Leaf(linear(numbers(3, 5, 4), numbers(4, 5)))
    norm = Leaf(scale_and_shift(numbers(5, 4), numbers(6, 4), 1))
    assert sides(chained(SHAPE, mixed(4, 4), turn(), token)) == (False, True)
    assert sides(chained(SHAPE, norm, turn(), token)) == (True, False)
    assert sides(chained(SHAPE, Scalar(2.0, 1.0), turn(), token)) == (True, False)
    assert sides(chained(SHAPE, mixed(4, 4, 3), turn(), Scalar(2.0, 1.0))) == (False, True)
    assert sides(chained(SHAPE, norm, turn(), Scalar(2.0, 1.0))) == (False, True)
    assert sides(chained(SHAPE, mixed(4, 4, 3), turn(), turn(TURNED))) == (False, False)
    assert sides(chained(SHAPE, turn(), turn(TURNED))) == (False, False)
    assert sides(chained(SHAPE, turn(), token, turn((BATCH, 6, 5)))) == (False, False)
    assert sides(chained(SHAPE, turn(), Scalar(2.0, 1.0), turn(TURNED))) == (False, False)


def test_a_refusal_is_that_of_the_way_that_was_tried_first() -> None:
    across = chained(SHAPE, mixed(4, 4, 3), turn(), mixed(2, 6, 3, seed=3))
    assert isinstance(across, Obstruction)
    assert (across.law, across.fact[:34]) == ("rearrangement", "the map moves along axis 0 behind ")


def test_an_axis_that_is_split_in_ways_with_nothing_in_common_is_refused() -> None:
    pair, six, turned = (BATCH, 2, 3), (BATCH, 6), (BATCH, 3, 2)
    merge = moved(Rearrangement.reshape(sizes(pair), sizes(six)), six)
    split = moved(Rearrangement.reshape(sizes(six), sizes(turned)), turned)
    assert isinstance(split, Moved)
    refused = chained(pair, merge, Moved(Leaf(linear(numbers(1, 2, 2))), split.after))
    assert isinstance(refused, Obstruction)
    assert (refused.law, refused.fact) == ("rearrangement", "two rearrangements split an axis in ways that have nothing in common")


def test_branches_that_rearrange_in_different_ways_are_not_summed() -> None:
    root = Value("x", (None, 4, 4), (BATCH, 4, 4))
    result = sum_maps(turn((BATCH, 4, 4)), mixed(4, 4), root)
    assert isinstance(result, Obstruction)
    assert (result.law, result.fact) == ("sum", "the two maps rearrange what they read in different ways")
    both = sum_maps(turn((BATCH, 4, 4)), turn((BATCH, 4, 4)), root)
    assert isinstance(both, Moved)
    assert both.inner == Scalar(2.0)


def test_a_branch_in_tokens_joins_one_in_channels() -> None:
    """One branch turns channels last and back, the other does not: their sum rearranges nothing."""
    token = Leaf(linear(numbers(3, 4, 4), numbers(4, 4)))
    there = chained(SHAPE, turn(), token, turn(TURNED))
    beside = mixed(4, 4, 3)
    assert not isinstance(there, Obstruction)
    total = sum_maps(there, beside, Value("x", (None, 4, 6), SHAPE))
    assert isinstance(total, Formula)
    x = tensor(numbers(9, *SHAPE))
    assert torch.equal(run(total, x), run(there, x) + run(beside, x))


def test_a_fixed_shape_between_two_maps_keeps_the_number_of_channels() -> None:
    between = (BATCH, 3, 6)
    flexible = turn(between)
    assert flexible.after is not None
    (step,) = flexible.after.steps
    fixed = Moved(IDENTITY, None, Layout((replace(step, is_flexible=False),), flexible.after.rearrangement))
    five, three = Leaf(linear(numbers(3, 5, 3))), Leaf(linear(numbers(3, 3, 3)))
    assert not isinstance(chained(SHAPE, mixed(3, 4), flexible, five), Obstruction)
    assert not isinstance(chained(SHAPE, mixed(3, 4), fixed, three), Obstruction)
    refused = chained(SHAPE, mixed(3, 4), fixed, five)
    assert isinstance(refused, Obstruction)
    assert refused.fact == "`y` between the two states the number of channels, which would be 5 there"


def test_a_map_that_changes_sizes_does_not_pass_what_states_them() -> None:
    """Turned by a permutation of both axes, a convolution without padding gives fewer items than the permutation says."""
    shape = (BATCH, 3, 5, 6)
    turned = moved(Rearrangement.permutation(sizes(shape), (0, 1, 3, 2)), (BATCH, 3, 6, 5))
    for padding, stride, passes in ((1, 1, True), (0, 1, False), (1, 2, False)):
        point, window = convolution(numbers(1, 4, 3, 1, 1)), convolution(numbers(2, 5, 4, 3, 3), padding=padding, stride=stride)
        whole = chained(shape, Leaf(point), turned, Leaf(window))
        assert isinstance(whole, Moved)
        assert (whole.before is None, whole.after is None) == (passes, not passes)


def test_what_a_resized_step_gives() -> None:
    whole = chained(SHAPE, mixed(4, 4), turn(), Leaf(linear(numbers(3, 5, 4))))
    assert isinstance(whole, Moved)
    assert whole.after is not None
    assert (whole.after.value.shape, whole.after.value.example, whole.after.steps[0].resized) == ((None, 6, 5), (BATCH, 6, 5), (2, 5))
    assert (len(whole.steps), whole.longest, whole.stencil.out_channels, len(list(whole.leaves()))) == (1, 4, 5, 2)
    assert (Moved(Scalar(2.0)).longest, Moved(Scalar(2.0)).stencil.rank, list(Moved(Scalar(2.0)).leaves())) == (0, 0, [])


def test_the_longest_sum_counts_what_a_mean_is_taken_of() -> None:
    average = moved(Rearrangement.mean(sizes(SHAPE), [2], keeps=True), (BATCH, 4, 1), 6)
    whole = chained(SHAPE, average, mixed(5, 4))
    assert isinstance(whole, Moved)
    assert whole.longest == 6 + 4


def test_maps_of_channels_on_both_sides_of_a_mean_are_one_behind_it() -> None:
    """A mean makes what follows it cheaper, so that the map in front goes behind."""
    parts = [mixed(5, 4), moved(Rearrangement.mean(sizes((BATCH, 5, 6)), [2], keeps=True), (BATCH, 5, 1), 6), mixed(3, 5, seed=3)]
    whole = chained(SHAPE, *parts)
    assert sides(whole) == (True, False)
    assert not isinstance(whole, Obstruction)
    x = wanted = tensor(numbers(9, *SHAPE))
    for one in parts:
        assert one is not None
        wanted = run(one, wanted)
    torch.testing.assert_close(run(whole, x), wanted, rtol=0, atol=1e-11)


def test_what_passes_a_rearrangement_may_still_be_refused_behind_it() -> None:
    """The padding along the tokens is that of the other side, where the first map still reads its input."""
    refused = chained(SHAPE, mixed(4, 4, 3), turn(), turn(TURNED), mixed(4, 4, 3, seed=3))
    assert isinstance(refused, Obstruction)
    assert refused.law == "composition"
    across = chained((BATCH, 4, 4, 6), Leaf(convolution(numbers(1, 4, 4, 1, 3), padding=[0, 1])),
                     moved(Rearrangement.permutation(sizes((BATCH, 4, 4, 6)), (0, 1, 3, 2)), (BATCH, 4, 6, 4)),
                     Leaf(convolution(numbers(2, 4, 4, 3, 1), padding=[1, 0])))  # fmt: skip
    assert isinstance(across, Obstruction)
    assert across.law == "composition"
