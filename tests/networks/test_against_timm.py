"""Where timm is installed: its own networks fold to the count that its own converter gives, and compute the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import refold
from tests.networks.models import calibrated
from tests.networks.test_networks import EXACT, distance

timm: Any = pytest.importorskip("timm", reason="timm is not installed: its converters cannot be compared with")


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "mobileone_s1", "fastvit_t8", "repvit_m0_9", "repghostnet_100"])
def test_as_few_convolutions_as_timm_leaves(name: str, seed: int) -> None:
    from timm.utils.model import reparameterize_model

    model: nn.Module = calibrated(timm.create_model(name, pretrained=False), (3, 64, 64))
    converted = reparameterize_model(copy.deepcopy(model))
    by_timm = sum(isinstance(module, nn.Conv2d) for module in converted.modules())
    model.double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    result = refold.fold(model, (x,))
    assert result.report.after.convolutions <= by_timm
    with torch.no_grad():
        assert distance(model(x), result.model(x)) < EXACT
