from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import refold
from refold.nn import ReparamLargeKernel
from refold.nn._foldable import FoldableBlock
from tests.nn.blocks import BlockStories, assert_folds_exactly


class TestReparamLargeKernel(BlockStories):
    size = (2, 4, 8, 9)

    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return ReparamLargeKernel(4, 4, 9, 3, "relu", groups=4, deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return ReparamLargeKernel(2, 2, 7, groups=2, dimensions=1)


@pytest.mark.parametrize(
    ("kernel_size", "small", "groups", "stride"), list(itertools.product((7, (9, 5), 31), (1, 5, (5, 3)), (1, 2), (1, 2, (2, 3))))
)
def test_every_combination_of_options_folds(kernel_size: Any, small: Any, groups: int, stride: Any, seed: int) -> None:
    block = ReparamLargeKernel(2, 2, kernel_size, small, groups=groups, stride=stride).double()
    assert_folds_exactly(block, torch.randn(2, 2, 12, 9, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_padding_mode_folds_for_any_number_of_axes(dimensions: int, padding_mode: Any, seed: int) -> None:
    block = ReparamLargeKernel(3, 3, 5, 3, groups=3, padding_mode=padding_mode, dimensions=dimensions).double()
    assert_folds_exactly(block, torch.randn(2, 3, *(7, 6, 5)[:dimensions], dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 3}, r"`small_kernel` \(=5\) must be no larger than `kernel_size` \(=3\)"),
        ({"kernel_size": 8}, r"`kernel_size` \(=8\) must be odd"),
        ({"kernel_size": 9, "small_kernel": 4}, r"`kernel_size` \(=4\) must be odd"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.GeometryError, match=message):
        ReparamLargeKernel(4, 4, **arguments)
