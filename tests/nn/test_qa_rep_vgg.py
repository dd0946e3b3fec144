from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import refold
from refold.nn import QARepVGGBlock
from refold.nn._foldable import FoldableBlock
from tests.nn.blocks import BlockStories, assert_folds_exactly, settle


class TestQARepVGGBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return QARepVGGBlock(4, 4, groups=2, squeeze_excite=2, act="silu", deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return QARepVGGBlock(2, 2, dimensions=1)


@pytest.mark.parametrize(
    ("identity", "groups", "stride", "dilation"),
    [case for case in itertools.product((None, True, False), (1, 2, 4), (1, 2), (1, 3)) if not (case[0] and case[2] > 1)],
)
def test_every_combination_of_options_folds(identity: bool | None, groups: int, stride: int, dilation: int, seed: int) -> None:
    block = QARepVGGBlock(4, 4, None, identity=identity, groups=groups, stride=stride, dilation=dilation).double()
    assert_folds_exactly(block, torch.randn(2, 4, 9, 8, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_padding_mode_folds_for_any_number_of_axes(dimensions: int, padding_mode: Any, seed: int) -> None:
    block = QARepVGGBlock(3, 3, padding_mode=padding_mode, dimensions=dimensions, squeeze_excite=1).double()
    assert_folds_exactly(block, torch.randn(2, 3, *(7, 6, 5)[:dimensions], dtype=torch.float64))


def test_the_train_form_is_the_published_formula(seed: int) -> None:
    x = torch.randn(2, 4, 6, 6)
    block = settle(QARepVGGBlock(4, 4), x)
    assert torch.equal(block(x), F.relu(block.bn(block.conv1(x) + block.conv2(x) + x)))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in block.modules()) == 2


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(refold.GeometryError, match="channels go 4 → 8 at stride 1; use equal channels and stride 1, or identity=False"):
        QARepVGGBlock(4, 8, identity=True)
