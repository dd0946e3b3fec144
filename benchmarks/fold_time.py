"""Time and memory of folding a RepVGG-B3 (123 M parameters), tracing left out, against cloning its weights.

python -m benchmarks.fold_time
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

import refold
from benchmarks._networks import settled
from benchmarks._timing import interleaved
from refold.bench._memory import peak_memory
from refold.dialects.aten import AtenModel
from refold.plan import make_plan

TIME_BAR, MEMORY_BAR = 4.0, 1.2
REPEATS = 5


def traced() -> tuple[AtenModel, list[torch.Tensor]]:
    """The network as the verbs read it, and its weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = settled(refold.nn.RepVGG("B3"))
    return AtenModel(network, (torch.randn(2, 3, 64, 64),)), list(network.state_dict().values())


def folded(network: AtenModel) -> object:
    """What is measured: deciding what to fold, and folding it."""
    return network.write(make_plan(network.graph, network.target))


def measure_time() -> None:
    """Print the ratio of time."""
    network, weights = traced()
    cloning, folding = interleaved([lambda: [tensor.clone() for tensor in weights], lambda: folded(network)], REPEATS)
    print(f"time: cloning {cloning:.2f} s, folding {folding:.2f} s; folding ÷ cloning {folding / cloning:.2f} (bar {TIME_BAR})")


def measure_memory() -> None:
    """Print the ratio of memory; in a process of its own, where nothing was folded before."""
    network, weights = traced()
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    with peak_memory() as peak:
        folded(network)
    if peak.bytes is None:
        print("memory: not measured, this system does not tell the peak of a process")
        return
    shown = f"memory: weights {size / 1e6:.0f} MB, peak beyond the model {peak.bytes / 1e6:.0f} MB"
    print(f"{shown}; peak ÷ weights {peak.bytes / size:.2f} (bar {MEMORY_BAR})")


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fold_time", description=__doc__)
    parser.add_argument("--only", choices=("time", "memory"))
    only = parser.parse_args().only
    if only == "time":
        measure_time()
    elif only == "memory":
        measure_memory()
    else:
        for part in ("time", "memory"):
            subprocess.run([sys.executable, "-m", "benchmarks.fold_time", "--only", part], check=True)


if __name__ == "__main__":
    main()
