"""Measure models side by side in the engines that they will run in."""

from refold.bench._bench import ENGINES, BenchInterrupted, bench
from refold.bench._engine import LayerTime
from refold.bench._named import read_models
from refold.bench._result import BenchResult, Failure, Measurement, Ratio, Spread

__all__ = ["ENGINES", "BenchInterrupted", "BenchResult", "Failure", "LayerTime", "Measurement", "Ratio", "Spread", "bench", "read_models"]
