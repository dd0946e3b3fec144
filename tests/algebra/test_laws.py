"""Sum and composition against PyTorch: whatever a law accepts is the same function, to the last bit on integers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from refold.algebra import (
    AffineConv,
    Chain,
    Formula,
    Leaf,
    Mode,
    Obstruction,
    Sizes,
    Sum,
    add,
    add_formulas,
    batch_norm,
    compose,
    compose_formulas,
    convolution,
    identity,
    linear,
    scale_and_shift,
    transposed_convolution,
)
from refold.errors import AlgebraError, GeometryError
from refold.geometry import Window
from tests.algebra.drawn import chains, expressions, sums
from tests.algebra.oracle import apply, fits, numbers, probe, run, runs, tensor, trial_sizes


def assert_same(
    formula: Formula, given_values: tuple[AffineConv, ...], sizes: Sizes, wanted: Callable[[torch.Tensor], torch.Tensor | None]
) -> int:
    """Compare a result with what `wanted` computes, at every trial size; returns how many sizes there were."""
    result = formula.evaluate()
    assert result.stencil == formula.stencil
    tried = trial_sizes(sizes, *given_values)
    compared = 0
    for chosen in tried:
        x = probe(sum(chosen), result.in_channels, chosen)
        expected = wanted(x)
        if expected is None:  # the value between is too small for the second map
            continue
        assert result.stencil.output_sizes(chosen) == tuple(expected.shape[2:])
        if fits(result, chosen):
            actual = apply(result, x)
            scale = float(apply(replace(result, kernel=abs(result.kernel), bias=abs(result.bias)), abs(x)).abs().max())
            exact = bool((tensor(result.kernel) % 1 == 0).all()) and (result.fill is None or bool((tensor(result.fill) % 1 == 0).all()))
            assert float((actual - expected).abs().max()) <= (0 if exact else 2.0**-48 * scale)
            compared += 1
    return compared


def fitting(sizes: Sizes, *given_values: AffineConv) -> bool:
    """Whether the static sizes suit the maps, as those of a network that runs do."""
    return all(fits(value, tuple(30 if n is None else n for n in sizes)) for value in given_values)


@given(sums())
def test_a_sum_is_the_sum(drawn: tuple[AffineConv, AffineConv, Sizes]) -> None:
    left, right, sizes = drawn
    assume(fitting(sizes, left, right))
    for one, other in ((left, right), (right, left)):
        formula = add_formulas(Leaf(one), Leaf(other), sizes)
        if not isinstance(formula, Obstruction):
            assert_same(formula, (one, other), sizes, lambda x: apply(left, x) + apply(right, x))


@given(chains())
def test_a_composition_is_one_after_the_other(drawn: tuple[AffineConv, AffineConv, Sizes]) -> None:
    first, second, sizes = drawn
    assume(fitting(sizes, first))
    middle = first.stencil.output_sizes(sizes)
    assume(fitting(middle, second))
    formula = compose_formulas(Leaf(second), Leaf(first), sizes)
    if not isinstance(formula, Obstruction):

        def wanted(x: torch.Tensor) -> torch.Tensor | None:
            between = apply(first, x)
            return apply(second, between) if fits(second, between.shape[2:]) else None

        assert_same(formula, (first,), sizes, wanted)


def has_exact_fills(formula: Formula) -> bool:
    """Whether float64 holds the fills that were solved for: one divided by a scale of three is rounded."""
    fill = formula.fill
    if fill is not None and not bool((fill * 2**20 % 1 == 0).all()):
        return False
    return not isinstance(formula, (Sum, Chain)) or (has_exact_fills(formula.left) and has_exact_fills(formula.right))


@given(expressions())
def test_whole_expressions(drawn: tuple[Formula, Sizes]) -> None:
    formula, sizes = drawn
    assume(has_exact_fills(formula))
    value = formula.evaluate()
    assert value.stencil == formula.stencil
    for chosen in trial_sizes(sizes, value):
        x = probe(sum(chosen), value.in_channels, chosen)
        if runs(formula, x):
            assert torch.equal(apply(value, x), run(formula, x))
            zero = run(formula, 0 * x)
            assert torch.equal(apply(formula.linear_part().evaluate(), x), run(formula, x) - zero)


THREE_D = (
    (Window(3, before=1, after=1), Window(2, 2, before=1), Window(1, before=0)),
    (Window(1), Window(4, 2, before=2, after=1), Window(3, dilation=2, before=2, after=2)),
)


@pytest.mark.parametrize("groups", [(1, 1), (2, 3), (6, 1), (6, 2), (3, 3)])
@pytest.mark.parametrize("out_channels", [6, 12])
def test_a_sum_in_three_dimensions_with_mixed_groups(groups: tuple[int, int], out_channels: int) -> None:
    left, right = (
        AffineConv(numbers(i, out_channels, 6 // g, *(w.kernel for w in shape)), numbers(i + 9, out_channels), shape, g)
        for i, (g, shape) in enumerate(zip(groups, THREE_D, strict=True))
    )
    x = probe(1, 6, (4, 7, 5))
    total = add(left, right)
    assert total.groups == np.gcd(*groups)
    assert torch.equal(apply(total, x), apply(left, x) + apply(right, x))


@pytest.mark.parametrize("groups", [(1, 1), (2, 3), (6, 1), (1, 6), (6, 6), (3, 2)])
def test_a_composition_in_three_dimensions_with_mixed_groups(groups: tuple[int, int]) -> None:
    first = AffineConv(numbers(1, 12, 6 // groups[0], 2, 3, 1), numbers(2, 12), (Window(2), Window(3, 2, 2), Window(1, 1)), groups[0])
    shape = (Window(2, 2), Window(1, before=-1), Window(3, dilation=2))
    second = AffineConv(numbers(3, 6, 12 // groups[1], 2, 1, 3), numbers(4, 6), shape, groups[1])
    x = probe(1, 6, (5, 13, 6))
    merged = compose(second, first)
    assert merged.groups == np.gcd(*groups)
    assert torch.equal(apply(merged, x), apply(second, apply(first, x)))


@pytest.mark.parametrize("multiplier", [1, 2, 4])
def test_a_depthwise_and_a_dense_branch(multiplier: int) -> None:
    depthwise = convolution(numbers(1, 6 * multiplier, 1, 5, 3), padding=(2, 1), groups=6)
    dense = convolution(numbers(2, 6 * multiplier, 6, 1, 1), numbers(3, 6 * multiplier))
    total = add(depthwise, dense)
    x = probe(4, 6, (6, 7))
    assert (total.groups, total.stencil.taps) == (1, (5, 3))
    assert torch.equal(apply(total, x), apply(depthwise, x) + apply(dense, x))


def test_a_transposed_convolution_takes_a_scale_and_its_parallel() -> None:
    first = transposed_convolution(numbers(1, 4, 3, 3), stride=2, padding=1, output_padding=1, groups=2)
    other = transposed_convolution(numbers(2, 4, 3, 2), stride=2, groups=2)
    scale = scale_and_shift(numbers(3, 6), numbers(4, 6), 1)
    x = probe(5, 4, (5,))
    total = compose(scale, add(first, other))
    assert torch.equal(apply(total, x), apply(scale, apply(first, x) + apply(other, x)))


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_a_scale_and_shift_on_either_side(rank: int) -> None:
    conv = AffineConv(numbers(1, 6, 4, *[3] * rank), numbers(2, 6), (Window(3, 2),) * rank)
    before, after = (scale_and_shift(numbers(c, c), numbers(c + 1, c), rank) for c in (4, 6))
    x = probe(3, 4, (6,) * rank)
    merged = compose(after, compose(conv, before))
    assert merged.stencil == conv.stencil
    assert torch.equal(apply(merged, x), apply(after, apply(conv, apply(before, x))))


@pytest.mark.parametrize("sizes", [(7,), (8,), (None,)])
def test_unequal_excess_is_a_matter_of_the_size(sizes: Sizes) -> None:
    """A pooled shortcut beside a strided convolution: both halve an even size, and differ by one on an odd one."""
    conv = convolution(numbers(1, 2, 2, 3), stride=2, padding=1)
    pool = convolution(numbers(2, 2, 2, 2), stride=2)
    if sizes != (8,):
        with pytest.raises(AlgebraError, match=r"on axis 0 the windows do not take the same positions at (size 7|every size)"):
            add(conv, pool, sizes)
        return
    total = add(conv, pool, sizes)
    x = probe(3, 2, (8,))
    assert total.windows == conv.windows
    assert torch.equal(apply(total, x), apply(conv, x) + apply(pool, x))


def test_a_shift_in_front_of_zero_padding_becomes_a_fill() -> None:
    norm = scale_and_shift(np.array([2.0, 4.0]), np.array([1.0, -8.0]), 1)
    conv = convolution(numbers(1, 3, 2, 3), padding=1)
    merged = compose(conv, norm)
    assert merged.fill is not None
    assert merged.fill.tolist() == [-0.5, 2.0]
    x = probe(2, 2, (5,))
    assert torch.equal(apply(merged, x), apply(conv, apply(norm, x)))


def test_a_strided_slice_with_a_shift_in_front_of_zero_padding() -> None:
    sliced = AffineConv(np.full((2, 1, 1), 2.0), np.array([2.0, -4.0]), (Window(1, 2),), 2)
    conv = convolution(numbers(1, 3, 2, 3), padding=1)
    merged = compose(conv, sliced)
    for n in (7, 8):
        x = probe(2, 2, (n,))
        assert torch.equal(apply(merged, x), apply(conv, apply(sliced, x)))


def test_a_channel_of_scale_zero_needs_no_fill() -> None:
    norm = scale_and_shift(np.array([2.0, 0.0]), np.array([1.0, 0.0]), 1)
    conv = convolution(numbers(1, 3, 2, 3), padding=1)
    merged = compose(conv, norm)
    x = probe(2, 2, (5,))
    assert torch.equal(apply(merged, x), apply(conv, apply(norm, x)))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_separable_pair_with_one_padding_mode(mode: Mode) -> None:
    vertical = convolution(numbers(1, 2, 2, 3, 1), numbers(2, 2), padding=(1, 0), mode=mode)
    horizontal = convolution(numbers(3, 2, 2, 1, 3), numbers(4, 2), padding=(0, 1), mode=mode)
    merged = compose(horizontal, vertical)
    x = probe(5, 2, (4, 5))
    assert (merged.mode, merged.stencil.taps) == (mode, (3, 3))
    assert torch.equal(apply(merged, x), apply(horizontal, apply(vertical, x)))


def test_a_merged_map_that_reads_inside_has_no_padding_mode() -> None:
    padded = convolution(numbers(1, 2, 2, 3), padding=1, mode="reflect")
    cropped = convolution(numbers(2, 2, 2, 1), padding=-1)
    merged = compose(cropped, padded)
    assert merged.mode == "constant"
    x = probe(5, 2, (6,))
    assert torch.equal(apply(merged, x), apply(cropped, apply(padded, x)))


def test_operands_stay_as_they_were() -> None:
    left, right = convolution(numbers(1, 2, 2, 3), padding=1), convolution(numbers(2, 2, 2, 3), numbers(3, 2), padding=1)
    for given_arrays in (left, right), (torch_value(left), torch_value(right)):
        copies = [tensor(array).clone() for value in given_arrays for array in (value.kernel, value.bias)]
        total = add(*given_arrays)
        compose(identity(2, 1, total.kernel), total)
        assert all(
            torch.equal(tensor(array), copy)
            for array, copy in zip((a for value in given_arrays for a in (value.kernel, value.bias)), copies, strict=True)
        )


def torch_value(value: AffineConv, dtype: torch.dtype = torch.float64) -> AffineConv:
    """The same value of PyTorch tensors."""
    fill = None if value.fill is None else tensor(value.fill).to(dtype)
    return AffineConv(tensor(value.kernel).to(dtype), tensor(value.bias).to(dtype), value.windows, value.groups, value.mode, fill)


@given(sums(), chains())
@settings(max_examples=15)
def test_numpy_and_torch_give_the_same(sum_: tuple[AffineConv, AffineConv, Sizes], chain: tuple[AffineConv, AffineConv, Sizes]) -> None:
    for law, (one, other, sizes) in ((add_formulas, sum_), (compose_formulas, (chain[1], chain[0], chain[2]))):
        try:
            plain = law(Leaf(one), Leaf(other), sizes)
        except GeometryError:
            continue
        tensors = law(Leaf(torch_value(one)), Leaf(torch_value(other)), sizes)
        if isinstance(plain, Obstruction):
            assert plain == tensors
            continue
        assert isinstance(tensors, Formula)
        mine, theirs = plain.evaluate(), tensors.evaluate()
        assert mine.stencil == theirs.stencil
        assert isinstance(theirs.kernel, torch.Tensor)
        for a, b in ((mine.kernel, theirs.kernel), (mine.bias, theirs.bias), (mine.fill, theirs.fill)):
            assert (a is None) == (b is None)
            assert a is None or np.allclose(a, tensor(b), rtol=2.0**-50, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_worked_out_in_float64_and_rounded_once(dtype: torch.dtype) -> None:
    left, right = (torch_value(convolution(numbers(i, 2, 2, 3) / 3, padding=1), dtype) for i in (1, 2))
    formula = add_formulas(Leaf(left), Leaf(right), (None,))
    assert isinstance(formula, Formula)
    rounded = formula.evaluate(dtype)
    assert rounded.kernel.dtype == dtype
    assert torch.equal(rounded.kernel, (left.kernel.double() + right.kernel.double()).to(dtype))
    assert formula.evaluate().kernel.dtype == torch.float64


def test_gradients_pass_through_the_laws() -> None:
    def merged(three: torch.Tensor, bias: torch.Tensor, one: torch.Tensor, gamma: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        norm = batch_norm(torch.zeros(4, dtype=torch.float64), variance, gamma, rank=1)
        branch = compose(norm, convolution(three, bias, padding=1, groups=2))
        total = add(branch, add(convolution(one), identity(4, 1, one)))
        kernel = compose(convolution(one), total)
        return torch.cat([kernel.kernel.flatten(), kernel.bias])

    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 2, 3), (4,), (4, 4, 1), (4,), (4,))
    arguments = [torch.rand(shape, generator=generator, dtype=torch.float64).add(0.5).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(merged, arguments)


def test_gradients_pass_through_evaluation_in_blocks() -> None:
    kernel = torch.ones(4, 4, 3, dtype=torch.float64, requires_grad=True)
    formula = add_formulas(Leaf(convolution(kernel, padding=1)), Leaf(convolution(kernel[..., 1:2])), (None,))
    assert isinstance(formula, Formula)
    with mock.patch("refold.algebra._formula.BLOCK", 12):
        formula.evaluate(torch.float32).kernel.sum().backward()
    assert kernel.grad is not None
    assert kernel.grad[0, 0].tolist() == [1, 2, 1]


def test_a_law_on_values_raises_what_obstructs_it() -> None:
    with pytest.raises(AlgebraError, match=r"sum: channels 2 → 3 and 2 → 4 differ; fold them apart"):
        add(linear(numbers(1, 3, 2)), linear(numbers(1, 4, 2)))
    with pytest.raises(AlgebraError, match=r"composition: the first map gives 3 channels, the second takes 2"):
        compose(linear(numbers(1, 4, 2)), linear(numbers(1, 3, 2)))


def test_the_comparison_of_laws_can_fail() -> None:
    """A sum that puts the second kernel one tap off, and one that keeps a wrong border, are found."""
    left, right = convolution(numbers(1, 2, 2, 3), padding=1), convolution(numbers(2, 2, 2, 1))
    total = add_formulas(Leaf(left), Leaf(right), (None,))
    assert isinstance(total, Formula)
    assert assert_same(total, (left, right), (None,), lambda x: apply(left, x) + apply(right, x)) > 5
    off = replace(right, windows=(Window(1, before=1, after=-1),))
    with pytest.raises(AssertionError):
        assert_same(total, (left, right), (None,), lambda x: apply(left, x) + apply(off, x))
    with pytest.raises(AssertionError):
        assert_same(total, (left, right), (None,), lambda x: apply(replace(left, mode="replicate"), x) + apply(right, x))
    with pytest.raises(AssertionError):
        assert_same(total, (left, right), (None,), lambda x: apply(replace(left, windows=(Window(3, before=1, after=2),)), x))


def test_a_padding_behind_a_map_of_a_known_size_joins_where_the_map_reads_nothing_there() -> None:
    """Exactly there: what the second pads with zeros is what the first makes of its own zeros where no tap of it meets an item."""
    accepted, second = 0, convolution(numbers(1, 2, 2, 2), padding=[(0, 1)])
    for kernel, stride, before, after, n in itertools.product((1, 2, 3), (1, 2, 3), (-1, 0, 1, 2), (-1, 0, 1, 2, 3), range(5, 9)):
        first = AffineConv(numbers(2, 2, 2, kernel), np.zeros(2), (Window(kernel, stride, 1, before, after),))
        next_position = stride * first.windows[0].output_size(n) - before
        result = compose_formulas(Leaf(second), Leaf(first), (n,))
        assert isinstance(result, Obstruction) == (next_position < n), (first.windows, n)
        if isinstance(result, Formula):
            accepted += assert_same(result, (first,), (n,), lambda x, first=first: apply(second, apply(first, x)))  # type: ignore[misc]
    assert accepted > 300


def test_what_reads_nothing_outside_continues_nothing() -> None:
    """A mode that has no effect is not kept: it would stand in the way of the next law."""
    inside = Leaf(convolution(numbers(1, 2, 2, 3), mode="reflect"))
    padded = Leaf(convolution(numbers(2, 2, 2, 3), padding=1, mode="reflect"))
    cropped = Leaf(convolution(numbers(3, 2, 2, 1), padding=-1))
    totals = [add_formulas(inside, inside, (None,)), compose_formulas(inside, inside, (None,)), compose_formulas(cropped, padded, (None,))]
    for total in totals:
        assert isinstance(total, Formula)
        assert (total.stencil.mode, total.fill) == ("constant", None)
