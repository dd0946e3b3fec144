"""The engines that networks are timed in, and the ratio of two times in one of them.

Two things make equal networks differ that have nothing to do with them. Where the weights of a build come to lie in memory is worth some
per cent for as long as it lives; so what is timed is built afresh a few times, and the ratio is the median of those that the builds give.
And an allocator that gives memory back to the system after one operator and asks for it again for the next takes up to a fifth of a
network's time, or nothing, as chance will have it; so it is told to keep what it has.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import statistics
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks._timing import interleaved

Builder: TypeAlias = Callable[[], Callable[[], object]]
"""Builds a network and gives what runs it once."""

BAR = 1.03
"""How many times the latency of the form written by hand a folded network may take."""

SECONDS = 0.8
"""About how long the runs of one build take."""

FEWEST = 7
"""Runs of one build of a network that is slow."""


def in_torch(networks: Mapping[str, nn.Module], x: Tensor, folder: Path) -> list[Builder]:
    """Builders of networks in eager PyTorch."""
    return [partial(_copied, network, x) for network in networks.values()]


def in_onnx_runtime(networks: Mapping[str, nn.Module], x: Tensor, folder: Path) -> list[Builder]:
    """Builders of networks in ONNX Runtime with its default optimizations, on one thread; their files go into a folder by their names."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    for name, network in networks.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, (x,), folder / f"{name}.onnx", dynamo=True, verbose=False, external_data=False)
    return [partial(_loaded, folder / f"{name}.onnx", x) for name in networks]


def keep_memory() -> None:
    """Let the C library of this process keep the memory that it has been given; where it is not glibc it does as it does."""
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        never, trim_threshold, mapped_at_most = 2**31 - 1, -1, -4
        change(trim_threshold, never)
        change(mapped_at_most, 0)


ENGINES = {"torch": in_torch, "ONNX Runtime": in_onnx_runtime}


def ratio(first: Builder, second: Builder, *, builds: int = 3) -> float:
    """The first one's time over the second's: the median of so many builds of both, which take turns in being built first."""
    ratios = []
    for build in range(builds):
        built = {builder: builder() for builder in ((first, second), (second, first))[build % 2]}
        runs = (built[first], built[second])
        repeats = max(FEWEST, int(SECONDS / sum(interleaved(runs, 1))))
        mine, theirs = interleaved(runs, repeats)
        ratios.append(mine / theirs)
    return statistics.median(ratios)


def _copied(network: nn.Module, x: Tensor) -> Callable[[], object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return partial(copy.deepcopy(network), x)


def _loaded(path: Path, x: Tensor) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: x.numpy()})
