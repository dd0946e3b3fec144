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
) -> str | None:
    """What is wrong with the outputs of the folded network, or None.

    All are NumPy arrays, floats in float64, which each dtype goes into exactly; `dtypes` says what they were. `length` is how many numbers
    are summed on the way. `truths` and `noise` (how far each output of the original moves where inputs are one rounding off) are asked
    only where rounding of sums of that length does not explain the differences.
    """
    if len(original) != len(folded):
        return f"{len(folded)} outputs instead of {len(original)}"
    for mine, theirs, dtype in zip(original, folded, dtypes, strict=True):
        if mine.shape != theirs.shape:
            return f"shape {theirs.shape} instead of {mine.shape}"
        if mine.dtype.kind != theirs.dtype.kind:
            return f"{theirs.dtype} instead of {mine.dtype}"
        del dtype
    if all(_passes(mine, theirs, None, dtype, length) for mine, theirs, dtype in zip(original, folded, dtypes, strict=True)):
        return None
    known = truths() or [None] * len(original)
    pairs = list(zip(original, folded, known, dtypes, strict=True))
    if all(_passes(mine, theirs, truth, dtype, length) for mine, theirs, truth, dtype in pairs):
        return None
    moves = noise()
    for number, (mine, theirs, truth, dtype) in enumerate(pairs):
        unit = ROUNDINGS.get(dtype, 0.0) * _largest(mine)
        own = max(length, math.ceil((moves[number] / unit) ** 2) if unit > 0 and math.isfinite(moves[number]) else 0)
        if not _passes(mine, theirs, truth, dtype, own):
            off = float(np.nanmax(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)), initial=0.0))
            return f"output {number} is off by {off:.3g} of {_largest(mine):.3g} ({dtype}, noise {moves[number]:.2g})"
    return None


def _passes(mine: Any, theirs: Any, truth: Any, dtype: str, length: int) -> bool:
    with np.errstate(all="ignore"):
        if mine.size and mine.dtype.kind in "iub" and truth is None:
            return bool((mine != theirs).sum() <= (1 if mine.size > 1 else 0))
        if truth is not None and truth.shape != mine.shape:
            truth = None
        return judge_output(OutputEvidence("y", mine, theirs, truth, ROUNDINGS.get(dtype, 0.0), length), proven=True).passed


def _largest(array: Any) -> float:
    return float(np.nan_to_num(np.abs(array.astype(np.float64)), posinf=0.0).max(initial=0.0))
