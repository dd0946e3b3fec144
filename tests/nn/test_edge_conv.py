from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import refold
from refold.nn import EdgeConvBlock
from refold.nn._foldable import FoldableBlock
from refold.nn.edge_conv import EdgeBranch
from tests.nn.blocks import BlockStories, assert_folds_exactly


class TestEdgeConvBlock(BlockStories):
    def build(self, *, deploy: bool = False) -> FoldableBlock:
        return EdgeConvBlock(4, 4, identity=True, deploy=deploy)

    def build_small(self) -> FoldableBlock:
        return EdgeConvBlock(2, 2, identity=True, dimensions=1)


@pytest.mark.parametrize(
    ("ch_out", "depth", "identity", "dimensions"),
    [case for case in itertools.product((4, 6), (0.5, 1, 2.5), (False, True), (1, 2, 3)) if not (case[2] and case[0] != 4)],
)
def test_every_combination_of_options_folds(ch_out: int, depth: float, identity: bool, dimensions: int, seed: int) -> None:
    block = EdgeConvBlock(4, ch_out, "prelu", depth_multiplier=depth, identity=identity, dimensions=dimensions).double()
    assert_folds_exactly(block, torch.randn(2, 4, *(7, 6, 5)[:dimensions], dtype=torch.float64))


def test_the_fixed_kernels_are_those_of_the_paper() -> None:
    kernels = [edge.fixed[0, 0].tolist() for edge in EdgeConvBlock(2, 2).edges if isinstance(edge, EdgeBranch)]
    assert kernels == [
        [[1, 2, 1], [0, 0, 0], [-1, -2, -1]],
        [[1, 0, -1], [2, 0, -2], [1, 0, -1]],
        [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth_multiplier": 0.1}, r"`depth_multiplier` \(=0.1\) leaves no channel of `ch_out` \(=4\); take 0.25 or more"),
        ({"ch_in": 2, "identity": True}, "channels go 2 → 4 at stride 1"),
        ({"dimensions": 0}, r"`dimensions` \(=0\) must be 1 or 2 or 3"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(refold.GeometryError, match=message):
        EdgeConvBlock(**{"ch_in": 4, "ch_out": 4} | arguments)
