"""Times functions side by side, so that their ratios hold on a machine that others use too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def interleaved(functions: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time) -> list[float]:
    """The median seconds of each function, all of them run in turn `repeats` times after a turn to warm up.

    The default clock is the processor time of this process, which other processes lengthen little; it is right for functions that run on
    one thread. Take `time.perf_counter` for those that do not.

    >>> short, long = interleaved([lambda: sum(range(1_000)), lambda: sum(range(100_000))], repeats=5)
    >>> long / short > 10
    True
    """
    taken: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for times, function in zip(taken, functions, strict=True):
            start = clock()
            function()
            if turn:
                times.append(clock() - start)
    return [statistics.median(times) for times in taken]
