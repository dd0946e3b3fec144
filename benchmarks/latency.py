"""Latency of RepVGG-A0: folded by refold, against its train form and against the same network written by hand as plain convolutions.

python -m benchmarks.latency
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

import refold
from benchmarks._networks import settled
from benchmarks._timing import interleaved

BAR = 1.03
REPEATS = 40
STAGES = ((1, 48), (2, 48), (4, 96), (14, 192), (1, 1280))
"""Layers and channels of the stem and the four stages of RepVGG-A0 (table 2 of the paper)."""


def by_hand(trained: refold.nn.RepVGG) -> nn.Module:
    """What one would write without refold, with the weights that the train form folds into."""
    layers: list[nn.Module] = []
    before = 3
    for depth, width in STAGES:
        for position in range(depth):
            layers += [nn.Conv2d(before, width, 3, 2 if position == 0 else 1, 1), nn.ReLU()]
            before = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000))
    folded = copy.deepcopy(trained).convert_to_deploy()
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), folded.parameters(), strict=True):
            mine.copy_(theirs)
    return network.eval()


def in_onnx_runtime(network: nn.Module, x: Tensor, folder: Path, name: str) -> Callable[[], object]:
    """One run of a network in ONNX Runtime, with its default optimizations, on one thread."""
    path = folder / f"{name}.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, dynamo=True, verbose=False, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


@torch.no_grad()
def main() -> None:
    """Print two ratios for each engine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train = refold.nn.RepVGG("A0")
    settled(train)
    x = torch.randn(1, 3, 224, 224)
    folded = refold.fold(train, (x,), verify=False).model
    hand = by_hand(train)
    assert torch.allclose(folded(x), hand(x), atol=1e-4 * float(hand(x).abs().max())), "the two must be one network"
    networks = {"train form": train, "folded": folded, "by hand": hand}
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, list[Callable[[], object]]] = {
            "torch": [partial(network, x) for network in networks.values()],
            "ONNX Runtime": [in_onnx_runtime(network, x, Path(folder), label) for label, network in networks.items()],
        }
        for engine, runs in engines.items():
            wide, ours, theirs = interleaved(runs, REPEATS)
            print(
                f"{engine:13} folded {1000 * ours:.1f} ms; folded ÷ by hand {ours / theirs:.3f} (bar {BAR}); "
                f"train form ÷ folded {wide / ours:.2f}"
            )


if __name__ == "__main__":
    main()
