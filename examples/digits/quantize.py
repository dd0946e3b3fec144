"""Fold, then quantize: what int8 does to RepVGG and to QARepVGG, which was made for it, on handwritten digits.

python -m examples.digits.quantize [--epochs N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from torch import Tensor, nn
from torch.nn import functional as F

from examples.digits.demo import BATCH, SEED, Digits, load
from refold.agreement import Agreement
from refold.nn import QARepVGGBlock, RepVggBlock
from refold.quantization import QuantizationReport, examine

WIDTHS = (32, 32, 64, 64, 64)
STRIDES = (1, 1, 2, 1, 1)
DECAY = 1e-2


def build(family: str) -> nn.Module:
    """Five blocks of a family, mean, linear."""
    blocks: list[nn.Module] = []
    before = 1
    for width, stride in zip(WIDTHS, STRIDES, strict=True):
        fits = before == width and stride == 1
        if family == "QARepVGG":
            blocks.append(QARepVGGBlock(before, width, stride=stride, identity=fits))
        else:
            blocks.append(RepVggBlock(before, width, stride=stride, identity=fits))
        before = width
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def train(network: nn.Module, digits: Digits, epochs: int, console: Console, family: str) -> nn.Module:
    """The network, trained, in eval mode."""
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    batches = len(digits.images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=epochs * batches)
    for _ in track(range(epochs), f"Training {family}, {epochs} epochs", console=console):
        for batch in torch.randperm(len(digits.images))[: batches * BATCH].split(BATCH):
            loss = F.cross_entropy(network(digits.images[batch]), digits.labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are taken for what they are."""
    return float((network(images).argmax(1) == labels).double().mean())


def table(results: dict[str, tuple[float, QuantizationReport]]) -> Table:
    """What each family has in float, and what folding and int8 do to it."""
    shown = Table(
        "",
        *(Column(family, justify="right") for family in results),
        title="Fold, then quantize",
        caption="before → after: the kernels of the train form, and those that they fold into\n"
        "int8: ONNX Runtime's, static, one scale a channel; agreement and differences on the held-out images",
        caption_justify="left",
    )

    def median(report: QuantizationReport, side: str, name: str) -> float:
        figures = [one for region in report.regions for one in (region.before if side == "before" else (region.after,))]
        return float(statistics.median(getattr(one, name) for one in figures))

    shown.add_row("held-out accuracy, float", *(f"{share:.2%}" for share, _ in results.values()))
    shown.add_section()
    for label, name, form in (
        ("kurtosis", "kurtosis", "{:.1f}"),
        ("int8 signal-to-noise per tensor", "per_tensor", "{:.1f} dB"),
        ("int8 signal-to-noise per channel", "per_channel", "{:.1f} dB"),
    ):
        cells = [" → ".join(form.format(median(report, side, name)) for side in ("before", "after")) for _, report in results.values()]
        shown.add_row(f"{label}, median kernel", *cells)
    noisier = (f"{sum(bool(region.worse) for region in report.regions)} of {len(report.regions)}" for _, report in results.values())
    shown.add_row("folded kernels noisier than all that went into them", *noisier)
    shown.add_section()
    for label, name in (("folded, float", "folded"), ("folded, int8", "int8")):
        trials: list[Agreement] = [getattr(report.trial, name) for _, report in results.values()]
        shown.add_row(f"same digit as the train form, {label}", *(f"{one.top_1:.2%}" for one in trials))
        shown.add_row(f"largest difference, {label}", *(f"{one.relative:.1e}" for one in trials))
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Train both, fold both, quantize both and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="passes over the training images (12)")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(1)
    digits = load()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "held_out.npz"
        np.savez(data, digits.held_out_images.numpy())
        for family in ("RepVGG", "QARepVGG"):
            torch.manual_seed(SEED)
            network = train(build(family), digits, options.epochs, console, family)
            share = accuracy(network, digits.held_out_images, digits.held_out_labels)
            results[family] = share, examine(network, (digits.held_out_images[:1],), data=data)
    console.print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
