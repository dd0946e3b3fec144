"""Constants that were stored apart and differ by roundings are one; what that may change is bounded, carried along, and small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refold.algebra import (
    AffineConv,
    Chain,
    Formula,
    Leaf,
    Obstruction,
    Selection,
    Sum,
    add_formulas,
    average_pool,
    batch_norm,
    compose_formulas,
    convolution,
    scale_and_shift,
    window,
)
from refold.geometry import Window
from tests.algebra.oracle import apply, run, tensor

SINGLE, HALF, BRAIN, DOUBLE = 2.0**-24, 2.0**-11, 2.0**-8, 2.0**-53
CHANNELS = 4
FRAME = [Window(1, before=1, after=1)] * 2
SIZES = (None, None)
Array = Any


def shift_in(dtype: Any, mean: Array, variance: Array, weight: Array, bias: Array, *, by_root: bool) -> Array:
    """A batch norm's shift as an exporter works it out, every operation rounded: over the root, or times its reciprocal."""
    mean, variance, weight, bias = (array.astype(dtype) for array in (mean, variance, weight, bias))
    root = np.sqrt(variance + dtype(1e-5))
    return bias - (mean * weight / root if by_root else mean * (weight * (dtype(1) / root)))


def leaf(value: AffineConv, rounding: float = SINGLE) -> Leaf:
    """A layer whose numbers were stored in float32."""
    return Leaf(value, rounding=rounding)


def framed(fill: Array, rounding: float = SINGLE) -> Leaf:
    """One line of a constant a channel around a map."""
    return leaf(window(CHANNELS, FRAME, fill, fill=fill), rounding)


def shifted(level: Array, rounding: float = SINGLE) -> Leaf:
    """A layer that makes `level` of zeros."""
    return leaf(scale_and_shift(np.arange(1.0, CHANNELS + 1), level, 2), rounding)


def taken(second: Formula, first: Formula) -> Formula:
    """A composition that is accepted."""
    result = compose_formulas(second, first, SIZES)
    assert isinstance(result, Formula), str(result)
    return result


def is_refused(fill: Array, level: Array, rounding: float = SINGLE, other: float | None = None) -> bool:
    """Whether a padding with `fill` of a layer that makes `level` of zeros is told from a padding in front of it.

    The layer is a convolution, which no fill in front of it could make up for.
    """
    layer = leaf(convolution(np.ones((CHANNELS, CHANNELS, 1, 1)), level), rounding)
    return isinstance(compose_formulas(framed(fill, rounding if other is None else other), layer, SIZES), Obstruction)


normal = st.integers(0, 2**16).map(np.random.default_rng)


@given(normal, st.booleans(), st.booleans())
def test_a_batch_norm_and_its_own_shift_in_float32_are_one(random: np.random.Generator, by_root: bool, fused: bool) -> None:
    """The fill and the batch norm, or the convolution that it was fused into, each rounded in its own way."""
    mean, weight, bias = (random.standard_normal(CHANNELS).astype(np.float32) for _ in range(3))
    variance = np.exp(2 * random.standard_normal(CHANNELS)).astype(np.float32)
    fill = shift_in(np.float32, mean, variance, weight, bias, by_root=by_root).astype(np.float64)
    norm = batch_norm(mean, variance, weight, bias, eps=1e-5)
    if fused:
        norm = replace(norm, bias=shift_in(np.float32, mean, variance, weight, bias, by_root=not by_root).astype(np.float64))
    kernel = random.standard_normal((3, CHANNELS, 3, 3))
    behind = taken(leaf(convolution(kernel, random.standard_normal(3))), framed(fill))
    merged = taken(behind, leaf(norm))
    assert merged.fill is None
    x = torch.from_numpy(random.standard_normal((2, CHANNELS, 4, 5)))
    off = (apply(merged.evaluate(), x) - run(merged, x)).abs().amax((0, 2, 3)).numpy()
    promised = np.zeros(3) if merged.slack is None else merged.slack
    if merged.slack is not None:
        np.testing.assert_allclose(promised, np.abs(np.einsum("ocij,c->oij", kernel, fill - norm.bias)).sum((1, 2)), rtol=2.0**-40)
    magnitude = apply(AffineConv(np.abs(kernel), np.zeros(3), behind.stencil.windows), x.abs() + tensor(np.abs(fill)).reshape(-1, 1, 1))
    assert (off <= promised + 64 * DOUBLE * float(magnitude.max()) + 16 * DOUBLE * np.abs(fill).max() * np.abs(kernel).sum()).all()


@given(normal, st.sampled_from((SINGLE, DOUBLE)))
def test_the_sharpest_gap_that_is_one_and_the_next_that_is_not(random: np.random.Generator, unit: float) -> None:
    level = random.uniform(0.5, 1.0, CHANNELS)
    level[random.integers(CHANNELS)] = 1.0
    channel = random.integers(CHANNELS)
    step = np.eye(CHANNELS)[channel] * unit
    assert not is_refused(level - 15 * step, level, unit)
    assert is_refused(level - 17 * step, level, unit)


@given(normal, st.sampled_from((-1, 1)))
def test_a_fill_that_is_off_by_more_than_roundings_is_another(random: np.random.Generator, sign: int) -> None:
    level = random.standard_normal(CHANNELS)
    assert is_refused(level * (1 + sign * 2.0**-18), level)
    assert is_refused(level + sign * 2.0**-18 * np.abs(level).max() * np.eye(CHANNELS)[0], level)


@given(normal, st.floats(-30, 0))
def test_zeros_are_no_small_bias(random: np.random.Generator, power: float) -> None:
    level = random.standard_normal(CHANNELS) * 10**power
    assert is_refused(np.zeros(CHANNELS), level)
    assert is_refused(level, np.zeros(CHANNELS))
    padded = leaf(convolution(np.ones((2, CHANNELS, 3, 3)), padding=1))
    layer = leaf(convolution(np.ones((CHANNELS, CHANNELS, 1, 1)), level))
    assert isinstance(compose_formulas(padded, layer, SIZES), Obstruction)
    assert is_refused(np.zeros(CHANNELS), np.full(CHANNELS, 1e-8))


@pytest.mark.parametrize(("mine", "other"), [(HALF, HALF), (BRAIN, BRAIN), (SINGLE, HALF), (BRAIN, SINGLE), (DOUBLE, DOUBLE)])
def test_only_float32_has_roundings_of_float32(mine: float, other: float) -> None:
    level = np.linspace(0.5, 1.0, CHANNELS)
    assert is_refused(level * (1 + SINGLE), level, mine, other)
    assert is_refused(level * (1 + HALF), level, mine, other)
    assert not is_refused(level * (1 + SINGLE), level, SINGLE, DOUBLE)
    assert not is_refused(level * (1 + 2 * DOUBLE), level, mine, other)


def test_a_gap_within_float64_leaves_no_slack() -> None:
    level = np.linspace(0.5, 1.0, CHANNELS)
    assert taken(framed(level * (1 + 2 * DOUBLE)), shifted(level)).slack is None
    assert taken(framed(level * (1 + SINGLE)), shifted(level)).slack is not None


def test_a_diagonal_map_is_taken_for_one_rather_than_solved() -> None:
    """A fill that makes up for the difference would be another constant in each channel, which no operator pads with."""
    level = np.linspace(0.5, 1.0, CHANNELS)
    assert taken(framed(level * (1 + SINGLE)), shifted(level)).fill is None
    assert taken(framed(level * (1 + 2.0**-18)), shifted(level)).fill is not None


def test_roundings_of_a_loud_channel_do_not_hide_what_is_made_of_a_quiet_one() -> None:
    """Off by half a quiet channel, which is nothing beside the loud one, until a kernel turns the quiet one up."""
    level = np.array([1.0, 2.0**-22, 0.5, 0.5])
    fill = level + np.array([0, 2.0**-23, 0, 0])
    merged = taken(framed(fill), shifted(level))
    kernel = np.ones((1, CHANNELS, 3, 3))
    assert isinstance(compose_formulas(leaf(convolution(kernel)), merged, SIZES), Formula)
    kernel[:, 1] = 2.0**20
    reason = compose_formulas(leaf(convolution(kernel)), merged, SIZES)
    assert isinstance(reason, Obstruction)
    assert "differ by roundings, of which the merged map would make 1.1 where it gives up to 20, more than 16 roundings of 6e-08" in str(
        reason
    )
    assert str(compose_formulas(taken(leaf(convolution(kernel)), framed(fill)), shifted(level), SIZES)) == str(reason)


def test_roundings_are_told_apart_where_nothing_but_them_is_left() -> None:
    """An operator that makes nothing of a constant makes of a gap at the border what it makes of an edge."""
    level = np.full(CHANNELS, 1.0)
    kernel = np.zeros((1, CHANNELS, 1, 3))
    kernel[..., 0], kernel[..., 2] = -1, 1
    behind = taken(leaf(convolution(kernel)), framed(level * (1 + SINGLE)))
    assert isinstance(compose_formulas(behind, shifted(level), SIZES), Obstruction)
    assert isinstance(compose_formulas(taken(leaf(convolution(kernel)), framed(level)), shifted(level), SIZES), Formula)


def test_a_gap_that_no_kernel_sees_moves_nothing() -> None:
    """Off in two channels that every tap takes from each other."""
    level = np.full(CHANNELS, 1.0)
    kernel = np.ones((1, CHANNELS, 3, 3)) * np.array([1.0, -1.0, 2.0, 2.0]).reshape(1, -1, 1, 1)
    merged = taken(taken(leaf(convolution(kernel)), framed(level + np.array([1, 1, 0, 0]) * SINGLE)), shifted(level))
    assert merged.slack is not None
    assert merged.slack.tolist() == [0.0]


def test_slack_adds_up_over_branches_and_passes_through_layers() -> None:
    level = np.linspace(0.5, 1.0, CHANNELS)
    fill = level * (1 + SINGLE)
    gap = fill - level
    branch = taken(taken(leaf(average_pool(CHANNELS, (3, 3), level, stride=(1, 1))), framed(fill)), shifted(level))
    assert branch.slack is not None
    np.testing.assert_allclose(branch.slack, gap, rtol=2.0**-40)
    plain = leaf(convolution(np.ones((CHANNELS, 1, 3, 3)), level, padding=1, groups=CHANNELS))
    total = add_formulas(add_formulas(branch, plain, SIZES), branch, SIZES)  # type: ignore[arg-type]
    assert isinstance(total, Sum)
    assert total.slack is not None
    np.testing.assert_allclose(total.slack, 2 * gap, rtol=2.0**-40)
    scaled = taken(leaf(scale_and_shift(np.full(CHANNELS, -3.0), level, 2)), total)
    assert scaled.slack is not None
    np.testing.assert_allclose(scaled.slack, 6 * gap, rtol=2.0**-40)
    turned = taken(Selection((3, None, 0), CHANNELS, 2, level), scaled)
    assert turned.slack is not None
    np.testing.assert_allclose(turned.slack, [6 * gap[3], 0, 6 * gap[0]], rtol=2.0**-40)
    assert scaled.linear_part().slack is None
    assert (scaled.rounding, scaled.linear_part().rounding, turned.rounding) == (SINGLE,) * 3


def test_tensors_are_taken_as_one_alike_and_pass_gradients() -> None:
    level = torch.linspace(0.5, 1.0, CHANNELS, dtype=torch.float64, requires_grad=True)
    fill = (level * (1 + SINGLE)).detach()
    layer = leaf(convolution(torch.ones(CHANNELS, CHANNELS, 1, 1, dtype=torch.float64), level))
    merged = taken(framed(fill), layer)
    assert isinstance(merged, Chain)
    assert merged.slack is not None
    np.testing.assert_allclose(tensor(merged.slack.detach()), (fill - level).detach())
    merged.evaluate().bias.sum().backward()
    assert level.grad is not None
    assert level.grad.tolist() == [1.0] * CHANNELS
    half = framed(fill.half(), HALF)
    assert isinstance(compose_formulas(half, replace(layer, rounding=HALF), SIZES), Obstruction)
