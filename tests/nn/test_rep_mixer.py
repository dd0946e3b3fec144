from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import refold
from refold.nn import RepMixer
from refold.nn._foldable import FoldableBlock
from tests.nn.blocks import EXACT, BlockStories, assert_folds_exactly, distance, settle


class TestRepMixer(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return RepMixer(4, layer_scale=0.1, deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return RepMixer(2, layer_scale=0.1, dimensions=1)


@pytest.mark.parametrize(("kernel_size", "layer_scale", "branches"), list(itertools.product((1, 3, (7, 3)), (None, 1e-5, 1.0), (1, 2))))
def test_every_combination_of_options_folds(kernel_size: Any, layer_scale: Any, branches: int, seed: int) -> None:
    block = RepMixer(4, kernel_size, layer_scale=layer_scale, num_conv_branches=branches).double()
    assert_folds_exactly(block, torch.randn(2, 4, 9, 8, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_padding_mode_folds_for_any_number_of_axes(dimensions: int, padding_mode: Any, seed: int) -> None:
    block = RepMixer(3, layer_scale=0.5, padding_mode=padding_mode, dimensions=dimensions).double()
    assert_folds_exactly(block, torch.randn(2, 3, *(7, 6, 5)[:dimensions], dtype=torch.float64))


def test_a_mixer_whose_inner_block_was_converted_first_converts_too(seed: int) -> None:
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    block = settle(RepMixer(4, layer_scale=0.3).double(), x)
    expected = block(x)
    block.mixer.convert_to_deploy()
    assert distance(block(x), expected) < EXACT
    assert distance(block.convert_to_deploy()(x), expected) < EXACT


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(refold.GeometryError, match=r"`kernel_size` \(=4\) must be odd"):
        RepMixer(4, 4)
    with pytest.raises(refold.GeometryError, match=r"`ch_in` \(=0\) must be at least 1"):
        RepMixer(0)
