"""Whole networks in the published layouts before and after folding: operators, work, weights, latency. Writes docs/networks.md.

python -m benchmarks.networks [NAME ...]

Exits with status 1 where a folded network has more convolutions than its deploy form written by hand, or takes longer than `BAR` allows.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import refold
from benchmarks._by_hand import by_hand
from benchmarks._engines import BAR, ENGINES, keep_memory, ratio
from refold.census import Census
from tests.networks.models import NETWORKS, Entry, calibrated

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
HEADER = """# Networks before and after folding

Each network is built in its published layout (`tests/networks/models.py`) in training form, its batch norms calibrated on noise, and folded
without a line of code for it. "By hand" is the deploy form that a person writes as plain layers (`benchmarks/_by_hand.py`): the blocks that
the network's own converter makes one convolution are one, and batch norms are in the layer beside them. Both have been checked to be the
same function in float64.

Latency is of one image on one thread, in eager PyTorch and in ONNX Runtime with its default optimizations, which fold batch norms into
convolutions on their own. "Speed-up" is the training form's over the folded one's; "÷ by hand" is the folded one's over that of the form
written by hand, of which the bar is 1.03. The two of a ratio are run in turn, for the latter in three builds of both, since where their
weights come to lie in memory is worth some per cent; ratios hold, absolute times would not. Written by `python -m benchmarks.networks`.

| network | input | operators | convolutions | by hand | batch norms | multiply-adds | weight bytes | speed-up, torch | ONNX Runtime | ÷ by hand, torch | ONNX Runtime |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Row:
    """What one network gave; `faster` and `slower` have one number for each engine, against the training form and the one by hand."""

    name: str
    shape: tuple[int, ...]
    before: Census
    after: Census
    by_hand: int
    faster: tuple[float, ...]
    slower: tuple[float, ...]

    def __str__(self) -> str:
        changes = [
            f"{getattr(self.before, name):,} → {getattr(self.after, name):,}" for name in ("operators", "convolutions", "batch_norms")
        ]
        work, weights = (getattr(self.after, name) / getattr(self.before, name) for name in ("multiply_adds", "weight_bytes"))
        cells = [self.name, " x ".join(map(str, self.shape)), changes[0], changes[1], self.by_hand, changes[2]]
        cells += [f"{work:.3f}", f"{weights:.3f}", *(f"{time:.2f}" for time in self.faster), *(f"{time:.3f}" for time in self.slower)]
        return f"| {' | '.join(map(str, cells))} |"

    def complaints(self) -> Iterator[str]:
        """Where the folded network falls short of the form written by hand."""
        if self.after.convolutions > self.by_hand:
            yield f"{self.name} keeps {self.after.convolutions} convolutions where its converter leaves {self.by_hand}"
        for engine, slower in zip(ENGINES, self.slower, strict=True):
            if slower > BAR:
                yield f"{self.name} takes {slower:.3f} times as long as by hand in {engine}, where {BAR} is the bar"


@torch.no_grad()
def measured(name: str, entry: Entry, folder: Path) -> Row:
    """Build, fold with proof, write by hand, and time one network."""
    torch.manual_seed(0)
    model = calibrated(entry.make(), entry.small)
    x = torch.randn(1, *entry.shape)
    result = refold.fold(model, (x,))
    hand = by_hand(model, entry.small)
    faster, slower = [], []
    for builders_of in ENGINES.values():
        train, folded, plain = builders_of({"train": model, "folded": result.model, "hand": hand}, x, folder)
        faster.append(ratio(train, folded, builds=1))
        slower.append(ratio(folded, plain))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in hand.modules())
    return Row(name, entry.shape, result.report.before, result.report.after, convolutions, tuple(faster), tuple(slower))


def rows(names: list[str]) -> Iterator[Row]:
    """One row a network; each is let go before the next is built."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            yield measured(name, NETWORKS[name], Path(folder))


def main(names: list[str]) -> None:
    """Print the table, and write it where it is of all networks; exit with what falls short, if anything does."""
    torch.set_num_threads(1)
    keep_memory()
    lines: list[str] = []
    complaints: list[str] = []
    for row in rows(names or list(NETWORKS)):
        lines.append(str(row))
        complaints += row.complaints()
        print(row, flush=True)
    if not names:
        PAGE.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main(sys.argv[1:])
