from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import refold
from refold.nn import AsymmetricBlock
from refold.nn._foldable import FoldableBlock
from refold.nn._layers import ConvNorm
from tests.nn.blocks import BlockStories, assert_folds_exactly, settle


class TestAsymmetricBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return AsymmetricBlock(4, 6, groups=2, act="relu", deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return AsymmetricBlock(2, 2)


class TestCroppingAsymmetricBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return AsymmetricBlock(4, 6, 5, padding=(0, 3), deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return AsymmetricBlock(1, 2, padding=0)


@pytest.mark.parametrize(
    ("kernel_size", "groups", "stride", "dilation", "padding"),
    list(itertools.product((3, (5, 3), (1, 3)), (1, 2), (1, 2), (1, 2), (None, 0, 1, (1, 4)))),
)
def test_every_combination_of_options_folds(kernel_size: Any, groups: int, stride: int, dilation: int, padding: Any, seed: int) -> None:
    block = AsymmetricBlock(2, 4, kernel_size, groups=groups, stride=stride, dilation=dilation, padding=padding).double()
    assert_folds_exactly(block, torch.randn(2, 2, 11, 14, dtype=torch.float64))


@pytest.mark.parametrize("padding", [None, 1, 0])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_padding_mode_folds_in_two_and_three_dimensions(dimensions: int, padding_mode: Any, padding: Any, seed: int) -> None:
    block = AsymmetricBlock(2, 3, 5, padding_mode=padding_mode, padding=padding, dimensions=dimensions).double()
    assert_folds_exactly(block, torch.randn(2, 2, *(9, 8, 7)[:dimensions], dtype=torch.float64))


def test_the_train_form_is_the_published_formula(seed: int) -> None:
    block = settle(AsymmetricBlock(3, 5), torch.randn(2, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    tall, flat = (bar for bar in block.bars if isinstance(bar, ConvNorm))
    expected = (
        block.full.bn(F.conv2d(x, block.full.conv.weight, padding=1))
        + tall.bn(F.conv2d(x, tall.conv.weight, padding=(1, 0)))
        + flat.bn(F.conv2d(x, flat.conv.weight, padding=(0, 1)))
    )
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimensions": 1}, r"`dimensions` \(=1\) must be 2 or 3"),
        ({"kernel_size": (4, 3)}, r"`kernel_size` \(=4\) must be odd"),
        ({"padding": -1}, r"`padding` \(=-1\) must be at least 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.GeometryError, match=message):
        AsymmetricBlock(4, 4, **arguments)
