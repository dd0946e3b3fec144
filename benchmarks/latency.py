"""Latency of RepVGG-A0: folded by refold, against its train form and against the same network written by hand as plain convolutions.

python -m benchmarks.latency
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import refold
from benchmarks._by_hand import by_hand
from benchmarks._engines import BAR, ENGINES, keep_memory, ratio
from benchmarks._networks import settled


@torch.no_grad()
def main() -> None:
    """Print two ratios for each engine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    keep_memory()
    train = refold.nn.RepVGG("A0")
    settled(train)
    x = torch.randn(1, 3, 224, 224)
    forms = {"train": train, "folded": refold.fold(train, (x,), verify=False).model, "hand": by_hand(train, (3, 64, 64))}
    for engine, builders_of in ENGINES.items():
        with tempfile.TemporaryDirectory() as folder:
            wide, ours, theirs = builders_of(forms, x, Path(folder))
            print(
                f"{engine:13} folded ÷ by hand {ratio(ours, theirs):.3f} (bar {BAR}); train form ÷ folded {ratio(wide, ours, builds=1):.2f}"
            )


if __name__ == "__main__":
    main()
