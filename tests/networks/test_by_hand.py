"""The deploy forms that benchmarks compare with: the same function, of no more convolutions than the networks' converters leave."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks._by_hand import assert_same, by_hand, identity, merged
from tests.families.models import MobileOne, RepLKNet, RepVGG, RepVGGDW
from tests.networks.models import NETWORKS, calibrated, convolutions_by_hand

BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "RepVGG": lambda: RepVGG(8, 8, groups=2),
    "RepVGG, strided, with squeeze-excite": lambda: RepVGG(8, 12, stride=2, se=True),
    "MobileOne, depthwise": lambda: MobileOne(8, 8, groups=8),
}


@pytest.mark.parametrize("name", [name for name, entry in NETWORKS.items() if not entry.heavy])
def test_a_network_by_hand_has_the_convolutions_of_its_converter(name: str, seed: int) -> None:
    entry = NETWORKS[name]
    model = calibrated(entry.make(), entry.small)
    hand = by_hand(model, entry.small)
    assert 0 < sum(isinstance(module, nn.Conv2d) for module in hand.modules()) <= convolutions_by_hand(model)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in hand.modules())
    assert {parameter.dtype for parameter in hand.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_by_hand_is_the_same_function(name: str, seed: int) -> None:
    by_hand(calibrated(BLOCKS[name](), (8, 9, 9)), (8, 9, 9))


def test_a_block_without_a_writer_keeps_its_branches(seed: int) -> None:
    hand = by_hand(calibrated(RepLKNet(8, kernel=7, small=3), (8, 9, 9)), (8, 9, 9))
    assert sum(isinstance(module, nn.Conv2d) for module in hand.modules()) == 2


@torch.no_grad()
def test_a_form_that_is_another_function_is_objected_to(seed: int) -> None:
    model = calibrated(RepVGGDW(8), (8, 9, 9)).double()
    wrong = copy.deepcopy(model)
    wrong.conv1.weight[3] *= 1 + torch.finfo(torch.float32).eps  # type: ignore[union-attr, index, operator]
    assert_same(model, copy.deepcopy(model), (8, 9, 9))
    with pytest.raises(AssertionError, match=r"written by hand is .* from the network, and rounding explains"):
        assert_same(model, wrong, (8, 9, 9))


@torch.no_grad()
def test_dilated_branches_merge_onto_the_taps_that_they_read(seed: int) -> None:
    large, small = nn.Conv2d(4, 4, 9, padding=4, groups=2).double(), nn.Conv2d(4, 4, 3, padding=3, dilation=3, groups=2).double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    expected = large(x) + small(x) + x
    rounding = torch.finfo(torch.float64).eps * sum(conv.weight[0].numel() for conv in (large, small))
    assert float((merged(large, small, identity(4, 2))(x) - expected).abs().max()) < rounding * float(expected.abs().max())
