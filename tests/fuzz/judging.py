"""Whether two networks gave the same at one size: refold's own judge, with a truth that refold had no hand in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refold.verification import OutputEvidence, judge_output

ROUNDINGS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Unit roundoffs."""

Outputs = Sequence[Any]


def complaint(
    original: Outputs,
    folded: Outputs,
    dtypes: Sequence[str],
    length: int,
    truths: Callable[[], Outputs | None],
    noise: Callable[[], Sequence[float]],
    scales: Sequence[float] = (),
) -> str | None:
    """What is wrong with the outputs of the folded network, or None.

    All are NumPy arrays, floats in float64, which each dtype goes into exactly; `dtypes` says what they were. `length` is how many numbers
    are summed on the way. `truths` and `noise` (how far each output of the original moves where inputs are one rounding off) are asked
    only where rounding of sums of that length does not explain the differences. `scales` are the largest numbers of the outputs on the
    example, by which what cancels at another size is measured.
    """
    if len(original) != len(folded):
        return f"{len(folded)} outputs instead of {len(original)}"
    for mine, theirs, dtype in zip(original, folded, dtypes, strict=True):
        if mine.shape != theirs.shape:
            return f"shape {theirs.shape} instead of {mine.shape}"
        if mine.dtype.kind != theirs.dtype.kind:
            return f"{theirs.dtype} instead of {mine.dtype}"
        del dtype
    units = list(scales) or [0.0] * len(original)
    rows = list(zip(original, folded, dtypes, units, strict=True))
    if all(_passes(mine, theirs, None, dtype, length, unit) for mine, theirs, dtype, unit in rows):
        return None
    known = truths() or [None] * len(original)
    if all(_passes(*row[:2], truth, row[2], length, row[3]) for row, truth in zip(rows, known, strict=True)):
        return None
    moves = noise()
    for number, ((mine, theirs, dtype, unit), truth) in enumerate(zip(rows, known, strict=True)):
        moved = moves[number] if math.isfinite(moves[number]) else 0.0
        if not _passes(mine, theirs, truth, dtype, length, unit, moved):
            off = float(np.nanmax(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)), initial=0.0))
            return f"output {number} is off by {off:.3g} of {largest(mine):.3g} ({dtype}, noise {moves[number]:.2g})"
    return None


def _passes(mine: Any, theirs: Any, truth: Any, dtype: str, length: int, scale: float, noise: float = 0.0) -> bool:
    with np.errstate(all="ignore"):
        if mine.size and mine.dtype.kind in "iub" and truth is None:
            return bool((mine != theirs).sum() <= (1 if mine.size > 1 else 0))
        if truth is not None and truth.shape != mine.shape:
            truth = None
        evidence = OutputEvidence("y", mine, theirs, truth, ROUNDINGS.get(dtype, 0.0), length, noise, example_scale=scale)
        return judge_output(evidence, proven=True).passed


def largest(array: Any) -> float:
    """The largest number of an output."""
    return float(np.nan_to_num(np.abs(array.astype(np.float64)), posinf=0.0).max(initial=0.0))
