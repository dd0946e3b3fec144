"""Networks as if they were trained: weights of their initialization, batch norms of random statistics."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network in eval with the batch norms of one that was trained: no two channels alike, so that each branch matters."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_(0, 0.1, generator=random)
                layer.running_var.uniform_(0.5, 1.5, generator=random)
                layer.weight.uniform_(0.5, 1.5, generator=random)
                layer.bias.normal_(0, 0.1, generator=random)
    return network.eval()
