"""Every refusal of the laws, and that folding there anyway would have been wrong: in the shape, or at the border and there alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from refold.algebra import (
    AffineConv,
    Array,
    Chain,
    Leaf,
    Mode,
    Obstruction,
    Sizes,
    Stencil,
    Sum,
    add_formulas,
    compose_formulas,
    convolution,
    linear,
    scale_and_shift,
    transposed_convolution,
    window,
)
from refold.geometry import Window
from tests.algebra.oracle import apply, numbers, probe


def refused_sum(left: AffineConv, right: AffineConv, sizes: Sizes = (None,)) -> str:
    """What obstructs a sum."""
    reason = add_formulas(Leaf(left), Leaf(right), sizes)
    assert isinstance(reason, Obstruction)
    assert reason == add_formulas(Leaf(left), Leaf(right), sizes)
    return str(reason)


def refused(second: AffineConv, first: AffineConv, sizes: Sizes = (None,)) -> str:
    """What obstructs a composition."""
    reason = compose_formulas(Leaf(second), Leaf(first), sizes)
    assert isinstance(reason, Obstruction)
    return str(reason)


def naive_sum(left: AffineConv, right: AffineConv, mode: Mode, fill: Array | None) -> AffineConv:
    """The kernels laid on one another, without a question asked."""
    windows = tuple(one.union(other) for one, other in zip(left.windows, right.windows, strict=True))
    groups = math.gcd(left.groups, right.groups)
    return Sum(Leaf(left), Leaf(right), Stencil(left.in_channels, left.out_channels, groups, windows, mode), fill).evaluate()


def naive_chain(second: AffineConv, first: AffineConv, mode: Mode = "constant", fill: Array | None = None) -> AffineConv:
    """The kernels multiplied, without a question asked."""
    windows = tuple(a.then(b) for a, b in zip(first.windows, second.windows, strict=True))
    groups = math.gcd(first.groups, second.groups)
    return Chain(Leaf(second), Leaf(first), Stencil(first.in_channels, second.out_channels, groups, windows, mode), fill).evaluate()


def continuations(*operands: AffineConv) -> list[tuple[Mode, Array | None]]:
    """Every way in which a folded map could continue its input: those of the operands, zeros, and the constants of either."""
    found: list[tuple[Mode, Array | None]] = [("constant", None)]
    found += [("constant", one.fill) for one in operands if one.fill is not None and len(one.fill) == operands[-1].in_channels]
    found += [(one.mode, None) for one in operands if one.mode != "constant"]
    return found


def differs_at_the_border_alone(naive: AffineConv, truth: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether the naive fold is right in the middle and wrong somewhere on the rim."""
    y = apply(naive, x)
    assert y.shape == truth.shape
    wrong = (y != truth).flatten(0, 1).any(0)
    middle = tuple(slice(n // 2 - 1, n // 2 + 1) for n in wrong.shape)
    return bool(wrong.any()) and not bool(wrong[middle].any())


# ------------------------------------------------------------------------------------------------------------------------------ the sum


def test_sum_of_different_ranks() -> None:
    rows, columns = linear(numbers(1, 4, 4)), convolution(numbers(2, 4, 4, 1))
    assert "one map has 0 spatial axes, the other 1" in refused_sum(rows, columns, ())
    x = probe(3, 4, (4,))
    truth = apply(rows, x.reshape(-1, 4)).reshape(x.shape) + apply(columns, x)
    naive = convolution((rows.kernel + columns.kernel[..., 0])[..., None])
    assert not torch.equal(apply(naive, x), truth)


def test_sum_of_different_channels() -> None:
    one, many = convolution(numbers(1, 1, 4, 3)), convolution(numbers(2, 4, 4, 3))
    assert "channels 4 → 1 and 4 → 4 differ" in refused_sum(one, many)
    x = probe(3, 4, (6,))
    assert apply(one, x).shape != apply(many, x).shape


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Window(3, 2, before=1, after=1), "stride 1, padding (1, 1) against kernel 3, stride 2"),
        (Window(3, before=1, after=0), "at every size: kernel 3, stride 1, padding (1, 1) against kernel 3, stride 1, padding (1, 0)"),
        (Window(3, before=1, after=1, upsample=2), "at every size"),
        (Window(3, dilation=2, before=1, after=1), "at every size"),
    ],
)
def test_sum_of_windows_that_move_apart(other: Window, says: str) -> None:
    left = convolution(numbers(1, 2, 2, 3), padding=1)
    right = AffineConv(numbers(2, 2, 2, 3), numbers(3, 2), (other,))
    assert says in refused_sum(left, right)
    x = probe(3, 2, (7,))
    assert apply(left, x).shape != apply(right, x).shape


def test_sum_of_windows_that_agree_at_some_sizes() -> None:
    left, right = convolution(numbers(1, 2, 2, 3), stride=2, padding=1), convolution(numbers(2, 2, 2, 2), stride=2)
    assert "or trace with a fixed size" in refused_sum(left, right)
    assert "at size 7" in refused_sum(left, right, (7,))
    agree = [apply(left, x).shape == apply(right, x).shape for x in (probe(3, 2, (n,)) for n in range(5, 11))]
    assert agree == [False, True] * 3


def test_sum_of_sizes_that_broadcast() -> None:
    """At three items the one branch gives two positions and the other one, which PyTorch repeats; a single window does not."""
    left, right = convolution(numbers(1, 2, 2, 3), stride=2, padding=1), convolution(numbers(2, 2, 2, 2), stride=2)
    x = probe(3, 2, (3,))
    truth = apply(left, x) + apply(right, x)
    folded = add_formulas(Leaf(left), Leaf(right), (4,))
    assert not isinstance(folded, Obstruction)
    assert truth.shape[2] == 2
    assert not torch.equal(apply(folded.evaluate(), x), truth)


@pytest.mark.parametrize(("mode", "other"), [("constant", "reflect"), ("replicate", "circular"), ("reflect", "replicate")])
def test_sum_of_different_padding_modes(mode: Mode, other: Mode) -> None:
    left, right = convolution(numbers(1, 2, 2, 5), padding=2, mode=mode), convolution(numbers(2, 2, 2, 3), padding=1, mode=other)
    assert f"one map continues its input by {mode}, the other by {other}" in refused_sum(left, right)
    x = probe(3, 2, (9,))
    truth = apply(left, x) + apply(right, x)
    for mode_, fill in continuations(left, right):
        assert differs_at_the_border_alone(naive_sum(left, right, mode_, fill), truth, x)


def test_sum_of_different_constants() -> None:
    left, right = convolution(numbers(1, 2, 2, 3), padding=1), convolution(numbers(2, 2, 2, 3), padding=1, fill=np.array([0.0, 1.0]))
    assert "pad their input with different constants" in refused_sum(left, right)
    x = probe(3, 2, (9,))
    truth = apply(left, x) + apply(right, x)
    for mode, fill in continuations(left, right):
        assert differs_at_the_border_alone(naive_sum(left, right, mode, fill), truth, x)


def test_sum_of_constants_that_differ_in_a_small_channel_alone() -> None:
    """Each channel has its own scale, and float32 weights are no reason to take 1 for 1.02."""
    left = convolution(numbers(1, 2, 2, 3), padding=1, fill=np.array([1e6, 1.0]))
    right = convolution(numbers(2, 2, 2, 3), padding=1, fill=np.array([1e6, 1.02]))
    reason = add_formulas(Leaf(left), Leaf(right), (None,))
    assert isinstance(reason, Obstruction)


# ------------------------------------------------------------------------------------------------------------------------ the composition


def test_composition_of_different_ranks() -> None:
    rows, columns = linear(numbers(1, 4, 4)), convolution(numbers(2, 4, 4, 1))
    assert "the first map has 1 spatial axes, the second 0" in refused(rows, columns)
    x = probe(3, 4, (4,))
    truth = apply(rows, apply(columns, x).reshape(-1, 4)).reshape(x.shape)
    assert not torch.equal(apply(convolution((rows.kernel @ columns.kernel[..., 0])[..., None]), x), truth)


def test_composition_of_different_channels() -> None:
    """Two channels out of three that both are there cannot be meant."""
    first, second = convolution(numbers(1, 3, 2, 1)), convolution(numbers(2, 2, 2, 1))
    assert "gives 3 channels, the second takes 2" in refused(second, first)
    with pytest.raises(RuntimeError, match="size of tensor a"):
        apply(second, apply(first, probe(3, 2, (4,))))


def test_a_transposed_convolution_after_a_window() -> None:
    """The first kernel with its taps `stride` apart is right in the middle; at the border it goes on where zeros should stand."""
    first = convolution(numbers(1, 2, 2, 3), padding=1)
    second = transposed_convolution(numbers(2, 2, 2, 4), stride=2, padding=1)
    assert "a transposed convolution of stride 2 follows a window" in refused(second, first)
    spread = replace(first, windows=(Window(3, dilation=2, before=2, after=2, upsample=2),))
    naive = naive_chain(replace(second, windows=(replace(second.windows[0], upsample=1),)), spread)
    x = probe(3, 2, (9,))
    assert differs_at_the_border_alone(naive, apply(second, apply(first, x)), x)


def test_a_transposed_convolution_after_a_bias() -> None:
    first = scale_and_shift(numbers(1, 2), numbers(2, 2), 1)
    second = transposed_convolution(numbers(3, 2, 2, 2), stride=2)
    assert "puts zeros between its items, where the first map would put its bias" in refused(second, first)
    x = probe(4, 2, (5,))
    assert not torch.equal(apply(naive_chain(second, first), x), apply(second, apply(first, x)))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("own", ["constant", "same"])
def test_mirrored_padding_of_what_is_no_point(mode: Mode, own: str) -> None:
    first = convolution(numbers(1, 2, 2, 3), padding=1, mode="constant" if own == "constant" else mode)
    second = convolution(numbers(2, 2, 2, 3), padding=1, mode=mode)
    if mode == "circular" and own == "same":
        first = convolution(numbers(1, 2, 2, 3))  # of two rings of one size one ring can be made; this one is shorter than its input
    assert f"pads by (1, 1) with {mode} values of a map that is not pointwise on axis 0 (taps (3,))" in refused(second, first)
    x = probe(3, 2, (9,))
    truth = apply(second, apply(first, x))
    for mode_, fill in continuations(second, first):
        assert differs_at_the_border_alone(naive_chain(second, first, mode_, fill), truth, x)


def test_mirrored_padding_along_one_axis_after_zeros_along_the_other() -> None:
    first = convolution(numbers(1, 2, 2, 3, 1), padding=(1, 0))
    second = convolution(numbers(2, 2, 2, 1, 3), padding=(0, 1), mode="reflect")
    assert "the first map continues its input by constant, the second by reflect" in refused(second, first, (None, None))
    x = probe(3, 2, (8, 8))
    truth = apply(second, apply(first, x))
    for mode, fill in continuations(second, first):
        assert differs_at_the_border_alone(naive_chain(second, first, mode, fill), truth, x)


@pytest.mark.parametrize(
    ("before", "after", "stride", "pads"),
    [(0, 0, 1, 1), (1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (0, 0, 2, 1), (-1, -1, 1, 2), (1, 1, 2, 1)],
)
def test_padding_of_what_still_reads_its_input(before: int, after: int, stride: int, pads: int) -> None:
    first = convolution(numbers(1, 2, 2, 3), stride=stride, padding=[(before, after)])
    second = convolution(numbers(2, 2, 2, 3), padding=pads)
    assert "where the first, of taps (3,), still reads its input on axis 0" in refused(second, first)
    wrong = []
    for n in (12, 13):
        x = probe(3, 2, (n,))
        wrong.append(differs_at_the_border_alone(naive_chain(second, first), apply(second, apply(first, x)), x))
    assert any(wrong)


def test_padding_of_a_crop() -> None:
    crop = window(2, [Window(1, before=-1)], np.zeros(1))
    second = convolution(numbers(2, 2, 2, 3), padding=[(1, 0)])
    assert "still reads its input on axis 0" in refused(second, crop)
    x = probe(3, 2, (8,))
    assert differs_at_the_border_alone(naive_chain(second, crop), apply(second, apply(crop, x)), x)


def test_a_full_convolution_is_padded_rightly() -> None:
    """Where the first map has read all there is, a second padding is exact, and one item less on either side is not."""
    second = convolution(numbers(2, 2, 2, 3), padding=1)
    x = probe(3, 2, (8,))
    for before, after in ((2, 2), (3, 4)):
        first = convolution(numbers(1, 2, 2, 3), padding=[(before, after)])
        folded = compose_formulas(Leaf(second), Leaf(first), (None,))
        assert not isinstance(folded, Obstruction)
        assert torch.equal(apply(folded.evaluate(), x), apply(second, apply(first, x)))


@pytest.mark.parametrize("pad", [(2, 0), (0, 2)])
@pytest.mark.parametrize("size", [None, 8])
def test_convolutions_that_read_one_way_join(pad: tuple[int, int], size: int | None) -> None:
    """Of two that see the past alone the second pads where the first has read all there is; at the other end nothing is padded."""
    first, second = (convolution(numbers(seed, 2, 2, 3), padding=[pad]) for seed in (1, 2))
    folded = compose_formulas(Leaf(second), Leaf(first), (size,))
    assert not isinstance(folded, Obstruction)
    x = probe(3, 2, (8,))
    assert torch.equal(apply(folded.evaluate(), x), apply(second, apply(first, x)))


def test_constant_padding_after_mirrored_padding() -> None:
    """A full first map, so that only its way of continuing the input is at fault."""
    for mode in ("reflect", "replicate", "circular"):
        first = convolution(numbers(1, 2, 2, 3), padding=2, mode=mode)
        second = convolution(numbers(2, 2, 2, 3), padding=1)
        assert f"the first map continues its input by {mode}, the second by a constant" in refused(second, first)
        x = probe(3, 2, (9,))
        truth = apply(second, apply(first, x))
        for mode_, fill in continuations(second, first):
            assert differs_at_the_border_alone(naive_chain(second, first, mode_, fill), truth, x)


@pytest.mark.parametrize(
    ("first", "pad_value"),
    [
        (convolution(numbers(1, 2, 2, 1), numbers(5, 2)), None),
        (convolution(numbers(1, 2, 2, 1)), np.array([1.0, 2.0])),
        (convolution(numbers(1, 2, 2, 3), numbers(5, 2), padding=2), None),
        (scale_and_shift(np.array([2.0, 0.0]), np.array([1.0, 3.0]), 1), None),
        (window(2, [Window(1, before=1, after=1)], np.zeros(1), fill=np.array([1.0, 1.0])), None),
    ],
    ids=["a bias", "a fill", "a full convolution's bias", "a shift of a channel of scale zero", "two constants"],
)
def test_padding_that_is_not_what_the_first_map_makes_of_its_own(first: AffineConv, pad_value: Array | None) -> None:
    second = convolution(numbers(2, 2, 2, 3), padding=1, fill=pad_value)
    says = refused(second, first)
    assert f"pads by (1, 1) with {'zeros' if pad_value is None else 'a constant'}, where the first map's bias would stand" in says
    x = probe(3, 2, (9,))
    truth = apply(second, apply(first, x))
    for mode, fill in continuations(second, first):
        assert differs_at_the_border_alone(naive_chain(second, first, mode, fill), truth, x)


def test_padding_with_the_bias_of_a_dense_map_is_exact() -> None:
    """As DBB and ECB pad."""
    first = convolution(numbers(1, 2, 2, 1), numbers(5, 2))
    second = convolution(numbers(2, 2, 2, 3), padding=1, fill=first.bias)
    folded = compose_formulas(Leaf(second), Leaf(first), (None,))
    assert not isinstance(folded, Obstruction)
    x = probe(3, 2, (9,))
    assert folded.fill is None
    assert torch.equal(apply(folded.evaluate(), x), apply(second, apply(first, x)))


def test_the_border_test_can_fail() -> None:
    """It objects to a naive fold that is right, and to one that is wrong in the middle."""
    value = convolution(numbers(1, 2, 2, 3), padding=1)
    x = probe(3, 2, (9,))
    assert not differs_at_the_border_alone(value, apply(value, x), x)
    assert not differs_at_the_border_alone(replace(value, bias=value.bias + 1), apply(value, x), x)
    assert differs_at_the_border_alone(replace(value, mode="circular"), apply(value, x), x)
