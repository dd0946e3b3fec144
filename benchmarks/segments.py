"""What DownConv and SegmentAttention reach: plans counted, outputs compared, and costs as ratios within one run.

python -m benchmarks.segments             everything, about five minutes on one core
python -m benchmarks.segments --only speed
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._timing import interleaved
from refold.bench._memory import peak_memory
from refold.geometry import SegmentPlan
from refold.geometry._segments import _RULES, Discipline
from refold.nn.down_conv import DownConv
from refold.nn.segment_attention import SegmentAttention

LENGTHS, COUNTS, KERNELS = 512, 32, 32
EPS = torch.finfo(torch.float32).eps
HIDDEN, HEADS, BATCH, SEGMENTS, FIRST_KERNEL = 64, 4, 4, 64, 16


def combinations() -> Iterator[tuple[int, int, int]]:
    """Every length, number of segments and first kernel of the issue's table."""
    for n in range(1, LENGTHS + 1):
        for m in range(1, COUNTS + 1):
            for k in range(1, KERNELS + 1):
                yield n, m, k


def count_plans() -> None:
    """Run every combination through every discipline; a plan checks itself at birth, and is checked here once more."""
    for discipline in ("disjoint", "overlap", "published"):
        accepted = wrong = 0
        rule = _RULES[discipline]
        for n, m, k in combinations():
            if m > n or k > n or (stages := rule(n, m, k)) is None:
                continue
            accepted += 1
            wrong += not keeps_promises(SegmentPlan(n, m, discipline, stages), n, m, k, discipline)
        total = LENGTHS * COUNTS * KERNELS
        print(f"{discipline:<10} {accepted:>7,} of {total:,} accepted ({accepted / total:.1%}), {wrong} of them wrong")


def keeps_promises(plan: SegmentPlan, n: int, m: int, k: int, discipline: Discipline) -> bool:
    """Whether a plan has m segments that hold every item and are never empty, and are balanced where that is promised."""
    ranges = plan.ranges
    sizes = [stop - start for start, stop in ranges]
    covered = ranges[0][0] == 0 and ranges[-1][1] == n and all(a[1] >= b[0] for a, b in itertools.pairwise(ranges))
    balanced = discipline == "published" or max(sizes) - min(sizes) <= k
    return len(ranges) == m and covered and min(sizes) > 0 and balanced


def compare_with_published() -> None:
    """Run our module and the published formula on every combination where the latter is right."""
    torch.manual_seed(0)
    right, worst = 0, 0.0
    with torch.no_grad():
        for n, m, k in combinations():
            if k > n or m > n or _RULES["published"](n, m, k) is None:
                continue
            right += 1
            module, x = DownConv(n, 4, m, k, 2), torch.randn(1, n, 4)
            ours, theirs = module(x), published(module, x)
            assert ours.shape == theirs.shape == (1, m, 4)
            difference = (ours - theirs).abs()
            for parameter in module.parameters():
                parameter.abs_()
            worst = max(worst, float((difference / published(module, x.abs())).max()))
    print(f"published  {right:,} combinations are right; largest difference {worst / EPS:.1f} float32 roundings of the terms added up")


def published(module: DownConv, x: Tensor) -> Tensor:
    """The published module's formula on our module's parameters."""
    blocks = module.seq_len / module.k1
    k2 = math.ceil(blocks / module.m_segments)
    padding = math.ceil((k2 * module.m_segments - blocks) / 2)
    hidden = F.relu(F.conv1d(x.transpose(1, 2), module.conv1a.weight, module.conv1a.bias, stride=module.k1))
    return F.conv1d(hidden, module.conv2a.weight, module.conv2a.bias, stride=k2, padding=padding).transpose(1, 2)


class FullAttention(nn.Module):
    """Fused attention of every item to every item, projections included."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, length, hidden)` to the same."""
        query, key, value = self.query_key_value(x).unflatten(2, (3 * HEADS, -1)).transpose(1, 2).chunk(3, 1)
        y: Tensor = self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return y


def attention(n: int, causal: bool = False) -> SegmentAttention:
    """The layer of the issue's table."""
    return SegmentAttention(HIDDEN, HEADS, n, SEGMENTS, FIRST_KERNEL, causal)


def speed() -> None:
    """Ratios of time."""
    with torch.no_grad():
        for n in (1024, 2048, 4096, 8192, 16384):
            down, x = DownConv(n, HIDDEN, SEGMENTS, FIRST_KERNEL), torch.randn(BATCH, n, HIDDEN)
            ours, theirs = interleaved([lambda: down(x), lambda: as_convolutions(down, x)], 15)  # noqa: B023
            print(f"DownConv forward, {n:>6} steps: {theirs / ours:5.1f} times faster than as Conv1d (bar 3)")
    for causal in (False, True):
        layers = [(attention(n, causal), torch.randn(BATCH, n, HIDDEN)) for n in (1024, 16384)]
        short, long = interleaved([partial(forward_and_backward, layer, x) for layer, x in layers], 9)
        kind = "causal" if causal else "plain"
        print(f"SegmentAttention forward and backward, 1,024 to 16,384 steps, {kind}: cost grows {long / short:.1f} times (bar 18)")
    with torch.no_grad():
        full = FullAttention()
        for n, bar in ((4096, 8), (16384, 30)):
            x = torch.randn(BATCH, n, HIDDEN)
            for causal in (False, True):
                module = attention(n, causal)
                ours, theirs = interleaved([lambda: module(x), lambda: full(x)], 3 if n > 9000 else 7)  # noqa: B023
                kind = "causal" if causal else "plain"
                print(f"SegmentAttention forward, {n:>6} steps, {kind}: {theirs / ours:5.1f} times faster than full attention (bar {bar})")


def forward_and_backward(layer: nn.Module, x: Tensor) -> None:
    """One step of training, but for the optimizer."""
    layer(x).sum().backward()


def as_convolutions(module: DownConv, x: Tensor) -> Tensor:
    """The same two stages through Conv1d."""
    return module.conv2a(F.relu(module.conv1a(x.transpose(1, 2)))).transpose(1, 2)  # type: ignore[no-any-return]


def memory() -> None:
    """The peak of a forward and a backward pass at 16,384 steps, in a process of its own, beyond what the process had before."""
    n = 16384
    for kind in ("plain", "causal"):
        command = [sys.executable, "-m", "benchmarks.segments", "--only", f"memory-{kind}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if said == "None":
            print(f"SegmentAttention peak at {n:,} steps, {kind}: not measured, this system does not tell it")
            continue
        used = int(said)
        needed = BATCH * HEADS * n * n * 4
        print(
            f"SegmentAttention peak at {n:,} steps, {kind}: {used / 2**20:,.0f} MB, "
            f"{used / needed:.4f} of the {needed / 2**20:,.0f} MB of materialized n x n scores (bar 0.1)"
        )


def measure_memory(causal: bool) -> None:
    """Print the bytes by which one pass raises the peak of this process."""
    n = 16384
    module, x = attention(n, causal), torch.randn(BATCH, n, HIDDEN)
    attention(1024, causal)(x[:, :1024]).sum().backward()
    with peak_memory() as peak:
        module(x).sum().backward()
    print(peak.bytes)


def leaks() -> None:
    """Largest difference of outputs that may not move."""
    torch.manual_seed(0)
    n = 96
    module, x = SegmentAttention(HIDDEN, HEADS, n, 12, 4, causal=True), torch.randn(2, n, HIDDEN)
    mask = torch.rand(2, n) < 0.7
    with torch.no_grad():
        base, masked = module(x), module(x, mask)
        later, junk = 0.0, 0.0
        for item in range(n):
            moved = x.clone()
            moved[:, item] += 1e3
            later = max(later, float((module(moved) - base)[:, :item].abs().max()) if item else 0.0)
        for value in (1e30, math.inf, math.nan):
            junk = max(junk, float((module(torch.where(mask[..., None], x, value), mask) - masked).abs().max()))
    print(f"causal leak {later}, mask leak {junk} (bar 0)")


def main() -> None:
    """Run the parts asked for."""
    parts: dict[str, Callable[[], None]] = {
        "plans": count_plans,
        "published": compare_with_published,
        "leaks": leaks,
        "speed": speed,
        "memory": memory,
    }
    hidden: dict[str, Callable[[], None]] = {
        "memory-plain": lambda: measure_memory(causal=False),
        "memory-causal": lambda: measure_memory(causal=True),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*parts, *hidden], metavar="{" + ",".join(parts) + "}")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        (parts | hidden)[arguments.only]()
        return
    for part in parts.values():
        part()


if __name__ == "__main__":
    main()
