"""Sums and compositions of maps, scalars among them, against the functions that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from refold.algebra import Formula, Leaf, Obstruction, Selection, convolution
from refold.maps import IDENTITY, Map, Moved, Scalar, Value, compose_maps, sum_maps, without_bias
from tests.algebra.oracle import apply, numbers, probe

ROOT = Value("x", (None, 4, None, 7), (2, 4, 6, 7))
X = probe(1, 4, (6, 7))

scalars = st.builds(Scalar, *[st.sampled_from((-2.0, -1.0, 0.0, 0.5, 1.0, 3.0))] * 2)
unpadded = st.builds(lambda seed: Leaf(convolution(numbers(seed, 4, 4, 3, 1), numbers(seed + 1, 4))), st.integers(0, 99))
maps = st.one_of(scalars, unpadded)


def run(mapped: Map | Obstruction, x: torch.Tensor = X) -> torch.Tensor:
    """What a map makes of an input."""
    assert not isinstance(mapped, (Obstruction, Moved))
    if isinstance(mapped, Scalar):
        return mapped.scale * x + mapped.shift
    return apply(mapped.evaluate(), x)


@given(maps, maps)
def test_sums(left: Map, right: Map) -> None:
    result = sum_maps(left, right, ROOT)
    assert isinstance(result, Scalar) == (isinstance(left, Scalar) and isinstance(right, Scalar)) or isinstance(result, Obstruction)
    if run(left).shape != run(right).shape and Scalar(0.0, 0.0) not in (left, right):
        assert isinstance(result, Obstruction)
    elif run(left).shape == run(right).shape:
        assert torch.equal(run(result), run(left) + run(right))


@given(maps, maps)
def test_compositions(second: Map, first: Map) -> None:
    assert torch.equal(run(compose_maps(second, first, ROOT)), run(second, run(first)))


@given(maps)
def test_the_identity_changes_nothing(mapped: Map) -> None:
    assert compose_maps(IDENTITY, mapped, ROOT) == mapped
    assert compose_maps(mapped, IDENTITY, ROOT) == mapped
    assert sum_maps(mapped, Scalar(0.0), ROOT) == mapped
    assert sum_maps(Scalar(0.0), mapped, ROOT) == mapped


@given(maps)
def test_a_map_without_its_bias_is_linear(mapped: Map) -> None:
    part = without_bias(mapped)
    assert torch.equal(run(part), run(mapped) - run(mapped, 0 * X))
    assert not run(part, 0 * X).any()


def test_only_the_identity_is_the_identity() -> None:
    assert [one.is_identity for one in (IDENTITY, Scalar(1.0, 0.0), Scalar(1.0, 1.0), Scalar(2.0), Scalar(0.0))] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("padding", [(1, 1), (2, 0)])
def test_an_identity_joins_a_kernel(padding: tuple[int, int]) -> None:
    conv = Leaf(convolution(numbers(1, 4, 4, 3, 1), padding=[padding, (0, 0)]))
    for left, right in ((conv, IDENTITY), (IDENTITY, conv)):
        total = sum_maps(left, right, ROOT)
        assert isinstance(total, Formula)
        assert total.stencil.taps == (3, 1)
        assert torch.equal(run(total), run(conv) + X)


def test_an_identity_of_a_grouped_kernel_keeps_the_groups() -> None:
    conv = Leaf(convolution(numbers(1, 4, 1, 3, 3), padding=1, groups=4))
    total = sum_maps(conv, Scalar(2.0, 1.0), ROOT)
    assert isinstance(total, Formula)
    assert total.stencil.groups == 4
    assert torch.equal(run(total), run(conv) + 2 * X + 1)


def test_a_scalar_of_one_shape_does_not_join_a_map_to_another() -> None:
    wider = Leaf(convolution(numbers(1, 8, 4, 1, 1)))
    result = sum_maps(IDENTITY, wider, ROOT)
    assert isinstance(result, Obstruction)
    assert result.law == "sum"
    assert "channels 4 → 8 and 4 → 4 differ" in result.fact


def test_a_shift_in_front_of_padding_becomes_a_fill_and_behind_it_a_bias() -> None:
    conv = Leaf(convolution(numbers(1, 4, 4, 3, 3), padding=1))
    shift = Scalar(2.0, 1.0)
    before, behind = compose_maps(conv, shift, ROOT), compose_maps(shift, conv, ROOT)
    assert isinstance(before, Formula) and isinstance(behind, Formula)  # noqa: PT018
    assert (before.fill is None, behind.fill is None) == (False, True)
    assert torch.equal(run(before), run(conv, 2 * X + 1))
    assert torch.equal(run(behind), 2 * run(conv) + 1)


def test_a_constant_in_front_of_padding_is_refused() -> None:
    result = compose_maps(Leaf(convolution(numbers(1, 4, 4, 3, 3), padding=1)), Scalar(0.0, 1.0), ROOT)
    assert isinstance(result, Obstruction)
    assert "pads by (1, 1), (1, 1) with zeros, where the first map's bias would stand" in result.fact


def test_sizes_of_the_root_decide() -> None:
    left, right = Leaf(convolution(numbers(1, 4, 4, 3), stride=2, padding=1)), Leaf(convolution(numbers(2, 4, 4, 2), stride=2))
    free, odd, even = (Value("x", (2, 4, n), (2, 4, n or 8)) for n in (None, 7, 8))
    assert [isinstance(sum_maps(left, right, root), Formula) for root in (free, odd, even)] == [False, False, True]


def test_the_last_sizes_are_the_spatial_ones() -> None:
    assert ROOT.sizes(2) == (None, 7)
    assert ROOT.sizes(1) == (7,)
    assert ROOT.sizes(0) == ()


def test_scalars_have_equal_keys_where_they_are_equal() -> None:
    conv = Leaf(convolution(numbers(1, 4, 4, 3, 3)), origin="conv")
    made = [compose_maps(scalar, conv, ROOT) for scalar in (Scalar(2.0), Scalar(2.0), Scalar(3.0))]
    keys = [mapped.key for mapped in made if isinstance(mapped, Formula)]
    assert keys[0] == keys[1] != keys[2]


def test_a_scalar_takes_the_array_library_of_its_partner() -> None:
    plain = compose_maps(Scalar(2.0, 1.0), Leaf(convolution(np.ones((4, 4, 1)))), Value("x", (2, 4, 5), (2, 4, 5)))
    tensors = compose_maps(Scalar(2.0, 1.0), Leaf(convolution(torch.ones(4, 4, 1))), Value("x", (2, 4, 5), (2, 4, 5)))
    assert isinstance(plain, Formula) and isinstance(tensors, Formula)  # noqa: PT018
    assert isinstance(plain.evaluate().kernel, np.ndarray)
    assert isinstance(tensors.evaluate().kernel, torch.Tensor)


def test_the_runner_of_maps_can_fail() -> None:
    assert not torch.equal(run(Scalar(2.0)), run(Scalar(2.0, 1.0)))
    assert not torch.equal(run(Leaf(convolution(numbers(1, 4, 4, 1, 1)))), run(Leaf(convolution(numbers(2, 4, 4, 1, 1)))))


def test_parts_side_by_side_are_one_selection_and_the_whole_is_the_identity() -> None:
    def chosen(*sources: int | None, channels: int = 4) -> Selection:
        return Selection(sources, channels, 2, np.zeros(0))

    assert sum_maps(chosen(0, 1, None, None), chosen(None, None, 2, 3), ROOT) == IDENTITY
    swapped = sum_maps(chosen(2, 3, None, None), chosen(None, None, 0, 1), ROOT)
    assert isinstance(swapped, Selection)
    assert swapped.sources == (2, 3, 0, 1)
    partly = sum_maps(chosen(0, None, None), chosen(None, 3, None), ROOT)
    assert isinstance(partly, Selection)
    assert partly.sources == (0, 3, None)
    overlapping = sum_maps(chosen(0, 1), chosen(2, None), ROOT)
    assert isinstance(overlapping, Formula)
    assert torch.equal(run(overlapping), X[:, :2] + F.pad(X[:, 2:3], [0, 0, 0, 0, 0, 1]))
    beside = Leaf(convolution(numbers(3, 4, 4, 1, 1)))
    for whole in (sum_maps(chosen(2, 3, 0, 1), beside, ROOT), sum_maps(beside, chosen(2, 3, 0, 1), ROOT)):
        assert torch.equal(run(whole), X[:, [2, 3, 0, 1]] + run(beside))
    unlike = sum_maps(chosen(0, 1), chosen(None, None, 2), ROOT)
    assert isinstance(unlike, Obstruction)
    assert unlike.fact == "channels 4 → 2 and 4 → 3 differ"


def test_a_part_of_a_part_is_a_part() -> None:
    outer, inner = Selection((1, None, 0), 2, 2, np.zeros(0)), Selection((3, 2), 4, 2, np.zeros(0))
    composed = compose_maps(outer, inner, ROOT)
    assert isinstance(composed, Selection)
    assert (composed.sources, composed.channels) == ((2, None, 3), 4)
    assert compose_maps(Selection((1, 0), 2, 2, np.zeros(0)), Selection((1, 0), 2, 2, np.zeros(0)), ROOT) == IDENTITY
