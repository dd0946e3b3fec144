from __future__ import annotations

from typing import Any

import pytest
import torch

import refold
from refold.nn import DilatedReparamBlock
from refold.nn._foldable import FoldableBlock
from refold.nn.dilated_reparam import PUBLISHED
from tests.nn.blocks import BlockStories, assert_folds_exactly


class TestDilatedReparamBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return DilatedReparamBlock(4, 7, act="gelu", deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return DilatedReparamBlock(2, 5, dimensions=1)


@pytest.mark.parametrize("kernel_size", PUBLISHED)
def test_every_published_kernel_size_folds(kernel_size: int, seed: int) -> None:
    assert all(dilation * (taps - 1) + 1 <= kernel_size for taps, dilation in PUBLISHED[kernel_size])
    assert_folds_exactly(DilatedReparamBlock(3, kernel_size).double(), torch.randn(2, 3, 12, 9, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("branches", [None, ((1, 9),), ()])
def test_every_padding_mode_folds_for_any_number_of_axes(dimensions: int, padding_mode: Any, branches: Any, seed: int) -> None:
    block = DilatedReparamBlock(3, 5, branches, padding_mode=padding_mode, dimensions=dimensions).double()
    assert_folds_exactly(block, torch.randn(2, 3, *(7, 6, 5)[:dimensions], dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 19}, r"no branches are published for `kernel_size` \(=19\), only for 5, 7, .*; give `branches`"),
        ({"kernel_size": 7, "branches": [(3, 4)]}, r"kernel 3 and dilation 4 spans 9 items, more than `kernel_size` \(=7\); .* at most 3"),
        ({"kernel_size": 7, "branches": [(4, 1)]}, r"`kernel_size` \(=4\) must be odd"),
        ({"kernel_size": 7, "branches": [(9, 1)]}, "spans 9 items, more than .*; take a smaller kernel"),
        ({"kernel_size": 6}, r"`kernel_size` \(=6\) must be odd"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.GeometryError, match=message):
        DilatedReparamBlock(4, **arguments)
