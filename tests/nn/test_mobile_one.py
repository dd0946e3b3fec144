from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import refold
from refold.nn import MobileOneBlock
from refold.nn._foldable import FoldableBlock
from tests.nn.blocks import BlockStories, assert_folds_exactly


class TestMobileOneBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return MobileOneBlock(4, 4, groups=4, num_conv_branches=3, squeeze_excite=2, act="gelu", deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return MobileOneBlock(2, 2, groups=2, num_conv_branches=2, dimensions=1)


@pytest.mark.parametrize(
    ("kernel_size", "groups", "branches", "stride", "dilation"), list(itertools.product((1, 3, (5, 3)), (1, 4), (1, 4), (1, 2), (1, 2)))
)
def test_every_combination_of_options_folds(kernel_size: Any, groups: int, branches: int, stride: int, dilation: int, seed: int) -> None:
    block = MobileOneBlock(4, 4, kernel_size, None, groups=groups, num_conv_branches=branches, stride=stride, dilation=dilation).double()
    assert_folds_exactly(block, torch.randn(2, 4, 9, 12, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_padding_mode_folds_for_any_number_of_axes(dimensions: int, padding_mode: Any, seed: int) -> None:
    block = MobileOneBlock(4, 4, 5, padding_mode=padding_mode, dimensions=dimensions, num_conv_branches=2, squeeze_excite=1).double()
    assert_folds_exactly(block, torch.randn(2, 4, *(7, 6, 5)[:dimensions], dtype=torch.float64))


def test_the_branches_are_those_of_the_paper() -> None:
    def norms(block: MobileOneBlock) -> int:
        return sum(isinstance(module, nn.BatchNorm2d) for module in block.modules())

    assert norms(MobileOneBlock(8, 8, groups=8, num_conv_branches=4)) == 6
    assert norms(MobileOneBlock(8, 8, 1, num_conv_branches=4)) == 5
    assert norms(MobileOneBlock(8, 16, 1, num_conv_branches=4)) == 4
    assert norms(MobileOneBlock(8, 8, stride=2)) == 2
    assert norms(MobileOneBlock(8, 8, identity=False)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, r"`kernel_size` \(=4\) must be odd, for the branches to be centred on each other; take 3 or 5"),
        ({"kernel_size": (3, 0)}, r"`kernel_size` \(=0\) must be at least 1"),
        ({"num_conv_branches": 0}, r"`num_conv_branches` \(=0\) must be at least 1"),
        ({"identity": True, "stride": 2}, "channels go 4 → 4 at stride 2; use equal channels and stride 1, or identity=False"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.GeometryError, match=message):
        MobileOneBlock(4, 4, **arguments)
