"""How far folded networks are from their originals, as shares of the output's scale and of the original's own rounding.

python -m benchmarks.fold_accuracy
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import refold
from benchmarks._networks import settled
from refold import nn as blocks

DOUBLE_BAR, SINGLE_BAR = 1e-12, 4.0

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "RepVGG-A0": lambda: blocks.RepVGG("A0"),
    "RepVggBlock": lambda: blocks.RepVggBlock(32, 32, alpha=True, identity=True),
    "MobileOneBlock": lambda: blocks.MobileOneBlock(32, 32, groups=32),
    "AsymmetricBlock": lambda: blocks.AsymmetricBlock(32, 32, 3),
    "DiverseBranchBlock": lambda: blocks.DiverseBranchBlock(32, 32, 3),
    "DilatedReparamBlock": lambda: blocks.DilatedReparamBlock(32, 13),
    "ReparamLargeKernel": lambda: blocks.ReparamLargeKernel(32, 31, 5),
    "RepMixer": lambda: blocks.RepMixer(32),
    "QARepVGGBlock": lambda: blocks.QARepVGGBlock(32, 32),
    "EdgeConvBlock": lambda: blocks.EdgeConvBlock(32, 32),
}


def distances(network: nn.Module, x: Tensor) -> tuple[float, float]:
    """The share of the output's scale that a fold in float64 is away, and the ratio of a float32 fold's rounding to the original's."""
    single = network(x)
    wide = copy.deepcopy(network).double()
    truth = wide(x.double())
    in_double = refold.fold(wide, (x.double(),), verify=False).model(x.double())
    in_single = refold.fold(network, (x,), verify=False).model(x)
    share = float((in_double - truth).abs().max() / truth.abs().max())
    own, folded = (float((y.double() - truth).abs().max()) for y in (single, in_single))
    return share, folded / own


@torch.no_grad()
def main() -> None:
    """Print a line for each network and the worst of all."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'':22}{'float64, of scale':>20}{'float32, fold ÷ original':>28}")
    worst = (0.0, 0.0)
    for name, make in NETWORKS.items():
        network = settled(make())
        channels = 3 if name == "RepVGG-A0" else 32
        found = distances(network, torch.randn(2, channels, 64, 64))
        worst = (max(worst[0], found[0]), max(worst[1], found[1]))
        print(f"{name:22}{found[0]:20.1e}{found[1]:28.2f}")
    print(f"{'worst':22}{worst[0]:20.1e}{worst[1]:28.2f}")
    print(f"{'bar':22}{DOUBLE_BAR:20.1e}{SINGLE_BAR:28.2f}")


if __name__ == "__main__":
    main()
