"""Networks in the published layouts fold to the count of their hand-converted form; `benchmarks.networks` takes the heavy ones too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import refold
from tests.networks.models import NETWORKS, calibrated, convolutions_by_hand

EXACT = 1e-11
"""Of the output's scale, in float64."""

LIGHT = [name for name, entry in NETWORKS.items() if not entry.heavy]


def distance(original: Any, folded: Any) -> float:
    pairs = zip(pytree.tree_leaves(original), pytree.tree_leaves(folded), strict=True)
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)


@pytest.mark.parametrize("name", LIGHT)
def test_a_network_folds_to_the_count_of_its_converter(name: str, seed: int) -> None:
    entry = NETWORKS[name]
    model = calibrated(entry.make(), entry.small)
    by_hand = convolutions_by_hand(model)
    model.double()
    x = torch.randn(1, *entry.small, dtype=torch.float64)
    result = refold.fold(model, (x,))
    before, after = result.report.before, result.report.after
    assert after.convolutions <= by_hand
    assert after.batch_norms == 0
    assert after.multiply_adds <= before.multiply_adds
    assert after.parameters <= before.parameters
    assert after.operators < before.operators
    assert result.report.certificate is not None
    assert result.report.certificate.passed
    for one in (x, torch.randn(2, *entry.small, dtype=torch.float64)):
        with torch.no_grad():
            assert distance(model(one), result.model(one)) < EXACT


def test_the_count_by_hand_is_that_of_plain_layers() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)), nn.Linear(8, 2))
    assert convolutions_by_hand(plain) == 2


def test_calibrating_gives_norms_their_own_statistics(seed: int) -> None:
    model = calibrated(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), (3, 16, 16))
    x: Tensor = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        y = model(x)
    assert not model.training
    assert float(y.mean().abs()) < 0.1
    assert 0.8 < float(y.var()) < 1.25
