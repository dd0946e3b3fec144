from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import refold
from refold.nn import DiverseBranchBlock
from refold.nn._foldable import FoldableBlock
from tests.nn.blocks import BlockStories, assert_folds_exactly, settle


class TestDiverseBranchBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return DiverseBranchBlock(4, 6, act="relu", groups=2, deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return DiverseBranchBlock(2, 2, dimensions=1)


class TestDepthwiseDiverseBranchBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return DiverseBranchBlock(4, 4, groups=4, deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return DiverseBranchBlock(2, 2, groups=2, dimensions=1)


@pytest.mark.parametrize(
    ("kernel_size", "groups", "ch_out", "stride", "between"), list(itertools.product((3, 5, (1, 3)), (1, 2, 4), (4, 8), (1, 2), (None, 8)))
)
def test_every_combination_of_options_folds(kernel_size: Any, groups: int, ch_out: int, stride: int, between: Any, seed: int) -> None:
    block = DiverseBranchBlock(4, ch_out, kernel_size, groups=groups, stride=stride, internal_channels=between).double()
    assert_folds_exactly(block, torch.randn(2, 4, 9, 8, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_any_number_of_axes_folds(dimensions: int, groups: int, seed: int) -> None:
    block = DiverseBranchBlock(2, 2, groups=groups, dimensions=dimensions).double()
    assert_folds_exactly(block, torch.randn(2, 2, *(7, 6, 5)[:dimensions], dtype=torch.float64))


def test_the_border_carries_what_the_batch_norm_makes_of_zeros(seed: int) -> None:
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    block = settle(DiverseBranchBlock(4, 4).double(), x)
    bn = block.inner_norm.bn
    framed = block.inner_norm(x)
    assert framed.shape == (2, 4, 8, 8)
    assert torch.equal(framed[:, :, 1:-1, 1:-1], bn(x))
    of_zeros = bn(torch.zeros_like(framed))
    for edge in (framed[:, :, 0], framed[:, :, -1], framed[:, :, :, 0], framed[:, :, :, -1]):
        torch.testing.assert_close(edge, of_zeros[:, :, 0], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 1}, r"`kernel_size` \(=1\) must be above 1 on one axis; a 1x1 convolution has nothing to average"),
        ({"kernel_size": 2}, r"`kernel_size` \(=2\) must be odd"),
        ({"groups": 2, "internal_channels": 5}, r"`internal_channels` \(=5\) must be divisible by `groups` \(=2\)"),
        ({"internal_channels": 0}, r"`internal_channels` \(=0\) must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.GeometryError, match=message):
        DiverseBranchBlock(4, 4, **arguments)
