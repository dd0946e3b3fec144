"""Whole networks in the published layouts before and after folding: operators, work, weights, latency. Writes docs/networks.md.

python -m benchmarks.networks [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import refold
from benchmarks._timing import interleaved
from benchmarks.latency import in_onnx_runtime
from refold.census import Census
from tests.networks.models import NETWORKS, Entry, calibrated, convolutions_by_hand

REPEATS = 9
PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
HEADER = """# Networks before and after folding

Each network is built in its published layout (`tests/networks/models.py`) in training form, its batch norms calibrated on noise, and folded
without a line of code for it. "By hand" is the number of convolutions in the deploy form that the network's own converter gives. Latency is
the training form's over the folded one's, one image, one thread, both measured in turn in one run; ratios hold, absolute times would not.
ONNX Runtime runs with its default optimizations, which fold batch norms into convolutions on their own. Written by
`python -m benchmarks.networks`.

| network | input | operators | convolutions | by hand | batch norms | multiply-adds | weight bytes | torch | ONNX Runtime |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What one network gave."""

    name: str
    shape: tuple[int, ...]
    before: Census
    after: Census
    by_hand: int
    eager: float
    runtime: float

    def __str__(self) -> str:
        changes = [
            f"{getattr(self.before, name):,} → {getattr(self.after, name):,}" for name in ("operators", "convolutions", "batch_norms")
        ]
        work, weights = (getattr(self.after, name) / getattr(self.before, name) for name in ("multiply_adds", "weight_bytes"))
        cells = [self.name, " x ".join(map(str, self.shape)), changes[0], changes[1], self.by_hand, changes[2]]
        return f"| {' | '.join(map(str, cells))} | {work:.3f} | {weights:.3f} | {self.eager:.2f} | {self.runtime:.2f} |"


@torch.no_grad()
def measured(name: str, entry: Entry, folder: Path) -> Row:
    """Build, fold with proof, and time one network."""
    torch.manual_seed(0)
    model = calibrated(entry.make(), entry.small)
    x = torch.randn(1, *entry.shape)
    result = refold.fold(model, (x,))
    eager = ratio([partial(model, x), partial(result.model, x)])
    runtime = ratio([in_onnx_runtime(form, x, folder, f"form_{number}") for number, form in enumerate((model, result.model))])
    return Row(name, entry.shape, result.report.before, result.report.after, convolutions_by_hand(model), eager, runtime)


def ratio(forms: list[Callable[[], object]]) -> float:
    """The first form's time over the second's."""
    first, second = interleaved(forms, REPEATS)
    return first / second


def rows(names: list[str]) -> Iterator[Row]:
    """One row a network; each is let go before the next is built."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            yield measured(name, NETWORKS[name], Path(folder))


def main(names: list[str]) -> None:
    """Print the table, and write it where it is of all networks."""
    torch.set_num_threads(1)
    lines = []
    for row in rows(names or list(NETWORKS)):
        lines.append(str(row))
        print(row, flush=True)
        if row.after.convolutions > row.by_hand:
            raise SystemExit(f"{row.name} keeps {row.after.convolutions} convolutions where its converter leaves {row.by_hand}")
    if not names:
        PAGE.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
