"""Where PEFT is installed: a wrapped model folds into the layers that `merge_and_unload` gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refold
from tests.networks.test_networks import distance

peft: Any = pytest.importorskip("peft", reason="peft is not installed: there is no wrapped model to fold")


class Small(nn.Module):
    """A convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(torch.relu(self.conv(x)).mean((2, 3)))))
        return y


@pytest.mark.parametrize("adapters", [("one",), ("one", "two")])
def test_a_wrapped_model_folds_into_its_merged_form(adapters: tuple[str, ...], seed: int) -> None:
    config = peft.LoraConfig(r=2, lora_alpha=8, lora_dropout=0.1, target_modules=["conv", "first", "second"])
    wrapped = peft.get_peft_model(Small(), config, adapter_name=adapters[0])
    for name in adapters[1:]:
        wrapped.add_adapter(name, config)
    wrapped.base_model.set_adapter(list(adapters))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, 0, 0.3)
    wrapped.double().eval()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    result = refold.fold(wrapped, (x,))
    merged = copy.deepcopy(wrapped).merge_and_unload()
    after = result.report.after
    assert (after.convolutions, after.linears, after.additions) == (1, 2, 0)
    with torch.no_grad():
        assert distance(merged(x), result.model(x)) < 1e-12
        assert distance(wrapped(x), result.model(x)) < 1e-12
