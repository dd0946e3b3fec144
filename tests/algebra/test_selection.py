"""Selections: channels side by side, apart and in another order, against the indexing that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refold.algebra import Leaf, Obstruction, Selection, add_formulas, compose_formulas, convolution
from refold.errors import AlgebraError

SOMEWHERE = torch.empty(0, dtype=torch.float64)


def picked(x: torch.Tensor, sources: tuple[int | None, ...]) -> torch.Tensor:
    return torch.stack([torch.zeros_like(x[:, 0]) if source is None else x[:, source] for source in sources], dim=1)


@pytest.mark.parametrize("sources", [(0, 1, 2), (2, 0), (None, 1, None, 1), (0,)])
def test_a_selection_written_out_is_the_indexing(sources: tuple[int | None, ...], rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 3, 5)))
    value = Selection(sources, 3, 1, SOMEWHERE).evaluate()
    assert torch.equal(torch.conv1d(x, value.kernel, value.bias), picked(x, sources))


def test_blocks_of_rows_are_rows_of_the_whole() -> None:
    selection = Selection((None, 2, 0, 1), 3, 2, SOMEWHERE)
    whole = selection.evaluate().kernel
    assert torch.equal(selection.block(range(1, 3), {}).kernel, whole[1:3])


def test_a_selection_lives_where_it_was_told() -> None:
    like = np.zeros(0)
    assert Selection((1, None), 2, 0, like).anywhere is like


def test_the_level_of_a_constant_is_the_constant_rearranged() -> None:
    selection = Selection((1, None, 0), 2, 0, np.empty(0))
    np.testing.assert_array_equal(selection.level(np.array([3.0, 5.0])), [5.0, 0.0, 3.0])
    np.testing.assert_array_equal(selection.level(None), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("widths", [(2, 3, 1), (4,)])
def test_parts_side_by_side_are_their_concatenation(widths: tuple[int, ...], rng: np.random.Generator) -> None:
    parts = [torch.from_numpy(rng.normal(size=(2, width, 5))) for width in widths]
    selections = Selection.side_by_side(widths, 1, SOMEWHERE)
    total = sum(torch.conv1d(x, one.evaluate().kernel) for x, one in zip(parts, selections, strict=True))
    assert torch.equal(total, torch.cat(parts, 1))  # type: ignore[arg-type]


def test_a_convolution_of_a_concatenation_of_convolutions_is_one(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 4, 9)))
    weights = [torch.from_numpy(rng.normal(size=size)) for size in ((3, 4, 1), (2, 4, 1), (6, 5, 3))]
    first, second, behind = (Leaf(convolution(weight)) for weight in weights)
    left = compose_formulas(Selection((0, 1, 2, None, None), 3, 1, SOMEWHERE), first, (None,))
    right = compose_formulas(Selection((None, None, None, 0, 1), 2, 1, SOMEWHERE), second, (None,))
    assert not isinstance(left, Obstruction)
    assert not isinstance(right, Obstruction)
    joined = add_formulas(left, right, (None,))
    assert not isinstance(joined, Obstruction)
    whole = compose_formulas(behind, joined, (None,))
    assert not isinstance(whole, Obstruction)
    value = whole.evaluate()
    expected = torch.conv1d(torch.cat([torch.conv1d(x, weights[0]), torch.conv1d(x, weights[1])], 1), weights[2])
    torch.testing.assert_close(torch.conv1d(x, value.kernel, value.bias), expected, rtol=1e-12, atol=1e-12)


def test_keys_tell_selections_apart() -> None:
    one, same, other = (Selection(sources, 2, 0, SOMEWHERE) for sources in ((0, 1), (0, 1), (1, 0)))
    assert one.key == same.key
    assert one.key != other.key
    assert one.linear_part() is one
    assert list(one.leaves()) == []
    assert one.peak == 1.0


def test_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(AlgebraError, match="a selection among 2 channels cannot take channel 2"):
        Selection((0, 2), 2, 0, SOMEWHERE)
