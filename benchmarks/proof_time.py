"""Time of proving every region of a RepVGG-A0, and of the whole proof with its outputs and other sizes, against one forward at batch 8.

python -m benchmarks.proof_time
"""

from __future__ import annotations

import torch

import refold
from benchmarks._networks import settled
from benchmarks._timing import interleaved
from refold.dialects.aten import AtenModel
from refold.plan import make_plan
from refold.verification import SEED, certify, demand

BAR = 1.0
REPEATS = 5


def main() -> None:
    """Print the ratio."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = settled(refold.nn.RepVGG("A0"))
    read = AtenModel(network, (torch.randn(2, 3, 64, 64),))
    deployed = read.write(make_plan(read.graph, read.target))
    x = torch.randn(8, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            network(x)

    def prove() -> None:
        demand(certify(deployed.region_evidence(SEED), ()))

    def prove_all() -> None:
        demand(certify(deployed.region_evidence(SEED), deployed.output_evidence(), deployed.size_evidence()))

    one, proof, whole = interleaved([forward, prove, prove_all], REPEATS)
    print(f"forward {one:.2f} s, proof of {len(deployed.folds)} regions {proof:.2f} s, with outputs and other sizes {whole:.2f} s")
    print(f"proof ÷ forward {proof / one:.2f}, with outputs and other sizes {whole / one:.2f} (bar {BAR})")


if __name__ == "__main__":
    main()
