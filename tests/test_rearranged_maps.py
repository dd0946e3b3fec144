"""Chains of maps with permutations, reshapes and means between them: whatever `compose_maps` makes of one computes what the chain does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from refold.algebra import Formula, Leaf, Obstruction, Rearrangement, convolution, linear, scale_and_shift
from refold.algebra._rearrangement import Size, size_of
from refold.maps import IDENTITY, Layout, Map, Moved, Scalar, Step, Value, compose_maps
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
