"""What `refold bench` reports against a timing loop that is written by hand, on the same models in the same run.

python -m benchmarks.bench_overhead
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime
import torch

import refold
from benchmarks._networks import settled
from refold.bench import bench

BAR = 1.05
ROUNDS = 60
SECONDS = 0.05


def by_hand(functions: Sequence[Callable[[], object]], turns: int) -> float:
    """Seconds of one turn: the sum of the medians of functions that run in turn, after a turn to warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(turns + 1):
        for taken, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - start)
    return sum(map(statistics.median, times))


def main() -> None:
    """Print, for each engine, the ratio of the two sums; both are measured in turn, so that a busy machine slows both."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train = settled(refold.nn.RepVGG(num_classes=10, ch_in=3, depths=(2, 3), widths=(32, 64), strides=(1, 1, 2)))
    x = torch.randn(1, 3, 32, 32)
    result = refold.fold(train, (x,), verify=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deploy.onnx"
        result.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        cases: dict[str, tuple[list[object], list[Callable[[], object]]]] = {
            "torch": ([train, result.model], [lambda: train(x), lambda: result.model(x)]),
            "onnxruntime": ([path], [lambda: session.run(None, feed)]),
        }
        for engine, (models, functions) in cases.items():
            ratios = []
            for _ in range(ROUNDS):
                reported = bench(models, x, engines=[engine], seconds=SECONDS, floor=False).measurements
                with torch.inference_mode():
                    own = by_hand(functions, reported[0].latency.runs)
                ratios.append(sum(one.latency.median for one in reported) / own)
            lower, middle, upper = statistics.quantiles(ratios)
            print(f"{engine:13} reported ÷ by hand {middle:.3f} ({lower:.3f} to {upper:.3f}; bar {BAR})")


if __name__ == "__main__":
    main()
